"""What is in a table: the figures that a forecaster asks for first. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from latentode.data.schema import Schema
from latentode.data.settings import DataSettings
from latentode.data.tables import Table
from latentode.data.times import format_duration, format_times
from latentode.data.windows import Spans, heldout_windows, make_split
from latentode.errors import DataError

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ChannelSummary:
    """Figures of one channel, in the user's units.

    Attributes:
        name: of the column.
        n_values: observed values.
        share: of the rows in which it is observed.
        n_series: series in which it is observed at all.
        mean, std, low, high: of the observed values; None where there are none.
        is_constant: whether all observed values are one.
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
    """What `latentode describe` prints and gives as JSON.

    Attributes:
        source: of the table.
        n_series, n_rows, n_values: counts.
        observed_share: of the cells of the channels.
        first, last: earliest and latest time, in the user's format.
        median_span: of the series, as a duration.
        rows_per_series: quantiles `QUANTILES` of the number of rows.
        gaps: quantiles `QUANTILES` of the time between two rows of a series, as durations; empty where no series has two rows.
        channels: one summary each.
        horizon: that a fit would take, as a duration; None where nothing can be forecast.
        n_heldout: validation and test windows under the settings.
        settings: of `data`, as they were used.
        notes: what was changed, left out or is unusual.
    """

    source: str
    n_series: int
    n_rows: int
    n_values: int
    observed_share: float
    first: str | float
    last: str | float
    median_span: str
    rows_per_series: tuple[float, ...]
    gaps: tuple[str, ...]
    channels: tuple[ChannelSummary, ...]
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
    gaps = np.diff(table.time)[np.diff(table.row_series) == 0]
    channels = tuple(_describe_channel(table, i) for i in range(len(table.schema.channels)))
    notes = list(table.report.notes)
    constant = [channel.name for channel in channels if channel.is_constant]
    if constant:
        notes.append(f"{len(constant)} of the channels never change: {', '.join(constant)}.")
    horizon, n_heldout = _describe_windows(table, settings, notes)
    return Description(
        source=table.source,
        n_series=table.n_series,
        n_rows=table.n_rows,
        n_values=table.report.n_values,
        observed_share=table.report.n_values / max(table.values.size, 1),
        first=_show(table.time.min(), table.schema),
        last=_show(table.time.max(), table.schema),
        median_span=_show_duration(np.median(spans), kind),
        rows_per_series=tuple(float(n) for n in np.quantile(np.diff(table.starts), QUANTILES)),
        gaps=tuple(_show_duration(gap, kind) for gap in np.quantile(gaps, QUANTILES)) if len(gaps) else (),
        channels=channels,
        horizon=horizon,
        n_heldout=n_heldout,
        settings={name: getattr(settings, name) for name in settings.help_texts()},
        notes=tuple(notes),
    )


def _describe_channel(table: Table, i: int) -> ChannelSummary:
    observed = ~np.isnan(table.values[:, i])
    values = table.values[observed, i]
    n_series = len(np.unique(table.row_series[observed]))
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


def _describe_windows(table: Table, settings: DataSettings, notes: list[str]) -> tuple[str | None, dict[str, int]]:
    try:
        spans = Spans.of(table, settings)
        split = make_split(table, settings)
    except DataError as error:
        notes.append(str(error))
        return None, {}
    n_heldout = {
        "validation": len(heldout_windows(table, split, "val", spans)),
        "test": len(heldout_windows(table, split, "test", spans)),
    }
    return _show_duration(spans.horizon, table.schema.time_kind), n_heldout


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
