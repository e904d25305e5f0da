"""Files are written whole or not at all: under a temporary name beside their place, then put there in one move."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
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
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def to_json(content: Any) -> str:
    """Give plain values as JSON; NaN and infinity, which JSON has not, become null."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Write plain values as `to_json` gives them."""
    text = to_json(content)
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table, as Parquet by its suffix, else as CSV (compressed where it ends in .gz)."""
    if path.suffix == ".parquet":
        write_whole(path, lambda part: frame.to_parquet(part, index=False))
        return
    # Nine digits: more than float32 holds, so that nothing is lost, and less noise than a float64's seventeen. No time stamp in the
    # compressed file: the same table gives the same bytes.
    compression = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
    write_whole(path, lambda part: frame.to_csv(part, index=False, float_format="%.9g", compression=compression))
