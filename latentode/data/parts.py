"""Columns that several files hold, each in its own type, as one column."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from latentode.data.arrow import TEXT_CODES, is_string
from latentode.data.schema import quote_names
from latentode.errors import DataError

_UNITS = ("s", "ms", "us", "ns")


def join(
    name: str, parts: Sequence[pa.ChunkedArray | None], n_rows: Sequence[int], files: Sequence[str]
) -> tuple[pa.ChunkedArray, tuple[str, ...]]:
    """Give the parts of a column one after the other, in a type that holds what each of them holds, and notes.

    Args:
        name: of the column.
        parts: of each file, plain as `arrow.plain` gives it, or numbered text; None where a file does not have the column.
        n_rows: of each file.
        files: their names, for the message.

    Raises:
        DataError: two parts are of types that have nothing in common; the message names both files.
    """
    known = [(part, file) for part, file in zip(parts, files, strict=True) if part is not None]
    kind = _type_of(known[0][0])
    for i, (part, file) in enumerate(known):
        common = _common(kind, _type_of(part))
        if common is None:
            other, place = next(
                known[j] for j in range(i) if j == i - 1 or not _common(_type_of(known[j][0]), _type_of(part))
            )
            raise DataError(
                f"{file}: column '{name}' is of type {_type_of(part)}, but of type {_type_of(other)} in {place}; "
                "write it alike in all files."
            )
        kind = common
    if all(part.type == TEXT_CODES for part, _ in known):
        kind = TEXT_CODES
    zones = sorted({str(part.type.tz) for part, _ in known if pa.types.is_timestamp(part.type)})
    notes = ()
    if len(zones) > 1:
        notes = (
            f"Column '{name}' is in the zones {quote_names(zones)} in different files and was read in UTC; "
            "name another with --data.time_zone (`time_zone`).",
        )
    chunks = []
    for part, n, file in zip(parts, n_rows, files, strict=True):
        try:
            chunks += [pa.nulls(n, kind)] if part is None else _cast(part, kind).chunks
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise DataError(
                f"{file}: column '{name}' cannot be brought to type {kind}, as it is in other files ({reason}); write it alike in all."
            ) from error
    return pa.chunked_array(chunks, kind), notes


def _type_of(part: pa.ChunkedArray) -> pa.DataType:
    return part.type.value_type if pa.types.is_dictionary(part.type) else part.type


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Give the type that holds the cells of both; None where there is none."""
    if one == other:
        return one
    if is_string(one) and is_string(other):
        return pa.large_string()
    stamps = [kind for kind in (one, other) if pa.types.is_timestamp(kind)]
    days = [kind for kind in (one, other) if pa.types.is_date(kind)]
    if len(days) + len(stamps) == 2:
        zones = {kind.tz for kind in stamps} | ({None} if days else set())
        if None in zones and len(zones) > 1:
            return None
        unit = max([kind.unit for kind in stamps] + ["s"] * bool(days), key=_UNITS.index)
        return pa.timestamp(unit, zones.pop() if len(zones) == 1 else "UTC")
    fields = [pa.schema([pa.field("", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _cast(part: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if part.type == kind:
        return part
    if pa.types.is_dictionary(part.type):
        part = part.cast(part.type.value_type)
    # Whole numbers beyond 2^53 are rounded in a column of floats, as they are in a column of their own; the reading notes them.
    return part.cast(kind, safe=not (pa.types.is_integer(part.type) and pa.types.is_floating(kind)))
