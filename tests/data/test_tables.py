"""From a file or frame to a checked table: whatever its order, layout and format, the same observations are the same table."""

from __future__ import annotations

import gzip
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentode.data.schema import Schema
from latentode.data.tables import Table, read_queries, read_table
from latentode.errors import DataError, InputError

NAN = np.nan
FRAME = pd.DataFrame(
    {
        "series_id": ["b", "b", "a", "a", "a"],
        "time": [
            "2026-01-01 06:00:00",
            "2026-01-02 00:00:00",
            "2026-01-01 00:00:00",
            "2026-01-03 00:00:00",
            "2026-01-04 00:00:00",
        ],
        "temp": [1.5, NAN, 3, 4, NAN],
        "wind": [NAN, 2, NAN, 5, 6],
    }
)


def refusal(source, **options):
    with pytest.raises(DataError) as caught:
        read_table(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(table: Table, other: Table):
    """Compare all but the order of the series, which is that of the file, and the notes."""
    assert table.schema == other.schema
    assert sorted(table.series_ids) == sorted(other.series_ids)
    table, other = (each.select(np.argsort([str(name) for name in each.series_ids])) for each in (table, other))
    np.testing.assert_array_equal(table.starts, other.starts)
    np.testing.assert_array_equal(table.time, other.time)
    np.testing.assert_array_equal(table.values, other.values)
    assert table.digest() == other.digest()


# --- One table in every form -------------------------------------------------------------------------------------------------------


def test_table_is_sorted_and_described():
    table = read_table(FRAME)
    assert table.schema == Schema("series_id", "time", ("temp", "wind"), ("temp", "wind"), "text", "datetime", None)
    assert table.series_ids.tolist() == ["b", "a"]
    assert table.starts.tolist() == [0, 2, 5]
    assert table.row_series.tolist() == [0, 0, 1, 1, 1]
    assert (table.n_rows, table.n_series, table.report.n_values, table.report.notes) == (5, 2, 6, ())
    assert table.source == "DataFrame"


@pytest.mark.parametrize(
    "form", ["csv", "csv.gz", "parquet", "folder", "text cells", "index", "categories", "nullable", "objects", "stamps"]
)
def test_every_form_of_a_table_is_the_same_table(form, tmp_path, csv_file):
    expected = read_table(FRAME)
    source = FRAME
    if form == "csv":
        source = csv_file(FRAME.to_csv(index=False))
    elif form == "csv.gz":
        source = csv_file(gzip.compress(FRAME.to_csv(index=False).encode()), "data.csv.gz")
    elif form == "parquet":
        source = tmp_path / "data.parquet"
        FRAME.to_parquet(source)
    elif form == "folder":
        pq.write_to_dataset(pa.Table.from_pandas(FRAME), tmp_path, partition_cols=["series_id"])
        source = str(tmp_path)
    elif form == "text cells":
        source = FRAME.astype(object).where(FRAME.notna(), "NA").astype(str)
    elif form == "index":
        source = FRAME.set_index(["series_id", "time"])
    elif form == "categories":
        source = FRAME.astype({"series_id": "category", "time": "category", "wind": "category"})
    elif form == "nullable":
        source = FRAME.convert_dtypes()
    elif form == "objects":
        source = FRAME.astype(object)
    elif form == "stamps":
        source = FRAME.assign(time=pd.to_datetime(FRAME["time"]))
    assert_same(read_table(source), expected)


@given(st.permutations(range(len(FRAME))))
def test_the_order_of_the_rows_does_not_matter(order):
    assert_same(read_table(FRAME.iloc[order]), read_table(FRAME))


def test_rows_out_of_order_are_counted():
    assert read_table(FRAME.iloc[[0, 2, 1, 3, 4]]).report.notes == (
        "1 row comes before the row above in series or time; the table was sorted.",
    )


@pytest.mark.parametrize("channels", [None, ["wind", "temp"], ["temp"]])
def test_long_layout_is_the_wide_table(channels, csv_file):
    long = FRAME.melt(["series_id", "time"], var_name="channel").sample(frac=1, random_state=0)
    long["channel"] = " " + long["channel"]
    chosen = channels or ["temp", "wind"]
    wide = read_table(FRAME, channels=chosen)
    for source in (long, csv_file(long.to_csv(index=False))):
        table = read_table(source, layout="long", channels=chosen)
        assert_same(table, wide)
        left_out = "1 channel is not chosen and left out (5 rows): 'wind'."
        assert (left_out in table.report.notes) == (channels == ["temp"])


def test_repeated_observation_of_the_long_layout_is_refused_with_its_lines(csv_file):
    text = "series_id,time,channel,value\nA,1,x,1\nA,1,y,1\nA,2,x,1\nA,1,x,3\n"
    assert ":5: series 'A' has time 1.0 of channel 'x' twice (first at " in refusal(csv_file(text), layout="long")
    table = read_table(csv_file(text), layout="long", duplicates="mean")
    np.testing.assert_array_equal(table.values, [[2, 1], [1, NAN]])
    assert "1 row repeats a series and time; their mean was taken." in table.report.notes


def test_names_of_other_libraries_are_mapped(csv_file):
    table = read_table(
        csv_file("unique_id,ds,y\n1,2026-01-01,5\n1,2026-01-02,6\n"), id_column="unique_id", time_column="ds"
    )
    assert (table.schema.id_column, table.schema.time_column, table.schema.channels) == ("unique_id", "ds", ("y",))
    assert table.series_ids.tolist() == [1]


def test_ids_keep_their_zeros_and_na_is_an_id(csv_file):
    table = read_table(csv_file("series_id,time,a\n007,1,1\nNA,1,2\n7,1,3\nnan,1,4\n"))
    assert table.series_ids.tolist() == ["007", "NA", "7", "nan"]


def test_targets_stand_in_the_order_of_the_channels():
    table = read_table(FRAME.assign(rain=1.0), target_channels=["rain", "temp"])
    assert table.schema.channels == ("temp", "wind", "rain")
    assert table.schema.target_channels == ("temp", "rain")


def test_times_too_large_for_float64_are_counted():
    times = [1_700_000_000_000_000_001, 1_700_000_000_000_001_001]
    table = read_table(pd.DataFrame({"time": times, "a": [1, 2]}))
    assert table.report.notes[0] == "2 times are beyond 2^53 and rounded to the nearest float64."
    assert "look like nanoseconds since 1970 (2023-11-14 22:13:20 to 2023-11-14 22:13:20 UTC)" in table.report.notes[1]


# --- Refusals ----------------------------------------------------------------------------------------------------------------------


def test_repeated_series_and_time_is_refused_with_both_lines(csv_file):
    path = csv_file("series_id,time,a\nA,2026-01-02,1\nB,2026-01-02,1\n\nA,2026-01-02,2\n")
    assert refusal(path) == (
        f"{path}:5: series 'A' has time 2026-01-02 00:00:00 twice (first at {path}:2; 1 such row); "
        "remove one, or choose --data.duplicates mean or last (`duplicates`)."
    )


@pytest.mark.parametrize(("how", "value"), [("mean", 1.5), ("last", 2)])
def test_repeated_rows_are_settled_as_asked_and_counted(csv_file, how, value):
    table = read_table(csv_file("series_id,time,a,b\nA,1,1,7\nA,2,5,5\nA,1,2,\n"), duplicates=how)
    np.testing.assert_array_equal(table.values, [[value, 7], [5, 5]])
    assert any(note.startswith("1 row repeats a series and time; ") for note in table.report.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("series_id,date,a\nA,1,1\n", ": has no time column 'time' (it has 'series_id', 'date', 'a'); "),
        (
            "series_id,time,a\nA,1,1\nA,soon,2\nA,3,1\n",
            ":3: column 'time' holds 'soon' where other rows hold numbers (1 such row); write all times in one form, or name another column with --data.time_column (`time_column`).",
        ),
        ("series_id,time,a\nA,,1\n", ":2: column 'time' holds no time (1 such row)"),
        ("series_id,time,a\nA,1,1\nA,2,x\n", ":3: column 'a' holds 'x', which is not a number (1 such row)"),
        ("series_id,time,a\nA,1,1\nA,2,inf\n", ":3: column 'a' holds an infinite value (1 such row)"),
        ("series_id,time,a\n,1,1\n", ":2: column 'series_id' holds no series id (1 such row)"),
        (
            "series_id,time,a\nA,1,\n",
            ": no channel holds a single value ('a'); name the columns of values with --data.channels",
        ),
        ("series_id,time,temp,temp\nA,1,2,3\n", ":1: column 'temp' stands 2 times (columns 3, 4)"),
        ("series_id,time,a\nA,1\n", ":2: has 2 cells where the header has 3"),
    ],
)
def test_bad_table_is_refused_with_its_place(csv_file, text, message):
    path = csv_file(text)
    assert refusal(path).startswith(f"{path}{message}")


