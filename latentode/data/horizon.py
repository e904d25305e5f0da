"""How far to forecast where nobody says."""

from __future__ import annotations

import numpy as np

from latentode.data.schema import Schema
from latentode.data.tables import Table
from latentode.errors import DataError

# Round durations of a horizon that is chosen for dates, in nanoseconds: nobody wants 19 hours and 12 minutes.
_HOUR = 3_600_000_000_000
_NICE = [_HOUR * n // 60 for n in (1, 5, 15, 30)] + [_HOUR * n for n in (1, 2, 3, 6, 12)]
_NICE += [24 * _HOUR * n for n in (1, 2, 3, 7, 14, 28, 56, 91, 182, 365, 730, 1825)]


def choose_horizon(table: Table) -> int | float:
    """Choose how far to forecast: 20 median gaps, but at most 0.15 of the median span; for dates the nearest round duration.

    Where there are few series it is shorter, down to four gaps, so that the held-out parts hold some ten windows each: a model cannot
    be judged, nor its residual weighed, on three. Numbers are not rounded: the same series in another unit of time must give the same
    forecast.

    Raises:
        DataError: no series has two rows, so that nothing can be learned about time.
    """
    spans, gaps = spans_and_gaps(table)
    return horizon_of(spans, gaps, len(spans), table.schema, table.source)


def spans_and_gaps(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Give the span of every series of at least two rows, and the gaps between the rows of all series."""
    long = np.flatnonzero(np.diff(table.starts) > 1)
    spans = table.time[table.starts[long + 1] - 1] - table.time[table.starts[long]]
    is_inside = np.ones(max(table.n_rows - 1, 0), dtype=bool)
    is_inside[table.starts[1:-1] - 1] = False
    return spans, np.diff(table.time)[is_inside]


def horizon_of(spans: np.ndarray, gaps: np.ndarray, n_long: int, schema: Schema, source: str) -> int | float:
    """Choose the horizon as `choose_horizon` says, from spans and gaps (or a sample of them) and the number of series of two rows or more.

    Raises:
        DataError: there is no span.
    """
    if len(spans) == 0:
        raise DataError(
            f"{source}: every series has a single row, so nothing can be learned about time; add later observations."
        )
    span, gap = float(np.median(spans)), float(np.median(gaps))
    judged = max(0.015 * span * n_long, 4.0 * gap)
    horizon = min(0.15 * span, 20.0 * gap, judged)
    if schema.time_kind == "number":
        return horizon
    distance = np.abs(np.log(np.asarray(_NICE) / horizon))
    # Below a minute there is no round duration in the list: whole nanoseconds will do.
    return max(int(horizon), 1) if horizon < _NICE[0] / 2 else _NICE[int(distance.argmin())]
