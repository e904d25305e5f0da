"""The contract of a table: which column is what, and what was counted while reading it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from latentode.errors import DataError

IdKind = Literal["text", "integer", "none"]
TimeKind = Literal["number", "datetime"]


@dataclass(frozen=True)
class Schema:
    """What each column of a table means.

    Attributes:
        id_column: column that names the series; None where the table is one series and has no such column.
        time_column: column of the time stamps.
        channels: columns of observed values, in the order of `Table.values`.
        target_channels: the channels that are forecast, in the order of `channels`; the others are inputs only.
        id_kind: what a series id is: "text", "integer", or "none" without an id column.
        time_kind: "number" (any unit) or "datetime".
        time_zone: "UTC", a fixed offset such as "+02:00", or an IANA name; None for numbers and for naive datetimes.
        static_numbers: columns of one number per series.
        static_categories: columns of one text per series.
        categories: texts of each of `static_categories` that training saw (before a fit: the table), those of most series first.
        known_columns: columns whose values are known in the future too; never forecast, and no channels.
        log_channels: the channels that models see by their logarithm; their values are positive.
        count_channels: the channels of counts.
        bounded_channels: the channels between bounds.
        channel_bounds: lower and upper bound of each of these.
        calendar: what models read of a date, of `settings.PERIODS`, each as sine and cosine; a fit chooses it.
    """

    id_column: str | None
    time_column: str
    channels: tuple[str, ...]
    target_channels: tuple[str, ...]
    id_kind: IdKind
    time_kind: TimeKind
    time_zone: str | None
    static_numbers: tuple[str, ...] = ()
    static_categories: tuple[str, ...] = ()
    categories: tuple[tuple[str, ...], ...] = ()
    known_columns: tuple[str, ...] = ()
    log_channels: tuple[str, ...] = ()
    calendar: tuple[str, ...] = ()
    count_channels: tuple[str, ...] = ()
    bounded_channels: tuple[str, ...] = ()
    channel_bounds: tuple[tuple[float, float], ...] = ()

    @property
    def n_known(self) -> int:
        """Number of figures that models read as known at any time: the known columns, then two of each period of the calendar."""
        return len(self.known_columns) + 2 * len(self.calendar)

    @property
    def static_columns(self) -> tuple[str, ...]:
        """Names of all columns with one value per series."""
        return (*self.static_numbers, *self.static_categories)

    def to_dict(self) -> dict[str, Any]:
        """Give the schema as plain values, fit for JSON and for a checkpoint."""
        return {key: _as_lists(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Schema:
        """Rebuild a schema from what `to_dict` gave."""
        return cls(**{key: _as_tuples(value) for key, value in d.items()})


def _as_lists(value: Any) -> Any:
    return [_as_lists(entry) for entry in value] if isinstance(value, tuple) else value


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(entry) for entry in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Report:
    """What was read, in counts; each note is one sentence on something that was changed, left out or is unusual.

    `n_repeats` rows had the series and time of another and were merged into it.
    """

    n_rows: int
    n_series: int
    n_values: int
    notes: tuple[str, ...] = ()
    n_repeats: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values."""
        return {**asdict(self), "notes": list(self.notes)}


@dataclass(frozen=True)
class Survey:
    """Figures of the values `(N, C)` of a table.

    Attributes:
        n_observed: observed values of each channel, int64 `(C,)`.
        n_empty: rows in which no channel is observed.
        low, high: least and largest observed value of each channel `(C,)`, NaN where there is none.
    """

    n_observed: np.ndarray
    n_empty: int
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Survey:
        """Go once through the values, block by block: a pass over each column would fetch all memory `C` times."""
        n_channels = values.shape[1]
        n_observed, n_empty = np.zeros(n_channels, dtype=np.int64), 0
        low, high = np.full(n_channels, np.nan), np.full(n_channels, np.nan)
        for rows in blocks(values):
            # Channels along the rows: numpy is ten times slower along a short axis.
            block = np.ascontiguousarray(values[rows].T)
            observed = block == block
            n_observed += observed.sum(axis=1)
            n_empty += block.shape[1] - int(np.count_nonzero(observed.any(axis=0)))
            low = np.fmin(low, np.fmin.reduce(block, axis=1))
            high = np.fmax(high, np.fmax.reduce(block, axis=1))
        return cls(n_observed, n_empty, low, high)


def blocks(values: np.ndarray, *, size: int = 1 << 18) -> Iterator[slice]:
    """Give the rows of a matrix in blocks of about `size` cells, which stay in the processor's cache."""
    step = max(size // max(values.shape[1], 1), 1)
    for start in range(0, len(values), step):
        yield slice(start, min(start + step, len(values)))


def validate(
    schema: Schema,
    series_ids: np.ndarray,
    starts: np.ndarray,
    survey: Survey,
    *,
    source: str,
    notes: Sequence[str] = (),
    n_repeats: int = 0,
) -> Report:
    """Count what a table holds and note what cannot be learned from.

    Args:
        schema: the columns of the table.
        series_ids: names of the series, shape `(S,)`.
        starts: first row of each series and the number of rows, shape `(S + 1,)`.
        survey: of the values.
        source: name of the table in errors.
        notes: what was noted before.
        n_repeats: rows that were merged into another.

    Raises:
        DataError: no channel has a single observed value.
    """
    per_channel = survey.n_observed
    if not per_channel.any():
        raise DataError(
            f"{source}: no channel holds a single value ({quote_names(schema.channels)}); "
            "name the columns of values with --data.channels (`channels`)."
        )
    found = [*notes]
    silent = [name for name, n in zip(schema.channels, per_channel, strict=True) if n == 0]
    if silent:
        found.append(f"{count(len(silent), 'channel is', 'channels are')} never observed: {quote_names(silent)}.")
    n_empty = survey.n_empty
    if n_empty:
        found.append(f"{count(n_empty, 'row holds', 'rows hold')} no value in any channel; the time stamps are kept.")
    single = np.flatnonzero(np.diff(starts) == 1)
    if len(single):
        names = quote_names([series_ids[i] for i in single[:5]], n_more=len(single) - min(len(single), 5))
        found.append(
            f"{count(len(single), 'series has', 'series have')} one row and can serve as history only: {names}."
        )
    return Report(int(starts[-1]), len(series_ids), int(per_channel.sum()), tuple(found), n_repeats)


def count(n: int, one: str, many: str) -> str:
    """Write a count with its noun: `1 row`, `2 rows`.

    >>> count(2, "row", "rows")
    '2 rows'
    """
    return f"{n:,} {one if n == 1 else many}"


def quote_cell(cell: Any, *, limit: int = 60) -> str:
    """Write a cell as it stands in the file, cut where it is long.

    >>> quote_cell("n.a."), quote_cell("x" * 100, limit=3)
    ("'n.a.'", "'xxx...'")
    """
    text = str(cell)
    return repr(text if len(text) <= limit else f"{text[:limit]}...")


def quote_names(names: Sequence[Any], *, n_more: int = 0, limit: int = 20) -> str:
    """List names in quotes, at most `limit` of them, and say how many more there are.

    >>> quote_names(["a", 7], n_more=3)
    "'a', '7' and 3 more"
    """
    n_more += max(len(names) - limit, 0)
    # A name with a line break or another character that cannot be seen is written as Python writes it.
    text = ", ".join(f"'{name}'" if str(name).isprintable() else repr(str(name)) for name in names[:limit])
    return f"{text} and {n_more:,} more" if n_more else text