odd = st.sampled_from(
    [
        "",
        "1",
        "+5",
        "inf",
        "nan",
        "x",
        "2026-01-01",
        "2026-01-01T00:00Z",
        '"a',
        '"a,b"',
        'a"b',
        " ",
        "007",
        "é",
        "\r",
        "1e999",
    ]
)
lines = st.lists(odd, max_size=6).map(",".join)
headers = st.sampled_from(["series_id,time,a,b", "time,a", "series_id,time,channel,value", ",time,a", "time;a"]) | lines
texts_of_files = st.builds(
    lambda header, rows, newline: newline.join([header, *rows]).encode(),
    headers,
    st.lists(lines | st.tuples(odd, odd, odd, odd).map(",".join), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
)


@settings(deadline=None)
@given(
    texts_of_files | st.binary(max_size=40),
    st.sampled_from(["wide", "long"]),
    st.sampled_from(["error", "mean", "last"]),
)
def test_whatever_is_in_a_file_it_is_a_table_or_one_sentence(tmp_path_factory, content, layout, duplicates):
    path = tmp_path_factory.getbasetemp() / "odd.csv"
    path.write_bytes(content)
    try:
        table = read_table(path, layout=layout, duplicates=duplicates)
    except DataError as error:
        message = str(error)
    else:
        message = f"{path}: read"
        assert np.isfinite(table.time.astype(float)).all()
        assert not np.isinf(table.values).any()
        assert (np.diff(table.time)[np.diff(table.row_series) == 0] > 0).all()
    assert message.startswith(str(path))
    assert "\n" not in message


def test_rows_of_a_frame_and_a_parquet_file_are_named_too(tmp_path):
    frame = FRAME.assign(temp=[1, 2, np.inf, 4, 5])
    frame.to_parquet(tmp_path / "data.parquet")
    assert refusal(frame).startswith(
        "DataFrame, row 2 (counted from 0): column 'temp' holds an infinite value (1 such row)"
    )
    assert refusal(tmp_path / "data.parquet").startswith(
        f"{tmp_path}/data.parquet, row 3: column 'temp' holds an infinite value"
    )


def test_silent_channel_and_one_row_series_are_counted(csv_file):
    report = read_table(csv_file("series_id,time,a,b\nA,1,1,\nA,2,1,NA\nB,1,1,nan\n")).report
    assert report.notes == (
        "1 channel is never observed: 'b'.",
        "1 series has one row and can serve as history only: 'B'.",
    )


def test_columns_left_out_are_counted(csv_file):
    report = read_table(csv_file(",series_id,time,site,a\n0,A,1,north,1\n1,A,2,south,2\n")).report
    assert report.notes == (
        "1 column has no name and was left out.",
        "Column 'site' holds no numbers (2 cells of text or other kind) and was left out.",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "tall"}, "layout is 'tall', which is none of wide, long"),
        ({"duplicates": "first"}, "duplicates is 'first', which is none of error, mean, last"),
        ({"channels": "temp"}, "channels is 'temp'; give a list of column names"),
        ({"channels": []}, "channels is an empty list"),
        ({"id_column": ["x"]}, "id_column is ['x']; give the name of a column."),
        ({"time_column": 3}, "time_column is 3; give the name of a column."),
        ({"time_column": None}, "time_column is None; give the name of a column."),
        ({"target_channels": ["temp", "temp"]}, "target_channels names 'temp' twice"),
        ({"time_zone": "Berlin"}, "time_zone is 'Berlin', which is no IANA zone"),
    ],
)
def test_bad_arguments_are_input_errors(options, message):
    with pytest.raises(InputError) as caught:
        read_table(FRAME, **options)
    assert str(caught.value).startswith(message)


