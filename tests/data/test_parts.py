"""Parts of a column in types of their own become one column that holds what each of them holds."""

from __future__ import annotations

import pyarrow as pa
import pytest

from latentode.data.arrow import TEXT_CODES
from latentode.data.parts import join
from latentode.errors import DataError


def chunked(cells, kind):
    return pa.chunked_array([pa.array(cells, kind)])


def joined(*parts):
    n_rows = [1 if part is None else len(part) for part in parts]
    return join("a", parts, n_rows, [f"{i}.parquet" for i in range(len(parts))])


@pytest.mark.parametrize(
    ("parts", "kind", "cells"),
    [
        ([chunked([1], pa.int8()), chunked([2], pa.int64())], pa.int64(), [1, 2]),
        ([chunked([2**53 + 1], pa.int64()), chunked([0.5], pa.float64())], pa.float64(), [2.0**53, 0.5]),
        ([None, chunked([0.5], pa.float64()), None], pa.float64(), [None, 0.5, None]),
        ([pa.chunked_array([pa.nulls(1)]), chunked([3], pa.int32())], pa.int32(), [None, 3]),
        ([chunked(["x"], pa.string()), chunked(["y"], pa.large_string())], pa.large_string(), ["x", "y"]),
        ([chunked(["x"], TEXT_CODES), chunked(["y"], TEXT_CODES)], TEXT_CODES, ["x", "y"]),
        ([chunked(["x"], TEXT_CODES), chunked(["y"], pa.large_string())], pa.large_string(), ["x", "y"]),
    ],
)
def test_parts_take_the_type_that_holds_both(parts, kind, cells):
    column, notes = joined(*parts)
    assert column.type == kind
    assert column.to_pylist() == cells
    assert notes == ()


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.date32(), pa.timestamp("ms"), pa.timestamp("ms")),
        (pa.date32(), pa.date64(), pa.timestamp("s")),
        (pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ns")),
        (pa.timestamp("us", "UTC"), pa.timestamp("s", "Asia/Tokyo"), pa.timestamp("us", "UTC")),
        (pa.timestamp("s", "Asia/Tokyo"), pa.timestamp("ms", "Asia/Tokyo"), pa.timestamp("ms", "Asia/Tokyo")),
    ],
)
def test_days_and_stamps_keep_their_moment_in_the_finer_unit(one, other, common):
    parts = [
        pa.chunked_array([pa.array([86_400], pa.timestamp("s", getattr(kind, "tz", None)))]) for kind in (one, other)
    ]
    parts = [part.cast(kind) for part, kind in zip(parts, (one, other), strict=True)]
    column, notes = joined(*parts)
    assert column.type == common
    assert column.cast(pa.timestamp("s", common.tz)).cast(pa.int64()).to_pylist() == [86_400, 86_400]
    assert len(notes) == len({getattr(kind, "tz", None) for kind in (one, other)}) - 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (chunked([1], pa.int64()), chunked(["x"], pa.string())),
        (chunked([1], pa.timestamp("s")), chunked([1], pa.timestamp("s", "UTC"))),
        (chunked([1], pa.date32()), chunked([1], pa.timestamp("s", "UTC"))),
        (chunked([True], pa.bool_()), chunked([1], pa.int64())),
    ],
)
def test_parts_with_nothing_in_common_are_refused_with_both_files(one, other):
    with pytest.raises(DataError) as caught:
        joined(None, one, other)
    assert str(caught.value) == (
        f"2.parquet: column 'a' is of type {other.type}, but of type {one.type} in 1.parquet; write it alike in all files."
    )


def test_a_time_that_the_finer_unit_does_not_hold_is_refused_with_its_file():
    with pytest.raises(
        DataError, match=r"^0\.parquet: column 'a' cannot be brought to type timestamp\[ns\], as it is in other files"
    ):
        joined(chunked([253_402_214_400], pa.timestamp("s")), chunked([1], pa.timestamp("ns")))
