"""The table of metrics: for each name its formula, its unit and what an average of it means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.distributions import Distribution

from latentode.errors import InputError, did_you_mean

from .point import absolute_error, absolute_error_of_mean, squared_error
from .probabilistic import coverage, crps, negative_log_likelihood, pinball, width


@dataclass(frozen=True)
class Metric:
    """A score of single values.

    Attributes:
        score: of a forecast and a value, element-wise.
        heading: above a column of a report.
        unit_power: to which power of a channel's unit the score belongs: 2 for a square, 0 for a share.
        shifts_with_unit: whether the score of scaled values differs by the logarithm of the unit (a density).
        is_root: whether the figure is the root of the average score: the root of the macro or pooled average, taken last.
        per_naive_error: whether the figure is in units of each channel's naive error, see `mase`.
        is_error: whether a lower figure is a better forecast whatever the other figures say; not so for coverage and width.
        is_headline: whether a table that has not room for all shows it.
    """

    score: Callable[[Distribution, Tensor], Tensor]
    heading: str
    unit_power: int = 0
    shifts_with_unit: bool = False
    is_root: bool = False
    per_naive_error: bool = False
    is_error: bool = True
    is_headline: bool = False


# mase is the absolute error over the training error of "last value" for the same lead times: the mean absolute change of the channel
# over the time that a forecast has to bridge. On a grid Hyndman and Koehler (2006) divide by the mean change over one step. Off the grid
# there is no such step: the change between neighbouring observations depends on how densely a channel happens to be sampled, not on how
# hard it is to forecast, and twice as many observations would raise the figure of the same forecast. Training windows are drawn like
# those that are scored, so their naive error bridges gaps of the same lengths, and 1 means: as good as "last value" was in training.
METRICS: dict[str, Metric] = {
    "mse": Metric(squared_error, "MSE", unit_power=2, is_headline=True),
    "rmse": Metric(squared_error, "RMSE", unit_power=2, is_root=True),
    "mae": Metric(absolute_error, "MAE", unit_power=1, is_headline=True),
    "mae_mean": Metric(absolute_error_of_mean, "MAE of mean", unit_power=1),
    "mase": Metric(absolute_error, "MASE", per_naive_error=True),
    "crps": Metric(crps, "CRPS", unit_power=1, is_headline=True),
    "nll": Metric(negative_log_likelihood, "NLL", shifts_with_unit=True, is_headline=True),
    "pinball_10": Metric(partial(pinball, level=0.10), "pinball 10 %", unit_power=1),
    "pinball_50": Metric(partial(pinball, level=0.50), "pinball 50 %", unit_power=1),
    "pinball_90": Metric(partial(pinball, level=0.90), "pinball 90 %", unit_power=1),
    "coverage_50": Metric(partial(coverage, share=0.50), "in 50 % band", is_error=False),
    "coverage_80": Metric(partial(coverage, share=0.80), "in 80 % band", is_error=False, is_headline=True),
    "coverage_95": Metric(partial(coverage, share=0.95), "in 95 % band", is_error=False, is_headline=True),
    "width_80": Metric(partial(width, share=0.80), "80 % width", unit_power=1, is_error=False),
    "width_95": Metric(partial(width, share=0.95), "95 % width", unit_power=1, is_error=False),
}
GROUPS = {
    group: tuple(name for name in METRICS if name.startswith(f"{group}_")) for group in ("pinball", "coverage", "width")
}


# What central interval a coverage is of.
SHARES = {"coverage_50": 0.50, "coverage_80": 0.80, "coverage_95": 0.95}


def check_metrics(names: Sequence[str] | None) -> tuple[str, ...]:
    """Give the metrics of these names, all where none is named; "coverage", "width" and "pinball" stand for all of their levels.

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
