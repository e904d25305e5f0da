"""Durations as users write them: `7d`, `12h`, `1d12h`, or a plain number where times are numbers."""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

import numpy as np
import pandas as pd

from latentode.errors import InputError

_UNITS_NS = {
    "w": 604_800_000_000_000,
    "d": 86_400_000_000_000,
    "h": 3_600_000_000_000,
    "min": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}
_PART = r"([0-9]+\.?[0-9]*|\.[0-9]+)?(min|ms|us|ns|[wdhs])"


def parse_duration(text: str | float | datetime.timedelta, time_kind: str, *, name: str = "horizon") -> int | float:
    """Read a duration: `7d`, `12h`, `1d12h` for a table of datetimes, a plain number for a table of numbers.

    Args:
        text: the user's duration; units are w, d, h, min, s, ms, us, ns.
        time_kind: "datetime" or "number".
        name: the setting, for messages.

    Returns:
        int64 nanoseconds for datetimes, a float in the unit of time for numbers; always positive.

    Raises:
        InputError: it cannot be read, is not positive, or is of the wrong kind.

    >>> parse_duration("12h", "datetime") // 3_600_000_000_000
    12
    >>> parse_duration("0.75", "number")
    0.75
    """
    value = _in_unit_of_time(text, name) if time_kind == "number" else _in_nanoseconds(text, name)
    if not (0 < value < math.inf):
        raise InputError(f"{name} is {str(text)!r}; give a positive duration.")
    if time_kind == "datetime" and value >= 2**63:
        raise InputError(f"{name} is {str(text)!r}, more than 292 years; give a shorter duration.")
    return value


def _in_unit_of_time(text: Any, name: str) -> float:
    try:
        if isinstance(text, bool | datetime.timedelta | np.timedelta64):
            raise TypeError
        return float(text)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} is {str(text)!r}, but the table's times are plain numbers; give a positive number in their unit."
        ) from error


def _in_nanoseconds(text: Any, name: str) -> int:
    form = f'{name} is {str(text)!r}; the table\'s times are dates, so give a duration such as "7d", "12h" or "30min"'
    if isinstance(text, datetime.timedelta | np.timedelta64) and not pd.isna(text):
        try:
            return int(pd.Timedelta(text).as_unit("ns").value)
        except ValueError as error:
            # A calendar month, or more than nanoseconds can count.
            raise InputError(f"{form}.") from error
    if not isinstance(text, str):
        raise InputError(f"{form}.")
    compact = re.sub(r"\s+", "", text)
    if re.search(r"[0-9](M|m|mo|ME|MS|Y|y|YE|Q|QE)$", compact):
        raise InputError(f"{form}; months and years have no fixed length (30d, 365d), and minutes are written min.")
    if re.fullmatch(rf"-({_PART})+", compact.lower()):
        return -1
    if not re.fullmatch(rf"({_PART})+", compact.lower()):
        raise InputError(f"{form}.")
    parts = re.findall(_PART, compact.lower())
    return round(sum((float(n) if "." in n else int(n or 1)) * _UNITS_NS[unit] for n, unit in parts))


# Steps that people think in, in nanoseconds: seconds, minutes, hours, days.
_STEPS = [
    n * _UNITS_NS[u]
    for u, ns in {
        "s": (1, 5, 15, 30),
        "min": (1, 5, 15, 30),
        "h": (1, 2, 3, 6, 12),
        "d": (1, 2, 7, 14, 30, 90, 365),
    }.items()
    for n in ns
]


def suggest_step(horizon: float, time_kind: str) -> str:
    """Suggest a step that divides a horizon into some five to twenty parts, as a user would write it.

    Args:
        horizon: as `parse_duration` gives it.
        time_kind: "datetime" or "number".

    >>> suggest_step(7 * 86_400_000_000_000, "datetime"), suggest_step(730.0, "number")
    ('12h', '73')
    """
    if time_kind == "number":
        return format_duration(float(f"{horizon / 10:.2g}"), time_kind)
    return format_duration(
        max((step for step in _STEPS if step * 10 <= horizon), default=max(horizon // 10, 1)), time_kind
    )


def format_duration(value: float, time_kind: str) -> str:
    """Write a duration as `parse_duration` reads it.

    >>> format_duration(7 * 86_400_000_000_000, "datetime"), format_duration(0.75, "number")
    ('7d', '0.75')
    """
    if time_kind == "number":
        return repr(float(value)).removesuffix(".0")
    rest, parts = int(value), []
    for unit, size in _UNITS_NS.items():
        # Weeks read worse than days ("26w" for half a year), so they are read but not written.
        n, rest = (0, rest) if unit == "w" else divmod(rest, size)
        if n:
            parts.append(f"{n}{unit}")
    return "".join(parts) or "0s"
