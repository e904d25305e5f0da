"""Users' times to numbers and back.

Inside latentode a time is a float64 (where the user's times are numbers) or an int64 of nanoseconds since 1970-01-01 UTC (where they are
datetimes; naive ones are counted as if they were UTC). What the user wrote is remembered in `Schema.time_kind` and `Schema.time_zone`.
"""

from __future__ import annotations

import datetime
import math
import re
import zoneinfo
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from latentode.data.cells import is_missing_text, is_numeric, is_string, parse_numbers, to_float, to_numpy
from latentode.data.schema import Schema, TimeKind, count, quote_names
from latentode.errors import DataError, InputError

_CLOCK = r"[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?"
_OFFSET = r"Z|z|[+-][0-9]{2}(?::?[0-9]{2})?"
_ISO = rf"^(?P<stamp>[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}(?:{_CLOCK})?) ?(?P<offset>{_OFFSET})?$"
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
_DAY_NS = _UNITS_NS["d"]


@dataclass(frozen=True)
class Times:
    """Times as numbers: `value` is float64 or int64 nanoseconds `(N,)`, `kind` and `zone` as in `Schema`."""

    value: np.ndarray
    kind: TimeKind
    zone: str | None


def parse_times(
    cells: pa.ChunkedArray | pd.Series | Sequence[Any],
    *,
    time_zone: str | None = None,
    at: Callable[[int], str] = "entry {}".format,
    name: str = "time",
) -> Times:
    """Read a column of times: all plain numbers, or all ISO 8601 datetimes.

    Args:
        cells: the column, `(N,)`.
        time_zone: IANA zone in which the times are given back; needed only where offsets differ within the column.
        at: gives the place of a row for the messages.
        name: name of the column for the messages.

    Raises:
        DataError: a cell is missing, infinite, no time, of another kind than the others, or outside the years 1678 to 2261.
    """
    column = cells if isinstance(cells, pa.ChunkedArray) else _to_arrow(cells)
    if time_zone is not None:
        check_zone(time_zone)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    problem = _Problem(at, name)
    if is_string(column.type):
        return _parse_text(column, time_zone, problem)
    problem.refuse(
        to_numpy(pc.is_null(column, nan_is_null=True)), column, "holds no time", "fill it in or remove the row"
    )
    if is_numeric(column.type):
        return _numbers(to_float(column), column, time_zone, problem)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _stamps(column, time_zone, problem)
    raise DataError(f"{at(0)}: column '{name}' is of type {column.type}; write numbers or ISO 8601 datetimes.")


@dataclass(frozen=True)
class _Problem:
    at: Callable[[int], str]
    name: str

    def refuse(self, is_bad: np.ndarray, column: pa.ChunkedArray, what: str, remedy: str) -> None:
        """Raise for the first bad cell, with the number of such rows; `what` may name the cell as `{cell}`."""
        rows = np.flatnonzero(is_bad)
        if len(rows):
            cell = column[int(rows[0])].as_py()
            text = what.replace("{cell}", repr(cell))
            such = count(len(rows), "such row", "such rows")
            raise DataError(f"{self.at(int(rows[0]))}: column '{self.name}' {text} ({such}); {remedy}.")


