"""Windows and splits: a training example is one series and one forecast origin.

The observations in `(origin - history, origin]` are read, those in `(origin, origin + horizon]` are forecast. Nothing here loops over
series or rows: rows of a window are found by one binary search for all windows at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from latentode.data.schema import Schema
from latentode.data.settings import DataSettings
from latentode.data.tables import Table
from latentode.data.times import format_duration, parse_duration, parse_time_list
from latentode.errors import DataError, InputError

Part = Literal["val", "test", "all"]
TRAIN, VAL, TEST = 0, 1, 2

# Round durations of a horizon that is chosen for dates, in nanoseconds: nobody wants 19 hours and 12 minutes.
_HOUR = 3_600_000_000_000
_NICE = [_HOUR * n // 60 for n in (1, 5, 15, 30)] + [_HOUR * n for n in (1, 2, 3, 6, 12)]
_NICE += [24 * _HOUR * n for n in (1, 2, 3, 7, 14, 28, 56, 91, 182, 365, 730, 1825)]


@dataclass(frozen=True)
class Windows:
    """`W` training examples or forecasts.

    Attributes:
        series: position of the series in the table, int64 `(W,)`.
        origin: forecast origin, dtype of `Table.time`, `(W,)`; its own time stamp belongs to the history.
        until: last time that may be a target, `(W,)`.
        history_from: observations at or before this time are not read, `(W,)`.
    """

    series: np.ndarray
    origin: np.ndarray
    until: np.ndarray
    history_from: np.ndarray

    def __len__(self) -> int:
        return len(self.series)

    def take(self, index: np.ndarray) -> Windows:
        """Give the windows at these positions."""
        return Windows(self.series[index], self.origin[index], self.until[index], self.history_from[index])


@dataclass(frozen=True)
class Split:
    """Which part of a table is for training, validation and test.

    Attributes:
        kind: "time" (each series is cut twice) or "series" (whole series are held out).
        val_from, test_from: cuts of each series, dtype of `Table.time`, `(S,)`; a row at a cut belongs to what comes before it.
        role: 0 train, 1 validation, 2 test, int8 `(S,)`; all 0 for kind "time".
    """

    kind: str
    val_from: np.ndarray
    test_from: np.ndarray
    role: np.ndarray

    def train_rows(self, table: Table) -> np.ndarray:
        """Say which rows may be seen in fitting, scaling included: bool `(N,)`."""
        series = table.row_series
        return (self.role[series] == TRAIN) & (table.time <= self.val_from[series])


@dataclass(frozen=True)
class Rows:
    """Facts about a table's rows that every kind of window needs."""

    time: np.ndarray
    starts: np.ndarray
    valued: np.ndarray  # how many of the first n rows hold a value, (N + 1,)
    targeted: np.ndarray  # the same for values of target channels

    @classmethod
    def of(cls, table: Table) -> Rows:
        """Count values and target values over the rows of a table."""
        observed = ~np.isnan(table.values)
        targets = observed[:, [table.schema.channels.index(name) for name in table.schema.target_channels]]
        valued, targeted = (_running_count(np.any(seen, axis=1)) for seen in (observed, targets))
        return cls(table.time, table.starts, valued, targeted)

    def until(self, series: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Give, for each pair, the number of the first row of the series after `time`."""
        return bisect_rows(self.time, self.starts[series], self.starts[series + 1], time)

    def keep_usable(self, windows: Windows) -> Windows:
        """Drop windows without a value to read or without a value to forecast."""
        first, middle, last = (
            self.until(windows.series, at) for at in (windows.history_from, windows.origin, windows.until)
        )
        has_history = self.valued[middle] > self.valued[first]
        has_target = self.targeted[last] > self.targeted[middle]
        return windows.take(np.flatnonzero(has_history & has_target))


def _running_count(flags: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(flags)]).astype(np.int64)


def bisect_rows(time: np.ndarray, first: np.ndarray, last: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Find, in each ascending stretch `time[first:last]`, the position after the last entry that is `<= at`.

    Args:
        time: `(N,)`.
        first, last: bounds of each stretch, `(W,)`.
        at: `(W,)`, dtype of `time`.

    Returns:
        int64 `(W,)`, between `first` and `last`.
    """
    low, high = first.astype(np.int64), last.astype(np.int64)
    for _ in range(int(np.max(high - low, initial=0)).bit_length()):
        middle = (low + high) // 2
        is_open = low < high
        goes_right = is_open & (time[np.where(is_open, middle, 0)] <= at)
        low = np.where(goes_right, middle + 1, low)
        high = np.where(is_open & ~goes_right, middle, high)
    return low


def choose_horizon(table: Table) -> int | float:
    """Choose how far to forecast: 20 median gaps, but at most 0.15 of the median span; for dates the nearest round duration.

    Where there are few series it is shorter, down to four gaps, so that the held-out parts hold some ten windows each: a model cannot
    be judged, nor its residual weighed, on three. Numbers are not rounded: the same series in another unit of time must give the same
    forecast.

    Raises:
        DataError: no series has two rows, so that nothing can be learned about time.
    """
    lengths = np.diff(table.starts)
    long = np.flatnonzero(lengths > 1)
    if len(long) == 0:
        raise DataError(
            f"{table.source}: every series has a single row, so nothing can be learned about time; add later observations."
        )
    spans = table.time[table.starts[long + 1] - 1] - table.time[table.starts[long]]
    gaps = np.diff(table.time)[np.diff(table.row_series) == 0]
    span, gap = float(np.median(spans)), float(np.median(gaps))
    judged = max(0.015 * span * len(long), 4.0 * gap)
    horizon = min(0.15 * span, 20.0 * gap, judged)
    if table.schema.time_kind == "number":
        return horizon
    distance = np.abs(np.log(np.asarray(_NICE) / horizon))
    # Below a minute there is no round duration in the list: whole nanoseconds will do.
    return max(int(horizon), 1) if horizon < _NICE[0] / 2 else _NICE[int(distance.argmin())]


@dataclass(frozen=True)
class Spans:
    """The durations of one run in table time: how far to forecast, how much to read (None: everything)."""

    horizon: int | float
    history: int | float | None
    is_chosen: bool

    @classmethod
    def of(cls, table: Table, settings: DataSettings) -> Spans:
        """Read the durations of `settings`, choosing the horizon from the table where it is left out."""
        kind = table.schema.time_kind
        history = None if settings.history is None else parse_duration(settings.history, kind, name="history")
        if settings.horizon is None:
            return cls(choose_horizon(table), history, is_chosen=True)
        return cls(parse_duration(settings.horizon, kind, name="horizon"), history, is_chosen=False)

    def describe(self, schema: Schema) -> str:
        """Say how far is forecast and how much is read."""
        # Ten digits: a number that was computed need not show the rounding of its last bit.
        is_number = schema.time_kind == "number"
        horizon = f"{self.horizon:.10g}" if is_number else format_duration(self.horizon, "datetime")
        chosen = " (chosen from the data; set it with --data.horizon)" if self.is_chosen else ""
        return f"horizon {horizon}{chosen}"


def make_split(table: Table, settings: DataSettings, seed: int = 0) -> Split:
    """Cut a table into training, validation and test.

    Args:
        table: the data.
        settings: kind and fractions of the split, or dates of its cuts.
        seed: of the draw of held-out series; a constant, so that every run on a table holds out the same ones.

    Raises:
        DataError: there are too few series to hold any out.
        InputError: `val_from` lies after `test_from`.
    """
    n_series = table.n_series
    if settings.split == "series":
        role = _draw_roles(table, settings, seed)
        end = table.time[table.starts[1:] - 1]
        return Split("series", end, end, role)
    first, last = table.time[table.starts[:-1]], table.time[table.starts[1:] - 1]
    span = (last - first).astype(np.float64)
    # For dates only the fraction of the span is rounded: first + span would lose nanoseconds in a float.
    cuts = [
        last - (span * share).astype(table.time.dtype)
        for share in (settings.val_fraction + settings.test_fraction, settings.test_fraction)
    ]
    val_from, test_from = (
        cut if value is None else np.full(n_series, parse_time_list(value, table.schema, name=name)[0])
        for cut, name, value in zip(
            cuts, ("val_from", "test_from"), (settings.val_from, settings.test_from), strict=True
        )
    )
    if settings.val_from is not None and settings.test_from is not None and (val_from > test_from).any():
        raise InputError(
            f"val_from {settings.val_from} lies after test_from {settings.test_from}; validation comes before the test."
        )
    # One cut given and the other not: what was given stands, the other gives way.
    if settings.test_from is None:
        test_from = np.maximum(val_from, test_from)
    return Split("time", np.minimum(val_from, test_from), test_from, np.zeros(n_series, np.int8))


def _draw_roles(table: Table, settings: DataSettings, seed: int) -> np.ndarray:
    n_series = table.n_series
    n_val, n_test = (
        max(round(share * n_series), 1) if share > 0 else 0 for share in (settings.val_fraction, settings.test_fraction)
    )
    if n_val + n_test >= n_series:
        raise DataError(
            f"{table.source}: split='series' holds out whole series, but the table has only {n_series}; "
            "use split='time' (--data.split time)."
        )
    # Drawn over the sorted names: the order of rows in the file decides nothing.
    order = np.argsort(np.asarray([str(name) for name in table.series_ids]), kind="stable")
    drawn = order[np.random.default_rng(seed).permutation(n_series)]
    role = np.full(n_series, TRAIN, np.int8)
    role[drawn[:n_test]] = TEST
    role[drawn[n_test : n_test + n_val]] = VAL
    return role


def training_windows(
    table: Table, split: Split, spans: Spans, rng: np.random.Generator, n_windows: int, *, rows: Rows | None = None
) -> Windows:
    """Draw training windows; half of the origins are observation times, half lie in the gap that follows one.

    Forecasts are asked for at any time, not only just after an observation; so both are trained.

    Args:
        table, split, spans: the data, its cuts and its durations.
        rng: source of the draw.
        n_windows: how many; less where the table has no usable window.
        rows: of the table, where they are at hand.

    Returns:
        Windows without a target beyond the cut, each with a value to read and a value to forecast.
    """
    rows = rows or Rows.of(table)
    series = table.row_series
    here = np.arange(table.n_rows)
    stop = table.starts[1:][series]
    cut = np.where(split.role[series] == TRAIN, split.val_from[series], table.time[table.starts[series]])
    following = _next_target(rows)
    can_follow = (following < stop) & (table.time[np.minimum(following, table.n_rows - 1)] <= cut)
    target_time = table.time[np.minimum(following, table.n_rows - 1)]
    has_history = rows.valued[here + 1] > rows.valued[table.starts[series]]
    usable = can_follow & has_history
    at_stamp = np.flatnonzero(usable & (target_time - table.time <= spans.horizon))
    # In the gap: late enough for the next target to be within the horizon, before the next row.
    earliest = np.maximum(table.time, target_time - _as_time(spans.horizon, table))
    latest = table.time[np.minimum(here + 1, table.n_rows - 1)]
    in_gap = np.flatnonzero(usable & (earliest < latest))
    n_stamps = n_windows - n_windows // 2 if len(in_gap) else n_windows
    chosen_stamp = _draw(at_stamp, n_stamps, rng)
    chosen_gap = _draw(in_gap, n_windows - len(chosen_stamp), rng)
    moved = earliest[chosen_gap] + (rng.random(len(chosen_gap)) * (latest - earliest)[chosen_gap]).astype(
        table.time.dtype
    )
    origin = np.concatenate([table.time[chosen_stamp], moved])
    which = series[np.concatenate([chosen_stamp, chosen_gap])]
    return rows.keep_usable(_windows(which, origin, split.val_from[which], spans, table))


def _next_target(rows: Rows) -> np.ndarray:
    """Give, for each row, the number of the next row (of any series) that holds a target value; N where there is none."""
    n_rows = len(rows.time)
    is_target = np.diff(rows.targeted) > 0
    place = np.where(is_target, np.arange(n_rows), n_rows)
    return np.append(np.minimum.accumulate(place[::-1])[::-1][1:], n_rows)


def _draw(candidates: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `n` candidates, none a second time before all were drawn."""
    if len(candidates) == 0 or n <= 0:
        return candidates[:0]
    rounds = [rng.permutation(candidates) for _ in range(-(-n // len(candidates)))]
    return np.concatenate(rounds)[:n]


def _as_time(duration: float, table: Table) -> np.ndarray:
    return np.asarray(duration, dtype=table.time.dtype)


def _windows(series: np.ndarray, origin: np.ndarray, cut: np.ndarray, spans: Spans, table: Table) -> Windows:
    until = np.minimum(origin + _as_time(spans.horizon, table), cut)
    if spans.history is None:
        history_from = np.full_like(origin, _bottom(table))
    else:
        history_from = origin - _as_time(spans.history, table)
    return Windows(series.astype(np.int64), origin, until, history_from)


def _bottom(table: Table) -> Any:
    return np.iinfo(np.int64).min if table.time.dtype == np.int64 else -np.inf


def _top(table: Table) -> Any:
    return np.iinfo(np.int64).max if table.time.dtype == np.int64 else np.inf


def heldout_windows(table: Table, split: Split | None, part: Part, spans: Spans) -> Windows:
    """Lay origins every horizon from the cut, or, for whole series, from one horizon after their first stamp.

    Args:
        table: the data.
        split: its cuts; None for part "all".
        part: "val", "test", or "all" for every row of a table that was not trained on.
        spans: its durations.

    Returns:
        Windows with at least one value to read and one to forecast, by series and origin.
    """
    rows = Rows.of(table)
    first, last = table.time[table.starts[:-1]], table.time[table.starts[1:] - 1]
    if split is None or part == "all":
        begin, end = first + _as_time(spans.horizon, table), last
    elif split.kind == "series":
        is_part = split.role == (VAL if part == "val" else TEST)
        begin, end = first + _as_time(spans.horizon, table), np.where(is_part, last, first)
    else:
        begin, end = (split.val_from, split.test_from) if part == "val" else (split.test_from, last)
    series = table.row_series
    is_target = (np.diff(rows.targeted) > 0) & (table.time > begin[series]) & (table.time <= end[series])
    series, elapsed = series[is_target], (table.time - begin[series])[is_target]
    # Only windows that hold a target are ever made: a tiny horizon on a long series costs nothing.
    if table.time.dtype == np.int64:
        step = -(-elapsed // int(spans.horizon)) - 1
    else:
        step = np.ceil(elapsed / spans.horizon).astype(np.int64) - 1
    pairs = np.unique(np.stack([series, step], 1), axis=0)
    series, step = pairs[:, 0], pairs[:, 1]
    origin = begin[series] + step * _as_time(spans.horizon, table)
    return rows.keep_usable(_windows(series, origin, end[series], spans, table))


def forecast_windows(table: Table, *, history: int | float | None = None, origin: np.ndarray | None = None) -> Windows:
    """Give one window per series: its origin is the series' last row with a value, or the time given for all.

    Args:
        table: the history.
        history: how far back to read; None for everything.
        origin: one time for all series, `(1,)`, dtype of `Table.time`; later rows are not read.

    Raises:
        DataError: a series starts after the origin that was asked for.
    """
    every = np.arange(table.n_series)
    observed = ~np.isnan(table.values).all(axis=1)
    valued = np.where(observed, np.arange(table.n_rows), -1)
    last = np.maximum.reduceat(valued, table.starts[:-1])
    # A series without any value is forecast from its last stamp, as one of which nothing is known.
    last = np.where(last >= 0, last, table.starts[1:] - 1)
    at = table.time[last]
    if origin is not None:
        late = np.flatnonzero(table.time[table.starts[:-1]] > origin[0])
        if len(late):
            raise DataError(
                f"{table.source}: series '{table.series_ids[late[0]]}' starts after the origin ({len(late)} such series); "
                "give a later origin or remove the series."
            )
        at = np.full(table.n_series, origin[0], dtype=table.time.dtype)
    top = np.full(table.n_series, _top(table), dtype=table.time.dtype)
    bottom = np.full_like(top, _bottom(table)) if history is None else at - _as_time(history, table)
    return Windows(every, at, top, bottom)
