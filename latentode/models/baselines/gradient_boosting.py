"""Boosted trees per channel on features of the history: the tabular model that a good engineer would try first, and the rival to beat.

scikit-learn's histogram trees (Ke et al. 2017, section 2, is the algorithm behind them) learn what the blend leaves. They are then laid
out as tensors, so that forecasting needs no scikit-learn and a run is loaded without running code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.baselines.shrunk import ShrunkBaseline, own_std
from latentode.models.baselines.trees import Forest
from latentode.models.history import known_features, most_seen, summarise
from latentode.models.statics import static_features

DEPTH = 6  # of every tree: 63 nodes
MAX_OTHERS = 64  # channels whose last value every tree may read: those seen most in training
MIN_TARGETS = 60  # fewer training targets than this cannot carry three leaves; the channel stays with the blend


@dataclass(frozen=True)
class Features:
    """What the trees read.

    Attributes:
        own: of each target's channel: lead time, last value, time since, mean, min, max, count, and the known columns there and then,
            `(B, M, 7 + 3 K)`.
        others: last values of the channels that are read across, and the static columns, `(B, J)`.
    """

    own: Tensor
    others: Tensor


class GradientBoosting(ShrunkBaseline):
    """Forecasts the blend plus, per channel, a sum of regression trees fitted to what the blend leaves.

    How many of the trees are kept is decided per channel on validation, as is the share of their forecast.

    Args:
        n_trees: per channel at most.
        learning_rate: by which each tree is shrunk.
        n_leaves: per tree at most.
        min_leaf: training targets in a leaf at least.
    """

    feature: Tensor
    threshold: Tensor
    missing_left: Tensor
    leaf: Tensor
    offset: Tensor
    n_kept: Tensor
    inputs: Tensor

    def __init__(
        self, n_trees: int = 150, *, learning_rate: float = 0.06, n_leaves: int = 31, min_leaf: int = 20
    ) -> None:
        super().__init__()
        self.n_trees = n_trees
        self.learning_rate = learning_rate
        self.n_leaves = n_leaves
        self.min_leaf = min_leaf

    def setup(self, schema: Schema) -> None:
        """Make the buffers; those of the trees are empty, and take the size of what is fitted or loaded."""
        super().setup(schema)
        n_channels = len(schema.channels)
        self.schema = schema
        self._store(Forest.empty(DEPTH))
        self.register_buffer("offset", torch.zeros(n_channels + 1, dtype=torch.int64))
        self.register_buffer("n_kept", torch.zeros(n_channels, dtype=torch.int64))
        self.register_buffer("inputs", torch.arange(min(n_channels, MAX_OTHERS)))

    def _store(self, forest: Forest) -> None:
        for name in ("feature", "threshold", "missing_left", "leaf"):
            self.register_buffer(name, getattr(forest, name).to(self.share.device))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # How many trees there are is known only from what is loaded.
        for name in ("feature", "threshold", "missing_left", "leaf"):
            stored, own = state_dict.get(prefix + name), getattr(self, name)
            if stored is not None and stored.shape[1:] == own.shape[1:]:
                self.register_buffer(name, own.new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _trees(self, channel: int) -> Forest:
        """Give all trees of a channel, in the order in which they were grown."""
        first, last = int(self.offset[channel]), int(self.offset[channel + 1])
        return Forest(self.feature, self.threshold, self.missing_left, self.leaf).take(slice(first, last))

    def fit(self, training: Sequence[Batch]) -> None:
        """Grow the trees of every channel."""
        n_channels = training[0].n_channels
        self.inputs.copy_(most_seen(training, len(self.inputs)))
        data = _Targets.of([(self._features(batch), batch, self.trained_blend(batch)) for batch in training])
        forests = [self._grow(*data.of_channel(channel)) for channel in range(n_channels)]
        self._store(Forest(*(torch.cat([getattr(f, name) for f in forests]) for name in Forest.__annotations__)))
        count = torch.tensor([len(forest.leaf) for forest in forests])
        self.offset.copy_(torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)]))
        self.n_kept.copy_(count)

    def _grow(self, x: Tensor, residual: Tensor) -> Forest:
        """Fit the trees of one channel to residuals `(P,)` on features `(P, F)`."""
        # Imported here: forecasting does not need it, and it takes a second.
        from sklearn.ensemble import HistGradientBoostingRegressor

        if len(residual) < MIN_TARGETS or bool(residual.var() <= 0):
            return Forest.empty(DEPTH)
        model = HistGradientBoostingRegressor(
            max_iter=self.n_trees,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.n_leaves,
            max_depth=DEPTH,
            min_samples_leaf=self.min_leaf,
            # The number of trees is chosen on validation, in `tune`.
            early_stopping=False,  # pyright: ignore[reportArgumentType]  (the stub knows only "auto")
            random_state=0,
        )
        # scikit-learn cannot bin a column without a value in the 200,000 rows that it samples; a constant one is never split on.
        x = torch.where((~x.isnan()).sum(0) <= len(x) / 1000, 0.0, x)
        model.fit(x.cpu().numpy(), residual.cpu().numpy())
        forest = Forest.of_sklearn(model._predictors, DEPTH)
        # The constant that scikit-learn starts from, spread over the first tree's leaves.
        forest.leaf[:1] += float(model._baseline_prediction.item())
        return forest

    def tune(self, validation: Sequence[Batch]) -> None:
        """Keep, per channel, as many trees as have the least squared error."""
        data = _Targets.of([(self._features(batch), batch, self.trained_blend(batch)) for batch in validation])
        for channel in range(validation[0].n_channels):
            x, residual = data.of_channel(channel)
            trees = self._trees(channel)
            n_trees = len(trees.leaf)
            if n_trees and len(residual):
                said = torch.nn.functional.pad(trees.values(x).double().cumsum(1), (1, 0))
                self.n_kept[channel] = (residual[:, None] - said).square().mean(0).argmin()
            else:
                self.n_kept[channel] = n_trees

    def own(self, batch: Batch) -> Normal:
        """Forecast every target `(B, M)` by blend and trees."""
        data = _Targets.of([(self._features(batch), batch, None)])
        said = torch.zeros_like(data.target)
        for channel, place in data.places():
            trees = self._trees(channel).take(slice(0, int(self.n_kept[channel])))
            said[place] = trees.values(data.features(place)).sum(1).to(said.dtype)
        mean = self.trained_blend(batch)
        mean[batch.target_observed] += said
        return own_std(mean)

    def _features(self, batch: Batch) -> Features:
        summary = summarise(batch)
        missing = summary.count == 0
        per_channel = torch.stack([summary.last, summary.mean, summary.lowest, summary.highest], -1)
        per_channel = torch.where(missing[..., None], torch.nan, per_channel)
        time = batch.lead_time()[..., None]
        index = batch.target_channel[..., None]
        last, mean, low, high = per_channel.gather(1, index.expand(-1, -1, 4)).split(1, -1)
        at = torch.stack([summary.age, summary.count], -1).gather(1, index.expand(-1, -1, 2))
        age, count = at.split(1, -1)
        own = torch.cat([time, last, age + time, mean, low, high, count, known_features(batch)], -1)
        others = torch.cat([per_channel[:, self.inputs, 0], static_features(batch, self.schema)], -1)
        return Features(own, others)


@dataclass(frozen=True)
class _Targets:
    """The known targets of many batches, flat: what they read, and what is to be said of them."""

    own: Tensor  # (P, 7 + 3 K)
    others: Tensor  # (W, J), one row per window
    window: Tensor  # (P,), row of `others`
    channel: Tensor  # (P,)
    target: Tensor  # (P,), what the blend leaves

    @classmethod
    def of(cls, parts: Sequence[tuple[Features, Batch, Tensor | None]]) -> _Targets:
        own, others, window, channel, target = [], [], [], [], []
        n_windows = 0
        for features, batch, blend in parts:
            seen = batch.target_observed
            own.append(features.own[seen])
            others.append(features.others)
            window.append(seen.nonzero()[:, 0] + n_windows)
            channel.append(batch.target_channel[seen])
            target.append((batch.target_value if blend is None else batch.target_value - blend)[seen])
            n_windows += len(batch)
        return cls(torch.cat(own), torch.cat(others), torch.cat(window), torch.cat(channel), torch.cat(target))

    def places(self) -> list[tuple[int, Tensor]]:
        """Give every channel that has a target, and where its targets stand."""
        order = self.channel.argsort(stable=True)
        present, count = self.channel[order].unique_consecutive(return_counts=True)
        return list(zip(present.tolist(), order.split(count.tolist()), strict=True))

    def features(self, place: Tensor) -> Tensor:
        return torch.cat([self.own[place], self.others[self.window[place]]], -1)

    def of_channel(self, channel: int) -> tuple[Tensor, Tensor]:
        """Give features `(P, F)` and residuals `(P,)` of one channel."""
        place = (self.channel == channel).nonzero()[:, 0]
        return self.features(place), self.target[place]
