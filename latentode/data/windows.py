"""Windows and splits: a training example is one series and one forecast origin.

The observations in `(origin - history, origin]` are read, those in `(origin, origin + horizon]` are forecast. Nothing here loops over
series or rows: rows of a window are found by one binary search for all windows at once. Nor is anything as long as the table made anew
for an epoch: what a draw needs is found once, in 32 bits, block by block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from latentode.data.horizon import choose_horizon
from latentode.data.row_counts import AT_ONCE, Rows, bisect_rows, index_type
from latentode.data.schema import Schema
from latentode.data.settings import DataSettings
from latentode.data.tables import Table
from latentode.data.times import format_duration, parse_duration, parse_time_list
from latentode.errors import DataError, InputError

Part = Literal["val", "test", "all"]
TRAIN, VAL, TEST = 0, 1, 2
MANY = 1 << 17  # candidates of which a few are drawn without shuffling them all


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
        n_seen, n_rows = self.train_ends(table) - table.starts[:-1], np.diff(table.starts)
        pairs = np.stack([n_seen, n_rows - n_seen], axis=1)
        return np.repeat(np.tile([True, False], len(pairs)), pairs.ravel())

    def train_ends(self, table: Table) -> np.ndarray:
        """Give, for each series, the number of the row after its last one that may be seen in fitting: int64 `(S,)`."""
        first, last = table.starts[:-1], table.starts[1:]
        return np.where(self.role == TRAIN, bisect_rows(table.time, first, last, self.val_from), first)


@dataclass(frozen=True)
class Spans:
    """The durations of one run in table time: how far to forecast, how much to read (None: everything)."""

    horizon: int | float
    history: int | float | None
    is_chosen: bool

    @classmethod
    def of(cls, table: Table, settings: DataSettings) -> Spans:
        """Read the durations of `settings`, choosing the horizon from the table where it is left out."""
        return cls.given(table.schema, settings, lambda: choose_horizon(table))

    @classmethod
    def given(cls, schema: Schema, settings: DataSettings, choose: Callable[[], int | float]) -> Spans:
        """Read the durations of `settings`; `choose` gives the horizon where it is left out."""
        kind = schema.time_kind
        history = None if settings.history is None else parse_duration(settings.history, kind, name="history")
        if settings.horizon is None:
            return cls(choose(), history, is_chosen=True)
        return cls(parse_duration(settings.horizon, kind, name="horizon"), history, is_chosen=False)

    def describe(self, schema: Schema) -> str:
        """Say how far is forecast and how much is read."""
        # Ten digits: a number that was computed need not show the rounding of its last bit.
        is_number = schema.time_kind == "number"
        horizon = f"{self.horizon:.10g}" if is_number else format_duration(self.horizon, "datetime")
        chosen = " (chosen from the data; set it with --data.horizon)" if self.is_chosen else ""
        return f"horizon {horizon}{chosen}"


def make_split(table: Table, settings: DataSettings, seed: int = 0, *, role: np.ndarray | None = None) -> Split:
    """Cut a table into training, validation and test.

    Args:
        table: the data.
        settings: kind and fractions of the split, or dates of its cuts.
        seed: of the draw of held-out series; a constant, so that every run on a table holds out the same ones.
        role: of each series where `table` is a part of another one, whose series have been drawn from; see `draw_roles`.

    Raises:
        DataError: there are too few series to hold any out.
        InputError: `val_from` lies after `test_from`.
    """
    n_series = table.n_series
    if settings.split == "series":
        role = draw_roles(table.series_ids, settings, table.source, seed) if role is None else role
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


def draw_roles(series_ids: np.ndarray, settings: DataSettings, source: str, seed: int = 0) -> np.ndarray:
    """Draw the series that are held out: 0 train, 1 validation, 2 test, int8 `(S,)`.

    Raises:
        DataError: there are too few series.
    """
    n_series = len(series_ids)
    n_val, n_test = (
        max(round(share * n_series), 1) if share > 0 else 0 for share in (settings.val_fraction, settings.test_fraction)
    )
    if n_val + n_test >= n_series:
        raise DataError(
            f"{source}: split='series' holds out whole series, but the table has only {n_series}; "
            "use split='time' (--data.split time)."
        )
    # Drawn over the sorted names: the order of rows in the file decides nothing.
    order = np.argsort(np.asarray([str(name) for name in series_ids]), kind="stable")
    drawn = order[np.random.default_rng(seed).permutation(n_series)]
    role = np.full(n_series, TRAIN, np.int8)
    role[drawn[:n_test]] = TEST
    role[drawn[n_test : n_test + n_val]] = VAL
    return role


@dataclass(frozen=True)
class TrainingOrigins:
    """Where the origins of training windows may lie: found once, drawn from in every epoch.

    Attributes:
        table, split, spans, rows: the data, its cuts, its durations and its rows.
        at_stamp: rows whose own time may be an origin, ascending.
        in_gap: rows after which an origin may lie before the next row, ascending.
    """

    table: Table
    split: Split
    spans: Spans
    rows: Rows
    at_stamp: np.ndarray
    in_gap: np.ndarray

    @classmethod
    def of(cls, table: Table, split: Split, spans: Spans, rows: Rows | None = None) -> TrainingOrigins:
        """Find the rows, `AT_ONCE` after `AT_ONCE`."""
        rows = rows or Rows.of(table)
        empty = np.empty(0, dtype=index_type(table.n_rows))
        found = cls(table, split, spans, rows, empty, empty)
        parts = [
            found._usable(np.arange(start, min(start + AT_ONCE, table.n_rows)))
            for start in range(0, table.n_rows, AT_ONCE)
        ]
        at_stamp, in_gap = (np.concatenate(part) for part in zip(*parts, strict=True))
        return replace(found, at_stamp=at_stamp, in_gap=in_gap)

    def _usable(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give those of the rows that belong to `at_stamp` and to `in_gap`."""
        usable, target_time = _teaches(self.table, self.split, self.rows, row)
        earliest, latest = self._gap(row, target_time)
        kind = self.at_stamp.dtype
        at_stamp = row[usable & (target_time - self.table.time[row] <= self.spans.horizon)].astype(kind)
        return at_stamp, row[usable & (earliest < latest)].astype(kind)

    def _gap(self, row: np.ndarray, target_time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bound the origins in the gap after each row: late enough for the next target to be within the horizon, before the next row."""
        time = self.table.time
        earliest = np.maximum(time[row], target_time - _as_time(self.spans.horizon, self.table))
        return earliest, time[np.minimum(row + 1, self.table.n_rows - 1)]

    def draw(self, rng: np.random.Generator, n_windows: int) -> Windows:
        """Draw windows; see `training_windows`."""
        time = self.table.time
        n_stamps = n_windows - n_windows // 2 if len(self.in_gap) else n_windows
        at_stamp = _draw(self.at_stamp, n_stamps, rng)
        in_gap = _draw(self.in_gap, n_windows - len(at_stamp), rng)
        target_time = time[np.minimum(self.rows.next_target(in_gap), self.table.n_rows - 1)]
        earliest, latest = self._gap(in_gap, target_time)
        moved = earliest + (rng.random(len(in_gap)) * (latest - earliest)).astype(time.dtype)
        origin = np.concatenate([time[at_stamp], moved])
        which = _series(self.table, np.concatenate([at_stamp, in_gap]))
        windows = _windows(which, origin, self.split.val_from[which], self.spans, self.table)
        return self.rows.keep_usable(windows)


def count_teaching(table: Table, split: Split, rows: Rows) -> int:
    """Count the rows, or gaps after a row, that some horizon makes the origin of a training window."""
    parts = (np.arange(at, min(at + AT_ONCE, table.n_rows)) for at in range(0, table.n_rows, AT_ONCE))
    return sum(int(np.count_nonzero(_teaches(table, split, rows, part)[0])) for part in parts)


def _teaches(table: Table, split: Split, rows: Rows, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell which rows have a value behind them and a target of training before them, and give the time of the next target."""
    time, starts = table.time, table.starts
    series = _series(table, row)
    cut = np.where(split.role[series] == TRAIN, split.val_from[series], time[starts[series]])
    following = rows.next_target(row)
    target_time = time[np.minimum(following, table.n_rows - 1)]
    has_history = rows.valued[row + 1] > rows.valued[starts[series]]
    return (following < starts[series + 1]) & (target_time <= cut) & has_history, target_time


def _series(table: Table, row: np.ndarray) -> np.ndarray:
    return np.searchsorted(table.starts, row, side="right") - 1


def training_windows(
    table: Table, split: Split, spans: Spans, rng: np.random.Generator, n_windows: int, *, rows: Rows | None = None
) -> Windows:
    """Draw training windows; half of the origins are observation times, half lie in the gap that follows one.

    Forecasts are asked for at any time, not only just after an observation; so both are trained.

    Args:
        table, split, spans: the data, its cuts and its durations.
        rng: source of the draw.
        n_windows: how many; less where the table has no usable window.
        rows: of the table, where they are known.

    Returns:
        Windows without a target beyond the cut, each with a value to read and a value to forecast.
    """
    return TrainingOrigins.of(table, split, spans, rows).draw(rng, n_windows)


@dataclass(frozen=True)
class Between:
    """What lies between the windows of a benchmark's training part: origins that its rules do not lay, but that may teach as well.

    Attributes:
        windows: as laid, `(W,)`.
        gap: how far the origin of each may move, towards that of the next of its series; 0 where there is none, where spans differ, and
            where targets of neither would come in: so a moved window reads and forecasts nothing that these two do not.
        rows: of the table.
    """

    windows: Windows
    gap: np.ndarray
    rows: Rows

    @classmethod
    def of(cls, table: Table, windows: Windows) -> Between:
        """Find how far each window may move."""
        order = np.lexsort((windows.origin, windows.series))
        one, next_ = windows.take(order[:-1]), windows.take(order[1:])
        joins = (one.series == next_.series) & (next_.origin <= one.until)
        joins &= (one.until - one.origin == next_.until - next_.origin) & (one.history_from <= next_.history_from)
        gap = np.zeros(len(windows), windows.origin.dtype)
        gap[order[:-1]] = np.where(joins, next_.origin - one.origin, 0)
        return cls(windows, gap, Rows.of(table))

    def draw(self, rng: np.random.Generator, n_windows: int) -> Windows:
        """Draw windows, none a second time before all were drawn; the origin of each moves by a random share of its gap."""
        index = _draw(np.arange(len(self.windows)), n_windows, rng)
        laid = self.windows.take(index)
        if not self.gap.any():
            return laid
        shift = (rng.random(len(index)) * self.gap[index]).astype(self.gap.dtype)
        moved = Windows(laid.series, laid.origin + shift, laid.until + shift, laid.history_from + shift)
        # Where nothing would be left to read or to forecast, the window stays where it was laid.
        shift = np.where(self.rows.usable(moved), shift, 0).astype(self.gap.dtype)
        return Windows(laid.series, laid.origin + shift, laid.until + shift, laid.history_from + shift)


def _draw(candidates: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `n` candidates, none a second time before all were drawn."""
    if len(candidates) == 0 or n <= 0:
        return candidates[:0]
    if len(candidates) > MANY and n < len(candidates) // 50:
        # Floyd's algorithm: a shuffle of millions takes seconds of every epoch.
        return candidates[rng.choice(len(candidates), n, replace=False)]
    rounds = [rng.permutation(candidates) for _ in range(-(-n // len(candidates)))]
    return np.concatenate(rounds)[:n]


def _as_time(duration: float, table: Table) -> np.ndarray:
    return np.asarray(duration, dtype=table.time.dtype)


def _windows(series: np.ndarray, origin: np.ndarray, cut: np.ndarray, spans: Spans, table: Table) -> Windows:
    until = np.minimum(origin + _as_time(spans.horizon, table), cut)
    return Windows(series.astype(np.int64), origin, until, begin_history(origin, spans.history, table))


def begin_history(origin: np.ndarray, history: float | None, table: Table) -> np.ndarray:
    """Give the time after which each window reads, dtype of `Table.time`, `(W,)`; before everything where `history` is None."""
    if history is None:
        return np.full_like(origin, lowest_time(table))
    return origin - _as_time(history, table)


def lowest_time(table: Table) -> Any:
    """Give a time before all that the table can hold."""
    return np.iinfo(np.int64).min if table.time.dtype == np.int64 else -np.inf


def _top(table: Table) -> Any:
    return np.iinfo(np.int64).max if table.time.dtype == np.int64 else np.inf


def heldout_windows(
    table: Table, split: Split | None, part: Part, spans: Spans, *, rows: Rows | None = None
) -> Windows:
    """Lay origins every horizon from the cut, or, for whole series, from one horizon after their first stamp.

    Args:
        table: the data.
        split: its cuts; None for part "all".
        part: "val", "test", or "all" for every row of a table that was not trained on.
        spans: its durations.
        rows: of the table, where they are known.

    Returns:
        Windows with at least one value to read and one to forecast, by series and origin.
    """
    rows = rows or Rows.of(table)
    first, last = table.time[table.starts[:-1]], table.time[table.starts[1:] - 1]
    if split is None or part == "all":
        begin, end = first + _as_time(spans.horizon, table), last
    elif split.kind == "series":
        is_part = split.role == (VAL if part == "val" else TEST)
        begin, end = first + _as_time(spans.horizon, table), np.where(is_part, last, first)
    else:
        begin, end = (split.val_from, split.test_from) if part == "val" else (split.test_from, last)
    every = np.arange(table.n_series)
    n_before, n_until = (rows.targeted[rows.until(every, at)].astype(np.int64) for at in (begin, end))
    n_targets = np.maximum(n_until - n_before, 0)
    series = np.repeat(every, n_targets)
    ends = np.cumsum(n_targets)
    row = rows.target_row[np.arange(n_targets.sum()) + np.repeat(n_before - (ends - n_targets), n_targets)]
    elapsed = table.time[row] - begin[series]
    # Only windows that hold a target are ever made: a tiny horizon on a long series costs nothing.
    if table.time.dtype == np.int64:
        step = -(-elapsed // int(spans.horizon)) - 1
    else:
        step = np.ceil(elapsed / spans.horizon).astype(np.int64) - 1
    # Both ascend, so each window's targets lie together.
    is_new = np.ones(len(step), dtype=bool)
    is_new[1:] = (series[1:] != series[:-1]) | (step[1:] != step[:-1])
    series, step = series[is_new], step[is_new]
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
    return Windows(every, at, top, begin_history(at, history, table))
