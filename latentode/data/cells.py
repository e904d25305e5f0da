"""Files and frames as columns of cells that remember where they stand.

pandas' reader alone is not safe here: it takes short rows, turns an id `NA` into nothing, renames a second `temp` to `temp.1` and passes
NUL bytes. This module reads CSV with pyarrow, refuses all of these, and can say the line of any row.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.dataset as pa_dataset

from latentode.data.schema import count
from latentode.errors import DataError, InputError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "none")
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_INFINITE = r"^[+-]?(?i:inf|infinity)$"
_NAN = r"^[+-]?(?i:nan)$"


@dataclass(frozen=True)
class Cells:
    """Named columns of one file or frame.

    Attributes:
        source: the path, or "DataFrame".
        columns: one array per column, all of length `n_rows`; CSV columns are text unless they read as float64.
        n_rows: number of rows.
        at: gives the place of a row (0-based) for a message: `data.csv:7`, or `data.parquet, row 6`.
        notes: what was left out while reading.
    """

    source: str
    columns: dict[str, pa.ChunkedArray]
    n_rows: int
    at: Callable[[int], str]
    notes: tuple[str, ...] = ()


def read_cells(source: str | Path | pd.DataFrame, *, text_columns: Collection[str] = (), role: str = "data") -> Cells:
    """Read a CSV (plain or gzip), a Parquet file or folder, or a DataFrame.

    Args:
        source: what to read.
        text_columns: CSV columns that are never read as numbers, so that an id `007` stays `007`.
        role: what the file is to the user, for the messages ("data", "history", "queries").

    Raises:
        DataError: the source is missing, empty, cut off, binary, ragged, or has unusable column names.
    """
    if isinstance(source, pd.DataFrame):
        return _read_frame(source)
    if not isinstance(source, str | Path):
        raise InputError(f"cannot read {role} from a {type(source).__name__}; give a path or a pandas DataFrame.")
    path = Path(source)
    if not path.exists():
        raise DataError(f"{path}: no such {role} file; check the path.")
    if path.is_dir():
        return _read_parquet(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error
    if data[:4] == b"PAR1":
        return _read_parquet(path)
    return _read_csv(str(path), _gunzip(str(path), data), text_columns)


def parse_numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Read a column as numbers.

    Returns:
        values: float64 `(N,)`, NaN where missing; infinite cells stay infinite.
        is_text: `(N,)` bool, True where a cell is neither missing nor a number.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_numeric(column.type):
        return to_float(column), np.zeros(len(column), dtype=bool)
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan), np.zeros(len(column), dtype=bool)
    if not is_string(column.type):
        return np.full(len(column), np.nan), to_numpy(pc.is_valid(column))
    text = pc.utf8_trim_whitespace(column)
    is_number = pc.match_substring_regex(text, _NUMBER)
    is_infinite = pc.match_substring_regex(text, _INFINITE)
    is_missing = pc.or_(is_missing_text(text), pc.fill_null(pc.match_substring_regex(text, _NAN), False))
    readable = pc.fill_null(pc.or_(is_number, is_infinite), False)
    plain = pc.utf8_ltrim(pc.if_else(readable, text, None), "+")
    is_text = pc.invert(pc.or_(readable, is_missing))
    return to_float(plain.cast(pa.float64())), to_numpy(is_text)


def is_missing_text(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Tell which trimmed text cells stand for "nothing here"; shape `(N,)`, no nulls."""
    return pc.is_in(text, value_set=pa.array([*MISSING, None], type=text.type))


