"""Time zones: their names, their offsets, and wall clocks to UTC and back. All times are int64 nanoseconds."""

from __future__ import annotations

import re
import zoneinfo

import numpy as np
import pandas as pd

from latentode.data.schema import count
from latentode.errors import DataError, InputError

_MINUTE_NS = 60_000_000_000
_OFFSET = r"([+-])([0-9]{2}):([0-9]{2})"


def check_zone(name: str) -> None:
    """Refuse what is neither an IANA zone nor a fixed offset.

    Raises:
        InputError: there is no such zone.
    """
    found = re.fullmatch(_OFFSET, name) if isinstance(name, str) else None
    if found and (int(found[2]) > 23 or int(found[3]) > 59):
        raise InputError(f"time_zone is {name!r}; offsets go from -23:59 to +23:59, write one such as +02:00.")
    try:
        if offset_ns(name) is None:
            zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, TypeError, ValueError, OSError) as error:
        raise InputError(
            f"time_zone is {name!r}, which is no IANA zone; write one such as Europe/Berlin or UTC."
        ) from error


def name_zone(offset: str) -> str:
    """Spell an offset one way; names of zones stay.

    >>> [name_zone(text) for text in ("Z", "+0200", "-03", "Europe/Berlin")]
    ['UTC', '+02:00', '-03:00', 'Europe/Berlin']
    """
    if offset.upper() in ("Z", "UTC") or re.fullmatch(r"[+-]00:?(00)?", offset):
        return "UTC"
    found = re.fullmatch(r"([+-][0-9]{2}):?([0-9]{2})?", offset)
    return f"{found[1]}:{found[2] or '00'}" if found else offset


def offset_ns(zone: str) -> int | None:
    """Give a fixed offset from UTC in nanoseconds; None for a zone whose offset varies.

    >>> offset_ns("-03:30") // 60_000_000_000
    -210
    """
    if zone == "UTC":
        return 0
    found = re.fullmatch(_OFFSET, zone)
    if not found:
        return None
    minutes = int(found[2]) * 60 + int(found[3])
    return (-1 if found[1] == "-" else 1) * minutes * _MINUTE_NS


def localize(local: np.ndarray, zone: str, *, what: str) -> np.ndarray:
    """Turn wall-clock times of a zone `(N,)` into times in UTC.

    Args:
        local: nanoseconds on the wall clock, `(N,)`.
        zone: name or offset.
        what: what the times are, for the message.

    Raises:
        DataError: a wall-clock time does not exist in the zone or exists twice (summer time begins or ends).
    """
    fixed = offset_ns(zone)
    if fixed is not None:
        return local - fixed
    stamps = pd.DatetimeIndex(local.view("datetime64[ns]")).tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    rows = np.flatnonzero(stamps.isna())
    if len(rows):
        first = pd.Timestamp(int(local[rows[0]]))
        raise DataError(
            f"{what}: {first} does not exist or exists twice in {zone}, where summer time begins or ends "
            f"({count(len(rows), 'such time', 'such times')}); write its offset."
        )
    return _nanoseconds(stamps.tz_convert("UTC").tz_localize(None))


def local_clock(utc: np.ndarray, zone: str | None) -> np.ndarray:
    """Give the wall clock of a zone in nanoseconds `(N,)`, of times in UTC; without a zone they are wall clocks as they are."""
    fixed = 0 if zone is None else offset_ns(zone)
    if fixed is not None:
        return utc + fixed
    return _nanoseconds(pd.DatetimeIndex(utc.view("datetime64[ns]"), tz="UTC").tz_convert(zone).tz_localize(None))


def wall_clock(utc: np.ndarray, zone: str) -> tuple[np.ndarray, np.ndarray]:
    """Give the wall clock of a zone, and its offset as text.

    Args:
        utc: nanoseconds since 1970 in UTC, `(N,)`.
        zone: name or offset.

    Returns:
        nanoseconds on the wall clock `(N,)`, and texts such as `+02:00` `(N,)`: their difference is exactly `utc`.
    """
    shift = local_clock(utc, zone) - utc
    # Offsets before about 1900 have seconds (Amsterdam +00:19:32), which ISO 8601 cannot write.
    shift -= shift % _MINUTE_NS
    distinct, place = np.unique(shift, return_inverse=True)
    texts = np.asarray([_format_offset(int(value)) for value in distinct], dtype="U6")
    return utc + shift, texts[place]


def _nanoseconds(stamps: pd.DatetimeIndex) -> np.ndarray:
    return stamps.to_numpy().astype("datetime64[ns]").astype(np.int64)


def _format_offset(ns: int) -> str:
    minutes = abs(ns) // _MINUTE_NS
    return f"{'-' if ns < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"
