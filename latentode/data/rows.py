"""Rows in any order to rows sorted by series and time: ids, duplicates, and the long layout."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from latentode.data.arrow import is_numeric, is_string, pc, to_float, to_numpy
from latentode.data.cells import Cells
from latentode.data.schema import IdKind, count
from latentode.errors import DataError

# A whole number as a program writes it: `007` is a text, and so is what int64 does not hold.
_INTEGER = r"0|-?[1-9][0-9]{0,18}"
_SINGLE_SERIES = "series"


@dataclass(frozen=True)
class Ids:
    """Which series each row belongs to: `names[codes[row]]`, names in order of first appearance."""

    codes: np.ndarray
    names: np.ndarray
    kind: IdKind


@dataclass(frozen=True)
class Rows:
    """Rows sorted by series and time: `starts` `(S + 1,)`, `time` `(N,)`, `values` `(N, C)`, and what was done to them."""

    starts: np.ndarray
    time: np.ndarray
    values: np.ndarray
    notes: tuple[str, ...]


def parse_ids(cells: Cells, column: str | None) -> Ids:
    """Read the column of series ids; whole numbers become integers, everything else stays the text it is (`007`, `NA`).

    Text in a DataFrame or Parquet file stays text, whatever it says: the ids of a forecast then match those of the user's frame.

    Args:
        cells: the table.
        column: name of the id column; None for a table that is one series.

    Raises:
        DataError: a row has no id.
    """
    if column is None:
        names = np.asarray([_SINGLE_SERIES], dtype=object)
        return Ids(np.zeros(cells.n_rows, dtype=np.int64), names, "none")
    codes, texts = encode_text(cells, column, "series id")
    may_be_integer = column in cells.untyped or not is_string(cells.columns[column].type)
    is_integer = may_be_integer and all(
        re.fullmatch(_INTEGER, text) and -(2**63) <= int(text) < 2**63 for text in texts
    )
    kind: IdKind = "integer" if is_integer else "text"
    names = np.empty(len(texts), dtype=object)
    names[:] = [int(text) for text in texts] if kind == "integer" else texts
    return Ids(codes, names, kind)


def encode_text(cells: Cells, column: str, what: str) -> tuple[np.ndarray, list[str]]:
    """Number the texts of a column in order of first appearance.

    Returns:
        int64 codes `(N,)` and the distinct texts: cell `i` is `texts[codes[i]]`.

    Raises:
        DataError: a cell is empty; `what` says what it should hold.
    """
    text = _as_text(cells.columns[column])
    rows = np.flatnonzero(to_numpy(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(text), ""), True)))
    if len(rows):
        raise DataError(
            f"{cells.at(int(rows[0]))}: column '{column}' holds no {what} ({count(len(rows), 'such row', 'such rows')}); "
            "fill it in or remove the row."
        )
    encoded = text.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(), dtype=np.int64), encoded.dictionary.to_pylist()


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type):
        # A DataFrame turns whole numbers into floats as soon as one is missing.
        numbers = to_float(column)
        column = pc.if_else(pc.is_nan(column), None, column)
        if (np.isnan(numbers) | ((np.rint(numbers) == numbers) & (np.abs(numbers) < 2**53))).all():
            column = column.cast(pa.int64())
    if is_string(column.type) or is_numeric(column.type):
        return column.cast(pa.large_string())
    texts = [None if cell is None else str(cell) for cell in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def arrange(
    ids: Ids,
    time: np.ndarray,
    values: np.ndarray,
    *,
    duplicates: str,
    at: Callable[[int], str],
    show_time: Callable[[int], str],
) -> Rows:
    """Sort rows by series and time, and settle rows of the same series and time.

    Args:
        ids: the series of each row.
        time: times `(N,)`.
        values: observed values `(N, C)`, NaN where not observed.
        duplicates: "error"; "mean" of the observed values per channel; "last", the observed value that stands last in the file.
        at: gives the place of a row for the message.
        show_time: writes the time of a row for the message.

    Raises:
        DataError: two rows have the same series and time and `duplicates` is "error".
    """
    codes, notes = ids.codes, []
    step = np.diff(codes)
    out_of_order = int(((step < 0) | ((step == 0) & (time[1:] < time[:-1]))).sum())
    order = None
    if out_of_order:
        # The sort is stable: equal stamps keep the order of the file, which "last" relies on.
        order = np.lexsort((time, codes))
        codes, time, values = codes[order], time[order], values[order]
        rows = count(out_of_order, "row comes", "rows come")
        notes.append(f"{rows} before the row above in series or time; the table was sorted.")
    is_repeat = np.zeros(len(time), dtype=bool)
    is_repeat[1:] = (codes[1:] == codes[:-1]) & (time[1:] == time[:-1])
    if is_repeat.any():
        if duplicates == "error":
            second = int(np.flatnonzero(is_repeat)[0])
            pair = (second - 1, second) if order is None else (int(order[second - 1]), int(order[second]))
            raise DataError(_describe_repeat(ids, pair, int(is_repeat.sum()), at, show_time))
        values = _merge(values, is_repeat, duplicates)
        codes, time = codes[~is_repeat], time[~is_repeat]
        how = "their mean" if duplicates == "mean" else "the last observed value of each channel"
        notes.append(f"{count(int(is_repeat.sum()), 'row repeats', 'rows repeat')} a series and time; {how} was taken.")
    starts = np.searchsorted(codes, np.arange(len(ids.names) + 1)).astype(np.int64)
    return Rows(starts, time, values, tuple(notes))


def _describe_repeat(
    ids: Ids, pair: tuple[int, int], n_repeats: int, at: Callable[[int], str], show_time: Callable[[int], str]
) -> str:
    first, second = pair
    series, remedy = f"series '{ids.names[ids.codes[second]]}' has", "remove one"
    if ids.kind == "none":
        series, remedy = (
            "the table is read as one series and has",
            "name the column of series ids with --data.id_column",
        )
    such = count(n_repeats, "such row", "such rows")
    return (
        f"{at(second)}: {series} time {show_time(second)} twice (first at {at(first)}; {such}); "
        f"{remedy}, or choose --data.duplicates mean or last (`duplicates`)."
    )


def _merge(values: np.ndarray, is_repeat: np.ndarray, how: str) -> np.ndarray:
    """Fold rows of equal series and time into the first of each; only the rows concerned are touched."""
    concerned = is_repeat.copy()
    concerned[:-1] |= is_repeat[1:]
    group = np.cumsum(~is_repeat) - 1
    merged = values[~is_repeat]
    # pandas' "mean" and "last" pass over what was not observed.
    folded = pd.DataFrame(values[concerned]).groupby(group[concerned], sort=True).agg(how)
    merged[folded.index.to_numpy()] = folded.to_numpy()
    return merged


def pivot(
    ids: Ids, time: np.ndarray, channel: np.ndarray, value: np.ndarray, n_channels: int
) -> tuple[Ids, np.ndarray, np.ndarray, np.ndarray]:
    """Bring the long layout to the wide one.

    Args:
        ids: series of each long row.
        time: `(L,)`.
        channel: position of each long row's channel, `(L,)`; of a row with -1 only series and time count.
        value: `(L,)`, NaN where not observed.
        n_channels: number of channels.

    Returns:
        The series, times `(N,)` and values `(N, C)` of the wide rows, one per series and time and, where the same observation stands
        several times, per repetition; and `row` `(N,)`, the first long row of each.
    """
    # Repetitions of one (series, time, channel) go to separate wide rows, in the order of the file, and `arrange` settles them.
    order = np.lexsort((channel, time, ids.codes))
    same = (np.diff(ids.codes[order]) == 0) & (time[order][1:] == time[order][:-1]) & (np.diff(channel[order]) == 0)
    position = np.arange(len(time))
    first = np.maximum.accumulate(np.where(np.concatenate([[True], ~same]), position, 0))
    repetition = np.empty(len(time), dtype=np.int64)
    repetition[order] = position - first
    repetition[channel < 0] = 0
    order = np.lexsort((repetition, time, ids.codes))
    keys = (ids.codes[order], time[order], repetition[order])
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    place = np.cumsum(is_new) - 1
    values = np.full((int(is_new.sum()), n_channels), np.nan)
    is_kept = channel[order] >= 0
    values[place[is_kept], channel[order][is_kept]] = value[order][is_kept]
    row = np.minimum.reduceat(order, np.flatnonzero(is_new))
    return Ids(keys[0][is_new], ids.names, ids.kind), keys[1][is_new], values, row
