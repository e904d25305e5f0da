"""Boosted trees as tensors: what scikit-learn has grown, evaluated without it, so that a run holds no code.

Every tree is laid out as a complete binary tree of one depth: node `i` has the children `2 i + 1` and `2 i + 2`, a branch that ended
early repeats its leaf. So a forest is a few rectangular tensors and going down a level is arithmetic, not a chase of pointers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 1 << 18  # pairs of target and tree that go down together: what a cache holds


@dataclass(frozen=True)
class Forest:
    """`K` complete trees of depth `d`.

    Attributes:
        feature: read by each inner node, int16 `(K, 2^d - 1)`.
        threshold: a value goes left where it is not above it, float32 `(K, 2^d - 1)`, finite.
        missing_left: 1 where NaN goes left, uint8 `(K, 2^d - 1)`.
        leaf: what each leaf adds, float32 `(K, 2^d)`.
    """

    feature: Tensor
    threshold: Tensor
    missing_left: Tensor
    leaf: Tensor

    def take(self, trees: slice) -> Forest:
        """Give some of the trees."""
        return Forest(self.feature[trees], self.threshold[trees], self.missing_left[trees], self.leaf[trees])

    def values(self, x: Tensor) -> Tensor:
        """Give what each tree says of each row of features `x` `(P, F)`: `(P, K)`."""
        n_trees = len(self.leaf)
        parts = [self._descend(part) for part in x.split(max(AT_ONCE // max(n_trees, 1), 1))]
        return torch.cat(parts) if parts else x.new_zeros(0, n_trees)

    def _descend(self, x: Tensor) -> Tensor:
        n_trees, n_inner = self.feature.shape
        first = torch.arange(n_trees, device=x.device) * n_inner
        feature, threshold, missing_left = (t.reshape(-1) for t in (self.feature, self.threshold, self.missing_left))
        node = torch.zeros(len(x), n_trees, dtype=torch.int64, device=x.device)
        for _ in range((n_inner + 1).bit_length() - 1):
            place = first + node
            value = x.gather(1, feature[place].long())
            # A comparison with NaN is false, so NaN goes right unless the node says left.
            goes_left = (value <= threshold[place]) | (value.isnan() & (missing_left[place] > 0))
            node = 2 * node + 2 - goes_left.long()
        leaf_first = torch.arange(n_trees, device=x.device) * (n_inner + 1)
        return self.leaf.reshape(-1)[leaf_first + node - n_inner]

    @classmethod
    def empty(cls, depth: int) -> Forest:
        """Give a forest without trees."""
        n_inner = 2**depth - 1
        return cls(
            torch.zeros(0, n_inner, dtype=torch.int16),
            torch.zeros(0, n_inner),
            torch.zeros(0, n_inner, dtype=torch.uint8),
            torch.zeros(0, n_inner + 1),
        )

    @classmethod
    def of_sklearn(cls, predictors: Sequence[Sequence[Any]], depth: int) -> Forest:
        """Lay out what a fitted `HistGradientBoostingRegressor` keeps in `_predictors`.

        Args:
            predictors: per iteration, one tree.
            depth: of every tree, at least the deepest one's.
        """
        nodes = [tree.nodes for (tree,) in predictors]
        if not nodes:
            return cls.empty(depth)
        starts = np.cumsum([0, *(len(tree) for tree in nodes)])[:-1]
        flat = np.concatenate(nodes)
        at = starts[:, None]  # (K, nodes of this level), positions in `flat`
        feature, threshold, missing = [], [], []
        for _ in range(depth):
            here = flat[at]
            is_leaf = here["is_leaf"].astype(bool)
            feature.append(np.where(is_leaf, 0, here["feature_idx"]))
            threshold.append(np.where(is_leaf, np.inf, here["num_threshold"]))
            missing.append(np.where(is_leaf, 1, here["missing_go_to_left"]))
            children = np.stack([here["left"], here["right"]], -1).astype(np.int64) + starts[:, None, None]
            at = np.where(is_leaf[..., None], at[..., None], children).reshape(len(nodes), -1)
        leaf = flat[at]["value"].astype(np.float32)
        return cls(
            torch.from_numpy(np.concatenate(feature, 1).astype(np.int16)),
            torch.from_numpy(_round_down(np.concatenate(threshold, 1))),
            torch.from_numpy(np.concatenate(missing, 1).astype(np.uint8)),
            torch.from_numpy(leaf),
        )


def _round_down(threshold: np.ndarray) -> np.ndarray:
    """Give float32 thresholds that send every float32 value where the float64 ones send it; finite, since buffers get averaged."""
    largest = np.finfo(np.float32).max
    clipped = np.clip(threshold, -largest, largest)
    rounded = clipped.astype(np.float32)
    lower = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded > clipped, np.maximum(lower, -largest), rounded)
