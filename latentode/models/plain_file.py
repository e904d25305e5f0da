"""Checkpoints as files of tensors and plain values, and nothing else: what is read runs nothing, imports nothing, and fits into memory.

`torch.load(weights_only=True)` is the one way in, and there is no other where it refuses. It still builds more than we write (tensors
of other kinds, sets, values that stand in themselves) and unpacks archives that are small only on disk; both are refused here, before
anyone looks at the values.
"""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentode.data.plain import check_tree
from latentode.errors import InputError, RunError

# A tensor may stand for more numbers than are stored, by a stride of 0. Ours do so for little.
_MAX_SHARED = 16 << 20
_AT_LEAST = 4096  # bytes that a tensor is taken for in `bounded_memory`: many small ones take time instead of memory


def load_plain(path: Path) -> Any:
    """Read a file of tensors and plain values, and nothing else.

    Args:
        path: of a file on this machine.

    Raises:
        RunError: it is not there, is cut off, or holds anything that is not a plain value or a dense tensor.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist; name a run folder that `latentode fit` wrote.")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            _check_archive(file, size)
            file.seek(0)
            content = _load(file)
    except _More as error:
        raise RunError(f"{path} holds more than plain values and tensors, so it is not loaded.") from error
    except Exception as error:
        # Whatever a damaged file makes torch raise, it means the same to who wanted to load it.
        raise RunError(f"{path} is cut off or is no checkpoint; fit the model again.") from error
    try:
        check_tree(content, str(path), leaves=(Tensor,))
        _check_tensors(content, max(_MAX_SHARED, 4 * size))
    except InputError as error:
        raise RunError(f"{path} holds more than plain values and tensors, so it is not loaded ({error})") from error
    return content


class _More(Exception):
    """The file names something that is no tensor and no plain value."""


def _load(file: IO[bytes]) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns of an unusual pickle before it refuses it; the refusal says enough.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _More from error


def _check_archive(file: IO[bytes], size: int) -> None:
    """Refuse what is no archive as torch writes it, or one whose members are packed, so that they may unpack to anything.

    Raises:
        ValueError, zipfile.BadZipFile: see above.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    if any(one.compress_type != zipfile.ZIP_STORED for one in members) or sum(one.file_size for one in members) > size:
        raise ValueError("members are packed")


def _check_tensors(content: Any, limit: int) -> None:
    """Refuse tensors that are not dense, or stand for much more than the file holds.

    Raises:
        InputError: see above.
    """
    total, seen, left = 0, set(), [content]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            if (
                type(value) is not Tensor
                or value.layout != torch.strided
                or value.is_quantized
                or value.device.type != "cpu"
            ):
                raise InputError("it holds a tensor that is not dense.")
            total += value.numel() * value.element_size()
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, dict) else value
    if total > limit:
        raise InputError("it holds tensors that are larger than the file.")


@contextmanager
def bounded_memory(n_bytes: int, what: str) -> Iterator[None]:
    """Refuse what makes new tensors of more than `n_bytes` in all: settings of a file may ask for any size.

    Args:
        n_bytes: allowed.
        what: is built, for the message.

    Raises:
        RunError: more was asked for.
    """
    with _Bounded(n_bytes, what):
        yield


_OF_LENGTH = {getattr(torch.ops.aten, name) for name in ("arange", "linspace", "logspace", "eye", "randperm")}


class _Bounded(TorchDispatchMode):
    def __init__(self, n_bytes: int, what: str) -> None:
        super().__init__()
        self.left, self.what = n_bytes, what

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Before the memory is asked for. A size is a list of numbers (`empty`, `zeros`), or a number of its own (`arange`, `eye`).
        shapes = [arg for arg in args if isinstance(arg, list | tuple)]
        if func.overloadpacket in _OF_LENGTH:
            shapes += [[n] for n in args if isinstance(n, int)]
        sizes = [math.prod(n for n in shape if isinstance(n, int) and n > 0) for shape in shapes]
        self.left -= max(4 * max(sizes, default=0), _AT_LEAST)
        if self.left < 0:
            raise RunError(f"{self.what} asks for more numbers than its file holds; fit the model again.")
        return func(*args, **(kwargs or {}))
