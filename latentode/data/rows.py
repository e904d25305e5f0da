"""Rows in any order to rows sorted by series and time: ids, duplicates, and the long layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from latentode.data.arrow import is_numeric, is_string, pc, to_float, try_cast
from latentode.data.cells import Cells
from latentode.data.schema import IdKind, count, quote_names
from latentode.data.suspicious import note_spellings
from latentode.errors import DataError

# A whole number as a program writes it: `007` is a text, and so is what int64 does not hold.
_INTEGER = r"^(0|-?[1-9][0-9]{0,18})$"
_SINGLE_SERIES = "series"


@dataclass(frozen=True)
class Ids:
    """Which series each row belongs to: `names[codes[row]]`, names in order of first appearance; `notes` say what is odd about them."""

    codes: np.ndarray
    names: np.ndarray
    kind: IdKind
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Rows sorted by series and time: `starts` `(S + 1,)`, `time` `(N,)`, `values` `(N, C)`.

    `notes` say what was done to them, and `n_repeats` rows were merged into another.
    """

    starts: np.ndarray
    time: np.ndarray
    values: np.ndarray
    notes: tuple[str, ...]
    n_repeats: int


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
        return Ids(np.zeros(cells.n_rows, dtype=np.int32), names, "none")
    codes, texts = encode_text(cells, column, "series id")
    kind = cells.columns[column].type
    is_text = is_string(kind.value_type if pa.types.is_dictionary(kind) else kind)
    integers = _as_integers(texts) if column in cells.untyped or not is_text else None
    names = np.empty(len(texts), dtype=object)
    names[:] = texts.to_pylist() if integers is None else integers
    if integers is not None:
        return Ids(codes, names, "integer")
    return Ids(codes, names, "text", note_spellings(texts, "series id"))


def _as_integers(texts: pa.Array) -> list[int] | None:
    if not pc.all(pc.match_substring_regex(texts, _INTEGER)).as_py():
        return None
    numbers = try_cast(texts, pa.int64())
    return None if numbers is None else numbers.to_pylist()


def encode_text(cells: Cells, column: str, what: str) -> tuple[np.ndarray, pa.Array]:
    """Number the texts of a column in order of first appearance.

    Returns:
        int32 codes `(N,)` and the distinct texts: cell `i` is `texts[codes[i]]`.

    Raises:
        DataError: a cell is empty, or is a list or another thing that is no name; `what` says what it should hold.
    """
    kind = cells.columns[column].type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise DataError(
            f"{cells.at(0)}: column '{column}' is of type {kind}; write each {what} as text or a whole number."
        )
    encoded = number_texts(cells, column)
    is_blank = pc.equal(pc.utf8_trim_whitespace(encoded.dictionary), "")
    if encoded.null_count or pc.any(is_blank).as_py():
        rows = np.flatnonzero(pc.fill_null(is_blank.take(encoded.indices), True).to_numpy(zero_copy_only=False))
        raise DataError(
            f"{cells.at(int(rows[0]))}: column '{column}' holds no {what} ({count(len(rows), 'such row', 'such rows')}); "
            "fill it in or remove the row."
        )
    return encoded.indices.to_numpy(), encoded.dictionary


def number_texts(cells: Cells, column: str) -> pa.DictionaryArray:
    """Give a column as numbered text, see `as_text`.

    Raises:
        DataError: it is of a type, such as dates, with a cell that has no text.
    """
    try:
        return as_text(cells.columns[column]).unify_dictionaries().combine_chunks()
    except (OverflowError, ValueError) as error:
        kind, reason = cells.columns[column].type, " ".join(str(error).split())[:200]
        raise DataError(
            f"{cells.at(0)}: column '{column}' is of type {kind}, and not all of its cells can be written as text ({reason}); "
            "write them as text or whole numbers."
        ) from error


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give a column as numbered text; a float that is a whole number is written as one."""
    if pa.types.is_dictionary(column.type):
        return column
    if pa.types.is_floating(column.type):
        # A DataFrame turns whole numbers into floats as soon as one is missing.
        numbers = to_float(column)
        column = pc.if_else(pc.is_nan(column), None, column)
        if (np.isnan(numbers) | ((np.rint(numbers) == numbers) & (np.abs(numbers) < 2**53))).all():
            column = column.cast(pa.int64())
    if pa.types.is_boolean(column.type):
        # As Python writes them, in a frame and in a text of one.
        column = pc.if_else(column, "True", "False")
    if is_numeric(column.type):
        # Numbered first: writing a number as text takes ten times as long.
        encoded = column.combine_chunks().dictionary_encode()
        texts = encoded.dictionary.cast(pa.large_string())
        return pa.chunked_array([pa.DictionaryArray.from_arrays(encoded.indices, texts)])
    if not is_string(column.type):
        texts = [None if cell is None else str(cell) for cell in column.to_pylist()]
        column = pa.chunked_array([pa.array(texts, pa.large_string())])
    return column.dictionary_encode()


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
    order = None
    out_of_order = _count_out_of_order(codes, time)
    if out_of_order:
        order = sorting(codes, time)
        codes, time, values = codes[order], time[order], values.take(order, axis=0)
        rows = count(out_of_order, "row comes", "rows come")
        notes.append(f"{rows} before the row above in series or time; the table was sorted.")
    is_repeat = repeats(codes, time)
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
    return Rows(starts, time, values, tuple(notes), int(is_repeat.sum()))


def repeats(codes: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Tell which of these sorted rows have the series and time of the row above."""
    is_repeat = np.zeros(len(time), dtype=bool)
    is_repeat[1:] = (codes[1:] == codes[:-1]) & (time[1:] == time[:-1])
    return is_repeat


