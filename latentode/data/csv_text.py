"""CSV text as columns of cells, and the line of any row.

pandas' reader alone is not safe here: it takes short rows, turns an id `NA` into nothing, renames a second `temp` to `temp.1` and passes
NUL bytes. This module reads with pyarrow and refuses all of these.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from latentode.data.arrow import MISSING, TEXT_CODES, is_string, pc
from latentode.data.schema import count, quote_cell
from latentode.errors import DataError

NO_ROWS = "but no rows; a table needs at least one row."
# Bytes that are looked at for what the columns are, and those that are in memory at once.
_HEAD, _BLOCK = 1 << 16, 1 << 20
_PACKED = {
    b"PK\x03\x04": "a zip or Excel file, not a CSV; save it as CSV or Parquet",
    b"\xd0\xcf\x11\xe0": "an old Excel file, not a CSV; save it as CSV or Parquet",
    b"BZh": "compressed with bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ": "compressed with xz; unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it, or compress it with gzip",
    b"ARROW1": "an Arrow (Feather) file; save it as Parquet or CSV",
    b"ORC": "an ORC file; save it as Parquet or CSV",
}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class Text:
    """The bytes of a CSV: in memory, or left in their file, so that no more than a block of them is in memory.

    Attributes:
        head: the first bytes.
        size: number of bytes.
        blocks: gives all of them, one after the other, each good until the next.
        stream: opens them from a position on.
        whole: gives all of them at once; for messages.
        again: opens them from the start once more, as they were left; for messages.
    """

    head: bytes
    size: int
    blocks: Callable[[], Iterator[bytes | bytearray]]
    stream: Callable[[int], pa.NativeFile]
    whole: Callable[[], bytes]
    again: Callable[[], IO[bytes]]

    @classmethod
    def of_bytes(cls, data: bytes, *, again: Callable[[], IO[bytes]] | None = None) -> Text:
        """Take bytes in memory; `again` opens them once more where they shall not be kept for a message."""

        def blocks() -> Iterator[bytes]:
            return (data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK))

        return cls(
            data[:_BLOCK],
            len(data),
            blocks,
            lambda start: pa.BufferReader(pa.py_buffer(data).slice(start)),
            lambda: data,
            again or (lambda: io.BytesIO(data)),
        )

    @classmethod
    def of_file(cls, path: Path) -> Text:
        """Leave the bytes in a file."""

        def blocks() -> Iterator[bytes | bytearray]:
            block = bytearray(_BLOCK)
            with path.open("rb", buffering=0) as file:
                while n := file.readinto(block):
                    yield block if n == len(block) else block[:n]

        def stream(start: int) -> pa.NativeFile:
            file = pa.OSFile(str(path))
            file.seek(start)
            return file

        with path.open("rb") as file:
            head = file.read(_BLOCK)
        return cls(head, path.stat().st_size, blocks, stream, path.read_bytes, lambda: path.open("rb"))


def read_csv(
    path: str, text: Text, *, text_columns: Collection[str] = (), time_column: str | None = None
) -> tuple[dict[str, pa.ChunkedArray], Callable[[int], str], tuple[str, ...]]:
    """Read CSV text.

    Args:
        path: name of the file, for the messages.
        text: its bytes.
        text_columns: columns that are never read as numbers.
        time_column: the column that is read as numbers, as datetimes without offset, or as text, whichever all its cells are.

    Returns:
        columns: float64; numbered text (`TEXT_CODES`) for `text_columns`; nanoseconds, where the time column holds nothing but datetimes
            without offset; else plain text.
        at: gives the place of a row (0-based), `data.csv:7`; it reads the file again, so it is for messages only.
        notes: on cells that hold a line break, as a stray pair of quotes makes them.

    Raises:
        DataError: the file is empty, binary, not UTF-8, ragged, or has unusable column names.
    """
    n_quotes = _check_blocks(path, text)
    names, start, n_header_lines = _split_header(path, text)
    if text.size <= _BLOCK and not text.head[start:].strip():
        raise DataError(f"{path}: holds a header {NO_ROWS}")
    n_quotes -= text.head.count(b'"', 0, start)
    if n_quotes % 2:
        _check_quotes(path, text, start, n_header_lines)
    kinds = dict.fromkeys(names, pa.float64())
    kinds.update({name: kind for name, kind in _guess(text, start, names, time_column).items() if name in kinds})
    kinds.update({name: TEXT_CODES for name in names if name in text_columns})
    table, n_ragged = _parse_as_meant(path, lambda: text.stream(start), kinds, n_quotes > 0)
    if n_ragged:
        raise DataError(_describe_ragged(path, text, start, len(names), n_ragged, n_header_lines))
    columns = {name: table.column(i) for i, name in enumerate(names)}
    again, size = text.again, text.size

    def at(row: int) -> str:
        with again() as file:
            return f"{path}:{_line_of(file, start, size, row) + n_header_lines}"

    return columns, at, _note_line_breaks(columns, at) if n_quotes else ()


def _note_line_breaks(columns: Mapping[str, pa.ChunkedArray], at: Callable[[int], str]) -> tuple[str, ...]:
    """Name cells that go over several lines: two quotes that are there by mistake join all the rows between them to one cell."""
    notes = []
    for name, column in columns.items():
        is_broken = _has_line_break(column)
        if is_broken is not None:
            rows = np.flatnonzero(is_broken)
            what = count(len(rows), "cell", "cells")
            notes.append(
                f"{what} of column '{name}' {'holds' if len(rows) == 1 else 'hold'} a line break, the first at {at(int(rows[0]))}; if this "
                "is not meant, a quote there is opened or closed by mistake."
            )
    return tuple(notes)


def _has_line_break(column: pa.ChunkedArray) -> np.ndarray | None:
    """Tell which cells of a column of text hold a line break; None where none does, or the column is none of text."""
    if pa.types.is_dictionary(column.type):
        parts = [(chunk.dictionary, chunk.indices) for chunk in column.chunks]
        broken = [pc.match_substring_regex(texts, "[\r\n]").take(codes) for texts, codes in parts]
    elif is_string(column.type):
        broken = [pc.match_substring_regex(chunk, "[\r\n]") for chunk in column.chunks]
    else:
        return None
    found = pa.chunked_array(broken, pa.bool_())
    return pc.fill_null(found, False).to_numpy() if pc.any(found).as_py() else None


def check_names(place: str, names: list[str]) -> None:
    """Refuse a table with two columns of one name.

    Raises:
        DataError: a name stands twice; a single column without a name is allowed.
    """
    repeated = sorted(name for name, n in Counter(names).items() if n > 1)
    if repeated:
        columns = [str(i + 1) for i, name in enumerate(names) if name == repeated[0]]
        what = f"column '{repeated[0]}'" if repeated[0] else "a column without a name"
        raise DataError(
            f"{place}: {what} stands {len(columns)} times (columns {', '.join(columns)}); give every column its own name."
        )


def _check_blocks(path: str, text: Text) -> int:
    """Refuse what is no text; gives the number of quotes."""
    head = text.head.removeprefix(codecs.BOM_UTF8)
    if not head.strip() and (text.size <= _BLOCK or not text.whole().removeprefix(codecs.BOM_UTF8).strip()):
        raise DataError(f"{path}: is empty; a table needs a header and at least one row.")
    for magic, what in _PACKED.items():
        if text.head.startswith(magic):
            raise DataError(f"{path}: is {what}.")
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if text.head.startswith(mark):
            raise DataError(f"{path}: is encoded as {name}; save it as UTF-8.")
    n_quotes, decoder, is_ascii = 0, codecs.getincrementaldecoder("utf-8")(), True
    for block in text.blocks():
        if block.find(b"\0") >= 0:
            _refuse_nul(path, text.whole())
        n_quotes += block.count(b'"')
        if not is_ascii or not block.isascii():
            # From here on, since a character may reach over the end of a block.
            is_ascii = False
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                _refuse_encoding(path, text.whole())
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        _refuse_encoding(path, text.whole())
    return n_quotes


def _refuse_nul(path: str, data: bytes) -> None:
    line, n = _line_at(data, data.find(b"\0")), count(data.count(b"\0"), "NUL byte", "NUL bytes")
    raise DataError(
        f"{path}:{line}: holds {n}; the file is binary or damaged, give a CSV of UTF-8 text or a Parquet file."
    )


def _refuse_encoding(path: str, data: bytes) -> None:
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


def _split_header(path: str, text: Text) -> tuple[list[str], int, int]:
    """Split off the names of the columns; then come the position of the first row and the header's line number."""
    # A header that is longer than a block is rare.
    data = text.head if text.head.strip(b"\r\n").count(_newline(text.head)) else text.whole()
    newline = _newline(data)
    begin = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    while data[begin : begin + 1] in (b"\r", b"\n"):
        begin += 1
    line = data.count(newline, 0, begin) + 1
    end = data.find(newline, begin)
    head, start = (data[begin:], len(data)) if end < 0 else (data[begin:end], end + 1)
    if head.count(b'"') % 2:
        raise DataError(f"{path}:{line}: a quote in the header is not closed on its line; close it.")
    _, cells = next(_records(io.BytesIO(head), 0, len(head)))
    names = [cell.strip() for cell in cells]
    _check_header(f"{path}:{line}", names)
    return names, start, line


