"""The result of a forecast: moments and quantiles at the asked times, in the user's units, ids and time format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from latentode.data.schema import Schema
from latentode.data.tables import Table
from latentode.data.times import format_times
from latentode.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTILES = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975)

LAYOUTS = ("long", "wide")


def check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """Give quantile levels in ascending order.

    Raises:
        InputError: a level is no number between 0 and 1, or stands twice.
    """
    bad = [level for level in levels if not 0 < level < 1]
    if bad or len(levels) == 0:
        raise InputError(f"quantiles are {list(levels)}; give levels between 0 and 1, such as 0.1,0.5,0.9.")
    if len(set(levels)) < len(levels):
        raise InputError(f"quantiles are {list(levels)}; name each level once.")
    return tuple(sorted(float(level) for level in levels))


@dataclass(frozen=True)
class Rows:
    """`R` rows of a forecast table.

    Attributes:
        keys: columns that say what is forecast, `(R,)` each: `series_id, time[, channel][, kind]`.
        names: of the columns of figures, `F` of them.
        figures: `(R, F)`.
    """

    keys: dict[str, np.ndarray]
    names: list[str]
    figures: np.ndarray

    @classmethod
    def of(
        cls,
        ids: np.ndarray,
        time: np.ndarray,
        channels: Sequence[str],
        is_smoothed: np.ndarray | None,
        levels: Sequence[float],
        figures: np.ndarray,
        layout: str,
    ) -> Rows:
        """Lay out the figures `(P, K, 2 + L)` of `P` queries: mean, std and quantiles; arguments `(P,)` but for channels and levels.

        Raises:
            InputError: the layout is neither "long" nor "wide".
        """
        if layout not in LAYOUTS:
            raise InputError(f"layout is '{layout}'; choose long or wide.")
        keys = {"series_id": ids, "time": time}
        kind = {}
        if is_smoothed is not None:
            kind = {"kind": np.where(is_smoothed, "smoothed", "forecast").astype(object)}
        names = ["mean", "std", *(f"q{level:g}" for level in levels)]
        if layout == "wide":
            columns = [f"{channel}_{name}" for channel in channels for name in names]
            return cls(keys | kind, columns, figures.reshape(len(ids), len(columns)))
        long = {name: np.repeat(value, len(channels)) for name, value in keys.items()}
        long["channel"] = np.tile(np.asarray(channels, dtype=object), len(ids))
        long |= {name: np.repeat(value, len(channels)) for name, value in kind.items()}
        return cls(long, names, figures.reshape(-1, len(names)))

    def to_frame(self) -> pd.DataFrame:
        """Give them as a frame."""
        return pd.concat([pd.DataFrame(self.keys), pd.DataFrame(self.figures, columns=self.names)], axis=1)


@dataclass(frozen=True, repr=False)
class Forecast:
    """`P` query times of `K` channels.

    Attributes:
        schema: of the history.
        series: position of each query's series in `history`, int64 `(P,)`, in the order asked.
        time: asked times, as in `Table.time`, `(P,)`.
        channels: names, `K` of them.
        mean, std: `(P, K)`, float64, in the user's units.
        levels: of the quantiles, `L` of them, ascending.
        quantiles: `(P, K, L)`.
        history: what was read.
        draw: gives draws `(P, K, n)` from a number, a seed and whether they are joint, by asking the model again.
        notes: what was assumed or is unusual, one sentence each.
        is_smoothed: which queries lie at or before the origin, so that they were answered from both sides, bool `(P,)`; None: none does.
        has_trajectories: whether the model knows how what it says of a series hangs together over times and channels.
        origin: of each series of the history, as in `Table.time`, `(S,)`; None: nothing of the history lies after it.
    """

    schema: Schema
    series: np.ndarray
    time: np.ndarray
    channels: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    levels: tuple[float, ...]
    quantiles: np.ndarray
    history: Table
    draw: Callable[[int, int, bool], np.ndarray]
    notes: tuple[str, ...] = field(default=())
    is_smoothed: np.ndarray | None = None
    has_trajectories: bool = False
    origin: np.ndarray | None = None

    def __repr__(self) -> str:
        n_series = len(np.unique(self.series))
        return f"Forecast of {len(self.time)} times of {n_series} series, channels {', '.join(self.channels)}"

    def to_frame(self, layout: str = "long") -> pd.DataFrame:
        """Give the forecast as a table.

        Args:
            layout: "long": one row per query and channel, columns `series_id, time, channel, mean, std, q0.025, ...`; "wide": one row
                per query, columns `<channel>_mean, <channel>_std, <channel>_q0.025, ...`. Where a query lies at or before the origin, a
                column `kind`, "forecast" or "smoothed", stands before the figures.
        """
        is_smoothed = self.is_smoothed if self.is_smoothed is not None and self.is_smoothed.any() else None
        ids, time = self.history.series_ids[self.series], format_times(self.time, self.schema)
        figures = np.concatenate([self.mean[..., None], self.std[..., None], self.quantiles], axis=-1)
        return Rows.of(ids, time, self.channels, is_smoothed, self.levels, figures, layout).to_frame()

    def sample(self, n_samples: int, *, seed: int = 0, joint: bool | None = None) -> pd.DataFrame:
        """Draw whole trajectories: the values of one draw belong together, over the times and the channels of a series.

        Each value for itself is drawn from the distribution that the table states; forecasts and values inside the history are drawn
        apart from each other.

        Args:
            n_samples: how many.
            seed: the same gives the same draws.
            joint: False draws every value for itself; None does so where validation held too few values to tell how those of one series
                hang together (`has_trajectories`).

        Returns:
            One row per query, channel and draw: `series_id, time, channel, sample, value`.

        Raises:
            InputError: `n_samples` is less than 1, or trajectories are asked for and nobody knows them.
        """
        if n_samples < 1:
            raise InputError(f"n_samples is {n_samples}; give a whole number of at least 1.")
        if joint and not self.has_trajectories:
            raise InputError(
                "validation held too few values to tell how forecasts of one series hang together; leave joint out, which draws every "
                "value for itself, or hold out more and fit again."
            )
        value = self.draw(n_samples, seed, joint is not False)
        keys = self.to_frame()[["series_id", "time", "channel"]]
        frame = keys.loc[keys.index.repeat(n_samples)].reset_index(drop=True)
        frame["sample"] = np.tile(np.arange(n_samples), len(keys))
        frame["value"] = value.reshape(-1)
        return frame

    def plot(
        self,
        series: Sequence[Any] | None = None,
        channels: Sequence[str] | None = None,
        *,
        truth: Table | None = None,
        n_series: int | None = None,
    ) -> Figure:
        """Draw history, forecast and bands.

        Args:
            series: ids to draw; left out, the first few.
            channels: to draw; left out, the first few.
            truth: observations after the origin, to be drawn beside the forecast; left out, what the history holds after it.
            n_series: how many series there are, where the forecast is of some of them.
        """
        from latentode.plots import plot_forecast

        is_later = np.zeros(len(self.history.time), dtype=bool)
        if self.origin is not None:
            is_later = self.history.time > self.origin[self.history.row_series]
        return plot_forecast(
            _observations(self.history, ~is_later),
            self.to_frame(),
            _observations(self.history, is_later) if truth is None else _observations(truth),
            series,
            channels,
            log_channels=self.schema.log_channels,
            n_series=n_series,
        )


def _observations(table: Table, chosen: np.ndarray | None = None) -> pd.DataFrame:
    """Give the observed values as `series_id, time, channel, value`, those of the chosen rows, bool `(R,)`."""
    is_there = ~np.isnan(table.values)
    row, channel = np.nonzero(is_there if chosen is None else is_there & chosen[:, None])
    return pd.DataFrame(
        {
            "series_id": table.series_ids[table.row_series[row]],
            "time": format_times(table.time, table.schema)[row],
            "channel": np.asarray(table.schema.channels, dtype=object)[channel],
            "value": table.values[row, channel],
        }
    )
