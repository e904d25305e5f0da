"""Files are written whole or not at all: under a temporary name beside their place, then put there in one move."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a crash, a kill or a full disk leaves what was there before.

    Args:
        path: where it shall be.
        write: writes the content to the path that it is given.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    # Somebody may have put a link there, by which something else would be written over.
    part.unlink(missing_ok=True)
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain values as JSON; NaN and infinity, which JSON has not, become null."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# What a spreadsheet takes a cell for a formula by; an apostrophe is among them so that what was put before can be told from what was there.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def guard_text(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would take for a formula; all other texts stay.

    To read such texts back, drop the first apostrophe of those that begin with one.

    >>> guard_text("=1+1"), guard_text("a=b"), guard_text("'a")
    ("'=1+1", 'a=b', "''a")
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def guard_frame(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Give a table whose texts and names of columns no spreadsheet takes for formulas (`guard_text`), and how many were changed."""
    names = [guard_text(str(name)) for name in frame.columns]
    n_changed = sum(new != str(old) for new, old in zip(names, frame.columns, strict=True))
    guarded = frame.set_axis(names, axis=1)
    for name, (_, column) in zip(names, frame.items(), strict=True):
        is_text = column.map(lambda cell: isinstance(cell, str))
        if is_text.any():
            guarded[name] = column.map(_guard_cell)
            n_changed += int((guarded[name].to_numpy() != column.to_numpy())[is_text.to_numpy()].sum())
    return guarded, n_changed


def _guard_cell(cell: Any) -> Any:
    return guard_text(cell) if isinstance(cell, str) else cell


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table, as Parquet by its suffix, else as CSV (compressed where it ends in .gz)."""
    if path.suffix == ".parquet":
        write_whole(path, lambda part: frame.to_parquet(part, index=False))
        return
    # Nine digits: more than float32 holds, so that nothing is lost, and less noise than a float64's seventeen. No time stamp in the
    # compressed file: the same table gives the same bytes.
    compression = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
    # The writer leaves a carriage return without quotes, and readers take it for the end of a row.
    has_return = any(
        isinstance(cell, str) and "\r" in cell for name in frame.columns for cell in (name, *_distinct(frame[name]))
    )
    quoting = csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL
    write_whole(
        path,
        lambda part: frame.to_csv(part, index=False, float_format="%.9g", compression=compression, quoting=quoting),
    )


def _distinct(column: Any) -> Iterable[Any]:
    return () if column.dtype.kind in "iufbM" else column.unique()
