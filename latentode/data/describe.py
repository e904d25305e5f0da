"""What is in a table: the figures that a forecaster asks for first. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from latentode.data.calendar import with_calendar
from latentode.data.schema import Schema, quote_names
from latentode.data.settings import DataSettings
from latentode.data.suspicious import note_scales
from latentode.data.tables import Table
from latentode.data.times import format_duration, format_times
from latentode.data.windows import Spans, heldout_windows, make_split
from latentode.data.zones import wall_clock
from latentode.errors import DataError

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_UNITS_NS = {
    "days": 86_400e9,
    "hours": 3_600e9,
    "minutes": 60e9,
    "seconds": 1e9,
    "milliseconds": 1e6,
    "microseconds": 1e3,
}


@dataclass(frozen=True)
class ChannelSummary:
    """Figures of one channel, in the user's units.

    Attributes:
        name: of the column.
        n_values: observed values.
        share: of the rows in which it is observed.
        n_series: series in which it is observed at all.
        mean, std, low, high: of the observed values; None where there are none.
        is_constant: whether all observed values, at least two, are one.
    """

    name: str
    n_values: int
    share: float
    n_series: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    is_constant: bool


@dataclass(frozen=True)
class Description:
    """What `latentode describe` prints; with `--json` the same fields by the same names.

    Attributes:
        source: of the table.
        n_series, n_rows, n_values: counts.
        n_repeats: rows that had the series and time of another and were merged into it, as `duplicates` says.
        observed_share: of the cells of the channels.
        first, last: earliest and latest time, in the user's format.
        median_span: of the series, as a duration.
        rows_per_series: quantiles `QUANTILES` of the number of rows.
        gaps: quantiles `QUANTILES` of the time between two rows of a series, as durations; empty where no series has two rows.
        channels: one summary each.
        statics: columns with one value per series: "number", or the categories of the training part, the most frequent first.
        known: columns that are known in the future, too.
        calendar: what a fit would read of the dates.
        horizon: that a fit would take, as a duration; None where nothing can be forecast.
        n_heldout: validation and test windows under the settings.
        settings: of `data`, as they were used.
        notes: what was changed or left out in reading, and what is unusual: channels that are never observed, constant, or of another scale
            in some series; fillers such as -999; times that look like seconds since 1970; ids that differ by a blank.
    """

    source: str
    n_series: int
    n_rows: int
    n_values: int
    n_repeats: int
    observed_share: float
    first: str | float
    last: str | float
    median_span: str
    rows_per_series: tuple[float, ...]
    gaps: tuple[str, ...]
    channels: tuple[ChannelSummary, ...]
    statics: dict[str, str | tuple[str, ...]]
    known: tuple[str, ...]
    calendar: tuple[str, ...]
    horizon: str | None
    n_heldout: dict[str, int]
    settings: dict[str, Any]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give plain values."""
        return asdict(self)


def describe(table: Table, settings: DataSettings) -> Description:
    """Take the figures of a table.

    Args:
        table: the data.
        settings: of the windows and the split that a fit would use.
    """
    kind = table.schema.time_kind
    spans = table.time[table.starts[1:] - 1] - table.time[table.starts[:-1]]
    row_series, gaps = table.row_series, _gaps(table)
    channels = tuple(_describe_channel(table, i, row_series) for i in range(len(table.schema.channels)))
    notes = [*table.report.notes, *note_scales(table.schema.channels, table.series_ids, table.starts, table.values)]
    constant = [channel.name for channel in channels if channel.is_constant]
    if constant:
        verb = "channel never changes" if len(constant) == 1 else "channels never change"
        notes.append(f"{len(constant)} {verb}: {quote_names(constant)}.")
    horizon, calendar, n_heldout = _describe_windows(table, settings, notes)
    return Description(
        source=table.source,
        n_series=table.n_series,
        n_rows=table.n_rows,
        n_values=table.report.n_values,
        n_repeats=table.report.n_repeats,
        observed_share=table.report.n_values / max(table.values.size, 1),
        first=_show(table.time.min(), table.schema),
        last=_show(table.time.max(), table.schema),
        median_span=_show_duration(np.median(spans), kind),
        rows_per_series=tuple(float(n) for n in np.quantile(np.diff(table.starts), QUANTILES)),
        gaps=tuple(_show_duration(gap, kind) for gap in np.quantile(gaps, QUANTILES)) if len(gaps) else (),
        channels=channels,
        statics={
            **dict.fromkeys(table.schema.static_numbers, "number"),
            **dict(zip(table.schema.static_categories, table.schema.categories, strict=True)),
        },
        known=table.schema.known_columns,
        calendar=calendar,
        horizon=horizon,
        n_heldout=n_heldout,
        settings={name: getattr(settings, name) for name in settings.help_texts()},
        notes=tuple(notes),
    )


