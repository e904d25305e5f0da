"""Files are written whole or not at all: under a temporary name beside their place, flushed to the disk, then put there in one move."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import math
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentode.errors import RunError, WriteError

if TYPE_CHECKING:
    import pandas as pd

try:
    import fcntl
except ImportError:  # Windows, where a folder is not locked
    fcntl = None

LOCK = ".lock"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a crash, a kill, a full disk or a loss of power leaves what was there before.

    Args:
        path: where it shall be.
        write: writes the content to the path that it is given.

    Raises:
        WriteError: the disk is full, or the folder cannot be written into.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    # Somebody may have put a link there, by which something else would be written over.
    part.unlink(missing_ok=True)
    try:
        write(part)
        # The content first, then its name: in the other order a loss of power may leave the name of an empty file.
        _flush(part)
        part.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise _failure(path, error) from error
    finally:
        with contextlib.suppress(
            OSError
        ):  # a file system that can only be read does not unlink what is not there either
            part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # a folder cannot be opened there
    try:
        _flush(folder)
    except OSError as error:
        # Some network file systems flush no folder: the file is there, only its name is written when they please.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise


def _failure(path: Path, error: OSError) -> WriteError:
    """Say in a sentence why a path could not be written."""
    if isinstance(error, WriteError):
        return error
    # Libraries that write by themselves (arrow) give a text of their own instead of the number.
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
    reason = error.strerror or " ".join(str(error).split())[:200]
    if is_full:
        return WriteError(f"{path} could not be written: No space left on device; free some and try again.")
    return WriteError(f"{path} could not be written: {reason}; choose another folder, or make it writable.")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises:
        WriteError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _failure(folder, error) from error


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep a folder for oneself; the hold ends with the process, however that ends, and what a killed one left half written is removed.

    Args:
        folder: made where it is not there, and removed again if nothing is in it in the end.

    Raises:
        RunError: another process holds it; the message names it.
        WriteError: the folder cannot be written into.
    """
    was_there = folder.exists()
    make_folder(folder)
    path = folder / LOCK
    descriptor = _lock(path)
    try:
        for part in folder.glob(".*.part"):
            part.unlink(missing_ok=True)
        yield
    finally:
        # Removed while it is held, so that nobody else's is removed.
        path.unlink(missing_ok=True)
        if not was_there:
            with contextlib.suppress(OSError):  # something is in it, or it is gone already
                folder.rmdir()
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Give the descriptor of the locked file, in which stands who holds it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise _failure(path.parent, error) from error
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise _failure(path.parent, error) from error
            raise RunError(
                f"{path.parent} is in use by {holder or 'another process'}; wait until it ends, or name another folder."
            ) from error
        # Between opening and locking, whoever held it may have removed the file: the lock would then be of a file that nobody sees.
        if _is_file_of(descriptor, path):
            break
        os.close(descriptor)
    with contextlib.suppress(OSError):  # on a full disk it is locked all the same
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


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