def test_unknown_target_is_refused():
    assert refusal(FRAME, target_channels=["rain"]) == (
        "DataFrame: target channel 'rain' is not among the channels 'temp', 'wind'; correct --data.target_channels (`target_channels`)."
    )


# --- Tables for a fitted model -----------------------------------------------------------------------------------------------------


def test_table_for_a_model_takes_its_columns_in_any_order():
    schema = read_table(FRAME).schema
    table = read_table(FRAME[["wind", "time", "temp", "series_id"]].assign(rain=1), schema=schema, role="history")
    assert table.schema == schema
    assert table.report.notes == ("1 column is no channel and left out: 'rain'.",)


def test_table_for_a_model_needs_its_channels_and_its_kind_of_time():
    schema = read_table(FRAME).schema
    assert "has no column 'wind', a channel of the fitted model" in refusal(FRAME.drop(columns="wind"), schema=schema)
    assert refusal(FRAME.assign(time=range(5)), schema=schema) == (
        "DataFrame, row 0 (counted from 0): column 'time' holds numbers, but the model was fitted on times that are datetimes; "
        "write the times as in the training data."
    )


def test_channel_without_a_row_in_the_long_layout_was_not_observed():
    schema = read_table(FRAME).schema
    long = pd.DataFrame({"series_id": "a", "time": ["2026-01-01", "2026-01-02"], "channel": "temp", "value": [1, 2]})
    table = read_table(long, layout="long", schema=schema)
    np.testing.assert_array_equal(table.values, [[1, NAN], [2, NAN]])
    assert table.report.notes == ("1 channel is never observed: 'wind'.",)
    assert "never names the channel 'wind'" in refusal(long, layout="long", channels=["temp", "wind"])