def _gaps(table: Table) -> np.ndarray:
    is_first = np.zeros(table.n_rows, dtype=bool)
    is_first[table.starts[:-1]] = True
    return np.diff(table.time)[~is_first[1:]]


def _describe_channel(table: Table, i: int, row_series: np.ndarray) -> ChannelSummary:
    observed = ~np.isnan(table.values[:, i])
    values = table.values[observed, i]
    n_series = int(np.count_nonzero(np.bincount(row_series[observed])))
    mean, std, low, high = _figures(values) if len(values) else (None, None, None, None)
    is_constant = len(values) > 1 and bool((values == values[0]).all())
    share = len(values) / max(table.n_rows, 1)
    return ChannelSummary(table.schema.channels[i], len(values), share, n_series, mean, std, low, high, is_constant)


def _figures(values: np.ndarray) -> tuple[float, float, float, float]:
    """Give mean, deviation, minimum and maximum; finite up to the largest float64, whose square is not."""
    low, high = float(values.min()), float(values.max())
    size = max(-low, high)
    unit = size if size > 1e150 else 1.0
    scaled = values / unit
    return float(scaled.mean()) * unit, float(scaled.std()) * unit, low, high


def _describe_windows(
    table: Table, settings: DataSettings, notes: list[str]
) -> tuple[str | None, tuple[str, ...], dict[str, int]]:
    try:
        spans = Spans.of(table, settings)
        split = make_split(table, settings)
        calendar = with_calendar(table, settings.calendar, split.train_rows(table)).schema.calendar
    except DataError as error:
        notes.append(str(error))
        return None, (), {}
    n_heldout = {
        "validation": len(heldout_windows(table, split, "val", spans)),
        "test": len(heldout_windows(table, split, "test", spans)),
    }
    return _show_duration(spans.horizon, table.schema.time_kind), calendar, n_heldout


def _show(time: np.generic, schema: Schema) -> str | float:
    shown = format_times(np.asarray([time]), schema)[0]
    return float(shown) if schema.time_kind == "number" else str(shown)


def _show_duration(value: float, kind: str) -> str:
    if kind == "number":
        return f"{value:.6g}"
    # A quantile between two gaps is no round figure; nobody needs its nanoseconds.
    seconds = round(float(value) / 1e9)
    rounded = seconds if seconds < 86_400 else round(seconds / 60) * 60
    return format_duration(rounded * 1_000_000_000, kind) if rounded else f"{float(value) / 1e9:.3g}s"


@dataclass(frozen=True)
class Overview:
    """What a picture of a table shows.

    Attributes:
        marks: one row per shown row of the table: `line` (a series; of a table with one series, a channel), `time` (numbers, or naive
            datetimes on the clock of the table's zone), `share` of the channels that are observed.
        gaps: between two rows of a series, all series, in `gap_unit`.
        gap_unit: "days", ..., or "units of time" where times are numbers.
        shares: share of the rows in which each channel is observed, by name.
    """

    marks: pd.DataFrame
    gaps: np.ndarray
    gap_unit: str
    shares: pd.Series


def overview(table: Table, *, n_lines: int = 20, n_marks: int = 20_000) -> Overview:
    """Take from a table what a picture of it shows.

    Args:
        table: the data.
        n_lines: series at most, evenly spaced among all, in their order.
        n_marks: rows at most, evenly spaced among those of the shown series.
    """
    gaps, unit = _gaps(table).astype(np.float64), "units of time"
    if table.schema.time_kind == "datetime":
        middle = float(np.median(gaps)) if len(gaps) else 0.0
        unit = next((name for name, size in _UNITS_NS.items() if middle >= size), "microseconds")
        gaps = gaps / _UNITS_NS[unit]
    chosen = np.unique(np.linspace(0, table.n_series - 1, min(n_lines, table.n_series)).round().astype(np.int64))
    shown = table.select(chosen)
    rows = np.arange(0, shown.n_rows, max(-(-shown.n_rows // n_marks), 1))
    observed = ~np.isnan(shown.values[rows])
    if table.n_series > 1:
        marks = {
            "line": shown.series_ids[shown.row_series[rows]],
            "time": shown.time[rows],
            "share": observed.mean(axis=1),
        }
    else:
        row, channel = np.nonzero(observed.T)[::-1]
        lines = np.asarray(table.schema.channels, dtype=object)[channel]
        marks = {"line": lines, "time": shown.time[rows][row], "share": np.ones(len(row))}
    if table.schema.time_kind == "datetime":
        zone = table.schema.time_zone
        local = marks["time"] if zone is None else wall_clock(marks["time"], zone)[0]
        marks["time"] = local.view("datetime64[ns]")
    shares = pd.Series((~np.isnan(table.values)).mean(axis=0), index=list(table.schema.channels))
    return Overview(pd.DataFrame(marks), gaps, unit, shares)
