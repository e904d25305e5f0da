r"""Scaling of values and times, fitted on training rows only.

A model sees a channel as :math:`(g(x) - l) / s`, where :math:`g` is the link of a channel with a support (`links.py`) and else nothing.
"standard" takes mean and deviation of the training values of :math:`g` as :math:`l` and :math:`s`; "robust" takes their median and 1.4826
times their median absolute deviation (Rousseeuw and Croux 1993, section 1), which outliers cannot move, and limits what is beyond `LIMIT`
of it, so that no sum of squares is of one value alone. Errors are told in other units, those of `mean` and `std` of the values
themselves: `latentode.models.units` brings forecasts there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from latentode.data.links import Links
from latentode.data.moments import ChannelMoments
from latentode.data.schema import blocks
from latentode.data.tables import Table
from latentode.data.windows import Split

LIMIT = 20.0  # median absolute deviations; a value further off is read, and learned from, as if it stood there
MAD_OF_NORMAL = 1.4826  # makes the median absolute deviation of a normal its standard deviation
MIN_OTHERS = 5  # so many values have to differ from the median before their deviations count: one may be an outlier


@dataclass(frozen=True)
class Spread:
    """A centre and a positive size for each of `n` columns, float64 `(n,)`."""

    centre: np.ndarray
    size: np.ndarray

    @classmethod
    def standard(cls, values: np.ndarray) -> Spread:
        """Give mean and deviation of each column of `(N, n)`, NaN left out; 0 and 1 without values, size 1 of a constant."""
        seen = ~np.isnan(values)
        n_values = np.maximum(seen.sum(axis=0), 1)
        # In units of the largest value, so that squares of values near 1e300 do not overflow.
        largest = np.where(seen, np.abs(values), 0.0).max(axis=0, initial=0.0)
        unit = np.where(largest > 0, largest, 1.0)
        values = np.where(seen, values / unit, 0.0)
        mean = values.sum(axis=0) / n_values
        variance = np.where(seen, (values - mean) ** 2, 0.0).sum(axis=0) / n_values
        return cls.around(mean * unit, np.sqrt(variance) * unit)

    @classmethod
    def robust(cls, values: np.ndarray) -> Spread:
        """Give median and 1.4826 times the median absolute deviation of each column of `(N, n)`, NaN left out.

        Where more than half of the values are one, the deviations are those of the other values; a column in which next to none differs
        counts as constant.
        """
        # Column by column: a median sorts, and the columns are of different lengths.
        pairs = [_median_and_deviation(column[~np.isnan(column)]) for column in values.T]
        centre, size = np.asarray(pairs, dtype=np.float64).reshape(-1, 2).T
        return cls.around(centre, size)

    @classmethod
    def around(cls, centre: np.ndarray, size: np.ndarray) -> Spread:
        """Take centre and size as they are, size 1 of a constant."""
        return cls(centre, np.where(_is_flat(centre, size), 1.0, size))

    def transform(self, values: np.ndarray, limit: float = np.inf) -> np.ndarray:
        """Bring values `(..., n)` to sizes around the centre, at most `limit` of them."""
        with np.errstate(over="ignore"):
            return np.clip((values - self.centre) / self.size, -limit, limit)

    def to_dict(self) -> dict[str, Any]:
        """Give plain lists."""
        return {"centre": self.centre.tolist(), "size": self.size.tolist()}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any] | None) -> Spread:
        """Rebuild what `to_dict` gave; None, in runs of older versions, stands for no columns."""
        d = d or {"centre": [], "size": []}
        return cls(*(np.asarray(d[name], dtype=np.float64) for name in ("centre", "size")))


def _is_flat(centre: np.ndarray, size: np.ndarray) -> np.ndarray:
    # Rounding leaves a constant column a deviation of some 1e-16 of its size, by which nobody may divide.
    return size <= 1e-10 * np.maximum(np.abs(centre), np.finfo(np.float64).tiny)


NO_COLUMNS = Spread(np.zeros(0), np.zeros(0))


def _median_and_deviation(values: np.ndarray) -> tuple[float, float]:
    if len(values) == 0:
        return 0.0, 1.0
    # In units of the largest value, so that differences of values near 1e308 do not overflow.
    unit = float(np.abs(values).max()) or 1.0
    values = values / unit
    median = float(np.median(values))
    away = np.abs(values - median)
    deviation = float(np.median(away))
    if deviation <= 1e-10 * abs(median):
        others = away[away > 1e-10 * abs(median)]
        deviation = float(np.median(others)) if len(others) >= MIN_OTHERS else 0.0
    return median * unit, MAD_OF_NORMAL * deviation * unit


@dataclass(frozen=True)
class ChannelMap:
    """How models see the channels where it is not by mean and deviation of the values.

    Attributes:
        links: to the whole line, of channels with a support.
        spread: of the values behind their links.
        limit: in sizes of the spread; what is beyond is read as if it stood there.
    """

    links: Links
    spread: Spread
    limit: float = np.inf


@dataclass(frozen=True)
class Scaler:
    """Mean and deviation of each channel over the training rows, the unit of model time, and how models see the columns.

    Attributes:
        mean: `(C,)`, float64; 0 for a channel without training values.
        std: `(C,)`, float64, positive; 1 for a channel that is constant or without training values. The unit of errors.
        n_values: training values per channel, int64 `(C,)`.
        time_scale: one unit of model time (the horizon) in the unit of `Table.time`.
        channel_map: how models see the channels; None: as `(value - mean) / std`.
        statics: of the static numbers, over the series of the training rows.
        known: of the known columns, over the training rows.
        is_flat: bool `(C,)`; constant in training, so that nothing tells in which unit its errors are; empty: not known.
    """

    mean: np.ndarray
    std: np.ndarray
    n_values: np.ndarray
    time_scale: float
    channel_map: ChannelMap | None = None
    statics: Spread = NO_COLUMNS
    known: Spread = NO_COLUMNS
    is_flat: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))

    @classmethod
    def fit(cls, table: Table, split: Split, horizon: float, *, scaling: str = "standard") -> Scaler:
        """Take what models see, and the unit of errors, from the training rows of `table`; `scaling` as in `DataSettings`."""
        return cls.of_rows(table, split.train_rows(table), horizon, scaling=scaling)

    @classmethod
    def of_rows(cls, table: Table, rows: np.ndarray, horizon: float, *, scaling: str = "standard") -> Scaler:
        """Take it from these rows (bool `(N,)`) and their series."""
        found = cls.of_moments(moments_of_rows(table, rows), horizon)
        spread_of = Spread.robust if scaling == "robust" else Spread.standard
        return replace(
            found,
            channel_map=_fit_map(table, rows, scaling),
            statics=NO_COLUMNS
            if table.statics is None
            else spread_of(table.statics.numbers[np.unique(table.row_series[rows])]),
            known=NO_COLUMNS if table.known is None else spread_of(table.known[rows]),
        )

    @classmethod
    def of_moments(cls, moments: ChannelMoments, horizon: float) -> Scaler:
        """Take mean and deviation of the training rows as they are."""
        plain = Spread.around(moments.mean, moments.std)
        is_flat = (moments.n_values > 0) & _is_flat(moments.mean, moments.std)
        return cls(plain.centre, plain.size, moments.n_values, float(horizon), is_flat=is_flat)

    @property
    def limit(self) -> float:
        """How far from its centre a scaled value is read at most."""
        return np.inf if self.channel_map is None else self.channel_map.limit

    def spread(self) -> Spread:
        """Give centre and size of what models see of each channel."""
        return Spread(self.mean, self.std) if self.channel_map is None else self.channel_map.spread

    def transform(self, values: np.ndarray, channel: np.ndarray) -> np.ndarray:
        """Bring values of channels `channel` (same shape) to what models see."""
        if self.channel_map is None:
            return (values - self.mean[channel]) / self.std[channel]
        values = self.channel_map.links.take(channel).forward(values)
        spread = self.channel_map.spread
        # A value near 1e308 may be infinitely many median deviations off, which is beyond the limit as well.
        with np.errstate(over="ignore"):
            return np.clip((values - spread.centre[channel]) / spread.size[channel], -self.limit, self.limit)

    def inverse(self, values: np.ndarray, channel: np.ndarray) -> np.ndarray:
        """Bring scaled values back to the user's units."""
        spread = self.spread()
        values = values * spread.size[channel] + spread.centre[channel]
        if self.channel_map is None:
            return values
        return self.channel_map.links.take(channel).inverse(values)

    def error_units(self, values: np.ndarray, channel: np.ndarray) -> np.ndarray:
        """Bring values to training deviations around the training mean: the units in which errors are told."""
        return (values - self.mean[channel]) / self.std[channel]

    def to_dict(self) -> dict[str, Any]:
        """Give plain lists and numbers."""
        found = self.channel_map
        return {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "n_values": self.n_values.tolist(),
            "is_flat": self.is_flat.tolist(),
            "time_scale": self.time_scale,
            "channel_map": None
            if found is None
            else {**found.links.to_dict(), "spread": found.spread.to_dict(), "limit": found.limit},
            "statics": self.statics.to_dict(),
            "known": self.known.to_dict(),
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Scaler:
        """Rebuild a scaler from what `to_dict` gave, or an older version's, which knew values and times alone."""
        mean, std = (np.asarray(d[name], dtype=np.float64) for name in ("mean", "std"))
        found = d.get("channel_map")
        return cls(
            mean,
            std,
            np.asarray(d["n_values"], dtype=np.int64),
            float(d["time_scale"]),
            None
            if found is None
            else ChannelMap(Links.from_dict(found), Spread.from_dict(found["spread"]), float(found["limit"])),
            Spread.from_dict(d.get("statics")),
            Spread.from_dict(d.get("known")),
            np.asarray(d.get("is_flat", []), dtype=bool),
        )


def moments_of_rows(table: Table, is_seen: np.ndarray) -> ChannelMoments:
    """Give count, mean and deviation of each channel over some rows, bool `(N,)`, in one pass."""
    moments = ChannelMoments.zero(table.values.shape[1])
    for rows in blocks(table.values, size=1 << 22):
        moments += ChannelMoments.of(table.values[rows][is_seen[rows]])
    return moments


def _fit_map(table: Table, rows: np.ndarray, scaling: str) -> ChannelMap | None:
    links = Links.of(table.schema)
    if scaling == "standard" and links.is_plain.all():
        return None
    values = links.forward(table.values[rows])
    if scaling == "standard":
        return ChannelMap(links, Spread.standard(values))
    return ChannelMap(links, Spread.robust(values), LIMIT)