def is_numeric(kind: pa.DataType) -> bool:
    """Tell whether an arrow type holds numbers (booleans count as 0 and 1)."""
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def is_string(kind: pa.DataType) -> bool:
    """Tell whether an arrow type holds text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def to_float(column: pa.ChunkedArray) -> np.ndarray:
    """Give a numeric column as float64 with NaN for nulls."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    # float64 holds whole numbers exactly to 2^53 only; arrow refuses larger ones unless told.
    column = column.cast(pa.float64(), safe=False)
    return np.asarray(column.to_numpy(), dtype=np.float64)


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Give a column without nulls as a numpy array."""
    return np.asarray(column.to_numpy())


# --- CSV ---------------------------------------------------------------------------------------------------------------------------


def _gunzip(path: str, data: bytes) -> bytes:
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip file is cut off or damaged ({error}); copy or download it again.") from error


def _read_csv(path: str, data: bytes, text_columns: Collection[str]) -> Cells:
    data = data.removeprefix(b"\xef\xbb\xbf")
    _check_bytes(path, data)
    names, body, n_header_lines = _split_header(path, data)
    if not body.strip():
        raise DataError(f"{path}: holds a header but no rows; a table needs at least one row of observations.")
    kinds = {name: pa.string() if name in text_columns else pa.float64() for name in names}
    try:
        table, n_ragged = _parse_csv(body, kinds)
    except pa.ArrowInvalid:
        # Some cell is no number: read everything as text, so that the cell can be named or its column left out.
        try:
            table, n_ragged = _parse_csv(body, dict.fromkeys(names, pa.string()))
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{path}: cannot be read as CSV ({str(error).splitlines()[0]}); check its quotes."
            ) from error
    if n_ragged:
        raise DataError(_describe_ragged(path, body, len(names), n_ragged, n_header_lines))
    if table.num_rows == 0:
        raise DataError(f"{path}: holds a header but no rows; a table needs at least one row of observations.")

    def at(row: int) -> str:
        return f"{path}:{_line_of(body, row) + n_header_lines}"

    columns = {name: table.column(i) for i, name in enumerate(names)}
    notes = _drop_unnamed(columns)
    return Cells(path, columns, table.num_rows, at, notes)


def _check_bytes(path: str, data: bytes) -> None:
    if not data.strip():
        raise DataError(f"{path}: is empty; a table needs a header and at least one row.")
    if data[:4] == b"PK\x03\x04":
        raise DataError(f"{path}: is a zip or Excel file, not a CSV; save it as CSV or Parquet.")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: is encoded as UTF-16; save it as UTF-8.")
    at = data.find(b"\0")
    if at >= 0:
        n = data.count(b"\0")
        raise DataError(
            f"{path}:{_line_at(data, at)}: holds {count(n, 'NUL byte', 'NUL bytes')}; the file is binary or damaged, "
            "give a CSV of UTF-8 text or a Parquet file."
        )
    if not data.isascii():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{_line_at(data, error.start)}: byte {data[error.start]:#04x} is not UTF-8 text; "
                "save the file as UTF-8 (it may be Latin-1 or binary)."
            ) from error


def _line_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _split_header(path: str, data: bytes) -> tuple[list[str], bytes, int]:
    """Split off the names of the columns; the header's line number is the third result."""
    n_blank = len(data) - len(data.lstrip(b"\r\n"))
    n_lines = max(data[:n_blank].count(b"\n"), data[:n_blank].count(b"\r")) + 1
    data = data[n_blank:]
    newline = b"\n" if b"\n" in data else b"\r"
    head, _, body = data.partition(newline)
    if head.count(b'"') % 2:
        raise DataError(f"{path}:{n_lines}: a quote in the header is not closed on its line; close it.")
    names = [name.strip() for name in next(csv.reader([head.decode("utf-8").rstrip("\r")]))]
    _check_names(f"{path}:{n_lines}", names)
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in names[0]:
            raise DataError(f"{path}:{n_lines}: the columns seem to be separated by {word}; save the file with commas.")
    return names, body, n_lines


