"""Averages as sums and counts: parts of a data set, batches and machines add up without rounding their averages.

Legend: `C` channels, `H` bins of lead time, `S` series. Sums are of scaled values (training deviations) and turn into the user's units,
which differ by channel, only where an average is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentode.errors import InputError

from .bootstrap import Comparison, Interval, bootstrap_interval, paired_bootstrap
from .point import fill_unobserved
from .table import METRICS

ONE_BIN = (0.0, 1.0)
MIN_COMMON = 500  # values; the error of a channel with fewer is mostly noise
MIN_NAIVE_ERROR = 1e-6  # training deviations; a channel that changes less is constant but for rounding


def horizon_edges(n_bins: int = 4) -> tuple[float, ...]:
    """Give the ends of equal bins of the fitted horizon, in model time, whose unit is that horizon."""
    return tuple(i / n_bins for i in range(n_bins + 1))


@dataclass
class Totals:
    """Sums of each metric's scores and the number of values, per channel and bin of lead time, float64.

    Attributes:
        sums: by metric, `(C, H)` each.
        count: `(C, H)`.
        edges: ascending ends of the bins, `H + 1` of them; a bin holds its upper end, the first and last hold what lies outside as well.
        naive_error: error of "last value" in training per channel, scaled, `(C,)`: the unit of `mase`; NaN or next to 0: there is none.
        series_sums: by metric, `(S, C)`; empty where series are not told apart.
        series_count: `(S, C)`.
    """

    sums: dict[str, Tensor]
    count: Tensor
    edges: tuple[float, ...] = ONE_BIN
    naive_error: Tensor | None = None
    series_sums: dict[str, Tensor] = field(default_factory=dict)
    series_count: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    @classmethod
    def zero(
        cls,
        n_channels: int,
        names: Sequence[str] = tuple(METRICS),
        *,
        edges: Sequence[float] = ONE_BIN,
        naive_error: Tensor | None = None,
        n_series: int = 0,
        series_names: Sequence[str] | None = None,
    ) -> Totals:
        """Give totals of nothing.

        Args:
            n_channels: `C`.
            names: of metrics; those in units of the naive error are left out where none is given.
            edges: of the bins of lead time, in the unit of the `lead` that `add` gets.
            naive_error: see the class.
            n_series: `S`; above 0, sums per series are kept too, for the bootstrap.
            series_names: metrics of which they are kept; left out, all. They take `8 S C` bytes each.

        Raises:
            InputError: the edges do not ascend.
        """
        if len(edges) < 2 or any(a >= b for a, b in pairwise(edges)):
            raise InputError(f"the edges of lead time have to ascend, at least two of them; they are {list(edges)}.")
        kept = [name for name in names if naive_error is not None or not METRICS[name].per_naive_error]
        cells, series = (
            torch.zeros(shape, dtype=torch.float64)
            for shape in ((n_channels, len(edges) - 1), (n_series, n_channels if n_series else 0))
        )
        return cls(
            {name: cells.clone() for name in kept},
            cells,
            tuple(float(edge) for edge in edges),
            None if naive_error is None else naive_error.double(),
            {name: series.clone() for name in kept if n_series and (series_names is None or name in series_names)},
            series,
        )

    def add(
        self,
        forecast: Distribution,
        value: Tensor,
        channel: Tensor,
        observed: Tensor,
        *,
        lead: Tensor | None = None,
        series: Tensor | None = None,
    ) -> None:
        """Add the scores of forecasts of values `(B, M)` of channels `channel`, where `observed`.

        Args:
            forecast: batch shape `(B, M)`, scaled.
            value: scaled.
            channel: int64.
            observed: bool; the rest counts for nothing, whatever it holds.
            lead: time from origin to target, in the unit of the edges; needed where there are several bins.
            series: int64 `(B,)` or `(B, M)`; needed where series are told apart.

        Raises:
            InputError: `lead` or `series` is needed and missing.
        """
        place, series_place = self._places(channel, observed, lead, series)
        value = fill_unobserved(forecast, value, observed)
        for name, total in self.sums.items():
            score = METRICS[name].score(forecast, value)[observed].detach().to(total)
            _accumulate(total, place, score)
            if series_place is not None and name in self.series_sums:
                _accumulate(self.series_sums[name], series_place, score)
        ones = torch.ones_like(place, dtype=torch.float64)
        _accumulate(self.count, place, ones)
        if series_place is not None:
            _accumulate(self.series_count, series_place, ones)

    def _places(
        self, channel: Tensor, observed: Tensor, lead: Tensor | None, series: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Give where each observed value belongs in the flattened sums, per cell and per series."""
        n_channels, n_bins = self.count.shape
        device = self.count.device
        channel = channel[observed].to(device)
        place = channel * n_bins
        if n_bins > 1:
            if lead is None:
                raise InputError("scores by lead time need the lead time of each target; give lead to Totals.add.")
            # In the dtype of the lead: as a float32 it may lie a rounding above the edge that it is meant to be.
            inner = torch.tensor(self.edges[1:-1], dtype=lead.dtype, device=device)
            place = place + torch.bucketize(lead[observed].to(device), inner)
        if len(self.series_count) == 0:
            return place, None
        if series is None:
            raise InputError("sums per series need the series of each window; give series to Totals.add.")
        series = series if series.ndim == observed.ndim else series[:, None]
        return place, series.expand_as(observed)[observed].to(device) * n_channels + channel

    def __add__(self, other: Totals) -> Totals:
        """Give the totals of both parts.

        Raises:
            InputError: they are of other metrics, channels, bins or series.
        """
        same_names = self.sums.keys() == other.sums.keys() and self.series_sums.keys() == other.series_sums.keys()
        is_same = self.edges == other.edges and same_names
        same_shapes = self.count.shape == other.count.shape and self.series_count.shape == other.series_count.shape
        if not (is_same and same_shapes and _same_unit(self.naive_error, other.naive_error)):
            raise InputError("totals add up only where metrics, channels, bins, series and naive errors are the same.")
        return replace(
            self,
            sums={name: total + other.sums[name] for name, total in self.sums.items()},
            count=self.count + other.count,
            series_sums={name: total + other.series_sums[name] for name, total in self.series_sums.items()},
            series_count=self.series_count + other.series_count,
        )

    def rescaled(self, ratio: Tensor, naive_error: Tensor | None) -> Totals:
        """Give the totals as if values had been scaled otherwise, so that those of two fits can be added.

        Args:
            ratio: the deviations by which values were divided over those by which they shall be, `(C,)`, float64.
            naive_error: in the new unit; None leaves out what is in units of it.
        """
        sums = {name: self._at_scale(name, total.t(), self.count.t(), ratio).t() for name, total in self.sums.items()}
        series_sums = {
            name: self._at_scale(name, total, self.series_count, ratio) for name, total in self.series_sums.items()
        }
        kept = [name for name in sums if naive_error is not None or not METRICS[name].per_naive_error]
        return replace(
            self,
            sums={name: sums[name].contiguous() for name in kept},
            naive_error=naive_error,
            series_sums={name: total for name, total in series_sums.items() if name in kept},
        )

    def _at_scale(self, name: str, sums: Tensor, count: Tensor, ratio: Tensor) -> Tensor:
        metric = METRICS[name]
        ratio = ratio.to(sums)
        # What is averaged in units of the naive error is summed as a plain error.
        power = 1 if metric.per_naive_error else metric.unit_power
        return sums * ratio**power + (count * ratio.log() if metric.shifts_with_unit else 0.0)

    def without(self, left_out: Tensor) -> Totals:
        """Give the totals of the other channels; `left_out` is bool `(C,)`."""
        left_out = left_out.to(self.count.device)
        return replace(
            self,
            sums={name: torch.where(left_out[:, None], 0.0, total) for name, total in self.sums.items()},
            count=torch.where(left_out[:, None], 0.0, self.count),
            series_sums={name: torch.where(left_out, 0.0, total) for name, total in self.series_sums.items()},
            series_count=torch.where(left_out, 0.0, self.series_count) if len(self.series_count) else self.series_count,
        )

    def at_bin(self, i: int) -> Totals:
        """Give the totals of one bin of lead time, without series."""
        sums = {name: total[:, i : i + 1] for name, total in self.sums.items()}
        return Totals(sums, self.count[:, i : i + 1], self.edges[i : i + 2], self.naive_error)

    def _converted(self, name: str, sums: Tensor, count: Tensor, std: Tensor | None) -> Tensor:
        """Give sums `(..., C)` in the unit in which they are averaged."""
        metric = METRICS[name]
        if metric.per_naive_error:
            assert self.naive_error is not None
            return sums / self.naive_error.to(sums.device)
        return sums if std is None else self._at_scale(name, sums, count, std)

    def _channels(self, name: str, std: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give converted sums and counts `(C,)`; a channel in whose unit the metric cannot be told counts as one without values."""
        count = self.count.sum(1)
        sums = self._converted(name, self.sums[name].sum(1), count, std)
        is_told = self._is_told(name) & (count > 0)
        return torch.where(is_told, sums, 0.0), torch.where(is_told, count, 0.0)

    def _is_told(self, name: str) -> Tensor:
        if not METRICS[name].per_naive_error:
            return torch.ones_like(self.count[:, 0], dtype=torch.bool)
        assert self.naive_error is not None
        return self.naive_error.to(self.count.device) > MIN_NAIVE_ERROR

    def per_channel(self, name: str, std: Tensor | None = None) -> Tensor:
        """Give the average of one metric per channel `(C,)`, NaN without values.

        Args:
            name: of the metric.
            std: training deviations `(C,)`: the figure is then in the user's units. Left out, in training deviations. Deviations
                divided by another unit give the figure in that unit.
        """
        sums, count = self._channels(name, std)
        return _figure(name, sums / count)

    def macro(self, name: str, std: Tensor | None = None) -> float:
        """Give the mean over the channels that have values of their averages; of a root, the root of that mean."""
        sums, count = self._channels(name, std)
        return float(_figure(name, (sums / count)[count > 0].mean()))

    def pooled(self, name: str, std: Tensor | None = None) -> float:
        """Give the mean over all values; of a root, the root of that mean."""
        sums, count = self._channels(name, std)
        return float(_figure(name, sums.sum() / count.sum()))

    def record(self, std: Tensor | None = None) -> dict[str, float]:
        """Give the figures that a benchmark's record holds, macro but for `mse_pooled`, of the metrics that were summed.

        `mse_common` is macro over the channels with at least `MIN_COMMON` values alone; NaN where there is none.

        Args:
            std: training deviations divided by the protocol's unit, `(C,)`; left out, figures are in training deviations.
        """
        macro = {"mse_macro": "mse", "mae_mean": "mae_mean", "mae_median": "mae", "crps": "crps", "nll": "nll"}
        figures = {key: self.macro(name, std) for key, name in macro.items() if name in self.sums}
        if "mse" not in self.sums:
            return figures
        common = self.without(self.count.sum(1) < MIN_COMMON)
        return figures | {"mse_common": common.macro("mse", std), "mse_pooled": self.pooled("mse", std)}

    def summary(self, channels: Sequence[str], std: Tensor, *, is_whole: bool = False) -> dict[str, Any]:
        """Give the figures as plain values.

        Args:
            channels: names, `C` of them.
            std: training deviations, `(C,)`, float64.
            is_whole: whether every metric is given per channel within the bins, too, which makes a large file.

        Returns:
            In training deviations: `<name>_macro` (also under the bare name: the headline) and `<name>_pooled`. In the user's units:
            `pooled` and `channels`. `n_values`. With several bins of lead time `bins`, the same of each, `after` and `until` in horizons;
            their `channels` hold the headline metrics only, where there are such, unless it is to be whole.
        """
        figures = self._figures(channels, std, tuple(self.sums))
        headline = tuple(name for name in self.sums if METRICS[name].is_headline)
        crossed = tuple(self.sums) if is_whole or not headline else headline
        if len(self.edges) > 2:
            figures["bins"] = [
                {"after": part.edges[0], "until": part.edges[1], **part._figures(channels, std, crossed)}
                for part in (self.at_bin(i) for i in range(len(self.edges) - 1))
            ]
        return figures

    def _figures(self, channels: Sequence[str], std: Tensor, crossed: Sequence[str]) -> dict[str, Any]:
        count = self.count.sum(1).tolist()
        macro = {name: self.macro(name) for name in self.sums}
        per_channel = {name: self.per_channel(name, std).tolist() for name in crossed}
        return {
            **macro,
            **{f"{name}_macro": figure for name, figure in macro.items()},
            **{f"{name}_pooled": self.pooled(name) for name in self.sums},
            "n_values": int(sum(count)),
            "pooled": {name: self.pooled(name, std) for name in self.sums},
            "channels": {
                channel: {**{name: per_channel[name][i] for name in crossed}, "n_values": int(count[i])}
                for i, channel in enumerate(channels)
                if count[i] > 0
            },
        }

    def interval(self, name: str, std: Tensor | None = None, **options: Any) -> dict[str, Interval]:
        """Give the bootstrap interval over series of the macro and the pooled average; see `bootstrap_interval` for the options."""
        found = bootstrap_interval(*self._series(name, std), **options)
        if not METRICS[name].is_root:
            return found
        # A root is monotone, so the interval of the root is the root of the interval.
        return {key: Interval(*(x**0.5 for x in (one.estimate, one.low, one.high))) for key, one in found.items()}

    def compare(self, other: Totals, name: str, std: Tensor | None = None, **options: Any) -> dict[str, Comparison]:
        """Give how this model's averages stand to another's on the same windows; see `paired_bootstrap` for the options."""
        sums, count = self._series(name, std)
        other_sums, other_count = other._series(name, std)
        if count.shape != other_count.shape or not torch.equal(count, other_count):
            raise InputError("two models are compared on the same windows only; score both on one list of windows.")
        return paired_bootstrap(sums, other_sums, count, is_root=METRICS[name].is_root, **options)

    def _series(self, name: str, std: Tensor | None) -> tuple[Tensor, Tensor]:
        if name not in self.series_sums:
            raise InputError(
                f"the sums of {name} per series were not kept; give n_series and series_names to Totals.zero."
            )
        is_told = self._is_told(name)
        count = torch.where(is_told, self.series_count, 0.0)
        sums = self._converted(name, self.series_sums[name], count, std)
        return torch.where(is_told, sums, 0.0), count


def _figure(name: str, average: Tensor) -> Tensor:
    return average.sqrt() if METRICS[name].is_root else average


def _accumulate(total: Tensor, place: Tensor, score: Tensor) -> None:
    total.view(-1).index_add_(0, place, score)


def _same_unit(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one.nan_to_num(), other.nan_to_num())
