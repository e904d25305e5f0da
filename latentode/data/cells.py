"""Files and frames as columns of cells that remember where they stand."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pa_parquet

from latentode.data.arrow import TEXT_CODES, is_string, plain, to_arrow
from latentode.data.csv_text import NO_ROWS, Text, check_names, read_csv
from latentode.data.memory import available_memory
from latentode.data.parts import join
from latentode.data.schema import count, quote_names
from latentode.errors import DataError, InputError

_GZIP = b"\x1f\x8b"
# Unpacked bytes that are never refused, and how many times its size a larger file may unpack to.
_GZIP_FREE, _GZIP_RATIO = 256 << 20, 200
_ALWAYS_READ = 1 << 28  # bytes of a Parquet file's numbers, of which the memory is not even looked at
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


class ArrowStream(Protocol):
    """A table of another library that gives its columns through Arrow's C interface: polars, pyarrow, duckdb, cudf, ..."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Give a capsule of the stream (Arrow's PyCapsule protocol)."""
        ...


Source = str | Path | pd.DataFrame | ArrowStream


@dataclass(frozen=True)
class Cells:
    """Named columns of one file or frame.

    Attributes:
        source: the path, or "DataFrame".
        columns: one array per column, all of length `n_rows`; those of a CSV are what `read_csv` says.
        n_rows: number of rows.
        at: gives the place of a row (0-based) for a message: `data.csv:7`, or `data.parquet, row 6`.
        untyped: columns whose text may stand for numbers: those of a CSV, and those that are names of folders.
        notes: what was left out while reading.
    """

    source: str
    columns: dict[str, pa.ChunkedArray]
    n_rows: int
    at: Callable[[int], str]
    untyped: frozenset[str]
    notes: tuple[str, ...]

    def release(self) -> None:
        """Give the memory of the columns back; only places can be told from then on."""
        self.columns.clear()
        pa.default_memory_pool().release_unused()


def read_cells(
    source: Source, *, text_columns: Collection[str] = (), time_column: str | None = None, role: str = "data"
) -> Cells:
    """Read a CSV (plain or gzip), a Parquet file or folder, or a DataFrame.

    Args:
        source: what to read; a DataFrame may be of any library that gives its columns through Arrow's C interface.
        text_columns: CSV columns that are never read as numbers, so that an id `007` stays `007`.
        time_column: CSV column of times, see `read_csv`.
        role: what the file is to the user, for the messages ("data", "history", "query").

    Raises:
        DataError: the source is missing, empty, cut off, binary, ragged, has unusable column names, or changed while it was read.
        InputError: the source is neither a path nor a DataFrame.
    """
    if isinstance(source, pd.DataFrame):
        return _read_frame(source, text_columns)
    if not isinstance(source, str | Path):
        return _read_stream(source, role)
    path = Path(os.path.expanduser(source))  # noqa: PTH111 (Path's own fails where there is no home)
    try:
        is_parquet = path.is_dir() or _starts_with(path, b"PAR1")
        with _unchanged([path]):
            if is_parquet:
                return _read_parquet(path, text_columns)
            columns, at, notes = read_csv(str(path), _open(path), text_columns=text_columns, time_column=time_column)
            # What the parser needed on the way.
            pa.default_memory_pool().release_unused()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: no such {role} file; check the path.") from error
    except DataError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); check the path and its permissions.") from error
    return _tabular(str(path), columns, at, untyped=frozenset(columns), notes=notes)


def _open(path: Path) -> Text:
    if not path.is_file():
        # A pipe gives its bytes once.
        return Text.of_bytes(_gunzip(str(path), path.read_bytes()))
    if _starts_with(path, _GZIP):
        return Text.of_bytes(
            _gunzip(str(path), path.read_bytes()), again=lambda: io.BufferedReader(gzip.GzipFile(path))
        )
    return Text.of_file(path)


def _starts_with(path: Path, magic: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


@contextmanager
def _unchanged(files: Sequence[Path]) -> Iterator[None]:
    """Refuse files that are written to while they are read: half a row, or half a number, looks like a whole one."""
    before = [_version(file) for file in files]
    try:
        yield
    finally:
        for file, version in zip(files, before, strict=True):
            if _version(file) != version:
                raise DataError(f"{file}: changed while it was read; read it again when it is written.")


def _version(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    is_kept = stat.S_ISREG(status.st_mode)
    return (status.st_ino, status.st_size, status.st_mtime_ns) if is_kept else None


def _gunzip(path: str, data: bytes) -> bytes:
    if data[:2] != _GZIP:
        return data
    parts, n_bytes = [], 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while part := file.read(1 << 22):
                parts.append(part)
                n_bytes += len(part)
                # Text shrinks to a tenth. What unpacks to so much more is made to fill the memory.
                if n_bytes > max(_GZIP_FREE, _GZIP_RATIO * len(data)):
                    raise DataError(
                        f"{path}: the gzip file unpacks to more than {_GZIP_RATIO} times its size; if you trust it, unpack it "
                        "first (gunzip) and name the CSV."
                    )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip file is cut off or damaged ({error}); copy or download it again.") from error
    return b"".join(parts)


def _read_parquet(path: Path, text_columns: Collection[str]) -> Cells:
    files, notes = ([path], ()) if path.is_file() else _list_folder(path)
    with _unchanged(files):
        partitions = [_partition(file.relative_to(path)) if path.is_dir() else {} for file in files]
        untyped = frozenset(key for partition in partitions for key in partition)
        names = [_parquet_names(file) for file in files]
        _refuse_huge(str(path), files)
        for file, inside in zip(files, names, strict=True):
            for name in untyped & set(inside.values()):
                raise DataError(
                    f"{file}: column '{name}' stands in the file and in the names of the folders; remove it from one of them."
                )
        tables = [_read_parquet_file(file, inside, text_columns) for file, inside in zip(files, names, strict=True)]
        pa.default_memory_pool().release_unused()
    n_rows = [table.num_rows for table in tables]
    # A column that only some files have is part of the table, empty in the others.
    found = dict.fromkeys([name for inside in names for name in inside.values()])
    columns = {}
    for name in found:
        parts = [
            _plain(table.column(name), name in text_columns) if name in table.column_names else None for table in tables
        ]
        columns[name], note = join(name, parts, n_rows, [str(file) for file in files])
        notes += note
    for key in dict.fromkeys(key for partition in partitions for key in partition):
        # Values in names of folders (`station=007`) are text: an id keeps its zeros, and numbers are read from text as in a CSV.
        texts = [pa.scalar(partition.get(key), pa.string()) for partition in partitions]
        columns[key] = pa.chunked_array([pa.repeat(text, n) for text, n in zip(texts, n_rows, strict=True)])

    def at(row: int) -> str:
        ends = np.cumsum(n_rows)
        i = int(np.searchsorted(ends, row, side="right"))
        return f"{files[i]}, row {row - int(ends[i]) + n_rows[i] + 1}"

    return _tabular(str(path), columns, at, untyped=untyped, notes=notes)


def _partition(file: Path) -> dict[str, str | None]:
    """Read the values that Hive and Spark write into the names of folders: `station=007`, or a word of theirs for no value."""
    pairs = [part.split("=", 1) for part in file.parent.parts if "=" in part]
    return {unquote(key): None if value == _NO_VALUE else unquote(value) for key, value in pairs}


def _parquet_names(file: Path) -> dict[str, str]:
    """Give the columns of a file, each with its name without the blanks around it."""
    try:
        schema = pa_parquet.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file}: cannot be read as Parquet ({_first_line(error)}); the file is damaged or cut off, write it again."
        ) from error
    # pandas writes an index that has no name as a column of this name.
    names = [name for name in schema.names if not name.startswith("__index_level_")]
    check_names(str(file), [name.strip() for name in names])
    return {name: name.strip() for name in names}


def _refuse_huge(path: str, files: Sequence[Path]) -> None:
    """Refuse, before a row is read, what cannot be in memory: a few bytes of Parquet can stand for any number of equal cells.

    Raises:
        DataError: the numbers alone take more memory than there is.
    """
    found = [pa_parquet.read_metadata(file) for file in files]
    n_bytes = 8 * sum(one.num_rows * one.num_columns for one in found)
    if n_bytes < _ALWAYS_READ:
        return
    available = available_memory()
    if available is not None and n_bytes > available:
        raise DataError(
            f"{path}: its {sum(one.num_rows for one in found):,} rows take at least {n_bytes / 1e9:,.1f} GB of memory, and "
            f"{available / 1e9:.1f} GB are available; train from the files with --data.streaming true (`streaming=True`)."
        )


def _read_parquet_file(file: Path, names: Mapping[str, str], text_columns: Collection[str]) -> pa.Table:
    try:
        schema = pa_parquet.read_schema(file).remove_metadata()
        coded = [name for name, bare in names.items() if bare in text_columns and is_string(schema.field(name).type)]
        for name in coded:
            # Few are distinct: read as their numbers, which takes less time and memory.
            schema = schema.set(schema.get_field_index(name), pa.field(name, TEXT_CODES))
        dataset = pa_dataset.dataset(
            str(file),
            schema=schema,
            format=pa_dataset.ParquetFileFormat(
                dictionary_columns=set(coded),
                # Without these the bytes of the files are all in memory beside what is read from them.
                pre_buffer=False,
                use_buffered_stream=True,
            ),
        )
        return dataset.to_table(columns=list(names)).rename_columns(list(names.values()))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file}: cannot be read as Parquet ({_first_line(error)}); the file is damaged, write it again."
        ) from error


def _plain(column: pa.ChunkedArray, is_coded: bool) -> pa.ChunkedArray:
    return column if is_coded and column.type == TEXT_CODES else plain(column)


def _list_folder(path: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Give the Parquet files of a folder, and a note on what else is there.

    By the custom of Spark, Hive and Arrow, names that begin with `_` or `.` are not data: marks of success, half-written parts.
    """
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    inside = [file for file in inside if not any(_is_hidden(part) for part in file.relative_to(path).parts)]
    files = [file for file in inside if file.suffix.lower() in (".parquet", ".parq", ".pq")]
    if not files:
        raise DataError(
            f"{path}: is a folder without a .parquet file; give a CSV or Parquet file, or a folder of Parquet files."
        )
    others = [file.relative_to(path) for file in inside if file not in set(files)]
    if not others:
        return files, ()
    what = count(len(others), "file is no .parquet file and was", "files are no .parquet files and were")
    return files, (f"{what} left out: {quote_names(others, limit=5)}.",)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_")) and "=" not in name


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _read_frame(frame: pd.DataFrame, text_columns: Collection[str]) -> Cells:
    columns = [frame.iloc[:, i] for i in range(frame.shape[1])]
    names = [_column_name(name) for name in frame.columns]
    if any(name is not None for name in frame.index.names):
        levels = range(frame.index.nlevels)
        columns = [frame.index.get_level_values(level).to_series() for level in levels] + columns
        names = [_column_name(name) for name in frame.index.names] + names
    check_names("DataFrame", names)
    arrays = {name: to_arrow(column) for name, column in zip(names, columns, strict=True)}
    pairs = zip(names, columns, strict=True)
    notes = [note for name, column in pairs if name in text_columns for note in _note_mixed(name, column)]
    return _of_frame("DataFrame", arrays, tuple(notes))


