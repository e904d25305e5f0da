"""CSV text as columns of cells, and the line of any row.

pandas' reader alone is not safe here: it takes short rows, turns an id `NA` into nothing, renames a second `temp` to `temp.1` and passes
NUL bytes. This module reads with pyarrow and refuses all of these.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.csv as pa_csv

from latentode.data.arrow import MISSING
from latentode.data.schema import count
from latentode.errors import DataError

NO_ROWS = "but no rows; a table needs at least one row."


def read_csv(
    path: str, data: bytes, text_columns: Collection[str]
) -> tuple[dict[str, pa.ChunkedArray], Callable[[int], str]]:
    """Read CSV text.

    Args:
        path: name of the file, for the messages.
        data: its bytes.
        text_columns: columns that are never read as numbers.

    Returns:
        columns: float64, or text: all the others too where one cell of the file is no number.
        at: gives the place of a row (0-based), `data.csv:7`; it reads the text again, so it is for messages only.

    Raises:
        DataError: the file is empty, binary, not UTF-8, ragged, or has unusable column names.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    _check_bytes(path, data)
    names, body, n_header_lines = _split_header(path, data)
    if not body or body.isspace():
        raise DataError(f"{path}: holds a header {NO_ROWS}")
    _check_quotes(path, body, n_header_lines)
    kinds = {name: pa.string() if name in text_columns else pa.float64() for name in names}
    try:
        table, n_ragged = _parse(body, kinds)
    except pa.ArrowInvalid:
        # Some cell is no number: read everything as text, so that the cell can be named or its column left out.
        try:
            table, n_ragged = _parse(body, dict.fromkeys(names, pa.string()))
        except pa.ArrowInvalid as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path}: cannot be read as CSV ({reason}); check its quotes.") from error
    if n_ragged:
        raise DataError(_describe_ragged(path, body, len(names), n_ragged, n_header_lines))
    columns = {name: table.column(i) for i, name in enumerate(names)}
    return columns, lambda row: f"{path}:{_line_of(body, row) + n_header_lines}"


def check_names(place: str, names: list[str]) -> None:
    """Refuse a table with two columns of one name.

    Raises:
        DataError: a name stands twice; a single column without a name is allowed.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        columns = [str(i + 1) for i, name in enumerate(names) if name == repeated[0]]
        what = f"column '{repeated[0]}'" if repeated[0] else "a column without a name"
        raise DataError(
            f"{place}: {what} stands {len(columns)} times (columns {', '.join(columns)}); give every column its own name."
        )


def _check_bytes(path: str, data: bytes) -> None:
    if not data or data.isspace():
        raise DataError(f"{path}: is empty; a table needs a header and at least one row.")
    if data[:4] == b"PK\x03\x04":
        raise DataError(f"{path}: is a zip or Excel file, not a CSV; save it as CSV or Parquet.")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: is encoded as UTF-16; save it as UTF-8.")
    at = data.find(b"\0")
    if at >= 0:
        n = count(data.count(b"\0"), "NUL byte", "NUL bytes")
        raise DataError(
            f"{path}:{_line_at(data, at)}: holds {n}; the file is binary or damaged, "
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


def _newline(data: bytes) -> bytes:
    return b"\n" if b"\n" in data else b"\r"


def _line_at(data: bytes, position: int) -> int:
    return data.count(_newline(data), 0, position) + 1


def _split_header(path: str, data: bytes) -> tuple[list[str], bytes, int]:
    """Split off the names of the columns; the header's line number is the third result."""
    newline = _newline(data)
    n_blank = len(data) - len(data.lstrip(b"\r\n"))
    line = data.count(newline, 0, n_blank) + 1
    head, _, body = data[n_blank:].partition(newline)
    if head.count(b'"') % 2:
        raise DataError(f"{path}:{line}: a quote in the header is not closed on its line; close it.")
    _, cells = next(_records(head))
    names = [cell.strip() for cell in cells]
    check_names(f"{path}:{line}", names)
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in names[0]:
            raise DataError(f"{path}:{line}: the columns seem to be separated by {word}; save the file with commas.")
    return names, body, line


def _check_quotes(path: str, body: bytes, n_header_lines: int) -> None:
    """Refuse a quote that is never closed: the parser would take the rest of the file for one cell, or drop the quote."""
    if body.count(b'"') % 2 == 0:
        return
    line = 0
    try:
        for line, record in _records(body, strict=True):
            line += sum(cell.count("\n") for cell in record)
    except csv.Error as error:
        # Other oddities, such as a text after a closing quote, read the same everywhere.
        if "unexpected end" in str(error):
            raise DataError(
                f"{path}:{line + 1 + n_header_lines}: a quote is opened in this row and never closed; close it."
            ) from error


def _parse(body: bytes, kinds: dict[str, pa.DataType]) -> tuple[pa.Table, int]:
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


def _records(body: bytes, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line (1-based) and the cells of each row that is not blank; slow, so never for all of a good file."""
    with _cells_of_any_size(len(body)):
        reader = csv.reader(io.StringIO(body.decode("utf-8"), newline=""), strict=strict)
        line = 1
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1


@contextmanager
def _cells_of_any_size(size: int) -> Iterator[None]:
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, size))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _line_of(body: bytes, row: int) -> int:
    return next((line for i, (line, _) in enumerate(_records(body)) if i == row), row + 1)


def _describe_ragged(path: str, body: bytes, n_columns: int, n_ragged: int, n_header_lines: int) -> str:
    such = count(n_ragged, "such row", "such rows")
    for line, record in _records(body):
        if len(record) != n_columns:
            return (
                f"{path}:{line + n_header_lines}: has {count(len(record), 'cell', 'cells')} where the header has {n_columns} "
                f"({such}); write one cell per column, an empty one where nothing was observed."
            )
    return f"{path}: has rows without the {n_columns} cells of the header ({such}); check the quotes."
