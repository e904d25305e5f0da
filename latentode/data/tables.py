"""CSV, Parquet and DataFrames to one checked table, sorted by series and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from latentode.data.cells import Cells, Source, read_cells
from latentode.data.columns import Columns, choose_columns, read_channels, read_long_channels
from latentode.data.covariates import Statics, check_known, read_known, read_statics
from latentode.data.fingerprint import Fingerprint
from latentode.data.rows import Ids, Rows, arrange, parse_ids, pivot, refuse_long_repeat, repeats
from latentode.data.schema import Report, Schema, Survey, count, quote_names, validate
from latentode.data.settings import CHOICES, COLUMN_LISTS, check_choice, check_column, check_column_lists
from latentode.data.supports import Supports
from latentode.data.suspicious import note_epoch, note_fillers, note_gaps
from latentode.data.times import Times, format_times, match_times, parse_times, read_in_zone
from latentode.data.zones import check_zone, localize
from latentode.errors import DataError, InputError


@dataclass(frozen=True)
class Table:
    """Observations of `S` series in `N` rows and `C` channels.

    Attributes:
        schema: what the columns mean.
        series_ids: names of the series `(S,)`, text or int, in order of first appearance.
        starts: rows of series `s` are `starts[s]:starts[s + 1]`; int64 `(S + 1,)`.
        time: float64, or int64 nanoseconds since 1970 UTC, `(N,)`; strictly ascending inside a series.
        values: float64 `(N, C)` in the user's units; NaN = not observed.
        report: counts and notes of the reading.
        source: the path, or "DataFrame".
        statics: one value per series of each of `schema.static_columns`; None where there are none.
        known: float64 `(N, K)`, the values of `schema.known_columns`, none missing; None where there are none.
    """

    schema: Schema
    series_ids: np.ndarray
    starts: np.ndarray
    time: np.ndarray
    values: np.ndarray
    report: Report
    source: str
    statics: Statics | None = None
    known: np.ndarray | None = None

    @property
    def n_series(self) -> int:
        """Number of series."""
        return len(self.series_ids)

    @property
    def n_rows(self) -> int:
        """Number of rows, one per series and time stamp."""
        return len(self.time)

    @property
    def row_series(self) -> np.ndarray:
        """Position of each row's series, int64 `(N,)`."""
        return np.repeat(np.arange(self.n_series), np.diff(self.starts))

    def digest(self) -> str:
        """Give a SHA-256 of ids, times, values, channels and other columns; the order of rows and series does not matter."""
        return self.fingerprint().hexdigest()

    def fingerprint(self) -> Fingerprint:
        """Give what `digest` is made of; those of the parts of a table add up."""
        return Fingerprint.of(
            (*self.schema.channels, *self.schema.known_columns, *self.schema.static_columns),
            self.series_ids,
            self.starts,
            self.time,
            self.values,
            known=self.known,
            statics=None if self.statics is None else self.statics.as_text(),
        )

    def select(self, series: Sequence[int] | np.ndarray) -> Table:
        """Give the sub-table of the series at these positions, in this order."""
        positions = np.asarray(series, dtype=np.int64)
        lengths = np.diff(self.starts)[positions]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.arange(starts[-1]) + np.repeat(self.starts[positions] - starts[:-1], lengths)
        values = self.values[rows]
        report = Report(len(rows), len(positions), int((~np.isnan(values)).sum()))
        return replace(
            self,
            series_ids=self.series_ids[positions],
            starts=starts,
            time=self.time[rows],
            values=values,
            report=report,
            statics=None if self.statics is None else self.statics.take(positions),
            known=None if self.known is None else self.known[rows],
        )

    def with_categories_of(self, rows: np.ndarray) -> Table:
        """Give the table whose schema holds the categories of the series of these rows (bool `(N,)`) alone: what a fit may know."""
        if self.statics is None:
            return self
        categories = self.statics.take(np.unique(self.row_series[rows])).categories()
        return replace(self, schema=replace(self.schema, categories=categories))

    def to_frame(self) -> pd.DataFrame:
        """Give the table as a wide DataFrame in the user's columns, ids and time format."""
        columns = {}
        if self.schema.id_column is not None:
            ids = self.series_ids.astype(np.int64) if self.schema.id_kind == "integer" else self.series_ids
            columns[self.schema.id_column] = ids[self.row_series]
        columns[self.schema.time_column] = format_times(self.time, self.schema)
        frame = pd.DataFrame(columns)
        parts = [frame, pd.DataFrame(self.values, columns=list(self.schema.channels))]
        if self.known is not None:
            parts.append(pd.DataFrame(self.known, columns=list(self.schema.known_columns)))
        if self.statics is not None:
            held = self.statics.take(self.row_series)
            parts.append(pd.DataFrame(held.numbers, columns=list(self.schema.static_numbers)))
            parts.append(pd.DataFrame(held.texts, columns=list(self.schema.static_categories)))
        return pd.concat(parts, axis=1)


