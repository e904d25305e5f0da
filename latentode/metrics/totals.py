"""Averages as sums and counts per channel: parts of a data set, batches and machines add up without rounding their averages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentode.errors import InputError, did_you_mean

from .point import absolute_error, squared_error
from .probabilistic import coverage, crps, negative_log_likelihood


@dataclass(frozen=True)
class Metric:
    """A score of single values.

    Attributes:
        score: of a forecast and a value, element-wise.
        unit_power: to which power of a channel's unit the score belongs: 2 for a square, 0 for a share.
        shifts_with_unit: whether the score of scaled values differs by the logarithm of the unit (a density).
    """

    score: Callable[[Distribution, Tensor], Tensor]
    unit_power: int = 0
    shifts_with_unit: bool = False


METRICS: dict[str, Metric] = {
    "mse": Metric(squared_error, unit_power=2),
    "mae": Metric(absolute_error, unit_power=1),
    "crps": Metric(crps, unit_power=1),
    "nll": Metric(negative_log_likelihood, shifts_with_unit=True),
    "coverage_80": Metric(partial(coverage, share=0.80)),
    "coverage_95": Metric(partial(coverage, share=0.95)),
}
GROUPS = {"coverage": ("coverage_80", "coverage_95")}


def check_metrics(names: Sequence[str] | None) -> tuple[str, ...]:
    """Give the metrics of these names, all where none is named; "coverage" stands for both intervals.

    Raises:
        InputError: there is no such metric.
    """
    if names is None:
        return tuple(METRICS)
    found: list[str] = []
    for name in names:
        if name not in METRICS and name not in GROUPS:
            known = [*METRICS, *GROUPS]
            raise InputError(f"metric '{name}' is none of {', '.join(known)}{did_you_mean(name, known)}.")
        found += [entry for entry in GROUPS.get(name, (name,)) if entry not in found]
    return tuple(found)


@dataclass
class Totals:
    """Sums of each metric's scores and the number of values, per channel, float64.

    Attributes:
        sums: by metric, `(C,)` each.
        count: `(C,)`.
    """

    sums: dict[str, Tensor]
    count: Tensor

    @classmethod
    def zero(cls, n_channels: int, names: Sequence[str] = tuple(METRICS)) -> Totals:
        """Give totals of nothing."""
        empty = torch.zeros(n_channels, dtype=torch.float64)
        return cls({name: empty.clone() for name in names}, empty.clone())

    def add(self, forecast: Distribution, value: Tensor, channel: Tensor, observed: Tensor) -> None:
        """Add the scores of forecasts of values `(B, M)` of channels `channel`, where `observed`."""
        device = self.count.device
        place = channel[observed].to(device)
        for name, total in self.sums.items():
            score = METRICS[name].score(forecast, value)[observed]
            total.index_add_(0, place, score.detach().to(device, torch.float64))
        self.count.index_add_(0, place, torch.ones(len(place), dtype=torch.float64, device=device))

    def per_channel(self, name: str, std: Tensor | None = None) -> Tensor:
        """Give the average of one metric per channel `(C,)`, NaN without values; with `std`, in the user's units."""
        average = self.sums[name] / self.count
        if std is None:
            return average
        metric = METRICS[name]
        return average * std**metric.unit_power + (std.log() if metric.shifts_with_unit else 0.0)

    def macro(self, name: str) -> float:
        """Give the mean over the channels that have values, in training deviations."""
        has_values = self.count > 0
        return float(self.per_channel(name)[has_values].mean()) if bool(has_values.any()) else float("nan")

    def pooled(self, name: str, std: Tensor) -> float:
        """Give the mean over all values, in the user's units."""
        has_values = self.count > 0
        weight = self.count[has_values] / self.count.sum()
        return float((self.per_channel(name, std)[has_values] * weight).sum())

    def summary(self, channels: Sequence[str], std: Tensor) -> dict[str, Any]:
        """Give the figures as plain values.

        Args:
            channels: names, `C` of them.
            std: training deviations, `(C,)`, float64.

        Returns:
            Each metric's macro average in training deviations; `pooled` and `channels` in the user's units; `n_values`.
        """
        seen = [i for i in range(len(channels)) if self.count[i] > 0]
        per_channel = {name: self.per_channel(name, std).tolist() for name in self.sums}
        return {
            **{name: self.macro(name) for name in self.sums},
            "n_values": int(self.count.sum()),
            "pooled": {name: self.pooled(name, std) for name in self.sums},
            "channels": {
                channels[i]: {**{name: per_channel[name][i] for name in self.sums}, "n_values": int(self.count[i])}
                for i in seen
            },
        }
