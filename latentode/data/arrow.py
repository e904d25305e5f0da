"""Columns of a table as arrow arrays: what type they are, and how text cells read as numbers."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

# pyarrow makes its compute functions at import, so a type checker knows none of them.
pc: Any = pyarrow.compute

# Text as numbers of its distinct values, numbered in order of first appearance: half the time and memory where few are distinct.
TEXT_CODES = pa.dictionary(pa.int32(), pa.string())
_NUMPY_TIMES = {np.datetime64, np.timedelta64}
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "None", "none")
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_INFINITE = r"^[+-]?(?i:inf|infinity)$"
_NAN = r"^[+-]?(?i:nan)$"
# So many cells are read one by one; of more, and few of them distinct, only the distinct ones.
_MANY = 1000
# What a number, an infinity or a NaN may begin with.
_FIRST = "+-.0123456789iInN"
# Arabic, Persian, Devanagari and full-width digits.
_DIGITS = "\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\uff10-\uff19"
# Two answers; a column of one of them alone is some other code: the sex of all, a country.
_WORDS = ("[Tt]|[Ff]", "yes|no|Yes|No|YES|NO")
# Numbers that people and spreadsheets write otherwise, and what to do; forms of both Python's and arrow's expressions.
NOTATIONS = {
    r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?": "write it without thousands separators",
    "[+-]?[0-9]{1,3}([ '_\u00a0\u202f][0-9]{3})+([.,][0-9]*)?": "write it without thousands separators",
    r"[+-]?([0-9.]*,[0-9]+|[0-9]+,)([eE][+-]?[0-9]+)?": "write a decimal point in place of the comma",
    r"[+-]?[0-9.,]+ ?%": "write it without the percent sign",
    "[$\u20ac\u00a3\u00a5] ?[0-9.,]+|[0-9.,]+ ?[$\u20ac\u00a3\u00a5]": "write it without the sign of the currency",
    "[\u2212\u2012\u2013][0-9.]+([eE][+-]?[0-9]+)?": "write the minus as '-'",
    r"[+-]?0[xX][0-9a-fA-F]+": "write it as a decimal number",
    f"[+-]?[{_DIGITS}][{_DIGITS}.]*": "write it with the digits 0 to 9",
    '"[+-]?[0-9.]+([eE][+-]?[0-9]+)?"': "remove the blank before the quote, or the quotes",
    "'[+-]?[0-9.]+([eE][+-]?[0-9]+)?'": "write it without quotes",
    **dict.fromkeys(_WORDS, "write true and false, or 1 and 0"),
}


def to_arrow(cells: pd.Series | Sequence[Any]) -> pa.ChunkedArray:
    """Give a column of a frame, or a list, as an arrow array; what pandas calls missing is null."""
    if isinstance(cells, pd.Series) and isinstance(cells.dtype, pd.CategoricalDtype):
        codes = cells.cat.codes.to_numpy()
        return to_arrow(cells.cat.categories.to_series()).take(pa.array(codes, mask=codes < 0))
    is_object = not isinstance(cells, pd.Series) or cells.dtype == object
    if is_object and _NUMPY_TIMES & (types := set(map(type, cells))) and len(types) > 1:
        # Arrow 26 ends the process on a numpy datetime beside a numpy float.
        return _as_text(cells)
    try:
        array = pa.array(cells if isinstance(cells, pd.Series) else list(cells), from_pandas=True)
    except (pa.ArrowException, ArithmeticError, ValueError, TypeError):
        # Cells of several types: as text each is judged like a cell of a CSV.
        return _as_text(cells)
    if is_object and pa.types.is_temporal(array.type) and len(_kinds_of_stamps(cells)) > 1:
        # Arrow would count datetimes without offset as UTC, forget the offsets of the others, and take a number for a day.
        return _as_text(cells)
    return plain(array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array]))


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Undo encodings that only save memory (categories, views, half floats), and write extension types such as periods as text."""
    if pa.types.is_dictionary(column.type):
        # Arrow cannot undo all of them itself: polars gives categories of text views.
        chunks = [
            plain(pa.chunked_array([chunk.dictionary])).take(chunk.indices).combine_chunks() for chunk in column.chunks
        ]
        return pa.chunked_array(chunks) if chunks else pa.chunked_array([], column.type.value_type)
    if pa.types.is_float16(column.type):
        # Most of arrow's functions do not know it.
        return column.cast(pa.float32())
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    if isinstance(column.type, pa.BaseExtensionType):
        return _as_text(column.to_pandas())
    if pa.types.is_fixed_size_binary(column.type) and not pa.types.is_decimal(column.type):
        column = column.cast(pa.binary())
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        # Some writers of Parquet do not say that their bytes are text.
        return try_cast(column, pa.large_string()) or column
    return column


def _as_text(cells: pd.Series | Sequence[Any]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([None if _is_missing(cell) else str(cell) for cell in cells], pa.large_string())])


def _is_missing(cell: Any) -> bool:
    # Not `pd.isna`: it fails on a signalling NaN of `decimal` and gives an array for a list.
    if isinstance(cell, np.datetime64 | np.timedelta64):
        return bool(np.isnat(cell))
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float | np.floating) and cell != cell)


def _kinds_of_stamps(cells: pd.Series | Sequence[Any]) -> set[Any]:
    """Tell the zones of datetimes and the types of all other cells that are not missing."""
    present = (cell for cell in cells if not _is_missing(cell))
    return {("zone", cell.tzinfo) if isinstance(cell, datetime.datetime) else type(cell) for cell in present}