@dataclass(frozen=True)
class Queries:
    """Asked times in the order of the query table.

    Attributes:
        series: positions into `Table.series_ids`, int64 `(Nq,)`.
        time: times `(Nq,)`, of the same kind as `Table.time`.
        notes: what was assumed or left out, one sentence each.
        known: float64 `(Nq, K)`, the values of the known columns; None where there are none.
    """

    series: np.ndarray
    time: np.ndarray
    notes: tuple[str, ...] = ()
    known: np.ndarray | None = None


def read_table(
    source: Source,
    *,
    id_column: str | None = "series_id",
    time_column: str = "time",
    channels: Sequence[str] | None = None,
    target_channels: Sequence[str] | None = None,
    log_channels: Sequence[str] | None = None,
    count_channels: Sequence[str] | None = None,
    bounded_channels: Mapping[str, Sequence[float]] | None = None,
    static_columns: Sequence[str] | None = None,
    known_columns: Sequence[str] | None = None,
    layout: str = "wide",
    duplicates: str = "error",
    time_zone: str | None = None,
    schema: Schema | None = None,
    role: str = "data",
) -> Table:
    """Read and check a table of irregular series.

    Args:
        source: CSV (plain or gzip), Parquet (file or folder) or DataFrame.
        id_column: column of the series ids; where it is left at its default and absent, the table is one series.
        time_column: column of the times: numbers in any unit, or ISO 8601 datetimes.
        channels: columns of observed values; left out, every remaining numeric column.
        target_channels: those channels that are forecast; left out, all.
        log_channels: those channels that models see by their logarithm; all of their values are positive.
        count_channels: those channels whose values are counts, whole numbers from 0 up; they are forecast as such.
        bounded_channels: those channels whose values lie between a lower and an upper bound, these included.
        static_columns: columns with one value per series, numbers or categories; empty where it is not known.
        known_columns: columns of numbers known in the future too, never empty; in the long layout named in the column `channel`.
        layout: "wide" (a column per channel) or "long" (columns `channel` and `value`).
        duplicates: what becomes of rows of the same series and time: "error", "mean" or "last".
        time_zone: IANA zone to give times back in; needed only where a column mixes offsets.
        schema: of a fitted model; its columns are then looked for and must be there, in any order.
        role: what the table is to the user, for the messages.

    Raises:
        DataError: the table breaks the contract; the message names file, line, column or series.
        InputError: an argument is not of its form.
    """
    check_choice("layout", layout, CHOICES["layout"])
    check_choice("duplicates", duplicates, CHOICES["duplicates"])
    check_column("id_column", id_column, may_be_none=True)
    check_column("time_column", time_column)
    lists = (channels, target_channels, log_channels, count_channels, static_columns, known_columns)
    check_column_lists(dict(zip(COLUMN_LISTS, lists, strict=True)), bounded_channels)
    if count_channels and duplicates == "mean":
        raise InputError(
            "the mean of two counts need not be one: duplicates is mean and there are count_channels; choose last."
        )
    text_columns = {"channel"} if layout == "long" else set()
    if schema is not None:
        if time_zone is not None:
            check_zone(time_zone)
        id_column, time_column = schema.id_column or "series_id", schema.time_column
        channels, target_channels, log_channels = schema.channels, schema.target_channels, schema.log_channels
        count_channels = schema.count_channels
        bounded_channels = dict(zip(schema.bounded_channels, schema.channel_bounds, strict=True))
        static_columns, known_columns = schema.static_columns, schema.known_columns
        text_columns |= {*schema.static_categories}
    if id_column:
        text_columns.add(id_column)
    cells = read_cells(source, text_columns=text_columns, time_column=time_column, role=role)
    columns = choose_columns(
        cells,
        id_column=id_column,
        time_column=time_column,
        layout=layout,
        channels=channels,
        schema=schema,
        static_columns=static_columns,
        known_columns=known_columns,
    )
    ids = parse_ids(cells, columns.id)
    statics, number_names, category_names = read_statics(cells, columns.static, ids, schema)
    cells.columns.pop(columns.id or "", None)
    times = parse_times(
        cells.columns.pop(columns.time),
        # A fitted model's zone also serves times without offsets, which there is otherwise nothing to convert from.
        time_zone=None if schema else time_zone,
        zone_if_mixed=(time_zone or schema.time_zone) if schema else None,
        place=lambda row: f"{cells.at(row)}: column '{columns.time}'",
        hint=", or name another column with --data.time_column (`time_column`)",
    )
    times, zone_notes = _match_schema(times, schema, cells, columns)
    if schema and time_zone and times.zone:
        times = replace(times, zone=time_zone)
    _check_span(times, cells, columns)
    long = None
    supports = Supports(log_channels or (), count_channels or (), bounded_channels or {})
    if layout == "wide":
        names, values, notes = read_channels(cells, columns)
        supports.check(names, lambda i: values[:, i], cells)
        time, at = times.value, cells.at
    else:
        names, channel, value, notes = read_long_channels(cells, columns, may_be_absent=schema is not None)
        supports.check(names, lambda i: np.where(channel == i, value, np.nan), cells)
        long = ids, times.value, channel, names
        ids, time, values, first_row = pivot(ids, times.value, channel, value, len(names))
        at = lambda row: cells.at(int(first_row[row]))  # noqa: E731
    cells.release()
    names = names[: len(names) - len(columns.known)]
    found = Schema(
        columns.id,
        columns.time,
        names,
        _among("target", target_channels, names, cells.source),
        ids.kind,
        times.kind,
        times.zone,
        number_names,
        category_names,
        statics.categories() if schema is None else schema.categories,
        columns.known,
        _among("log", log_channels or (), names, cells.source),
        schema.calendar if schema else (),
        _among("count", count_channels or (), names, cells.source),
        bounded := _among("bounded", tuple(supports.bounds), names, cells.source),
        tuple((float(low), float(high)) for low, high in (supports.bounds[name] for name in bounded)),
    )

    def show_time(row: int, time: np.ndarray = time) -> str:
        return str(format_times(time[row : row + 1], found)[0])

    if long and duplicates == "error" and repeats(ids.codes, time).any():
        refuse_long_repeat(*long, at=cells.at, show_time=lambda row: show_time(row, times.value))
    rows = arrange(ids, time, values, duplicates=duplicates, at=at, show_time=show_time)
    known = None
    if columns.known:
        known, rows = _split_known(rows, len(names))
        series = np.repeat(np.arange(len(ids.names)), np.diff(rows.starts))
        check_known(known, columns.known, lambda row: at(_first(ids.codes == series[row], time == rows.time[row])))
        notes = (*notes, *note_fillers(columns.known, known, Survey.of(known)))
    survey = Survey.of(rows.values)
    gaps = note_gaps(rows.time, rows.starts, ids.names, lambda row: show_time(row, rows.time))
    odd = (*ids.notes, *_note_numbers(times), *gaps, *note_fillers(names, rows.values, survey))
    report = validate(
        found,
        ids.names,
        rows.starts,
        survey,
        source=cells.source,
        notes=(*cells.notes, *columns.notes, *zone_notes, *notes, *rows.notes),
        n_repeats=rows.n_repeats,
    )
    report = replace(report, notes=(*report.notes, *odd))
    held = statics if columns.static else None
    return Table(found, ids.names, rows.starts, rows.time, rows.values, report, cells.source, held, known)