def _count_out_of_order(codes: np.ndarray, time: np.ndarray) -> int:
    is_same, is_back = codes[1:] == codes[:-1], time[1:] < time[:-1]
    return int(np.count_nonzero((codes[1:] < codes[:-1]) | (is_same & is_back)))


def sorting(codes: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Give the order by series, then time; equal stamps keep the order of the file, which "last" relies on.

    The same as `np.lexsort((time, codes))` in a quarter of its time: 16 bits after 16 bits, the lowest first, each by numpy's stable sort,
    which is a radix sort for this width.
    """
    offset = _count_up(time)
    # What is zero at the end of all of them need not be sorted by: most floats of users have few digits.
    n_zeros = _count_zeros(int(np.bitwise_or.reduce(offset)))
    offset >>= np.uint64(n_zeros)
    n_bits = [int(offset.max()).bit_length(), int(codes.max()).bit_length()]
    if sum(n_bits) <= 64:
        offset |= codes.astype(np.uint64) << np.uint64(n_bits[0])
        keys, n_bits = [offset], [sum(n_bits)]
    else:
        keys = [offset, codes.astype(np.uint64)]
    order = None
    for key, width in zip(keys, n_bits, strict=True):
        for shift in range(0, width, 16):
            digit = (key >> np.uint64(shift)).astype(np.uint16)
            step = np.argsort(digit if order is None else digit[order], kind="stable")
            order = step if order is None else order[step]
    return np.arange(len(time)) if order is None else order


def _count_zeros(bits: int) -> int:
    return (bits & -bits).bit_length() - 1 if bits else 0


def _count_up(time: np.ndarray) -> np.ndarray:
    """Give unsigned whole numbers in the order of the times, as small as is easily had."""
    if time.dtype == np.float64:
        if np.abs(time).max() < 2**53 and (np.floor(time) == time).all():
            time = time.astype(np.int64)
        else:
            # Adding 0 turns -0 into 0. The bits of negative floats ascend as the numbers descend.
            bits = (time + 0.0).view(np.int64)
            time = np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits)
    # The difference may wrap around; as an unsigned number it fits.
    offset = time.view(np.uint64) - time.min().view(np.uint64)
    for unit in (1_000_000_000, 1_000_000, 1_000):
        # Nanoseconds of times that are whole seconds, as most are.
        if not (offset[:1000] % np.uint64(unit)).any() and not (offset % np.uint64(unit)).any():
            return offset // np.uint64(unit)
    return offset


def _describe_repeat(
    ids: Ids,
    pair: tuple[int, int],
    n_repeats: int,
    at: Callable[[int], str],
    show_time: Callable[[int], str],
    *,
    of: str = "",
) -> str:
    first, second = pair
    series, remedy = f"series {quote_names([ids.names[ids.codes[second]]])} has", "remove one"
    if ids.kind == "none":
        series, remedy = (
            "the table is read as one series and has",
            "name the column of series ids with --data.id_column",
        )
    such = count(n_repeats, "such row", "such rows")
    return (
        f"{at(second)}: {series} time {show_time(second)}{of} twice (first at {at(first)}; {such}); "
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
    order, is_new = _group(ids.codes, time)
    repetition = _count_repetitions(np.cumsum(is_new) - 1, channel[order], n_channels)
    if repetition.any():
        # Within a series and time, one wide row per repetition.
        step = np.lexsort((repetition, np.cumsum(is_new)))
        order, repetition = order[step], repetition[step]
        is_new[1:] |= repetition[1:] != repetition[:-1]
    place = np.cumsum(is_new) - 1
    values = np.full((int(is_new.sum()), n_channels), np.nan)
    column = channel[order]
    is_kept = column >= 0
    values[place[is_kept], column[is_kept]] = value[order[is_kept]]
    first = np.flatnonzero(is_new)
    row = np.minimum.reduceat(order, first)
    return Ids(ids.codes[order[first]], ids.names, ids.kind, ids.notes), time[order[first]], values, row


def _group(codes: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the order by series and time, and which rows in that order begin another series or time."""
    order = sorting(codes, time) if _count_out_of_order(codes, time) else np.arange(len(time))
    codes, time = codes[order], time[order]
    return order, ~repeats(codes, time)


def _count_repetitions(group: np.ndarray, channel: np.ndarray, n_channels: int) -> np.ndarray:
    """Number the rows of one group and channel 0, 1, ... in their order; 0 for all of channel -1."""
    key = group * (n_channels + 1) + channel + 1
    seen = np.zeros(int(group[-1] + 1) * (n_channels + 1), dtype=bool)
    seen[key] = True
    repetition = np.zeros(len(key), dtype=np.int64)
    if np.count_nonzero(seen) == len(key):
        return repetition
    order = np.argsort(key, kind="stable")
    position = np.arange(len(key))
    is_first = np.append(True, key[order][1:] != key[order][:-1])
    repetition[order] = position - np.maximum.accumulate(np.where(is_first, position, 0))
    repetition[channel < 0] = 0
    return repetition


def refuse_long_repeat(
    ids: Ids,
    time: np.ndarray,
    channel: np.ndarray,
    names: Sequence[str],
    at: Callable[[int], str],
    show_time: Callable[[int], str],
) -> None:
    """Name the rows of the long layout, of which some do, that hold the same series, time and channel; arguments as of `pivot`.

    Raises:
        DataError: always.
    """
    order, is_new = _group(ids.codes, time)
    group = np.cumsum(is_new) - 1
    repetition = _count_repetitions(group, channel[order], len(names))
    again = np.flatnonzero(repetition)
    same = order[(group == group[again[0]]) & (channel[order] == channel[order[again[0]]])]
    of = f" of channel {quote_names([names[int(channel[same[0]])]])}"
    raise DataError(_describe_repeat(ids, (int(same[0]), int(same[1])), len(again), at, show_time, of=of))