def is_numeric(kind: pa.DataType) -> bool:
    """Tell whether an arrow type holds numbers (booleans count as 0 and 1)."""
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def is_string(kind: pa.DataType) -> bool:
    """Tell whether an arrow type holds text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_missing_text(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Tell which trimmed text cells stand for "nothing here"; shape `(N,)`, no nulls."""
    return pc.is_in(text, value_set=pa.array([*MISSING, None], type=text.type))


def to_float(column: pa.ChunkedArray) -> np.ndarray:
    """Give a numeric column as float64 with NaN for nulls, in memory that can be written to."""
    return np.require(view_float(column), requirements="W")


def view_float(column: pa.ChunkedArray) -> np.ndarray:
    """Give a numeric column as float64 with NaN for nulls; where arrow holds it so, it is arrow's memory."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if not pa.types.is_float64(column.type):
        # float64 holds whole numbers exactly to 2^53 only; arrow refuses larger ones unless told.
        column = column.cast(pa.float64(), safe=False)
    return np.asarray(column.to_numpy(), dtype=np.float64)


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Give a column without nulls as a numpy array that can be written to: a view of arrow's memory cannot, and torch warns of it."""
    return np.require(column.to_numpy(), requirements="W")


def try_cast(text: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """Read trimmed text as numbers or timestamps; None where one cell is another thing. Fast, but it does not say which."""
    try:
        # arrow reads on after a cell that it cannot read, and slowly: a look at the first cells spares most of that.
        text.slice(0, 100).cast(kind)
        return text.cast(kind)
    except pa.ArrowInvalid:
        return None


def parse_numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Read a column as numbers.

    Returns:
        values: float64 `(N,)`, NaN where missing; infinite cells stay infinite.
        is_text: `(N,)` bool, True where a cell is neither missing nor a number.
    """
    none = np.zeros(len(column), dtype=bool)
    if is_numeric(column.type):
        return to_float(column), none
    if not is_string(column.type):
        return np.full(len(column), np.nan), to_numpy(pc.is_valid(column))
    if len(column) > _MANY and 2 * pc.count_distinct(column.slice(0, _MANY)).as_py() < _MANY:
        encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
        values, is_text = parse_numbers(
            pa.chunked_array([pa.concat_arrays([encoded.dictionary, pa.nulls(1, column.type)])])
        )
        codes = to_numpy(pc.fill_null(encoded.indices, len(encoded.dictionary)))
        return values[codes], is_text[codes]
    text = pc.utf8_trim_whitespace(column)
    is_missing = is_missing_text(text)
    numbers = try_cast(pc.if_else(is_missing, None, text), pa.float64())
    if numbers is not None:
        return to_float(numbers), none
    # Some cell is no number, or is one that arrow does not read, such as `+5`: find out which. The first character tells most texts.
    is_candidate = pc.is_in(pc.utf8_slice_codeunits(text, 0, 1), value_set=pa.array(list(_FIRST), type=text.type))
    rows = to_numpy(pc.and_(is_candidate, pc.invert(is_missing))).nonzero()[0]
    values, is_text = np.full(len(text), np.nan), ~to_numpy(is_missing)
    text = text.take(pa.array(rows))
    readable = pc.match_substring_regex(text, f"{_NUMBER}|{_INFINITE}")
    is_nan = to_numpy(pc.match_substring_regex(text, _NAN))
    unsigned = pc.utf8_ltrim(pc.if_else(readable, text, None), "+")
    values[rows] = to_float(unsigned.cast(pa.float64()))
    is_text[rows] = ~(to_numpy(readable) | is_nan)
    return values, is_text


def find_notation(text: str) -> str | None:
    """Say how a number in another notation is to be written; None where the text is no such number."""
    return next((remedy for form, remedy in NOTATIONS.items() if re.fullmatch(form, text)), None)


def is_in_other_notation(column: pa.ChunkedArray) -> bool:
    """Tell whether all texts of a column that are not missing are numbers, or two answers, in one of `NOTATIONS`."""
    # The first cells tell most columns.
    for part in (column.slice(0, 100), column):
        text = pc.utf8_trim_whitespace(part)
        is_number = pc.match_substring_regex(text, f"^({'|'.join(NOTATIONS)})$")
        if not pc.all(pc.or_(is_missing_text(text), pc.fill_null(is_number, False))).as_py():
            return False
    words = pc.match_substring_regex(text, f"^({'|'.join(_WORDS)})$")
    return len(pc.unique(text.filter(pc.fill_null(words, False)))) != 1


def read_flags(column: pa.ChunkedArray) -> np.ndarray | None:
    """Give a text column of the words true and false as 1 and 0, NaN where missing; None where it holds anything else."""
    for part in (column.slice(0, 100), column):
        text = pc.utf8_trim_whitespace(part)
        is_missing, is_true, is_false = (
            pc.is_in(text, value_set=pa.array(words, type=text.type))
            for words in ((*MISSING, None), ("true", "True", "TRUE"), ("false", "False", "FALSE"))
        )
        if not pc.all(pc.or_(pc.or_(is_true, is_false), is_missing)).as_py():
            return None
    return None if pc.all(is_missing).as_py() else to_float(pc.if_else(is_missing, None, is_true))