def _check_header(place: str, names: list[str]) -> None:
    if names[0].startswith("#"):
        raise DataError(
            f"{place}: begins with the comment {quote_cell(names[0])}; remove it: the first line names the columns."
        )
    if re.fullmatch(r"sep=.?", names[0]):
        raise DataError(
            f"{place}: is the line {quote_cell(names[0])} that Excel writes; remove it: the first line names the columns."
        )
    if names[0].startswith("\ufeff"):
        raise DataError(f"{place}: begins with two byte order marks; remove one.")
    check_names(place, names)
    for separator, word in _SEPARATORS.items():
        if len(names) == 1 and separator in names[0]:
            raise DataError(f"{place}: the columns seem to be separated by {word}; save the file with commas.")


def _check_quotes(path: str, text: Text, start: int, n_header_lines: int) -> None:
    """Refuse a quote that is never closed: the parser would take the rest of the file for one cell, or drop the quote."""
    line = 0
    try:
        with text.again() as file:
            for line, record in _records(file, start, text.size, strict=True):
                line += sum(cell.count("\n") for cell in record)
    except csv.Error as error:
        # Other oddities, such as a text after a closing quote, read the same everywhere.
        if "unexpected end" in str(error):
            raise DataError(
                f"{path}:{line + 1 + n_header_lines}: a quote is opened in this row and never closed; close it."
            ) from error