def test_offsets_may_differ_in_a_table_for_a_model_with_a_zone():
    times = ["2026-03-29T00:00+01:00", "2026-03-29T12:00+02:00"]
    frame = pd.DataFrame({"time": times, "a": [1, 2]})
    fitted = read_table(frame, time_zone="Europe/Berlin")
    assert "mixes the offsets" in refusal(frame)
    assert read_table(frame, schema=fitted.schema).schema == fitted.schema
    assert fitted.to_frame()["time"].tolist() == ["2026-03-29 00:00:00+01:00", "2026-03-29 12:00:00+02:00"]


def test_times_without_offset_are_read_in_the_zone_of_the_fitted_model_and_it_is_said():
    with_offset = pd.DataFrame({"time": ["2026-07-01T12:00+02:00", "2026-07-02T12:00+02:00"], "a": [1, 2]})
    naive = pd.DataFrame({"time": ["2026-07-01T12:00", "2026-07-02T12:00"], "a": [1, 2]})
    fitted = read_table(with_offset, time_zone="Europe/Berlin")
    table = read_table(naive, schema=fitted.schema)
    np.testing.assert_array_equal(table.time, fitted.time)
    assert table.schema == fitted.schema
    # The settings of the fit come along when a run reads a history.
    again = read_table(naive, schema=fitted.schema, time_zone="Europe/Berlin")
    np.testing.assert_array_equal(again.time, fitted.time)
    assert read_table(with_offset, schema=fitted.schema, time_zone="Asia/Tokyo").schema.time_zone == "Asia/Tokyo"
    assert table.report.notes == (
        "The times of DataFrame have no offset and were read in the table's zone, Europe/Berlin.",
    )
    spring = naive.assign(time=["2026-03-29T02:30", "2026-03-30T02:30"])
    assert refusal(spring, schema=fitted.schema).startswith(
        "DataFrame, column 'time': 2026-03-29 02:30:00 does not exist or exists twice in Europe/Berlin"
    )
    assert refusal(with_offset, schema=read_table(naive).schema) == (
        "DataFrame, row 0 (counted from 0): column 'time' holds times with an offset, but the model was fitted on times without; "
        "leave the offset out."
    )