def _split_known(rows: Rows, n_channels: int) -> tuple[np.ndarray, Rows]:
    """Give the known columns, which stand behind the channels, and the rows without them."""
    known, observed = rows.values[:, n_channels:], rows.values[:, :n_channels]
    return np.ascontiguousarray(known), replace(rows, values=np.ascontiguousarray(observed))


def _first(*conditions: np.ndarray) -> int:
    """Give the first row that fulfils all conditions."""
    return int(np.flatnonzero(np.logical_and.reduce(conditions))[0])


def _note_numbers(times: Times) -> tuple[str, ...]:
    if times.kind != "number":
        return ()
    n = int((np.abs(times.value) >= 2**53).sum())
    rounded = (f"{count(n, 'time is', 'times are')} beyond 2^53 and rounded to the nearest float64.",) if n else ()
    return (*rounded, *note_epoch(times.value))


def _match_schema(times: Times, schema: Schema | None, cells: Cells, columns: Columns) -> tuple[Times, tuple[str, ...]]:
    """Bring times to the zone of a fitted model's, with a note where they carry no offset."""
    if schema is None:
        return times, ()
    if times.kind != schema.time_kind:
        raise DataError(
            f"{cells.at(0)}: column '{columns.time}' holds {times.kind}s, but the model was fitted on times that are "
            f"{schema.time_kind}s; write the times as in the training data."
        )
    if times.zone is not None and schema.time_zone is None:
        raise DataError(
            f"{cells.at(0)}: column '{columns.time}' holds times with an offset, but the model was fitted on times without; "
            "leave the offset out."
        )
    if times.zone is not None or schema.time_zone is None:
        return times, ()
    value = localize(times.value, schema.time_zone, what=f"{cells.source}, column '{columns.time}'")
    return Times(value, times.kind, schema.time_zone), (read_in_zone(cells.source, schema.time_zone),)