def _to_arrow(cells: pd.Series | Sequence[Any]) -> pa.ChunkedArray:
    try:
        array = pa.array(cells if isinstance(cells, pd.Series) else list(cells), from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        array = pa.array([str(cell) for cell in cells])
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _parse_text(column: pa.ChunkedArray, time_zone: str | None, problem: _Problem) -> Times:
    text = pc.utf8_trim_whitespace(column)
    problem.refuse(to_numpy(is_missing_text(text)), column, "holds no time", "fill it in or remove the row")
    values, is_text = parse_numbers(text)
    if not is_text[0]:
        problem.refuse(is_text, column, "holds {cell} where other rows hold numbers", "write all times in one form")
        return _numbers(values, column, time_zone, problem)
    parts = pc.extract_regex(text, _ISO)
    problem.refuse(
        to_numpy(pc.is_null(parts)),
        column,
        "holds {cell}, which is no ISO 8601 datetime",
        "write it as 2026-01-31 or 2026-01-31T07:30:00, or name another column with --data.time_column (`time_column`)",
    )
    stamp, offset = pc.struct_field(parts, "stamp"), pc.struct_field(parts, "offset")
    year = to_numpy(pc.utf8_slice_codeunits(stamp, 0, 4).cast(pa.int64()))
    _check_years(year, column, problem)
    stamp = pc.replace_substring(stamp, ",", ".")
    local = pd.to_datetime(pd.Series(to_numpy(stamp), dtype="str"), format="ISO8601", errors="coerce")
    problem.refuse(local.isna().to_numpy(), column, "holds {cell}, a day or hour that does not exist", "correct it")
    local_ns = local.to_numpy().astype("datetime64[ns]").astype(np.int64)
    return _apply_offsets(local_ns, offset, column, time_zone, problem)


def _check_years(year: np.ndarray, column: pa.ChunkedArray, problem: _Problem) -> None:
    problem.refuse(
        (year < 1678) | (year > 2261),
        column,
        "holds {cell}, outside the years 1678 to 2261 that nanoseconds can tell",
        "correct it or give time as a plain number",
    )


def _numbers(values: np.ndarray, column: pa.ChunkedArray, time_zone: str | None, problem: _Problem) -> Times:
    problem.refuse(
        ~np.isfinite(values), column, "holds {cell}, which is not a finite number", "correct it or remove the row"
    )
    if time_zone is not None:
        raise DataError(
            f"{problem.at(0)}: column '{problem.name}' holds plain numbers, which have no time zone; leave time_zone out."
        )
    return Times(values, "number", None)


def _stamps(column: pa.ChunkedArray, time_zone: str | None, problem: _Problem) -> Times:
    zone = None if pa.types.is_date(column.type) else column.type.tz
    year = to_numpy(pc.year(column.cast(pa.timestamp("us"), safe=False)))
    _check_years(year, column, problem)
    # The wall clock of an arrow timestamp with a zone is UTC already.
    nanoseconds = to_numpy(column.cast(pa.timestamp("ns", tz=zone)).cast(pa.int64()))
    if zone is None:
        _refuse_zone_for_naive(time_zone, problem)
        return Times(nanoseconds, "datetime", None)
    return Times(nanoseconds, "datetime", time_zone or _name_zone(zone))


def _apply_offsets(
    local_ns: np.ndarray, offset: pa.ChunkedArray, column: pa.ChunkedArray, time_zone: str | None, problem: _Problem
) -> Times:
    spelled, texts = pd.factorize(to_numpy(offset))
    named = [_name_zone(text) if text else None for text in texts]
    zones = sorted({zone for zone in named if zone})
    # One code per zone, however it was spelled; -1 where there is no offset.
    codes = np.asarray([zones.index(zone) if zone else -1 for zone in named])[spelled]
    if not zones:
        _refuse_zone_for_naive(time_zone, problem)
        return Times(local_ns, "datetime", None)
    problem.refuse(
        codes < 0,
        column,
        "holds {cell}, a time without offset where others have one",
        "write the offset in every row or in none",
    )
    if len(zones) > 1 and time_zone is None:
        row = int(np.flatnonzero(codes != codes[0])[0])
        raise DataError(
            f"{problem.at(row)}: column '{problem.name}' mixes the offsets {quote_names(zones)}; "
            "say in which zone to read it with --data.time_zone Europe/Berlin (`time_zone`)."
        )
    shift = np.asarray([offset_ns(zone) for zone in zones], dtype=np.int64)
    return Times(local_ns - shift[codes], "datetime", time_zone or zones[0])


def _refuse_zone_for_naive(time_zone: str | None, problem: _Problem) -> None:
    if time_zone is not None:
        raise DataError(
            f"{problem.at(0)}: column '{problem.name}' has no offsets, so there is nothing to convert to {time_zone}; leave time_zone out."
        )


def check_zone(name: str) -> None:
    """Refuse what is neither an IANA zone nor a fixed offset.

    Raises:
        InputError: there is no such zone.
    """
    try:
        if offset_ns(name) is None:
            zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InputError(
            f"time_zone is '{name}', which is no IANA zone; write one such as Europe/Berlin or UTC."
        ) from error


def _name_zone(offset: str) -> str:
    """Spell an offset one way: `Z` is `UTC`, `+0200` is `+02:00`; other names stay."""
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
    found = re.fullmatch(r"([+-])([0-9]{2}):([0-9]{2})", zone)
    if not found:
        return None
    minutes = int(found[2]) * 60 + int(found[3])
    return (-1 if found[1] == "-" else 1) * minutes * _UNITS_NS["min"]


def parse_time_list(text_or_list: str | float | Sequence[Any], schema: Schema, *, name: str = "at") -> np.ndarray:
    """Read the times of an option such as `--at` into the numbers of a table.

    Args:
        text_or_list: a comma-separated text, one time, or a list of texts, numbers or datetimes.
        schema: the table that the times are for. A time without offset on a table with offsets is read in its zone (see `zone_note`).
        name: the option, for messages.

    Returns:
        Times `(Q,)`, float64 or int64 like `Table.time`, in the order given.

    Raises:
        InputError: a time cannot be read, is of the other kind, or has an offset where the table has none.
    """
    try:
        times = parse_times(_split_list(text_or_list, name), at=lambda row: f"{name}, entry {row + 1}", name=name)
        return match_times(times, schema, what=name)
    except DataError as error:
        raise InputError(str(error)) from error


def zone_note(text_or_list: str | float | Sequence[Any], schema: Schema, *, name: str = "at") -> str | None:
    """Say that times without offset are read in the table's zone; None where that does not happen."""
    if schema.time_kind != "datetime" or schema.time_zone is None:
        return None
    zone = parse_times(_split_list(text_or_list, name), name=name).zone
    return None if zone else read_in_zone(name, schema.time_zone)


def read_in_zone(what: str, zone: str) -> str:
    """Write the note on times that carry no offset."""
    return f"The times of {what} have no offset and were read in the table's zone, {zone}."


def _split_list(text_or_list: Any, name: str) -> list[Any]:
    if isinstance(text_or_list, str):
        entries: list[Any] = [entry for entry in text_or_list.split(",") if entry.strip()]
    elif isinstance(text_or_list, int | float | np.number | datetime.date | np.datetime64):
        entries = [text_or_list]
    else:
        entries = list(text_or_list)
    if not entries:
        raise InputError(f"{name} names no time; give at least one.")
    return entries


def match_times(times: Times, schema: Schema, *, what: str) -> np.ndarray:
    """Bring parsed times to the kind and zone of a table.

    Raises:
        DataError: numbers for a table of datetimes, datetimes for a table of numbers, or an offset for a table without.
    """
    if times.kind != schema.time_kind:
        form = "plain numbers" if schema.time_kind == "number" else "datetimes such as 2026-01-31T07:30"
        raise DataError(
            f"{what}: the table's times are {form}, but these are {times.kind}s; write them like the table's."
        )
    if times.zone is not None and schema.time_zone is None:
        raise DataError(
            f"{what}: these times have an offset ({times.zone}) but the table's have none; leave the offset out."
        )
    if times.zone is None and schema.time_zone is not None:
        return localize(times.value, schema.time_zone, what=what)
    return times.value


def localize(local_ns: np.ndarray, zone: str, *, what: str) -> np.ndarray:
    """Turn wall-clock nanoseconds in a zone into nanoseconds since the epoch in UTC.

    Raises:
        DataError: a wall-clock time does not exist in the zone or exists twice (summer time begins or ends).
    """
    fixed = offset_ns(zone)
    if fixed is not None:
        return local_ns - fixed
    try:
        stamps = pd.DatetimeIndex(local_ns.view("datetime64[ns]")).tz_localize(zone)
    except ValueError as error:
        raise DataError(f"{what}: a time is missing or ambiguous in {zone} ({error}); write its offset.") from error
    return stamps.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[ns]").astype(np.int64)


def format_times(time: np.ndarray, schema: Schema) -> np.ndarray:
    """Give times back as the user wrote them: numbers as numbers, datetimes as ISO text in the zone they came in.

    Args:
        time: `(N,)`, as in `Table.time`.
        schema: says the kind and the zone.

    Returns:
        float64, or an object array of texts such as `2026-01-01 07:30:00` (with `+02:00` where the table had offsets).
    """
    if schema.time_kind == "number":
        return np.asarray(time, dtype=np.float64)
    utc = np.asarray(time, dtype=np.int64)
    if schema.time_zone is None:
        return _iso_texts(utc).astype(object)
    shift = _offsets_at(utc, schema.time_zone)
    distinct, place = np.unique(shift, return_inverse=True)
    suffixes = np.asarray([_format_offset(int(value)) for value in distinct])
    return np.char.add(_iso_texts(utc + shift), suffixes[place]).astype(object)


def _iso_texts(ns: np.ndarray) -> np.ndarray:
    steps = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000}
    unit = next((unit for unit, step in steps.items() if not (ns % step).any()), "ns")
    return np.char.replace(np.datetime_as_string(ns.view("datetime64[ns]"), unit=unit), "T", " ")


