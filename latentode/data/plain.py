"""Plain values: numbers, texts, lists, and names with values; how files that hold nothing else are read.

A file of a stranger is read in three steps, each of which can refuse it: its form (JSON, or YAML by the safe loader), that it is a tree
of bounded size (a few lines of YAML can stand for more values than there is memory for), and that each value is of the type that it
is taken for.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from latentode.errors import InputError

MAX_VALUES, MAX_DEPTH = 2_000_000, 64
_MAX_BYTES = 256 << 20  # of a JSON or YAML file; ours have a few thousand


def check_tree(value: Any, what: str, *, leaves: tuple[type, ...] = ()) -> None:
    """Refuse what is more than plain values, is nested in itself, or stands for more values than anyone writes down.

    Args:
        value: what was read.
        what: its name, for the message.
        leaves: further types that may stand where a number may.

    Raises:
        InputError: see above.
    """
    sizes: dict[int, int] = {}
    inside: set[int] = set()

    def size(value: Any, depth: int) -> int:
        kind = type(value)
        if value is None or kind in (str, int, float, bool) or kind in leaves:
            return 1
        if kind not in (dict, OrderedDict, list, tuple):
            raise InputError(f"{what} holds a {kind.__name__}, which is no plain value.")
        if id(value) in sizes:
            return sizes[id(value)]
        if depth > MAX_DEPTH or id(value) in inside:
            raise InputError(f"{what} is nested more than {MAX_DEPTH} levels deep.")
        inside.add(id(value))
        entries = [*value, *value.values()] if isinstance(value, dict) else value
        n = 1 + sum(size(entry, depth + 1) for entry in entries)
        inside.discard(id(value))
        # Of a part that stands in several places every place counts.
        sizes[id(value)] = n
        if n > MAX_VALUES:
            raise InputError(f"{what} holds more than {MAX_VALUES:,} values.")
        return n

    size(value, 0)


def parse_yaml(text: str, what: str) -> Any:
    """Read YAML of plain values; nothing is built, whatever its tags say.

    Raises:
        InputError: it is none.
    """
    try:
        content = yaml.safe_load(text)
    except Exception as error:
        # Not only YAMLError: the loader lets through what `int`, `datetime` and the stack raise.
        raise InputError(f"{what} is no YAML ({' '.join(str(error).split())[:200]}).") from error
    check_tree(content, what)
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is none; the message names the file.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no JSON ({' '.join(str(error).split())[:200]}).") from error
    check_tree(content, str(path))
    return content


def read_text(path: Path) -> str:
    """Read a small file of UTF-8 text.

    Raises:
        InputError: it is not there, is no such text, or is too large for a file of settings.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise InputError(f"{path} is larger than {_MAX_BYTES >> 20} MiB, which no file of settings or figures is.")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error


def fits(value: Any, hint: Any) -> bool:
    """Say whether a plain value, or an object, is of an annotated type.

    Args:
        value: anything.
        hint: a class, a union, a `Literal`, a sequence or tuple of one type, a tuple of several, or a mapping.

    Example:
        >>> fits([1, 2], list[int]), fits(["a"], list[int]), fits(3, float | None), fits(True, int)
        (True, False, True, False)
    """
    if hint is Any:
        return True
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if kind is typing.Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if isinstance(kind, type) and issubclass(kind, Sequence):
        if not isinstance(value, list | tuple):
            return False
        if kind is tuple and inner[-1] is not Ellipsis:
            return len(value) == len(inner) and all(fits(one, of) for one, of in zip(value, inner, strict=True))
        return all(fits(one, inner[0]) for one in value)
    if isinstance(value, bool):
        return hint is bool
    if isinstance(value, int) and hint in (int, float):
        return abs(value) < 2**63
    return isinstance(value, hint)


def check_fields(cls: type, values: Any, what: str) -> dict[str, Any]:
    """Give the values of a dataclass' fields, once they are of the annotated types; a field with a default may be missing.

    Raises:
        InputError: one is not, is missing, or is no field; the message names it.
    """
    if not fits(values, dict[str, Any]):
        raise InputError(f"{what} is no list of names with values.")
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if name not in hints:
            raise InputError(f"{what} has no field {name!r}.")
        if not fits(value, hints[name]):
            raise InputError(f"{what}: {name} is {shorten(value)}.")
    for field in fields(cls):
        required = repr(field.default) == repr(field.default_factory)  # both MISSING
        if required and field.name not in values:
            raise InputError(f"{what} lacks {field.name!r}.")
    return values


def shorten(value: Any, limit: int = 60) -> str:
    """Write a value for a message: a part of it where it is long, and never all of a list before it is cut."""
    if isinstance(value, str | int | float) or value is None:
        # A whole number of many thousand digits is not even converted.
        if isinstance(value, int) and abs(value) >= 2**63:
            return "a whole number beyond 2^63"
        text = repr(value[: limit + 1] if isinstance(value, str) else value)
        return text if len(text) <= limit else f"{text[:limit]}..."
    return f"a {type(value).__name__}"


def is_finite(value: Any) -> bool:
    """Say whether a value is a finite number (no bool)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Give nested names with values by dotted names; an empty one is a value.

    >>> flatten({"data": {"horizon": 3, "known": {}}})
    {'data.horizon': 3, 'data.known': {}}
    """
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts = [flatten(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items()]
    return {name: entry for part in parts for name, entry in part.items()}
