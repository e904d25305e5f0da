"""Whatever valid table is written, in whatever form and order, exactly its observations are read."""

from __future__ import annotations

import csv
import datetime
import gzip
import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentode.data.tables import read_table
from latentode.data.zones import name_zone, offset_ns

EPOCH = datetime.datetime(1970, 1, 1)
FORMS = ("csv", "csv.gz", "parquet", "folder", "frame", "text frame", "arrow")
CHANNELS = ("a", "temp °C", "wind, m/s", 'the "x"', "7", "Zeit")
texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=5
).filter(str.strip)
ids = st.sampled_from(
    [
        texts,
        st.sampled_from(["007", "NA", "-1", "+1", "1.0", "nan", "true", "2026-01-01"]),
        st.integers(-(2**63), 2**63 - 1),
    ]
)
values = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9).map(float)
numbers = st.floats(-1e15, 1e15) | st.integers(-(2**52), 2**52).map(float)
# Nanoseconds can tell 292 years.
stamps = st.datetimes(datetime.datetime(1905, 1, 1), datetime.datetime(2195, 1, 1))
# All on one day, so that dates alone and fractions of a second of every length come up.
close = st.builds(
    lambda seconds, fraction: (
        datetime.datetime(2026, 3, 29) + datetime.timedelta(seconds=seconds, microseconds=fraction)
    ),
    st.integers(0, 24).map(lambda n: 3600 * n),
    st.sampled_from([0, 0, 1, 500_000, 120_000]),
)


@st.composite
def tables(draw):
    """Draw ids, times, an offset (None: none, "": plain numbers), and observed values per row and channel."""
    names = draw(st.lists(draw(ids), min_size=1, max_size=3, unique_by=str))
    offset = draw(st.sampled_from(["", None, "Z", "+02:00", "-0330", "+05"]))
    clock = numbers if offset == "" else draw(st.sampled_from([stamps, close]))
    rows = [(name, at) for name in names for at in draw(st.lists(clock, min_size=1, max_size=5, unique=True))]
    channels = draw(st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=3, unique=True))
    line = st.tuples(*[values] * len(channels))
    cells = draw(
        st.lists(line, min_size=len(rows), max_size=len(rows)).filter(
            lambda rows: any(v is not None for row in rows for v in row)
        )
    )
    order = draw(st.permutations(range(len(rows))))
    return [(*rows[i], *cells[i]) for i in order], channels, offset


def write_time(at, offset, how):
    if offset == "":
        return repr(at)
    text = at.isoformat(sep="T" if how % 2 else " ")
    if at.microsecond:
        text = text.rstrip("0") if how % 3 else text
    elif how % 5 == 0 and at.second == 0:
        text = text[:-3]
    return text + (offset or "")


def to_columns(rows, channels, offset, layout, *, typed):
    """Give the columns of a table, times as typed values or as text."""
    if layout == "long":
        rows = [
            (name, at, channel, value)
            for name, at, *cells in rows
            for channel, value in zip(channels, cells, strict=True)
        ]
        heads = ["series_id", "time", "channel", "value"]
    else:
        heads = ["series_id", "time", *channels]
    columns = dict(zip(heads, map(list, zip(*rows, strict=True)), strict=True))
    if not typed:
        columns["time"] = [write_time(at, offset, i) for i, at in enumerate(columns["time"])]
    elif offset is None:
        columns["time"] = pa.array(columns["time"], pa.timestamp("us"))
    elif offset:
        shift = datetime.timedelta(microseconds=(offset_ns(name_zone(offset)) or 0) // 1000)
        columns["time"] = pa.array([at - shift for at in columns["time"]], pa.timestamp("us", name_zone(offset)))
    for name in heads[-1:] if layout == "long" else heads[2:]:
        columns[name] = (
            pa.array(columns[name], pa.float64()) if typed else ["" if v is None else repr(v) for v in columns[name]]
        )
    return columns


def write(folder, columns, form):
    if form in ("csv", "csv.gz"):
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        data = text.getvalue().encode()
        path = folder / f"data.{form}"
        path.write_bytes(gzip.compress(data, mtime=0) if form == "csv.gz" else data)
        return path
    if form == "text frame":
        return pd.DataFrame(columns)
    table = pa.table(columns)
    if form == "frame":
        return table.to_pandas()
    if form == "arrow":
        return table
    path = folder / ("data.parquet" if form == "parquet" else "folder")
    if form == "folder":
        path.mkdir(exist_ok=True)
        middle = len(table) // 2
        pq.write_table(table[:middle], path / "1.parquet")
        pq.write_table(table[middle:], path / "2.parquet")
    else:
        pq.write_table(table, path)
    return path


def expected(rows, channels, offset):
    """Give every time stamp and every observation, ids as text, times in the unit of `Table.time`."""
    seen, found = set(), {}
    for name, at, *cells in rows:
        if offset != "":
            local = (at - EPOCH) // datetime.timedelta(microseconds=1) * 1000
            at = local - (offset_ns(name_zone(offset)) if offset else 0)
        seen.add((str(name), at))
        found.update(
            {
                (str(name), at, channel): value
                for channel, value in zip(channels, cells, strict=True)
                if value is not None
            }
        )
    return seen, found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["wide", "long"])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=tables())
def test_what_is_written_is_what_is_read(form, layout, drawn, tmp_path):
    rows, channels, offset = drawn
    is_text = form in ("csv", "csv.gz", "text frame")
    table = read_table(
        write(tmp_path, to_columns(rows, channels, offset, layout, typed=not is_text), form), layout=layout
    )
    seen, found = expected(rows, channels, offset)

    assert (np.diff(table.time)[np.diff(table.row_series) == 0] > 0).all()
    names = [str(table.series_ids[s]) for s in table.row_series]
    times = table.time.tolist()
    assert set(zip(names, times, strict=True)) == seen
    assert table.n_rows == len(seen)
    read = {
        (names[i], times[i], table.schema.channels[c]): value
        for (i, c), value in np.ndenumerate(table.values)
        if not np.isnan(value)
    }
    assert read == found
    assert sorted(table.schema.channels) == sorted(channels)
    assert table.schema.time_kind == ("number" if offset == "" else "datetime")
    assert table.schema.time_zone == (name_zone(offset) if offset else None)

    again = read_table(table.to_frame())
    assert again.digest() == table.digest()
    assert again.schema.time_zone == table.schema.time_zone


@pytest.mark.parametrize("form", FORMS)
def test_whole_numbers_as_ids_stay_whole_numbers_and_text_stays_text(form, tmp_path):
    for names, kind in (([2**53 + 1, -(2**63)], "integer"), (["007", "7"], "text"), (["a", "1"], "text")):
        columns = {"series_id": names, "time": [1, 2], "a": [1.0, 2.0]}
        table = read_table(write(tmp_path, columns, form))
        assert table.series_ids.tolist() == names
        assert table.schema.id_kind == kind