def _check_span(times: Times, cells: Cells, columns: Columns) -> None:
    if times.kind == "number":
        return
    first, last = int(times.value.argmin()), int(times.value.argmax())
    if int(times.value[last]) - int(times.value[first]) >= 2**63:
        days = times.value[[first, last]].view("datetime64[ns]").astype("datetime64[D]")
        raise DataError(
            f"{cells.at(last)}: column '{columns.time}' goes from {days[0]} ({cells.at(first)}) to {days[1]}, more than the 292 years that "
            "nanoseconds can tell apart; correct it or give time as a plain number."
        )


def _among(what: str, chosen: Sequence[str] | None, names: tuple[str, ...], source: str) -> tuple[str, ...]:
    """Give the chosen channels in the order of the channels; all where none are chosen."""
    if chosen is None:
        return names
    known, is_chosen = set(names), set(chosen)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise DataError(
            f"{source}: {what} channel '{unknown[0]}' is not among the channels {quote_names(names)}; "
            f"correct --data.{what}_channels (`{what}_channels`)."
        )
    return tuple(name for name in names if name in is_chosen)


def read_queries(source: Source, schema: Schema, table: Table) -> Queries:
    """Read a query table, one row per asked series and time, keeping its order.

    Args:
        source: CSV, Parquet or DataFrame with the id, time and known columns of `schema`; others are left out, with a note.
        schema: of the history, or of the fitted model; names the columns.
        table: the history; every queried series must be in it.

    Raises:
        DataError: a column is missing, a series is not in the history, a time cannot be read or is of another kind.
    """
    id_column = table.schema.id_column
    names = {schema.time_column} | ({id_column} if id_column else set()) | {*schema.known_columns}
    cells = read_cells(
        source, text_columns={id_column} if id_column else set(), time_column=schema.time_column, role="query"
    )
    missing = [name for name in (id_column, schema.time_column) if name and name not in cells.columns]
    if missing:
        raise DataError(
            f"{cells.source}: has no column '{missing[0]}' (it has {quote_names(list(cells.columns))}); "
            f"a query table needs {quote_names(sorted(names))}."
        )
    ids = parse_ids(cells, id_column)
    times = parse_times(
        cells.columns[schema.time_column],
        # The times are given back in the table's zone, so offsets may differ among them.
        zone_if_mixed="UTC",
        place=lambda row: f"{cells.at(row)}: column '{schema.time_column}'",
    )
    time = match_times(times, table.schema, what=f"{cells.source}, column '{schema.time_column}'")
    notes = list(cells.notes)
    if times.kind == "datetime" and times.zone is None and table.schema.time_zone:
        notes.append(read_in_zone(cells.source, table.schema.time_zone))
    extra = [name for name in cells.columns if name not in names]
    if extra:
        notes.append(
            f"{cells.source}: {count(len(extra), 'column was', 'columns were')} left out: {quote_names(extra)}."
        )
    known = read_known(cells, schema.known_columns) if schema.known_columns else None
    return Queries(_positions(ids, table, cells), time, tuple(notes), known)


def _positions(ids: Ids, table: Table, cells: Cells) -> np.ndarray:
    # As text, so that 7 finds the series 7 whether either file reads as numbers.
    place = pd.Index([str(name) for name in table.series_ids]).get_indexer([str(name) for name in ids.names])
    unknown = np.flatnonzero(place < 0)
    if len(unknown):
        row = int(np.flatnonzero(ids.codes == unknown[0])[0])
        raise DataError(
            f"{cells.at(row)}: series {quote_names([ids.names[unknown[0]]])} is not in the history "
            f"({count(len(unknown), 'such series', 'such series')}); add its rows to {table.source} or remove the query."
        )
    return place[ids.codes].astype(np.int64)