# --- Back to a frame ---------------------------------------------------------------------------------------------------------------

texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r\n", exclude_categories=["Cs"]), min_size=1, max_size=4
).filter(str.strip)
values = st.none() | st.floats(allow_nan=False, allow_infinity=False)
stamps = st.datetimes(min_value=pd.Timestamp("1905-01-01"), max_value=pd.Timestamp("2195-01-01"))
numbers = st.floats(-1e15, 1e15)


@st.composite
def frames(draw):
    series = draw(
        st.lists(
            draw(st.sampled_from([texts, st.integers(-(2**63), 2**63 - 1)])), min_size=1, max_size=4, unique_by=str
        )
    )
    clock = draw(st.sampled_from([stamps, numbers]))
    rows = [(name, at) for name in series for at in draw(st.lists(clock, min_size=1, max_size=4, unique=True))]
    cells = draw(st.lists(st.tuples(values, values), min_size=len(rows), max_size=len(rows)))
    frame = pd.DataFrame(rows, columns=["series_id", "time"])
    frame["time"] = frame["time"].astype(str) if clock is stamps else frame["time"].astype(float)
    frame[["a", "b"]] = np.asarray(cells, dtype=float)
    frame.loc[0, "a"] = draw(numbers)
    return frame


@given(frames())
def test_table_goes_through_a_frame_and_back(frame):
    table = read_table(frame)
    back = table.to_frame()
    assert_same(read_table(back), table)
    assert list(back.columns) == list(frame.columns)
    assert back["series_id"].drop_duplicates().tolist() == frame["series_id"].drop_duplicates().tolist()


@given(frames())
def test_table_goes_through_a_csv_and_back(tmp_path_factory, frame):
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    table = read_table(frame)
    table.to_frame().to_csv(path, index=False)
    back = read_table(path)
    # A CSV does not say whether 7 is a number: the table is the same but for the type of its ids.
    assert_same(
        read_table(back.to_frame().astype({"series_id": str}) if table.schema.id_kind == "text" else path), table
    )


def test_frame_has_the_types_of_the_table():
    frame = read_table(FRAME.assign(series_id=[2, 2, 1, 1, 1])).to_frame()
    assert frame["series_id"].dtype == np.int64
    assert frame["series_id"].tolist() == [2, 2, 1, 1, 1]
    single = read_table(FRAME.iloc[:2].drop(columns="series_id"))
    assert list(single.to_frame().columns) == ["time", "temp", "wind"]
    pd.testing.assert_frame_equal(read_table(FRAME).to_frame(), FRAME)


@pytest.mark.parametrize(
    "clock", [[1.0, 2.0], ["2026-01-01", "2026-01-02"], pd.to_datetime(["2026-01-01", "2026-01-02"])]
)
def test_arrays_of_a_table_can_be_written_to_and_are_its_own(clock):
    frame = pd.DataFrame({"time": clock, "a": [1.0, 2.0]})
    table = read_table(frame)
    table.time[:] = 0
    table.values[:] = 0
    assert frame["a"].tolist() == [1, 2]
    assert frame["time"].tolist() == list(clock)