def _guess(text: Text, start: int, names: list[str], time_column: str | None) -> dict[str, pa.DataType]:
    """Guess from the first rows which columns are text and what the times are; the whole file then proves it or not."""
    head = text.head[start : start + _HEAD]
    if start + len(head) < text.size:
        head = head[: head.rfind(_newline(head)) + 1]
    try:
        found, _ = _parse(pa.py_buffer(head), names, {}, has_quotes=b'"' in head)
    except pa.ArrowInvalid:
        # The cut may go through a quoted cell.
        return {}
    kinds = {}
    for name, kind in zip(names, found.schema.types, strict=True):
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
            continue
        is_stamp = pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None)
        kinds[name] = pa.timestamp("ns") if name == time_column and is_stamp else pa.string()
    return kinds


def _parse_as_meant(
    path: str, body: Callable[[], pa.NativeFile], kinds: dict[str, pa.DataType], has_quotes: bool
) -> tuple[pa.Table, int]:
    """Parse columns as guessed; one that has another cell further down becomes text, and with a second one all columns do."""
    as_text = {name: kind if kind == TEXT_CODES else pa.string() for name, kind in kinds.items()}
    try:
        return _parse(body(), list(kinds), kinds, has_quotes=has_quotes)
    except pa.ArrowInvalid as error:
        found = re.search(r"column #(\d+)", str(error))
        one = list(kinds)[int(found[1])] if found and int(found[1]) < len(kinds) else None
    if one is not None:
        with suppress(pa.ArrowInvalid):
            return _parse(body(), list(kinds), {**kinds, one: as_text[one]}, has_quotes=has_quotes)
    try:
        return _parse(body(), list(kinds), as_text, has_quotes=has_quotes)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read as CSV ({reason}); check its quotes.") from error


def _parse(
    body: pa.Buffer | pa.NativeFile, names: list[str], kinds: Mapping[str, pa.DataType], *, has_quotes: bool
) -> tuple[pa.Table, int]:
    """Parse rows into columns of the given types, found from the cells where none is given; then comes the number of ragged rows."""
    ragged: list[None] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        ragged.append(None)
        return "skip"

    table = pa_csv.read_csv(
        body,
        read_options=pa_csv.ReadOptions(column_names=names, block_size=_BLOCK),
        # Quoted line ends slow the reader down, so they are looked for only where there is a quote.
        parse_options=pa_csv.ParseOptions(newlines_in_values=has_quotes, invalid_row_handler=skip),
        convert_options=pa_csv.ConvertOptions(column_types=kinds, null_values=list(MISSING), strings_can_be_null=False),
    )
    return table, len(ragged)


def _records(file: IO[bytes], start: int, size: int, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line (1-based) and the cells of each row from `start` on that is not blank; slow, so never for all of a good file.

    The file is decoded on the way, so no more than a block of it is in memory, and not after the last row that is asked for.
    """
    file.seek(start)
    with _cells_of_any_size(size), io.TextIOWrapper(file, "utf-8", newline="") as text:
        reader = csv.reader(text, strict=strict)
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


def _line_of(file: IO[bytes], start: int, size: int, row: int) -> int:
    return next((line for i, (line, _) in enumerate(_records(file, start, size)) if i == row), row + 1)


def _describe_ragged(path: str, text: Text, start: int, n_columns: int, n_ragged: int, n_header_lines: int) -> str:
    such = count(n_ragged, "such row", "such rows")
    with text.again() as file:
        for line, record in _records(file, start, text.size):
            if len(record) != n_columns:
                return (
                    f"{path}:{line + n_header_lines}: has {count(len(record), 'cell', 'cells')} where the header has {n_columns} "
                    f"({such}); write one cell per column, an empty one where nothing was observed."
                )
    return f"{path}: has rows without the {n_columns} cells of the header ({such}); check the quotes."