def _note_mixed(name: str, column: pd.Series) -> tuple[str, ...]:
    """Name what is one text and yet two cells of a frame, such as 1 and '1'."""
    if column.dtype != object or len({isinstance(cell, str) for cell in column}) < 2:
        return ()
    texts = {cell for cell in column if isinstance(cell, str)}
    both = texts & {str(cell) for cell in column if not isinstance(cell, str)}
    if not both:
        return ()
    which = f"{count(len(both), 'name stands', 'names stand')} as a text and as another kind of cell"
    return (f"Column '{name}': {which}: {quote_names(sorted(both), limit=5)}; each was read as one.",)


def _read_stream(source: Any, role: str) -> Cells:
    kind = type(source).__name__
    try:
        if not hasattr(source, "__arrow_c_stream__"):
            raise TypeError
        table = pa.RecordBatchReader.from_stream(source).read_all()
    except (TypeError, pa.ArrowException) as error:
        raise InputError(f"cannot read {role} from a {kind}; give a path or a pandas or polars DataFrame.") from error
    names = [name.strip() for name in table.column_names]
    check_names(kind, names)
    return _of_frame(kind, {name: plain(column) for name, column in zip(names, table.columns, strict=True)})


def _of_frame(source: str, columns: dict[str, pa.ChunkedArray], notes: tuple[str, ...] = ()) -> Cells:
    at = "{}, row {} (counted from 0)".format
    return _tabular(source, columns, lambda row: at(source, row), untyped=frozenset(), notes=notes)


def _column_name(name: Any) -> str:
    return "" if pd.api.types.is_scalar(name) and pd.isna(name) else str(name).strip()


def _tabular(
    source: str,
    columns: dict[str, pa.ChunkedArray],
    at: Callable[[int], str],
    *,
    untyped: frozenset[str],
    notes: tuple[str, ...] = (),
) -> Cells:
    if "" in columns:
        # A column without a name is most often an index that was written along.
        columns = {name: column for name, column in columns.items() if name}
        notes = (*notes, "1 column has no name and was left out.")
    if not columns:
        raise DataError(f"{source}: has no columns; a table needs a time column and at least one channel.")
    n_rows = len(next(iter(columns.values())))
    if n_rows == 0:
        raise DataError(f"{source}: has columns {NO_ROWS}")
    return Cells(source, columns, n_rows, at, untyped, notes)
