"""CSV, Parquet and DataFrames to one checked table, sorted by series and time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from latentode.data.cells import Cells, Source, read_cells
from latentode.data.columns import Columns, choose_columns, read_channels, read_long_channels
from latentode.data.rows import Ids, arrange, parse_ids, pivot, refuse_long_repeat, repeats
from latentode.data.schema import Report, Schema, Survey, count, quote_names, validate
from latentode.data.settings import CHOICES, check_choice, check_column, check_columns
from latentode.data.suspicious import note_epoch, note_fillers, note_gaps
from latentode.data.times import Times, format_times, match_times, parse_times, read_in_zone
from latentode.data.zones import check_zone, localize
from latentode.errors import DataError


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
    """

    schema: Schema
    series_ids: np.ndarray
    starts: np.ndarray
    time: np.ndarray
    values: np.ndarray
    report: Report
    source: str

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
        """Give a SHA-256 of ids, times, values and channels; the order of rows and series does not matter."""
        names = np.asarray([str(name) for name in self.series_ids])
        table = self.select(np.argsort(names, kind="stable"))
        observed = ~np.isnan(table.values)
        digest = hashlib.sha256(repr((self.schema.channels, sorted(names.tolist()))).encode())
        # The place of each value and the values: bit patterns of NaN, which differ between readers, stay out. Adding 0 turns -0 into 0.
        for array in (table.starts, table.time + 0, np.packbits(observed), table.values[observed] + 0):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

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
        )

    def to_frame(self) -> pd.DataFrame:
        """Give the table as a wide DataFrame in the user's columns, ids and time format."""
        columns = {}
        if self.schema.id_column is not None:
            ids = self.series_ids.astype(np.int64) if self.schema.id_kind == "integer" else self.series_ids
            columns[self.schema.id_column] = ids[self.row_series]
        columns[self.schema.time_column] = format_times(self.time, self.schema)
        frame = pd.DataFrame(columns)
        return pd.concat([frame, pd.DataFrame(self.values, columns=list(self.schema.channels))], axis=1)


@dataclass(frozen=True)
class Queries:
    """Asked times in the order of the query table.

    Attributes:
        series: positions into `Table.series_ids`, int64 `(Nq,)`.
        time: times `(Nq,)`, of the same kind as `Table.time`.
        notes: what was assumed or left out, one sentence each.
    """

    series: np.ndarray
    time: np.ndarray
    notes: tuple[str, ...] = ()


def read_table(
    source: Source,
    *,
    id_column: str | None = "series_id",
    time_column: str = "time",
    channels: Sequence[str] | None = None,
    target_channels: Sequence[str] | None = None,
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
    check_columns("channels", channels)
    check_columns("target_channels", target_channels)
    if schema is not None:
        if time_zone is not None:
            check_zone(time_zone)
        id_column, time_column = schema.id_column or "series_id", schema.time_column
        channels, target_channels = schema.channels, schema.target_channels
    text_columns = ({id_column} if id_column else set()) | ({"channel"} if layout == "long" else set())
    cells = read_cells(source, text_columns=text_columns, time_column=time_column, role=role)
    columns = choose_columns(
        cells, id_column=id_column, time_column=time_column, layout=layout, channels=channels, schema=schema
    )
    ids = parse_ids(cells, columns.id)
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
    if layout == "wide":
        names, values, notes = read_channels(cells, columns)
        time, at = times.value, cells.at
    else:
        names, channel, value, notes = read_long_channels(cells, columns, may_be_absent=schema is not None)
        long = ids, times.value, channel, names
        ids, time, values, first_row = pivot(ids, times.value, channel, value, len(names))
        at = lambda row: cells.at(int(first_row[row]))  # noqa: E731
    cells.release()
    found = Schema(
        columns.id,
        columns.time,
        names,
        _targets(target_channels, names, cells.source),
        ids.kind,
        times.kind,
        times.zone,
    )

    def show_time(row: int, time: np.ndarray = time) -> str:
        return str(format_times(time[row : row + 1], found)[0])

    if long and duplicates == "error" and repeats(ids.codes, time).any():
        refuse_long_repeat(*long, at=cells.at, show_time=lambda row: show_time(row, times.value))
    rows = arrange(ids, time, values, duplicates=duplicates, at=at, show_time=show_time)
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
    return Table(found, ids.names, rows.starts, rows.time, rows.values, report, cells.source)


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


def _targets(target_channels: Sequence[str] | None, names: tuple[str, ...], source: str) -> tuple[str, ...]:
    if target_channels is None:
        return names
    known, chosen = set(names), set(target_channels)
    unknown = [name for name in target_channels if name not in known]
    if unknown:
        raise DataError(
            f"{source}: target channel '{unknown[0]}' is not among the channels {quote_names(names)}; "
            "correct --data.target_channels (`target_channels`)."
        )
    return tuple(name for name in names if name in chosen)


def read_queries(source: Source, schema: Schema, table: Table) -> Queries:
    """Read a query table, one row per asked series and time, keeping its order.

    Args:
        source: CSV, Parquet or DataFrame with the id and time columns of `schema`; other columns are left out, with a note.
        schema: of the history, or of the fitted model; names the columns.
        table: the history; every queried series must be in it.

    Raises:
        DataError: a column is missing, a series is not in the history, a time cannot be read or is of another kind.
    """
    id_column = table.schema.id_column
    names = {schema.time_column} | ({id_column} if id_column else set())
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
    return Queries(_positions(ids, table, cells), time, tuple(notes))


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