def test_digest_changes_with_every_part_of_the_table():
    digests = [
        read_table(frame).digest()
        for frame in (
            FRAME,
            FRAME.assign(series_id=["b", "b", "c", "c", "c"]),
            FRAME.assign(series_id=["b", "b", "b", "a", "a"], time=FRAME["time"]),
            FRAME.assign(time=[*FRAME["time"][:4], "2026-01-05"]),
            FRAME.assign(temp=[1.5, NAN, 3, 5, NAN]),
            FRAME.assign(temp=[1.5, NAN, 3, NAN, 4]),
            FRAME.rename(columns={"temp": "t"}),
        )
    ]
    assert len(set(digests)) == len(digests)


def test_digest_does_not_see_the_sign_of_zero_or_the_bits_of_nan():
    odd_nan = np.asarray([0x7FF8000000000001], dtype=np.uint64).view(np.float64)[0]
    zero = pd.DataFrame({"time": [0.0, 1], "a": [0.0, NAN]})
    assert read_table(zero).digest() == read_table(pd.DataFrame({"time": [-0.0, 1], "a": [-0.0, odd_nan]})).digest()


def test_selection_is_the_table_of_those_series():
    table = read_table(FRAME)
    a = table.select([1])
    assert_same(a, read_table(FRAME[FRAME["series_id"] == "a"]))
    assert (a.report.n_rows, a.report.n_series, a.report.n_values) == (3, 1, 4)
    assert_same(table.select([1, 0]), table)
    assert table.select([]).n_rows == 0


# --- Query tables ------------------------------------------------------------------------------------------------------------------


def query_refusal(source, table):
    with pytest.raises(DataError) as caught:
        read_queries(source, table.schema, table)
    return str(caught.value)


def test_queries_keep_their_order_and_repeats(csv_file):
    table = read_table(FRAME)
    queries = read_queries(
        csv_file("time,series_id,note\n2026-02-01,a,x\n2026-01-05,b,\n2026-02-01,a,y\n"), table.schema, table
    )
    assert queries.series.tolist() == [1, 0, 1]
    assert queries.time.tolist() == [
        np.datetime64(day, "ns").astype(int) for day in ("2026-02-01", "2026-01-05", "2026-02-01")
    ]
    assert len(queries.notes) == 1
    assert queries.notes[0].endswith("data.csv: 1 column was left out: 'note'.")


def test_ids_of_queries_are_found_as_text():
    table = read_table(pd.DataFrame({"series_id": [7, 7, 8], "time": [1, 2, 1], "a": [1, 2, 3]}))
    for ids in (["8", "7"], [8, 7], [8.0, 7.0], pd.Categorical(["8", "7"])):
        assert read_queries(pd.DataFrame({"series_id": ids, "time": [3, 3]}), table.schema, table).series.tolist() == [
            1,
            0,
        ]


def test_unknown_series_in_a_query_table_is_refused_with_its_line(csv_file):
    table = read_table(FRAME)
    path = csv_file("series_id,time\na,2026-02-01\nc,2026-02-01\nd,2026-02-01\nc,2026-02-02\n")
    assert query_refusal(path, table) == (
        f"{path}:3: series 'c' is not in the history (2 such series); add its rows to DataFrame or remove the query."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "series,time\na,2026-01-05\n",
            ": has no column 'series_id' (it has 'series', 'time'); a query table needs 'series_id', 'time'.",
        ),
        (
            "series_id,date\na,2026-01-05\n",
            ": has no column 'time' (it has 'series_id', 'date'); a query table needs 'series_id', 'time'.",
        ),
        ("series_id,time\na,soon\n", ":2: column 'time' holds 'soon', which is no ISO 8601 datetime"),
        (
            "series_id,time\na,5\n",
            ", column 'time': the table's times are datetimes such as 2026-01-31T07:30, but these are numbers",
        ),
        (
            "series_id,time\na,2026-01-05T00:00Z\n",
            ", column 'time': these times have an offset but the table's have none",
        ),
        ("series_id,time\n,2026-01-05\n", ":2: column 'series_id' holds no series id"),
        ("series_id,time\n", ": holds a header but no rows"),
    ],
)
def test_bad_query_table_is_refused_with_its_place(csv_file, text, message):
    path = csv_file(text, "q.csv")
    assert query_refusal(path, read_table(FRAME)).startswith(f"{path}{message}")


