"""Which column of a file is what, and the columns of values as numbers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentode.data.cells import Cells, parse_numbers
from latentode.data.rows import encode_text
from latentode.data.schema import Schema, count, quote_names
from latentode.errors import DataError

CHANNEL, VALUE = "channel", "value"


@dataclass(frozen=True)
class Columns:
    """Roles of the columns of one file.

    Attributes:
        id: the id column; None for one series.
        time: the time column.
        channels: in the wide layout the candidates for channels; in the long one those to keep, empty = all.
        is_chosen: whether the user (or a fitted model) named the channels.
        notes: what is left out.
    """

    id: str | None
    time: str
    channels: tuple[str, ...]
    is_chosen: bool
    notes: tuple[str, ...] = ()


def choose_columns(
    cells: Cells,
    *,
    id_column: str | None,
    time_column: str,
    layout: str,
    channels: Sequence[str] | None,
    schema: Schema | None,
) -> Columns:
    """Find the role of every column; see `read_table` for the arguments.

    Raises:
        DataError: a column that is needed or asked for is not there, or no column is left for values.
    """
    names = list(cells.columns)
    _require(cells, time_column, "time column", "--data.time_column (`time_column`)")
    found_id = _find_id(cells, id_column, schema)
    if found_id == time_column:
        raise DataError(
            f"{cells.source}: column '{time_column}' cannot be both the series id and the time; name two columns."
        )
    rest = [name for name in names if name not in (found_id, time_column)]
    if layout == "long":
        for name in (CHANNEL, VALUE):
            _require(
                cells,
                name,
                f"column '{name}' of the long layout",
                "--data.layout wide (`layout`) for a column per channel",
            )
        return Columns(
            found_id, time_column, tuple(channels or ()), channels is not None, _extra_note(rest, (CHANNEL, VALUE))
        )
    if channels is None:
        if not rest:
            raise DataError(
                f"{cells.source}: has no column of values beside {quote_names(names)}; add at least one channel."
            )
        return Columns(found_id, time_column, tuple(rest), is_chosen=False)
    for name in channels:
        if name not in rest:
            raise DataError(_describe_unknown_channel(cells, name, rest, schema))
    return Columns(found_id, time_column, tuple(channels), is_chosen=True, notes=_extra_note(rest, channels))


def _find_id(cells: Cells, id_column: str | None, schema: Schema | None) -> str | None:
    if id_column is None or id_column in cells.columns:
        return id_column
    if id_column == "series_id" and (schema is None or schema.id_column is None):
        return None
    _require(cells, id_column, "column of series ids", "--data.id_column (`id_column`)")
    return id_column


def _require(cells: Cells, name: str, what: str, option: str) -> None:
    if name not in cells.columns:
        near = difflib.get_close_matches(name, list(cells.columns), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise DataError(
            f"{cells.source}: has no {what} '{name}' (it has {quote_names(list(cells.columns))}){hint or ';'} Name it with {option}."
        )


def _describe_unknown_channel(cells: Cells, name: str, rest: list[str], schema: Schema | None) -> str:
    if schema is not None:
        return (
            f"{cells.source}: has no column '{name}', a channel of the fitted model (it has {quote_names(rest)}); "
            "add the column, with empty cells if nothing was observed."
        )
    near = difflib.get_close_matches(name, rest, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "; correct --data.channels (`channels`)."
    return f"{cells.source}: has no channel column '{name}' (it has {quote_names(rest)}){hint}"


def _extra_note(rest: list[str], used: Sequence[str]) -> tuple[str, ...]:
    extra = [name for name in rest if name not in used]
    if not extra:
        return ()
    return (
        f"{count(len(extra), 'column is', 'columns are')} not among the channels and were left out: {quote_names(extra)}.",
    )


def read_channels(cells: Cells, columns: Columns) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """Read the channels of the wide layout.

    Returns:
        names of the channels, values float64 `(N, C)` with NaN where not observed, and notes.

    Raises:
        DataError: a cell of a channel is text or infinite, or no column holds numbers.
    """
    names, values, notes = [], [], []
    for name in columns.channels:
        value, is_text = parse_numbers(cells.columns[name])
        if is_text.any():
            if not columns.is_chosen and np.isnan(value).all():
                n_text = count(int(is_text.sum()), "cell", "cells")
                notes.append(f"Column '{name}' holds text ({n_text}) and was left out.")
                continue
            _refuse_text(cells, name, is_text)
        _refuse_infinite(cells, name, value)
        names.append(name)
        values.append(value)
    if not names:
        raise DataError(
            f"{cells.source}: none of the columns {quote_names(columns.channels)} holds numbers; "
            "add a column of values or name it with --data.channels (`channels`)."
        )
    return tuple(names), np.column_stack(values), tuple(notes)


def _refuse_text(cells: Cells, name: str, is_text: np.ndarray) -> None:
    row = int(np.flatnonzero(is_text)[0])
    raise DataError(
        f"{cells.at(row)}: column '{name}' holds {str(cells.columns[name][row].as_py())!r}, which is not a number "
        f"({count(int(is_text.sum()), 'such row', 'such rows')}); correct it, empty the cell if nothing was observed, "
        "or leave the column out with --data.channels (`channels`)."
    )


def _refuse_infinite(cells: Cells, name: str, value: np.ndarray) -> None:
    rows = np.flatnonzero(np.isinf(value))
    if len(rows):
        raise DataError(
            f"{cells.at(int(rows[0]))}: column '{name}' holds an infinite value "
            f"({count(len(rows), 'such row', 'such rows')}); correct it, or empty the cell if nothing was observed."
        )


def read_long_channels(
    cells: Cells, columns: Columns
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read the columns `channel` and `value` of the long layout.

    Returns:
        names of the channels (the chosen ones, else in order of first appearance), position of each row's channel `(L,)`, value
        `(L,)`, and notes.

    Raises:
        DataError: a channel has no name, a value is text or infinite, or a chosen channel does not occur.
    """
    codes, found = encode_text(cells, CHANNEL, "channel name")
    value, is_text = parse_numbers(cells.columns[VALUE])
    if is_text.any():
        _refuse_text(cells, VALUE, is_text)
    _refuse_infinite(cells, VALUE, value)
    if not columns.is_chosen:
        return tuple(found), codes, value, ()
    missing = [name for name in columns.channels if name not in found]
    if missing:
        raise DataError(
            f"{cells.source}: column '{CHANNEL}' never names the channel '{missing[0]}' (it names {quote_names(found)}); "
            "correct --data.channels (`channels`)."
        )
    place = np.asarray([columns.channels.index(name) if name in columns.channels else -1 for name in found])
    return columns.channels, place[codes], value, ()
