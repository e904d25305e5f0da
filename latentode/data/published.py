"""Files as other people published them: read by pandas, refused in one sentence where they are something else."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

from latentode.data.schema import count, quote_names
from latentode.errors import DataError

_UNREADABLE = (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError)


def read_columns(path: Path, wanted: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a CSV with a header; the `wanted` columns alone, in this order, or all of them.

    Raises:
        DataError: the file is no CSV or lacks a column.
    """
    try:
        header = list(pd.read_csv(path, nrows=0).columns)
        missing = [name for name in wanted or [] if name not in header]
        if missing:
            raise DataError(
                f"{path}: has no column '{missing[0]}' (it has {quote_names(header)}); prepare or download it again."
            )
        return pd.read_csv(path, usecols=None if wanted is None else list(wanted)).reindex(columns=wanted or header)
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); download it again.") from error


def to_floats(
    frame: pd.DataFrame, columns: Sequence[str], path: Path, *, counted: np.ndarray | None = None
) -> np.ndarray:
    """Give columns of a frame that `read_columns` gave as float64 `(N, K)`, an empty cell as NaN.

    Args:
        frame: the file's columns.
        columns: `K` of their names.
        path: of the file.
        counted: which cells count, bool `(N, K)`; another may be infinite. None: all.

    Raises:
        DataError: a cell is no finite number; the message names line and column.
    """
    numbers = np.empty((len(frame), len(columns)))
    for i, name in enumerate(columns):
        column = frame[name]
        numbers[:, i] = np.asarray(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
        is_infinite = np.isinf(numbers[:, i]) & (True if counted is None else counted[:, i])
        is_wrong = (np.isnan(numbers[:, i]) & column.notna().to_numpy()) | is_infinite
        _refuse(frame, name, is_wrong, path, "holds {cell}, which is no number")
    return numbers


def to_integers(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> np.ndarray:
    """Give columns of a frame that `read_columns` gave as int64 `(N, K)`.

    Raises:
        DataError: a cell is empty or no whole number; the message names line and column.
    """
    refuse_empty(frame, columns, path)
    numbers = to_floats(frame, columns, path)
    for i, name in enumerate(columns):
        # From 2^53 on a float is no longer the number in the file.
        is_wrong = (np.rint(numbers[:, i]) != numbers[:, i]) | (np.abs(numbers[:, i]) >= 2**53)
        _refuse(frame, name, is_wrong, path, "holds {cell}, which is no whole number")
    return numbers.astype(np.int64)


def refuse_empty(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Refuse a frame that `read_columns` gave where a cell of these columns is empty.

    Raises:
        DataError: a cell is empty; the message names line and column.
    """
    for name in columns:
        _refuse(frame, name, np.asarray(frame[name].isna()), path, "is empty")


def _refuse(frame: pd.DataFrame, name: str, is_wrong: np.ndarray, path: Path, what: str) -> None:
    rows = np.flatnonzero(is_wrong)
    if len(rows):
        text = what.replace("{cell}", f"'{frame[name].iloc[rows[0]]}'")
        raise DataError(
            f"{path}, line {line_of(path, int(rows[0]))}: column '{name}' {text} "
            f"({count(len(rows), 'such cell', 'such cells')}); prepare or download the file again."
        )


def line_of(path: Path, row: int) -> int:
    """Give the line of a row of `read_columns`, which passes over blank lines; it reads the file again, so it is for messages only."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        line, n_left = 1, row + 1  # the header comes first
        for record in reader:
            if len(record) > 1 or (record and record[0].strip()):
                if n_left == 0:
                    return line
                n_left -= 1
            line = reader.line_num + 1
    return row + 2


def read_cells_as_text(content: bytes, n_columns: int, source: str) -> np.ndarray:
    """Read comma-separated lines without a header as text, `(L, n_columns)`; what a short line lacks is empty.

    Raises:
        DataError: a line has more cells, or the bytes are no UTF-8.
    """
    wrong = f"{source}: cannot be read as lines of {n_columns} cells"
    try:
        frame = pd.read_csv(BytesIO(content), header=None, names=range(n_columns), dtype=str, na_filter=False)
    except _UNREADABLE as error:
        raise DataError(f"{wrong} ({error}); download it again.") from error
    # Where the first line is longer, pandas takes its first cells for an index.
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{wrong} (the first line holds more); download it again.")
    if len(frame) == 0:
        raise DataError(f"{wrong} (it is empty); download it again.")
    return frame.fillna("").to_numpy(dtype=object)


def note_checksum(path: Path, sha256: str) -> tuple[str, ...]:
    """Say so, in one note, where the file is not the published one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return () if found == sha256 else (f"{path} is not the published file: its SHA-256 is {found}, not {sha256}.",)
