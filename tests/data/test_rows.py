"""Rows come in any order and leave sorted; ids stay what they are; repeated rows are settled as asked, and counted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentode.data.cells import read_cells
from latentode.data.rows import Ids, arrange, parse_ids, pivot, sorting
from latentode.errors import DataError

NAN = np.nan


def ids_of(cells):
    return parse_ids(read_cells(pd.DataFrame({"series_id": cells})), "series_id")


def csv_ids_of(cells, csv_file):
    path = csv_file("".join(f"{cell}\n" for cell in ["series_id", *cells]))
    return parse_ids(read_cells(path, text_columns=["series_id"]), "series_id")


def settle(series, time, values, duplicates="error"):
    names = np.asarray(list(dict.fromkeys(series)), dtype=object)
    ids = Ids(np.asarray([list(names).index(name) for name in series]), names, "text")
    return arrange(
        ids,
        np.asarray(time, dtype=float),
        np.asarray(values, dtype=float).reshape(len(time), -1),
        duplicates=duplicates,
        at=lambda row: f"data.csv:{row + 2}",
        show_time=lambda row: str(time[row]),
    )


# --- Ids ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "kind", "names"),
    [
        (["b", "a", "b"], "text", ["b", "a"]),
        (["007", "7", "007"], "text", ["007", "7"]),
        (["NA", "nan", "None"], "text", ["NA", "nan", "None"]),
        ([" a", "a"], "text", [" a", "a"]),
        (["12", "-3", "0"], "integer", [12, -3, 0]),
        (["1", "1.0"], "text", ["1", "1.0"]),
        (["-0"], "text", ["-0"]),
        ([str(2**63 - 1), str(-(2**63))], "integer", [2**63 - 1, -(2**63)]),
        ([str(2**63)], "text", [str(2**63)]),
    ],
)
def test_whole_numbers_of_a_csv_are_integers_and_everything_else_the_text_it_is(cells, kind, names, csv_file):
    ids = csv_ids_of(cells, csv_file)
    assert (ids.kind, ids.names.tolist()) == (kind, names)


@pytest.mark.parametrize(
    ("cells", "kind", "names"),
    [
        ([3, 1], "integer", [3, 1]),
        ([3.0, 1.0], "integer", [3, 1]),
        (pd.Series([1, 2], dtype="Int64"), "integer", [1, 2]),
        (pd.Categorical([2, 1]), "integer", [2, 1]),
        (["3", "1"], "text", ["3", "1"]),
        (pd.Categorical(["2", "1"]), "text", ["2", "1"]),
        (["NA", "nan"], "text", ["NA", "nan"]),
        ([0.5, 1.0], "text", ["0.5", "1"]),
        ([1e300], "text", ["1e+300"]),
        ([True, False], "text", ["True", "False"]),
        ([1, "A"], "text", ["1", "A"]),
        (pd.Series(["é", "x"], dtype="string"), "text", ["é", "x"]),
        (pd.to_datetime(["2026-01-31"]), "text", ["2026-01-31 00:00:00"]),
    ],
)
def test_ids_of_a_frame_keep_their_type(cells, kind, names):
    ids = ids_of(cells)
    assert (ids.kind, ids.names.tolist()) == (kind, names)


@pytest.mark.parametrize(
    "cells",
    [
        ["a", "", ""],
        ["a", " ", None],
        [1.0, NAN, NAN],
        pd.Series([1, None, None], dtype="Int64"),
        pd.Categorical(["a", None, None]),
    ],
)
def test_row_without_an_id_is_refused(cells):
    with pytest.raises(DataError) as caught:
        ids_of(cells)
    assert str(caught.value) == (
        "DataFrame, row 1 (counted from 0): column 'series_id' holds no series id (2 such rows); fill it in or remove the row."
    )


def test_table_without_an_id_column_is_one_series():
    ids = parse_ids(read_cells(pd.DataFrame({"time": [1, 2]})), None)
    assert (ids.kind, ids.names.tolist(), ids.codes.tolist()) == ("none", ["series"], [0, 0])


# --- Order and duplicates ----------------------------------------------------------------------------------------------------------


def test_rows_are_sorted_by_series_and_time_and_it_is_counted():
    rows = settle(["b", "a", "b", "a"], [2, 1, 1, 2], [1, 2, 3, 4])
    assert rows.starts.tolist() == [0, 2, 4]
    assert rows.time.tolist() == [1, 2, 1, 2]
    assert rows.values[:, 0].tolist() == [3, 1, 2, 4]
    assert rows.notes == ("1 row comes before the row above in series or time; the table was sorted.",)


def test_sorted_rows_carry_no_note():
    assert settle(["b", "b", "a"], [1, 2, 1], [1, 2, 3]).notes == ()


def test_repeated_series_and_time_is_refused_with_both_lines():
    with pytest.raises(DataError) as caught:
        settle(["a", "b", "a", "a", "b"], [3, 1, 2, 3, 1], range(5))
    assert str(caught.value) == (
        "data.csv:5: series 'a' has time 3 twice (first at data.csv:2; 2 such rows); "
        "remove one, or choose --data.duplicates mean or last (`duplicates`)."
    )


def test_repeated_time_in_a_table_without_ids_points_to_the_id_column():
    ids = Ids(np.zeros(2, dtype=int), np.asarray(["series"], dtype=object), "none")
    with pytest.raises(
        DataError,
        match=r"read as one series and has time 1 twice .*; name the column of series ids with --data\.id_column",
    ):
        arrange(ids, np.ones(2), np.ones((2, 1)), duplicates="error", at=str, show_time=lambda _: "1")


def test_mean_and_last_pass_over_what_was_not_observed():
    series, time = ["a"] * 5, [1, 2, 1, 3, 1]
    values = [[1, NAN, NAN], [7, 7, 7], [NAN, 2, NAN], [8, 8, 8], [5, NAN, NAN]]
    mean, last = settle(series, time, values, "mean"), settle(series, time, values, "last")
    np.testing.assert_array_equal(mean.values, [[3, 2, NAN], [7, 7, 7], [8, 8, 8]])
    np.testing.assert_array_equal(last.values, [[5, 2, NAN], [7, 7, 7], [8, 8, 8]])
    assert mean.notes[-1] == "2 rows repeat a series and time; their mean was taken."
    assert last.notes[-1] == "2 rows repeat a series and time; the last observed value of each channel was taken."
    for rows in (mean, last):
        assert rows.time.tolist() == [1, 2, 3]
        assert rows.starts.tolist() == [0, 3]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 9) | st.just(NAN)), min_size=1),
    st.sampled_from(["mean", "last"]),
)
def test_repeated_rows_are_what_pandas_makes_of_them(rows, how):
    frame = pd.DataFrame(rows, columns=["series", "time", "x"])
    settled = settle(frame["series"].tolist(), frame["time"].tolist(), frame["x"].astype(float), how)
    expected = frame.groupby(["series", "time"], sort=True)["x"].agg(how)
    names = list(dict.fromkeys(frame["series"]))
    expected = pd.concat([expected.loc[[name]] for name in names])
    np.testing.assert_allclose(settled.values[:, 0], expected.to_numpy(dtype=float))
    assert settled.time.tolist() == expected.index.get_level_values("time").tolist()


# --- The long layout ---------------------------------------------------------------------------------------------------------------


def test_long_rows_of_one_series_and_time_are_one_wide_row():
    ids = Ids(np.asarray([1, 0, 1, 1]), np.asarray(["a", "b"], dtype=object), "text")
    wide, time, values, row = pivot(
        ids, np.asarray([1.0, 5, 1, 2]), np.asarray([1, 0, 0, 1]), np.asarray([1.0, 2, 3, NAN]), 2
    )
    assert wide.codes.tolist() == [0, 1, 1]
    assert time.tolist() == [5, 1, 2]
    np.testing.assert_array_equal(values, [[2, NAN], [3, 1], [NAN, NAN]])
    assert row.tolist() == [1, 0, 3]


def test_repeated_observations_of_the_long_layout_are_left_to_be_settled():
    ids = Ids(np.zeros(4, dtype=int), np.asarray(["a"], dtype=object), "text")
    _, time, values, row = pivot(ids, np.ones(4), np.asarray([0, 1, 0, 0]), np.asarray([1.0, 2, 3, 4]), 2)
    assert time.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(values, [[1, 2], [3, NAN], [4, NAN]])
    assert row.tolist() == [0, 2, 3]


def test_channels_that_are_left_out_leave_their_time_stamps_only():
    ids = Ids(np.zeros(4, dtype=int), np.asarray(["a"], dtype=object), "text")
    _, time, values, _ = pivot(
        ids, np.asarray([1.0, 1, 1, 2]), np.asarray([-1, 0, -1, -1]), np.asarray([8.0, 5, 8, 8]), 1
    )
    assert time.tolist() == [1, 2]
    np.testing.assert_array_equal(values, [[5], [NAN]])


# --- The order -----------------------------------------------------------------------------------------------------------------------

clocks = st.sampled_from(
    [
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from([0.0, -0.0, 1.5, -1.5, 5e-324, 1e308, -1e308]),
        st.integers(-(2**62), 2**62 - 1),
        st.integers(0, 3).map(lambda n: n * 10**9),
        st.sampled_from([-(2**62), 2**62 - 1, 0]),
    ]
)


@given(st.data(), clocks, st.sampled_from([1, 3, 10**6]))
def test_order_is_by_series_then_time_and_equal_stamps_stay_as_they_were(data, clock, n_series):
    time = np.asarray(data.draw(st.lists(clock, min_size=1, max_size=40)))
    codes = np.asarray(
        data.draw(st.lists(st.integers(0, n_series - 1), min_size=len(time), max_size=len(time))), np.int32
    )
    np.testing.assert_array_equal(sorting(codes, time), np.lexsort((time, codes)))
