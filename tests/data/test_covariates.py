"""Columns with one value per series, and columns known in the future: read as they are meant, or refused by line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentode.data.schema import Schema
from latentode.data.tables import read_queries, read_table
from latentode.errors import DataError, InputError
from tests.data.tables import ROLES, make_covariate_frame

STATIC = "id,time,x,sex,age\nb,0,1,f,\na,0,1,m,61\nb,1,2,,\na,1,2,m,61\n"
KNOWN = "id,time,x,dose\na,2,1,20\na,1,,10\nb,1,3,\n"
LONG = "id,time,channel,value,sex\na,0,x,1,m\na,0,dose,5,m\na,1,dose,6,m\nb,0,x,2,\nb,0,dose,7,\n"


def read(path, **options):
    return read_table(path, id_column="id", **options)


def test_statics_are_one_value_per_series_in_the_order_of_the_series(csv_file):
    table = read(csv_file(STATIC), static_columns=["sex", "age"])
    assert table.series_ids.tolist() == ["b", "a"]
    assert table.statics.texts.tolist() == [["f"], ["m"]]
    assert np.array_equal(table.statics.numbers, [[np.nan], [61.0]], equal_nan=True)
    assert (table.schema.static_numbers, table.schema.static_categories) == (("age",), ("sex",))
    assert table.schema.categories == (("f", "m"),)
    assert table.schema.channels == ("x",)


def test_categories_of_most_series_come_first_and_the_rest_by_name(csv_file):
    rows = "".join(f"s{i},0,1,{kind}\n" for i, kind in enumerate("cbabda"))
    table = read(csv_file("id,time,x,kind\n" + rows), static_columns=["kind"])
    assert table.schema.categories == (("a", "b", "c", "d"),)
    assert table.statics.codes(table.schema.categories)[:, 0].tolist() == [3, 2, 1, 2, 4, 1]
    assert table.statics.codes((("b",),))[:, 0].tolist() == [0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("column", "last", "words"),
    [
        ("sex", "a,2,3,f,61", "static column 'sex' of series 'a' holds 'f' after 'm'"),
        ("age", "a,2,3,m,62", r"static column 'age' of series 'a' holds '62\.0' after '61\.0'"),
    ],
)
def test_a_static_that_changes_is_refused_by_line_column_and_series(csv_file, column, last, words):
    path = csv_file(STATIC + last + "\n")
    with pytest.raises(
        DataError, match=rf"data\.csv:6: {words} \(.*data\.csv:3; 1 such row\); .* or make it a channel"
    ):
        read(path, static_columns=[column], channels=["x"])


def test_text_that_looks_like_numbers_is_a_number_in_a_csv_and_text_in_a_frame(csv_file):
    path = csv_file("id,time,x,code\na,0,1,007\nb,0,1,12\n")
    assert read(path, static_columns=["code"]).statics.numbers.tolist() == [[7.0], [12.0]]
    frame = pd.DataFrame({"id": ["a", "b"], "time": 0.0, "x": 1.0, "code": ["007", "12"]})
    assert read(frame, static_columns=["code"]).statics.texts.tolist() == [["007"], ["12"]]
    assert read(frame.astype({"code": "category"}), static_columns=["code"]).schema.categories == (("007", "12"),)
    flags = csv_file("id,time,x,code\na,0,1,true\nb,0,1,false\n")
    assert read(flags, static_columns=["code"]).statics.numbers.tolist() == [[1.0], [0.0]]


def test_a_fitted_schema_says_what_is_a_number_and_what_a_category(csv_file):
    schema = read(csv_file("id,time,x,ward,age\na,0,1,A1,5\nb,0,1,12,6\n"), static_columns=["ward", "age"]).schema
    assert schema.categories == (("12", "A1"),)
    # Alone, this column would hold numbers.
    table = read_table(csv_file("id,time,x,ward,age\nc,0,1,012,7\nd,0,1,12,8\n"), schema=schema)
    assert table.statics.texts.tolist() == [["012"], ["12"]]
    assert table.statics.codes(table.schema.categories).tolist() == [[0], [1]]
    with pytest.raises(DataError, match=r"data\.csv:3: column 'age' holds 'old', which is not a number"):
        read_table(csv_file("id,time,x,ward,age\nc,0,1,12,7\nd,0,1,12,old\n"), schema=schema)
    with pytest.raises(DataError, match="has no column 'ward'"):
        read_table(csv_file("id,time,x,age\nc,0,1,7\n"), schema=schema)


def test_a_schema_with_all_columns_goes_through_json_and_back():
    schema = read_table(make_covariate_frame(), **ROLES).schema
    assert schema.categories == (("A", "B", "C"),)
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    older = {
        key: value for key, value in schema.to_dict().items() if not key.startswith(("static", "cat", "known", "log"))
    }
    assert Schema.from_dict(older).static_columns == ()


def test_known_columns_stand_beside_the_rows_and_are_no_channels(csv_file):
    table = read(csv_file(KNOWN.replace("b,1,3,", "b,1,3,true").replace("10", "0").replace("20", "1")), channels=["x"])
    assert table.known is None
    path = csv_file(KNOWN + "b,0,,7\n")
    with pytest.raises(DataError, match=r"data\.csv:4: known column 'dose' is empty \(1 such cell\)"):
        read(path, known_columns=["dose"])
    table = read(csv_file(KNOWN.replace("b,1,3,", "b,1,3,30") + "b,0,,7\n"), known_columns=["dose"])
    assert table.schema.channels == table.schema.target_channels == ("x",)
    assert table.known.tolist() == [[10.0], [20.0], [7.0], [30.0]]
    assert np.array_equal(table.values, [[np.nan], [1.0], [np.nan], [3.0]], equal_nan=True)


def test_a_known_column_holds_numbers_alone(csv_file):
    for cell, words in (("high", "holds 'high', which is not a number"), ("inf", "infinite")):
        with pytest.raises(
            DataError, match=rf"data\.csv:4: column 'dose' .*{words}|data\.csv:4: column 'dose' {words}"
        ):
            read(csv_file(KNOWN.replace("b,1,3,", f"b,1,3,{cell}")), known_columns=["dose"])


def test_a_filler_in_a_known_column_is_named():
    frame = make_covariate_frame(n_series=3)
    frame.loc[frame.index % 10 == 0, "dose"] = -999.0
    notes = read_table(frame, **ROLES).report.notes
    assert any("of 'dose'" in note and "-999" in note for note in notes)


def test_repeats_are_settled_before_known_columns_are_missed(csv_file):
    path = csv_file("id,time,x,dose\na,0,1,5\na,0,3,\n")
    table = read(path, known_columns=["dose"], duplicates="mean")
    assert (table.values.tolist(), table.known.tolist()) == ([[2.0]], [[5.0]])


def test_the_long_layout_names_known_columns_among_the_channels(csv_file):
    table = read(csv_file(LONG), layout="long", static_columns=["sex"], known_columns=["dose"])
    assert table.schema.channels == ("x",)
    assert np.array_equal(table.values, [[1.0], [np.nan], [2.0]], equal_nan=True)
    assert table.known.tolist() == [[5.0], [6.0], [7.0]]
    assert table.statics.texts.tolist() == [["m"], [None]]
    with pytest.raises(DataError, match=r"data\.csv:7: known column 'dose' is empty"):
        read(csv_file(LONG + "b,1,x,9,\n"), layout="long", static_columns=["sex"], known_columns=["dose"])
    with pytest.raises(DataError, match="never names the channel 'rate'"):
        read(csv_file(LONG), layout="long", static_columns=["sex"], known_columns=["rate"])


def test_a_log_channel_is_positive_and_refused_by_line(csv_file):
    wide = "id,time,x,y\na,2,1,1\na,1,-3,1\na,0,0,1\n"
    with pytest.raises(DataError, match=r"data\.csv:3: channel 'x' holds -3, which has no logarithm \(2 such rows\)"):
        read(csv_file(wide), log_channels=["x"])
    assert read(csv_file(wide), log_channels=["y"]).schema.log_channels == ("y",)
    long = "id,time,channel,value\na,0,y,-1\na,0,x,1\na,0,x,0\n"
    with pytest.raises(DataError, match=r"data\.csv:4: channel 'x' holds 0, which has no logarithm"):
        read(csv_file(long), layout="long", log_channels=["x"], duplicates="mean")
    with pytest.raises(DataError, match="log channel 'z' is not among the channels 'x', 'y'"):
        read(csv_file(wide), log_channels=["z"])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"static_columns": ["x"], "channels": ["x"]}, InputError, "'x' is named in channels and in static_columns"),
        ({"static_columns": ["sex"], "known_columns": ["sex"]}, InputError, "'sex' is named in static_columns and in"),
        (
            {"target_channels": ["x"], "known_columns": ["x"]},
            InputError,
            "'x' is named in channels and in known_columns",
        ),
        ({"static_columns": []}, InputError, "static_columns is an empty list"),
        ({"known_columns": "dose"}, InputError, "known_columns is 'dose'; give a list"),
        ({"static_columns": ["Sex"]}, DataError, "has no column 'Sex' .* did you mean 'sex'"),
        ({"known_columns": ["time"]}, DataError, "'time' is the time and no other thing; correct `known_columns`"),
        ({"static_columns": ["id"]}, DataError, "'id' is the series id and no other thing; correct `static_columns`"),
        (
            {"static_columns": ["sex"], "target_channels": ["age"], "channels": ["x"]},
            DataError,
            "not among the channels",
        ),
    ],
)
def test_a_column_has_one_role(csv_file, options, error, words):
    with pytest.raises(error, match=words):
        read(csv_file(STATIC), **options)


def test_queries_bring_their_known_columns_in_their_order(csv_file):
    table = read(csv_file(KNOWN.replace("b,1,3,", "b,1,3,30")), known_columns=["dose"])
    queries = read_queries(csv_file("dose,id,time\n1,b,9\n2,a,8\n", "q.csv"), table.schema, table)
    assert (queries.series.tolist(), queries.time.tolist(), queries.known.tolist()) == (
        [1, 0],
        [9.0, 8.0],
        [[1.0], [2.0]],
    )
    for text, words in (
        ("id,time\nb,9\n", "has no column 'dose', which the model was told is known in the future"),
        ("id,time,dose\nb,9,1\nb,10,\n", r"q\.csv:3: known column 'dose' is empty"),
        ("id,time,dose\nb,9,1\nb,10,many\n", r"q\.csv:3: column 'dose' holds 'many', which is not a number"),
    ):
        with pytest.raises(DataError, match=words):
            read_queries(csv_file(text, "q.csv"), table.schema, table)


def test_a_table_is_another_where_a_static_or_known_value_is():
    frame = make_covariate_frame(n_series=3, n_rows=5)
    table = read_table(frame, **ROLES)
    digests = {table.digest(), read_table(frame.drop(columns=["dose", "kind", "age"])).digest()}
    for column, value in (("dose", 0.5), ("age", 41.0), ("kind", "C")):
        changed = frame.copy()
        changed.loc[:4, column] = value
        digests.add(read_table(changed, **ROLES).digest())
    assert len(digests) == 5
    # The order of rows and series decides nothing.
    assert read_table(frame.iloc[::-1], **ROLES).digest() == table.digest()


def test_a_selection_takes_statics_and_known_columns_along():
    table = read_table(make_covariate_frame(n_series=4, n_rows=6), **ROLES)
    part = table.select([2, 0])
    assert part.statics.numbers.tolist() == [[50.0], [40.0]]
    assert np.array_equal(part.known, np.concatenate([table.known[12:18], table.known[:6]]))
    assert table.with_categories_of(table.row_series == 1).schema.categories == (("B",),)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_what_is_read_is_written_back(data):
    n = data.draw(st.integers(1, 5))
    words = st.one_of(st.none(), st.text("abc 0é", min_size=1, max_size=4).filter(lambda text: text.strip() == text))
    numbers = st.one_of(st.just(np.nan), st.floats(allow_nan=False, allow_infinity=False))
    frame = pd.DataFrame({"series_id": np.repeat([f"s{i}" for i in range(n)], 2), "time": np.tile([0.0, 1.0], n)})
    frame["x"] = 1.0
    frame["rate"] = data.draw(st.lists(st.floats(-1e9, 1e9), min_size=2 * n, max_size=2 * n))
    frame["age"] = np.repeat(data.draw(st.lists(numbers, min_size=n, max_size=n)), 2).astype(float)
    kinds = data.draw(st.lists(words, min_size=n, max_size=n))
    frame["kind"] = pd.Series([kind for kind in kinds for _ in range(2)], dtype="string")
    table = read_table(frame, channels=["x"], static_columns=["age", "kind"], known_columns=["rate"])
    back = table.to_frame()
    order = list(back.columns)
    expected = frame[order].astype({"kind": object})
    expected["kind"] = [None if pd.isna(kind) else kind for kind in expected["kind"]]
    pd.testing.assert_frame_equal(back, expected, check_dtype=False)
