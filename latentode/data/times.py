"""Users' times to numbers and back.

Inside latentode a time is a float64 (where the user's times are numbers) or an int64 of nanoseconds since 1970-01-01 UTC (where they are
datetimes; naive ones are counted as if they were UTC). What the user wrote is remembered in `Schema.time_kind` and `Schema.time_zone`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from latentode.data.arrow import (
    is_missing_text,
    is_numeric,
    is_string,
    parse_numbers,
    pc,
    to_arrow,
    to_float,
    to_numpy,
    try_cast,
)
from latentode.data.durations import format_duration, parse_duration
from latentode.data.schema import Schema, TimeKind, count, quote_cell, quote_names
from latentode.data.zones import check_zone, localize, name_zone, offset_ns, wall_clock
from latentode.errors import DataError, InputError

__all__ = [
    "Times",
    "format_duration",
    "format_times",
    "match_times",
    "parse_duration",
    "parse_time_list",
    "parse_times",
    "read_in_zone",
    "zone_note",
]

_CLOCK = r"[T ][0-9]{2}(?::[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?)?"
_OFFSET = r"Z|z|[+-](?:0[0-9]|1[0-9]|2[0-3])(?::?[0-5][0-9])?"
_STAMP = pa.timestamp("ns")
# The first nanosecond of 1678 and of 2262.
_FIRST, _END = -9_214_560_000_000_000_000, 9_214_646_400_000_000_000
_DAY = 86_400_000_000_000
_LARGE_OFFSET = rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}{_CLOCK} ?[+-](?:(?:2[4-9]|[3-9][0-9])(?::?[0-9]{{2}})?|[0-9]{{2}}:?[6-9][0-9])$"
_ISO = rf"^(?P<stamp>[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}(?:{_CLOCK})?) ?(?P<offset>{_OFFSET})?$"


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
    zone_if_mixed: str | None = None,
    place: Callable[[int], str] = "entry {}".format,
    hint: str = "",
) -> Times:
    """Read a column of times: all plain numbers, or all ISO 8601 datetimes.

    Args:
        cells: the column, `(N,)`.
        time_zone: IANA zone in which the times are given back.
        zone_if_mixed: the same where the offsets differ within the column and `time_zone` is not given.
        place: says where a row stands, for the messages: `data.csv:7: column 'time'`.
        hint: what else may help where a cell is no time, for the message.

    Raises:
        DataError: a cell is missing, infinite, no time, of another kind than the others, or outside the years 1678 to 2261;
            or offsets differ and no zone is given.
        InputError: `time_zone` is no zone.
    """
    if time_zone is not None:
        check_zone(time_zone)
    column = _Column(cells if isinstance(cells, pa.ChunkedArray) else to_arrow(cells), place)
    kind = column.cells.type
    if is_string(kind) and (times := _read_one_offset(column.cells)) is not None:
        return times if time_zone is None else Times(times.value, times.kind, time_zone)
    column.refuse(to_numpy(_is_missing(column.cells)), "holds no time", "fill it in or remove the row")
    if is_string(kind):
        times = _read_text(column, time_zone or zone_if_mixed, hint)
    elif is_numeric(kind) and not pa.types.is_boolean(kind):
        times = _read_numbers(column, to_float(column.cells))
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        times = _read_stamps(column)
    else:
        raise DataError(f"{place(0)} is of type {kind}; write numbers or ISO 8601 datetimes{hint}.")
    if time_zone is None:
        return times
    if times.zone is None:
        what = "has no offsets" if times.kind == "datetime" else "holds plain numbers"
        raise DataError(f"{place(0)} {what}, so there is nothing to convert to {time_zone}; leave time_zone out.")
    return Times(times.value, times.kind, time_zone)


@dataclass(frozen=True)
class _Column:
    cells: pa.ChunkedArray
    place: Callable[[int], str]

    def refuse(self, is_bad: np.ndarray, what: str, remedy: str) -> None:
        """Raise for the first bad cell, with the number of such rows; `what` may name the cell as `{cell}`."""
        rows = np.flatnonzero(is_bad)
        if len(rows):
            first = int(rows[0])
            try:
                cell = self.cells[first].as_py()
            except (OverflowError, ValueError):
                # Parquet knows years that Python does not.
                cell = "a time beyond the year 9999"
            text = what.replace("{cell}", quote_cell(cell))
            such = count(len(rows), "such row", "such rows")
            raise DataError(f"{self.place(first)} {text} ({such}); {remedy}.")

    def refuse_years(self, year: np.ndarray) -> None:
        self.refuse(
            (year < 1678) | (year > 2261),
            "holds {cell}, outside the years 1678 to 2261 that nanoseconds can tell",
            "correct it or give time as a plain number",
        )


def _is_missing(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    if is_string(cells.type):
        return is_missing_text(pc.utf8_trim_whitespace(cells))
    return pc.is_null(cells, nan_is_null=True)


def _read_numbers(column: _Column, values: np.ndarray) -> Times:
    column.refuse(~np.isfinite(values), "holds {cell}, which is not a finite number", "correct it or remove the row")
    return Times(values, "number", None)


def _read_stamps(column: _Column) -> Times:
    zone = None if pa.types.is_date(column.cells.type) else column.cells.type.tz
    # In seconds, and by numpy: arrow's finer units, and its years, overflow to others that look right.
    seconds = to_numpy(column.cells.cast(pa.timestamp("s"), safe=False).cast(pa.int64())).view("datetime64[s]")
    column.refuse_years(seconds.astype("datetime64[Y]").astype(np.int64) + 1970)
    # The number of an arrow timestamp with a zone is UTC already.
    nanoseconds = to_numpy(column.cells.cast(pa.timestamp("ns", tz=zone)).cast(pa.int64()))
    zone = zone and name_zone(zone)
    if zone:
        try:
            check_zone(zone)
        except InputError as error:
            raise DataError(
                f"{column.place(0)} is of type {column.cells.type}, whose zone is neither an IANA zone nor an offset; "
                "write it with one such as Europe/Berlin, UTC or +02:00."
            ) from error
    return Times(nanoseconds, "datetime", zone)


def _read_one_offset(text: pa.ChunkedArray) -> Times | None:
    """Read datetimes that all end in one offset: ten times faster than cell by cell; None where it cannot be told so easily."""
    first = re.match(_ISO, text[0].as_py() or "")
    if first is None or first["offset"] is None or not pc.all(pc.ends_with(text, first["offset"])).as_py():
        return None
    utc = try_cast(text, pa.timestamp("ns", tz="UTC"))
    if utc is None or utc.null_count:
        return None
    value, zone = to_numpy(utc.cast(pa.int64())), name_zone(first["offset"])
    # A day that is left of the last minutes of the range is for the slow way, which says what is wrong with it.
    if value.min() < _FIRST + _DAY or value.max() >= _END - _DAY:
        return None
    return Times(value, "datetime", zone)


def _read_text(column: _Column, zone_if_mixed: str | None, hint: str) -> Times:
    text = pc.utf8_trim_whitespace(column.cells)
    naive = try_cast(text, _STAMP)
    if naive is not None:
        local = to_numpy(naive.cast(pa.int64()))
        if local.min() >= _FIRST and local.max() < _END:
            return Times(local, "datetime", None)
    numbers = try_cast(text, pa.float64())
    if numbers is not None:
        return _read_numbers(column, to_float(numbers))
    parts = pc.extract_regex(text, _ISO)
    is_other = to_numpy(pc.is_null(parts))
    if is_other.any():
        # What most cells are, the column is: a single slip is then the one that is named.
        values, is_text = parse_numbers(text)
        if 2 * is_text.sum() <= len(text):
            column.refuse(is_text, "holds {cell} where other rows hold numbers", f"write all times in one form{hint}")
            return _read_numbers(column, values)
        column.refuse(
            to_numpy(pc.fill_null(pc.match_substring_regex(text, _LARGE_OFFSET), False)),
            "holds {cell}, whose offset is beyond 23:59",
            "correct the offset",
        )
        column.refuse(
            is_other,
            "holds {cell}, which is no ISO 8601 datetime",
            f"write it as 2026-01-31 or 2026-01-31T07:30:00{hint}",
        )
    stamp, offset = pc.struct_field(parts, "stamp"), pc.struct_field(parts, "offset")
    column.refuse_years(to_numpy(pc.utf8_slice_codeunits(stamp, 0, 4).cast(pa.int64())))
    return _apply_offsets(column, _wall_clock(column, pc.replace_substring(stamp, ",", ".")), offset, zone_if_mixed)


def _wall_clock(column: _Column, stamp: pa.ChunkedArray) -> np.ndarray:
    local = try_cast(stamp, _STAMP)
    if local is None:
        # pandas takes 25 times as long, but says which row it was.
        stamps = pd.to_datetime(pd.Series(stamp.to_pylist(), dtype="str"), format="ISO8601", errors="coerce")
        is_leap = to_numpy(pc.match_substring_regex(stamp, "[T ][0-9]{2}:59:60"))
        column.refuse(
            is_leap,
            "holds {cell}, a leap second, which clocks of a computer do not count",
            "write the second before or after",
        )
        column.refuse(stamps.isna().to_numpy(), "holds {cell}, a day or hour that does not exist", "correct it")
        raise AssertionError("arrow refuses a datetime that pandas takes")
    return to_numpy(local.cast(pa.int64()))


def _apply_offsets(column: _Column, local: np.ndarray, offset: pa.ChunkedArray, zone_if_mixed: str | None) -> Times:
    encoded = offset.combine_chunks().dictionary_encode()
    named = [name_zone(text) if text else None for text in encoded.dictionary.to_pylist()]
    zones = sorted({zone for zone in named if zone})
    if not zones:
        return Times(local, "datetime", None)
    # One code per zone, however it was spelled; -1 where there is no offset.
    codes = np.asarray([zones.index(zone) if zone else -1 for zone in named])[encoded.indices.to_numpy()]
    column.refuse(
        codes < 0,
        "holds {cell}, a time without offset where others have one",
        "write the offset in every row or in none",
    )
    if len(zones) > 1 and zone_if_mixed is None:
        row = int(np.flatnonzero(codes != codes[0])[0])
        raise DataError(
            f"{column.place(row)} mixes the offsets {quote_names(zones)}; "
            "say in which zone to read it with --data.time_zone Europe/Berlin (`time_zone`)."
        )
    shift = np.asarray([offset_ns(zone) for zone in zones], dtype=np.int64)
    zone = zones[0] if len(zones) == 1 else zone_if_mixed
    return Times(local - shift[codes], "datetime", zone)


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
        return match_times(_parse_list(text_or_list, name), schema, what=name)
    except DataError as error:
        raise InputError(str(error)) from error


def zone_note(text_or_list: str | float | Sequence[Any], schema: Schema, *, name: str = "at") -> str | None:
    """Say that times which `parse_time_list` has read have no offset and are in the table's zone; None where they have."""
    if schema.time_zone is None or _parse_list(text_or_list, name).zone:
        return None
    return read_in_zone(name, schema.time_zone)