def _check_names(place: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        columns = [str(i + 1) for i, name in enumerate(names) if name == repeated[0]]
        what = f"column '{repeated[0]}'" if repeated[0] else "a column without a name"
        raise DataError(
            f"{place}: {what} stands {len(columns)} times (columns {', '.join(columns)}); give every column its own name."
        )


def _parse_csv(body: bytes, kinds: dict[str, pa.DataType]) -> tuple[pa.Table, int]:
    """Parse rows into columns of the given types; the second result counts rows of the wrong length."""
    ragged: list[None] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        ragged.append(None)
        return "skip"

    table = pa_csv.read_csv(
        pa.py_buffer(body),
        read_options=pa_csv.ReadOptions(column_names=list(kinds), block_size=1 << 23),
        # Quoted line ends slow the reader down, so they are looked for only where there is a quote.
        parse_options=pa_csv.ParseOptions(newlines_in_values=b'"' in body, invalid_row_handler=skip),
        convert_options=pa_csv.ConvertOptions(column_types=kinds, null_values=list(MISSING), strings_can_be_null=False),
    )
    return table, len(ragged)


def _records(body: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line (1-based, in the body) and the cells of each row; used for messages only, it is slow."""
    reader = csv.reader(io.StringIO(body.decode("utf-8"), newline=""))
    line = 1
    for record in reader:
        if record:
            yield line, record
        line = reader.line_num + 1


def _line_of(body: bytes, row: int) -> int:
    for i, (line, _) in enumerate(_records(body)):
        if i == row:
            return line
    return row + 1


def _describe_ragged(path: str, body: bytes, n_columns: int, n_ragged: int, n_header_lines: int) -> str:
    for line, record in _records(body):
        if len(record) != n_columns:
            return (
                f"{path}:{line + n_header_lines}: has {count(len(record), 'cell', 'cells')} where the header has {n_columns} "
                f"({count(n_ragged, 'such row', 'such rows')}); write one cell per column, an empty one where nothing was observed."
            )
    return f"{path}: {count(n_ragged, 'row does', 'rows do')} not have the {n_columns} cells of the header; check the quotes."


# --- Parquet and DataFrame ---------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Cells:
    files = sorted(str(file) for file in path.rglob("*.parquet")) if path.is_dir() else [str(path)]
    if not files:
        raise DataError(
            f"{path}: is a folder without a .parquet file; give a CSV or Parquet file, or a folder of Parquet files."
        )
    base = str(path) if path.is_dir() else None
    try:
        dataset = pa_dataset.dataset(files, format="parquet", partitioning="hive", partition_base_dir=base)
        _check_names(str(path), dataset.schema.names)
        table = dataset.to_table()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}: cannot be read as Parquet ({reason}); the file is damaged or cut off, write it again."
        ) from error
    columns = {name: table.column(name) for name in table.column_names if not name.startswith("__index_level_")}
    return _tabular(str(path), columns, table.num_rows, lambda row: f"{path}, row {row + 1}")


def _read_frame(frame: pd.DataFrame) -> Cells:
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    names = [str(name).strip() for name in frame.columns]
    _check_names("DataFrame", names)
    columns = {name: _series_to_arrow(frame.iloc[:, i]) for i, name in enumerate(names)}
    return _tabular("DataFrame", columns, len(frame), lambda row: f"DataFrame, row {row} (counted from 0)")


def _series_to_arrow(column: pd.Series) -> pa.ChunkedArray:
    try:
        array = pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        # Cells of several types: as text each is judged like a cell of a CSV.
        array = pa.array([None if pd.isna(cell) else str(cell) for cell in column], type=pa.string())
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _tabular(source: str, columns: dict[str, pa.ChunkedArray], n_rows: int, at: Callable[[int], str]) -> Cells:
    if not columns:
        raise DataError(f"{source}: has no columns; a table needs a time column and at least one channel.")
    if n_rows == 0:
        raise DataError(f"{source}: has columns but no rows; a table needs at least one row of observations.")
    return Cells(source, columns, n_rows, at, _drop_unnamed(columns))


def _drop_unnamed(columns: dict[str, pa.ChunkedArray]) -> tuple[str, ...]:
    # A column without a name is most often an index that was written along.
    if "" not in columns:
        return ()
    del columns[""]
    return ("1 column has no name and was left out.",)