def _offsets_at(utc: np.ndarray, zone: str) -> np.ndarray:
    fixed = offset_ns(zone)
    if fixed is not None:
        return np.full(utc.shape, fixed, dtype=np.int64)
    local = pd.DatetimeIndex(utc.view("datetime64[ns]"), tz="UTC").tz_convert(zone).tz_localize(None)
    return local.to_numpy().astype("datetime64[ns]").astype(np.int64) - utc


def _format_offset(ns: int) -> str:
    minutes = abs(ns) // _UNITS_NS["min"]
    return f"{'-' if ns < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"


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
    value = _number_duration(text, name) if time_kind == "number" else _datetime_duration(text, name)
    if not (0 < value < math.inf):
        raise InputError(f"{name} is {text!r}; give a positive duration.")
    return value


def _number_duration(text: Any, name: str) -> float:
    try:
        if isinstance(text, bool | datetime.timedelta | np.timedelta64):
            raise TypeError
        return float(text)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} is {str(text)!r}, but the table's times are plain numbers; give a positive number in their unit."
        ) from error


def _datetime_duration(text: Any, name: str) -> int:
    if isinstance(text, datetime.timedelta | np.timedelta64):
        return int(pd.Timedelta(text).as_unit("ns").value)
    form = f'{name} is {str(text)!r}; the table\'s times are dates, so give a duration such as "7d", "12h" or "30min"'
    if not isinstance(text, str):
        raise InputError(f"{form}.")
    compact = re.sub(r"\s+", "", text)
    if re.search(r"[0-9](M|m|mo|ME|MS|Y|y|YE|Q|QE)$", compact):
        raise InputError(f"{form}; months and years have no fixed length (30d, 365d), and minutes are written min.")
    if compact.startswith("-"):
        raise InputError(f"{name} is {text!r}; give a positive duration.")
    parts = re.findall(r"([0-9]*\.?[0-9]*)(min|ms|us|ns|[wdhs])", compact.lower())
    if not parts or "".join(n + unit for n, unit in parts) != compact.lower() or any(n == "." for n, _ in parts):
        raise InputError(f"{form}.")
    total = sum(float(n or 1) * _UNITS_NS[unit] if "." in n else int(n or 1) * _UNITS_NS[unit] for n, unit in parts)
    if total >= 2**63:
        raise InputError(f"{name} is {text!r}, more than 292 years; give a shorter duration.")
    return round(total)


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
