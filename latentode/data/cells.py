"""Files and frames as columns of cells that remember where they stand."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pa_parquet

from latentode.data.arrow import plain, to_arrow
from latentode.data.csv_text import NO_ROWS, check_names, read_csv
from latentode.errors import DataError, InputError


@dataclass(frozen=True)
class Cells:
    """Named columns of one file or frame.

    Attributes:
        source: the path, or "DataFrame".
        columns: one array per column, all of length `n_rows`; CSV columns are text unless they read as float64.
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


def read_cells(source: str | Path | pd.DataFrame, *, text_columns: Collection[str] = (), role: str = "data") -> Cells:
    """Read a CSV (plain or gzip), a Parquet file or folder, or a DataFrame.

    Args:
        source: what to read.
        text_columns: CSV columns that are never read as numbers, so that an id `007` stays `007`.
        role: what the file is to the user, for the messages ("data", "history", "query").

    Raises:
        DataError: the source is missing, empty, cut off, binary, ragged, or has unusable column names.
        InputError: the source is neither a path nor a DataFrame.
    """
    if isinstance(source, pd.DataFrame):
        return _read_frame(source)
    if not isinstance(source, str | Path):
        raise InputError(f"cannot read {role} from a {type(source).__name__}; give a path or a pandas DataFrame.")
    path = Path(source)
    try:
        data = b"" if path.is_dir() else path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: no such {role} file; check the path.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); check the path and its permissions.") from error
    if data[:4] == b"PAR1" or path.is_dir():
        return _read_parquet(path)
    columns, at = read_csv(str(path), _gunzip(str(path), data), text_columns)
    return _tabular(str(path), columns, at, untyped=frozenset(columns))


def _gunzip(path: str, data: bytes) -> bytes:
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip file is cut off or damaged ({error}); copy or download it again.") from error


def _read_parquet(path: Path) -> Cells:
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.parquet") if file.is_file() and not file.name.startswith("."))
    if not files:
        raise DataError(
            f"{path}: is a folder without a .parquet file; give a CSV or Parquet file, or a folder of Parquet files."
        )
    schemas = [_parquet_schema(file) for file in files]
    # Values in names of folders (`station=007`) are text: an id keeps its zeros, and numbers are read from text as in a CSV.
    parts = [part for file in files for part in file.relative_to(path).parent.parts if "=" in part]
    partition = pa.schema([(key, pa.string()) for key in dict.fromkeys(part.split("=")[0] for part in parts)])
    try:
        # A column that only some files have is part of the table, empty in the others.
        schema = pa.unify_schemas([*schemas, partition], promote_options="permissive")
        dataset = pa_dataset.dataset(
            [str(file) for file in files],
            schema=schema,
            format="parquet",
            partitioning=pa_dataset.partitioning(partition, flavor="hive"),
            partition_base_dir=str(path) if path.is_dir() else None,
        )
        table = dataset.to_table()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet ({_first_line(error)}); "
            "the file is damaged, or the files of the folder disagree on a column; write them again."
        ) from error
    # pandas writes an index that has no name as a column of this name.
    columns = {name: table.column(name) for name in table.column_names if not name.startswith("__index_level_")}

    def at(row: int) -> str:
        for file in files:
            n_rows = pa_parquet.read_metadata(file).num_rows
            if row < n_rows:
                break
            row -= n_rows
        return f"{file}, row {row + 1}"

    return _tabular(str(path), columns, at, untyped=frozenset(partition.names))


def _parquet_schema(file: Path) -> pa.Schema:
    try:
        schema = pa_parquet.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file}: cannot be read as Parquet ({_first_line(error)}); the file is damaged or cut off, write it again."
        ) from error
    check_names(str(file), schema.names)
    return schema.remove_metadata()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _read_frame(frame: pd.DataFrame) -> Cells:
    columns = [frame.iloc[:, i] for i in range(frame.shape[1])]
    names = [_column_name(name) for name in frame.columns]
    if any(name is not None for name in frame.index.names):
        levels = range(frame.index.nlevels)
        columns = [frame.index.get_level_values(level).to_series() for level in levels] + columns
        names = [_column_name(name) for name in frame.index.names] + names
    check_names("DataFrame", names)
    arrays = {name: to_arrow(column) for name, column in zip(names, columns, strict=True)}
    return _tabular("DataFrame", arrays, lambda row: f"DataFrame, row {row} (counted from 0)", untyped=frozenset())


def _column_name(name: Any) -> str:
    return "" if pd.api.types.is_scalar(name) and pd.isna(name) else str(name).strip()


def _tabular(
    source: str, columns: dict[str, pa.ChunkedArray], at: Callable[[int], str], *, untyped: frozenset[str]
) -> Cells:
    notes = ()
    if "" in columns:
        # A column without a name is most often an index that was written along.
        columns = {name: column for name, column in columns.items() if name}
        notes = ("1 column has no name and was left out.",)
    if not columns:
        raise DataError(f"{source}: has no columns; a table needs a time column and at least one channel.")
    n_rows = len(next(iter(columns.values())))
    if n_rows == 0:
        raise DataError(f"{source}: has columns {NO_ROWS}")
    return Cells(source, {name: plain(column) for name, column in columns.items()}, n_rows, at, untyped, notes)
