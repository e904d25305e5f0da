"""Intervals of averages by drawing series anew with replacement (percentile intervals: Efron and Tibshirani 1993, chapter 13).

Series are drawn and not values: the errors of one series stand and fall together. All from sums per series and channel: a draw is a vector
of weights, and its averages are two matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentode.errors import InputError

MAX_WEIGHTS = 2**23  # weights held at once, 64 MB


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One model's average against another's on the same series.

    Attributes:
        difference: the first less the second; wholly above 0: the first is worse.
        ratio: the first over the second; of no meaning for a likelihood, whose zero is arbitrary.
    """

    difference: Interval
    ratio: Interval

    @property
    def skill(self) -> Interval:
        """Give 1 - ratio: the share of the second model's error that the first one saves."""
        return Interval(1 - self.ratio.estimate, 1 - self.ratio.high, 1 - self.ratio.low)


def bootstrap_interval(
    sums: Tensor, count: Tensor, *, n_draws: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Give `macro` (mean over channels) and `pooled` (mean over values) with their percentile intervals over series.

    Args:
        sums: of a score per series and channel, `(S, C)`.
        count: of values, `(S, C)`; series without any are left out.
        n_draws: how often the series are drawn.
        level: of the interval.
        seed: of the draws.

    Returns:
        A channel that a draw leaves without values counts for nothing in that draw's macro average. With a single series there is
        nothing to draw from: both ends are NaN.

    Raises:
        InputError: shapes differ, there is no value, or `level` or `n_draws` is out of range.
    """
    _check((sums, count), n_draws, level)
    estimate = _averages(sums.sum(0), count.sum(0))
    drawn = torch.cat([_averages(w @ sums[seen], w @ count[seen]) for seen, w in _weights(count, n_draws, seed)], dim=1)
    is_single = int((count.sum(1) > 0).sum()) < 2
    return {
        name: _interval(estimate[i], drawn[i], level, is_single=is_single) for i, name in enumerate(("macro", "pooled"))
    }


def paired_bootstrap(
    sums: Tensor,
    other_sums: Tensor,
    count: Tensor,
    *,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    is_root: bool = False,
) -> dict[str, Comparison]:
    """Give difference and ratio of two models' `macro` and `pooled` averages on the same windows, the same series drawn for both.

    Args:
        sums, other_sums: of both models' scores per series and channel, `(S, C)`.
        count: of values, which they share, `(S, C)`.
        n_draws, level, seed: see `bootstrap_interval`.
        is_root: whether roots of the averages are compared.

    Raises:
        InputError: see `bootstrap_interval`.
    """
    _check((sums, other_sums, count), n_draws, level)
    n_channels = sums.shape[1]
    both = torch.cat([sums, other_sums], dim=1)

    def averages(sums: Tensor, count: Tensor) -> Tensor:
        found = torch.stack([_averages(part, count) for part in sums.split(n_channels, -1)])
        return found.sqrt() if is_root else found

    estimate = averages(both.sum(0), count.sum(0))
    drawn = torch.cat([averages(w @ both[seen], w @ count[seen]) for seen, w in _weights(count, n_draws, seed)], dim=2)
    is_single = int((count.sum(1) > 0).sum()) < 2
    return {
        name: Comparison(
            _interval(estimate[0, i] - estimate[1, i], drawn[0, i] - drawn[1, i], level, is_single=is_single),
            _interval(estimate[0, i] / estimate[1, i], drawn[0, i] / drawn[1, i], level, is_single=is_single),
        )
        for i, name in enumerate(("macro", "pooled"))
    }


def _averages(sums: Tensor, count: Tensor) -> Tensor:
    """Give macro and pooled averages `(2, ...)` of sums `(..., C)`."""
    has_values = count > 0
    per_channel = torch.where(has_values, sums / count, 0.0)
    return torch.stack([per_channel.sum(-1) / has_values.sum(-1), sums.sum(-1) / count.sum(-1)])


def _weights(count: Tensor, n_draws: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Give the series that have values, and how often each is drawn `(draws, S)`, in parts that fit in memory."""
    seen = torch.nonzero(count.sum(1) > 0).squeeze(1)
    n_series = len(seen)
    rng = np.random.default_rng(seed)
    size = max(MAX_WEIGHTS // n_series, 1)
    for start in range(0, n_draws, size):
        n = min(size, n_draws - start)
        # Counts of uniform draws are multinomial, and ten times quicker than numpy's multinomial for many series.
        drawn = rng.integers(n_series, size=(n, n_series)) + n_series * np.arange(n)[:, None]
        weight = np.bincount(drawn.reshape(-1), minlength=n * n_series).reshape(n, n_series)
        yield seen, torch.from_numpy(weight).to(count)


def _interval(estimate: Tensor, drawn: Tensor, level: float, *, is_single: bool) -> Interval:
    if is_single:
        return Interval(float(estimate), float("nan"), float("nan"))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=drawn.dtype, device=drawn.device)
    low, high = torch.nanquantile(drawn, ends).tolist()
    return Interval(float(estimate), low, high)


def _check(tensors: tuple[Tensor, ...], n_draws: int, level: float) -> None:
    shapes = {tuple(x.shape) for x in tensors}
    if len(shapes) > 1 or tensors[0].ndim != 2:
        raise InputError(f"sums and counts have one shape (series, channels), not {sorted(shapes)}.")
    if not bool((tensors[-1] > 0).any()):
        raise InputError("there is no value in any series, so there is no average; give windows with targets.")
    if n_draws < 1:
        raise InputError(f"n_draws is {n_draws}; draw the series at least once.")
    if not 0 < level < 1:
        raise InputError(f"the level of an interval lies between 0 and 1, {level} does not.")
