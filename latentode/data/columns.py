"""Which column of a file is what, and the columns of values as numbers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from latentode.data.arrow import (
    find_notation,
    is_in_other_notation,
    is_numeric,
    is_string,
    parse_numbers,
    read_flags,
    view_float,
)
from latentode.data.cells import Cells
from latentode.data.rows import encode_text
from latentode.data.schema import Schema, blocks, count, quote_cell, quote_names
from latentode.data.suspicious import note_row_numbers
from latentode.errors import DataError

CHANNEL, VALUE = "channel", "value"
_NO_CHANNEL = "empty the cell if nothing was observed, or leave the channel out with --data.channels (`channels`)"


@dataclass(frozen=True)
class Columns:
    """Roles of the columns of one file.

    Attributes:
        id: the id column; None for one series.
        time: the time column.
        channels: in the wide layout the candidates for channels; in the long one those to keep, empty = all.
        is_chosen: whether the user (or a fitted model) named the channels.
        static: columns with one value per series.
        known: columns known in the future too; in the long layout names in the column of channels.
        notes: what is left out.
    """

    id: str | None
    time: str
    channels: tuple[str, ...]
    is_chosen: bool
    static: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose_columns(
    cells: Cells,
    *,
    id_column: str | None,
    time_column: str,
    layout: str,
    channels: Sequence[str] | None,
    schema: Schema | None,
    static_columns: Sequence[str] | None = None,
    known_columns: Sequence[str] | None = None,
) -> Columns:
    """Find the role of every column; see `read_table` for the arguments.

    Raises:
        DataError: a column that is needed or asked for is not there, or no column is left for values.
    """
    names = list(cells.columns)
    _require(cells, time_column, f"time column '{time_column}'", "--data.time_column (`time_column`)")
    found_id = _find_id(cells, id_column, schema)
    if found_id == time_column:
        raise DataError(
            f"{cells.source}: column '{time_column}' cannot be both the series id and the time; name two columns."
        )
    rest = [name for name in names if name not in (found_id, time_column)]
    static, known = tuple(static_columns or ()), tuple(known_columns or ())
    for name in (*static, *(known if layout == "wide" else ())):
        _check_role(cells, name, "static_columns" if name in static else "known_columns", found_id, time_column, rest)
    rest = [name for name in rest if name not in (*static, *known)]
    if layout == "long":
        for name in (CHANNEL, VALUE):
            if name not in rest:
                raise DataError(
                    f"{cells.source}: has no column '{name}' of the long layout (it has {quote_names(names)}); add it, "
                    "or choose --data.layout wide (`layout`) where every channel has its own column."
                )
        notes = _extra_note(rest, (CHANNEL, VALUE))
        chosen = tuple(channels or ())
        return Columns(found_id, time_column, chosen, channels is not None, static, known, notes)
    if channels is None:
        if not rest:
            raise DataError(
                f"{cells.source}: has no column of values beside {quote_names(names)}; add at least one channel."
            )
        return Columns(found_id, time_column, tuple(rest), False, static, known)
    is_there = set(rest)
    for name in channels:
        if name in (found_id, time_column):
            what = "time" if name == time_column else "series id"
            raise DataError(
                f"{cells.source}: column '{name}' is the {what} and cannot be a channel; correct `channels`."
            )
        if name not in is_there:
            raise DataError(_describe_unknown_channel(cells, name, rest, schema))
    return Columns(found_id, time_column, tuple(channels), True, static, known, _extra_note(rest, channels))


def _check_role(
    cells: Cells, name: str, option: str, id_column: str | None, time_column: str, rest: Sequence[str]
) -> None:
    if name in rest:
        return
    if name in (id_column, time_column):
        what = "time" if name == time_column else "series id"
        raise DataError(f"{cells.source}: column '{name}' is the {what} and no other thing; correct `{option}`.")
    raise DataError(
        f"{cells.source}: has no column '{name}' (it has {quote_names(rest)}); "
        f"{_nearest(name, list(rest))}correct --data.{option} (`{option}`)."
    )


def _find_id(cells: Cells, id_column: str | None, schema: Schema | None) -> str | None:
    if id_column is None or id_column in cells.columns:
        return id_column
    if id_column == "series_id" and (schema is None or schema.id_column is None):
        meant = [name for name in cells.columns if re.sub(r"[\W_]", "", name).lower() == "seriesid"]
        if meant:
            raise DataError(
                f"{cells.source}: has no column 'series_id' but a column '{meant[0]}'; name it with --data.id_column (`id_column`)."
            )
        return None
    _require(cells, id_column, f"column '{id_column}' of series ids", "--data.id_column (`id_column`)")
    return id_column


def _require(cells: Cells, name: str, what: str, option: str) -> None:
    if name not in cells.columns:
        names = list(cells.columns)
        raise DataError(
            f"{cells.source}: has no {what} (it has {quote_names(names)}); {_nearest(name, names)}name it with {option}."
        )


def _describe_unknown_channel(cells: Cells, name: str, rest: list[str], schema: Schema | None) -> str:
    if schema is not None:
        return (
            f"{cells.source}: has no column '{name}', a channel of the fitted model (it has {quote_names(rest)}); "
            "add the column, with empty cells if nothing was observed."
        )
    return (
        f"{cells.source}: has no channel column '{name}' (it has {quote_names(rest)}); "
        f"{_nearest(name, rest)}correct --data.channels (`channels`)."
    )


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), [other.lower() for other in names], n=1)
    found = [other for other in names if near and other.lower() == near[0]]
    return f"did you mean '{found[0]}'? If not, " if found else ""


def _extra_note(rest: list[str], used: Sequence[str]) -> tuple[str, ...]:
    known = set(used)
    extra = [name for name in rest if name not in known]
    if not extra:
        return ()
    return (f"{count(len(extra), 'column is', 'columns are')} no channel and left out: {quote_names(extra)}.",)


def read_channels(cells: Cells, columns: Columns) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """Read the channels of the wide layout; their cells are given up on the way, so that nothing is in memory twice.

    Returns:
        names of the channels and, behind them, of the known columns, values float64 `(N, C + K)` with NaN where not observed, and notes.

    Raises:
        DataError: a cell of a channel is text or infinite, or no column holds numbers.
    """
    found, notes = _find_numbers(cells, columns)
    names, values = tuple(found), np.empty((cells.n_rows, len(found)))
    n_large, n_infinite, first_infinite = (np.zeros(len(names), dtype=np.int64) for _ in range(3))
    for rows in _fill(values, [found.pop(name).chunks for name in names]):
        size = np.abs(values[rows])
        if np.fmax.reduce(size, axis=None) >= 2**53:
            # Beyond 20 digits nobody writes whole numbers any more, but measures such as 6.02e23.
            n_large += ((size >= 2**53) & (size < 1e20)).sum(axis=0)
            is_infinite = np.isinf(size)
            first_infinite = np.where(n_infinite == 0, rows.start + is_infinite.argmax(axis=0), first_infinite)
            n_infinite += is_infinite.sum(axis=0)
    for i in np.flatnonzero(n_infinite):
        _refuse_infinite(cells, names[i], int(first_infinite[i]), int(n_infinite[i]))
    notes += [_describe_large(name, int(n)) for name, n in zip(names, n_large, strict=True) if n]
    if not columns.is_chosen:
        notes += note_row_numbers(names, values)
    return names, values, tuple(notes)


def _find_numbers(cells: Cells, columns: Columns) -> tuple[dict[str, pa.ChunkedArray], list[str]]:
    """Take the channels that hold numbers out of the cells; then come notes on the others."""
    found, notes = {}, []
    for name in (*columns.channels, *columns.known):
        if is_numeric(cells.columns[name].type):
            found[name] = cells.columns[name]
            continue
        is_chosen = columns.is_chosen or name in columns.known
        value, note = _read_text_channel(cells, name, is_chosen=is_chosen)
        notes += note
        if value is not None:
            found[name] = pa.chunked_array([pa.array(value)])
    if len(found) == len(columns.known):
        raise DataError(
            f"{cells.source}: none of the columns {quote_names(columns.channels)} holds numbers; "
            "add a column of values or name it with --data.channels (`channels`)."
        )
    for name in found:
        del cells.columns[name]
    return found, notes


def _fill(values: np.ndarray, parts: list[list[pa.Array]]) -> Iterator[slice]:
    """Write the parts of each column into the matrix and give each up when it is written; yields the rows of each block."""
    for column in parts:
        column.reverse()
    for block in blocks(values):
        row = block.start
        while row < block.stop:
            n = min(block.stop - row, *(len(column[-1]) for column in parts))
            for i, column in enumerate(parts):
                values[row : row + n, i] = view_float(pa.chunked_array([column[-1][:n]]))
                if n == len(column[-1]):
                    column.pop()
                else:
                    column[-1] = column[-1][n:]
            row += n
        yield block
        if block.stop % (4 * (block.stop - block.start)) == 0:
            pa.default_memory_pool().release_unused()


def _describe_large(name: str, n: int) -> str:
    what = f"{count(n, 'value', 'values')} of '{name}' {'is' if n == 1 else 'are'} beyond 2^53"
    return f"{what}, where whole numbers are rounded to the nearest float64."


def _read_text_channel(cells: Cells, name: str, *, is_chosen: bool) -> tuple[np.ndarray | None, list[str]]:
    """Give a column that is not of numbers as numbers, with notes; None where it holds none and nobody chose it."""
    column = cells.columns[name]
    if is_string(column.type) and (flags := read_flags(column)) is not None:
        return flags, [f"Column '{name}' holds true and false, read as 1 and 0."]
    value, is_text = parse_numbers(column)
    if is_text.any():
        is_number_like = is_string(column.type) and is_in_other_notation(column)
        if not is_chosen and not is_number_like and np.isnan(value).all():
            n_text = count(int(is_text.sum()), "cell", "cells")
            return None, [f"Column '{name}' holds no numbers ({n_text} of text or other kind) and was left out."]
        _refuse_text(cells, name, is_text)
    return value, []


def read_numbers(cells: Cells, name: str, *, remedy: str) -> np.ndarray:
    """Read a column that has to hold numbers: float64 `(N,)`, NaN where a cell is empty; true and false are 1 and 0.

    Args:
        cells: the table.
        name: of the column.
        remedy: what else than correcting a cell of text can be done.

    Raises:
        DataError: a cell is text or infinite.
    """
    column = cells.columns[name]
    value = read_flags(column) if is_string(column.type) else None
    if value is None:
        value, is_text = parse_numbers(column)
        if is_text.any():
            _refuse_text(cells, name, is_text, remedy)
    infinite = np.flatnonzero(np.isinf(value))
    if len(infinite):
        _refuse_infinite(cells, name, int(infinite[0]), len(infinite))
    return value


def _refuse_text(
    cells: Cells, name: str, is_text: np.ndarray, remedy: str = _NO_CHANNEL, *, of: str | None = None
) -> None:
    row = int(np.flatnonzero(is_text)[0])
    cell = str(cells.columns[name][row].as_py()).strip()
    such = count(int(is_text.sum()), "such row", "such rows")
    raise DataError(
        f"{cells.at(row)}: {_name(name, of)} holds {quote_cell(cell)}, which is not a number ({such}); "
        f"{find_notation(cell) or 'correct it'}, {remedy}."
    )


def _refuse_infinite(cells: Cells, name: str, first: int, n: int, *, of: str | None = None) -> None:
    raise DataError(
        f"{cells.at(first)}: {_name(name, of)} holds an infinite value ({count(n, 'such row', 'such rows')}); "
        "correct it, or empty the cell if nothing was observed."
    )


def _name(column: str, channel: str | None) -> str:
    return f"column '{column}'" if channel is None else f"column '{column}' (channel {quote_names([channel])})"


def read_long_channels(
    cells: Cells, columns: Columns, *, may_be_absent: bool = False
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read the columns `channel` and `value` of the long layout.

    Args:
        cells: the table.
        columns: roles of its columns.
        may_be_absent: whether a chosen channel without a single row is one that was not observed, rather than a misspelt one.

    Returns:
        names of the channels (the chosen ones, else in order of first appearance) and, behind them, of the known columns, position of
        each row's channel `(L,)`, -1 where it is not among them, value `(L,)`, and notes.

    Raises:
        DataError: a channel has no name or that of the id or time column, a value is text or infinite, or a chosen channel does
            not occur.
    """
    codes, texts = encode_text(cells, CHANNEL, "channel name")
    # Stripped like the names of columns in the wide layout.
    stripped = [text.strip() for text in texts.to_pylist()]
    found = list(dict.fromkeys(stripped))
    names = columns.channels if columns.is_chosen else tuple(name for name in found if name not in columns.known)
    names = (*names, *columns.known)
    is_found = set(found)
    for name in names:
        if name in (columns.id, columns.time):
            raise DataError(f"{cells.source}: a channel is named '{name}' like a column of the table; rename it.")
        if name not in is_found and not may_be_absent:
            raise DataError(
                f"{cells.source}: column '{CHANNEL}' never names the channel '{name}' (it names {quote_names(found)}); "
                "correct --data.channels (`channels`)."
            )
    place = {name: i for i, name in enumerate(names)}
    channel = np.asarray([place.get(text, -1) for text in stripped], dtype=np.int64)[codes]
    value, is_text = parse_numbers(cells.columns[VALUE])
    is_text &= channel >= 0
    value = np.where(channel >= 0, value, np.nan)
    if is_text.any():
        _refuse_text(cells, VALUE, is_text, of=names[channel[is_text.argmax()]])
    infinite = np.flatnonzero(np.isinf(value))
    if len(infinite):
        _refuse_infinite(cells, VALUE, int(infinite[0]), len(infinite), of=names[channel[infinite[0]]])
    others = [name for name in found if name not in place]
    if not others:
        return names, channel, value, ()
    n_rows = count(int((channel < 0).sum()), "row", "rows")
    what = count(len(others), "channel is", "channels are")
    return names, channel, value, (f"{what} not chosen and left out ({n_rows}): {quote_names(others)}.",)
