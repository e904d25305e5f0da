"""What is known of every row of a table, in 32 bits each: running counts of values, found block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latentode.data.schema import blocks
from latentode.data.tables import Table

if TYPE_CHECKING:
    from latentode.data.windows import Windows

AT_ONCE = 1 << 18  # rows that are looked at together


@dataclass(frozen=True)
class Rows:
    """Facts about a table's rows that every kind of window needs."""

    time: np.ndarray
    starts: np.ndarray
    valued: np.ndarray  # how many of the first n rows hold a value, (N + 1,)
    targeted: np.ndarray  # the same for values of target channels
    target_row: np.ndarray  # the rows that hold one, ascending

    @classmethod
    def of(cls, table: Table) -> Rows:
        """Count values and target values over the rows of a table."""
        channels, targets = table.schema.channels, table.schema.target_channels
        valued = running_count(table.values, lambda seen: seen.any(axis=1))
        columns = [channels.index(name) for name in targets]
        is_same = len(targets) == len(channels)
        targeted = valued if is_same else running_count(table.values, lambda seen: seen[:, columns].any(axis=1))
        return cls(table.time, table.starts, valued, targeted, steps(targeted))

    def until(self, series: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Give, for each pair, the number of the first row of the series after `time`."""
        return bisect_rows(self.time, self.starts[series], self.starts[series + 1], time)

    def next_target(self, row: np.ndarray) -> np.ndarray:
        """Give, for each row, the number of the next row (of any series) that holds a target value; N where there is none."""
        n_before = self.targeted[row + 1]
        found = np.full(row.shape, len(self.time), dtype=np.int64)
        follows = n_before < len(self.target_row)
        found[follows] = self.target_row[n_before[follows]]
        return found

    def keep_usable(self, windows: Windows) -> Windows:
        """Drop windows without a value to read or without a value to forecast."""
        return windows.take(np.flatnonzero(self.usable(windows)))

    def usable(self, windows: Windows) -> np.ndarray:
        """Say which windows have a value to read and a value to forecast: bool `(W,)`."""
        first, middle, last = (
            self.until(windows.series, at) for at in (windows.history_from, windows.origin, windows.until)
        )
        has_history = self.valued[middle] > self.valued[first]
        has_target = self.targeted[last] > self.targeted[middle]
        return has_history & has_target


def index_type(n: int) -> type[np.integer[Any]]:
    """Give the integers that count to `n`: 32 bits where they do, since there is one for every row or value of a table."""
    return np.int32 if n < 2**31 else np.int64


def running_count(values: np.ndarray, count: Callable[[np.ndarray], Any]) -> np.ndarray:
    """Sum up, over the rows of values `(N, C)`, what `count` gives for the observed cells of a block `(n, C)`: `(N + 1,)`, from 0."""
    total = np.zeros(len(values) + 1, dtype=index_type(values.size))
    for rows in blocks(values):
        part = total[rows.start + 1 : rows.stop + 1]
        np.cumsum(count(~np.isnan(values[rows])), out=part)
        part += total[rows.start]
    return total


def steps(counts: np.ndarray) -> np.ndarray:
    """Give the positions at which a running count goes up, ascending."""
    found = np.empty(int(np.count_nonzero(counts[1:] > counts[:-1])), dtype=index_type(len(counts)))
    place = 0
    for start in range(0, len(counts) - 1, AT_ONCE):
        part = counts[start : start + AT_ONCE + 1]
        here = np.flatnonzero(part[1:] > part[:-1])
        found[place : place + len(here)] = here + start
        place += len(here)
    return found


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