def read_in_zone(what: str, zone: str) -> str:
    """Write the note on times that carry no offset."""
    return f"The times of {what} have no offset and were read in the table's zone, {zone}."


def _parse_list(text_or_list: Any, name: str) -> Times:
    if isinstance(text_or_list, str):
        entries: list[Any] = [entry for entry in text_or_list.split(",") if entry.strip()]
    elif isinstance(text_or_list, int | float | np.number | datetime.date | np.datetime64):
        entries = [text_or_list]
    elif isinstance(text_or_list, Iterable):
        entries = list(text_or_list)
    else:
        raise InputError(f"{name} is {text_or_list!r}; give times as text, numbers or datetimes.")
    if not entries:
        raise InputError(f"{name} names no time; give at least one.")
    # The times are given back in the table's zone, so offsets may differ among them.
    return parse_times(entries, zone_if_mixed="UTC", place=lambda row: f"{name}: entry {row + 1}")


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
        raise DataError(f"{what}: these times have an offset but the table's have none; leave the offset out.")
    if times.zone is None and schema.time_zone is not None:
        return localize(times.value, schema.time_zone, what=what)
    return times.value


def format_times(time: np.ndarray, schema: Schema, *, step: int | None = None) -> np.ndarray:
    """Give times back as the user wrote them: numbers as numbers, datetimes as ISO text in the zone they came in.

    Args:
        time: `(N,)`, as in `Table.time`.
        schema: says the kind and the zone.
        step: nanoseconds of the finest digit of datetimes; None: `finest_step` of these.

    Returns:
        float64, or an object array of texts such as `2026-01-01 07:30:00` (with `+02:00` where the table had offsets).
    """
    if schema.time_kind == "number":
        return np.asarray(time, dtype=np.float64)
    utc = np.asarray(time, dtype=np.int64)
    step = finest_step(utc, schema) if step is None else step
    if schema.time_zone is None:
        return _iso_texts(utc, step)
    local, offsets = wall_clock(utc, schema.time_zone)
    return _iso_texts(local, step) + offsets.astype(object)


_UNITS = {1_000_000_000: "s", 1_000_000: "ms", 1_000: "us", 1: "ns"}


def finest_step(time: np.ndarray, schema: Schema) -> int:
    """Give of how many nanoseconds all of these datetimes are multiples: those of a second, a milli-, a micro- or a nanosecond."""
    if schema.time_kind == "number":
        return max(_UNITS)
    return next(step for step in _UNITS if not (time % step).any())


def _iso_texts(ns: np.ndarray, step: int) -> np.ndarray:
    """Write `2026-01-31 07:30:00`, with as many digits of a second as multiples of `step` nanoseconds need."""
    unit = _UNITS[step]
    return pa.array(ns // step).cast(pa.timestamp(unit)).cast(pa.string()).to_numpy(zero_copy_only=False)