def test_missing_query_file_is_called_one(tmp_path):
    assert query_refusal(tmp_path / "q.csv", read_table(FRAME)).endswith("q.csv: no such query file; check the path.")


def test_queries_of_a_table_with_a_zone():
    table = read_table(FRAME.assign(time=FRAME["time"] + "+01:00"))
    naive = read_queries(pd.DataFrame({"series_id": ["a"], "time": ["2026-02-01T12:00"]}), table.schema, table)
    assert naive.notes == ("The times of DataFrame have no offset and were read in the table's zone, +01:00.",)
    mixed = pd.DataFrame({"series_id": ["a", "a"], "time": ["2026-02-01T12:00+01:00", "2026-02-01T11:00Z"]})
    queries = read_queries(mixed, table.schema, table)
    assert queries.notes == ()
    assert len({*queries.time, *naive.time}) == 1


def test_queries_of_a_table_without_ids_need_none():
    table = read_table(FRAME.iloc[:2].drop(columns="series_id"))
    assert read_queries(pd.DataFrame({"time": ["2026-02-01"]}), table.schema, table).series.tolist() == [0]


# --- Real files --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_series", "n_channels", "n_rows", "n_values", "first", "last"),
    [
        ("epa_air", 8, 4, 42_185, 49_398, "2024-01-01", "2024-09-30"),
        ("ilinet", 1, 11, 542, 4_891, "1997-09-29", "2009-12-21"),
        ("repohealth", 4, 10, 6_783, 67_830, "2015-01-05", "2025-04-23"),
    ],
)
def test_real_files_hold_what_their_readme_counts(
    shared_data, name, n_series, n_channels, n_rows, n_values, first, last
):
    table = read_table(shared_data / f"{name}.csv.gz")
    assert (table.report.n_series, table.report.n_rows, table.report.n_values) == (n_series, n_rows, n_values)
    assert table.values.shape == (n_rows, n_channels)
    assert table.report.notes == ()
    times = table.to_frame()["time"]
    assert (times.min()[:10], times.max()[:10]) == (first, last)
    assert_same(read_table(table.to_frame()), table)


@pytest.mark.slow
def test_physionet_is_read_in_time(shared_data):
    start = time.perf_counter()
    table = read_table(shared_data / "physionet2012.csv.gz")
    seconds = time.perf_counter() - start
    assert (table.report.n_series, table.report.n_rows, table.report.n_values) == (12_000, 898_352, 5_259_623)
    assert len(table.schema.channels) == 41
    assert table.report.notes[0].startswith("12 series have one row and can serve as history only: ")
    assert (table.time.min(), table.time.max()) == (0, pytest.approx(48, abs=0.1))
    assert seconds < 6


def test_twenty_thousand_columns_take_no_time_to_tell_apart(csv_file):
    names = [f"c{i}" for i in range(20_000)]
    wide = csv_file("\n".join([",".join(["time", *names]), *(",".join([str(t), *["1.5"] * 20_000]) for t in range(2))]))
    long = pd.DataFrame({"time": 1, "channel": names, "value": 1.5})
    begin = time.process_time()
    # With a search through the list for every name each of these takes seconds.
    tables = (
        read_table(wide, channels=names, target_channels=names),
        read_table(wide, channels=names[:-1]),
        read_table(long, layout="long", channels=names[:-1]),
    )
    assert time.process_time() - begin < 5
    assert [len(table.schema.target_channels) for table in tables] == [20_000, 19_999, 19_999]
