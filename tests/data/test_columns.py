"""Every column has one role, and a column that is missing, unknown or of text is named."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.data.cells import read_cells
from latentode.data.columns import choose_columns, read_channels, read_long_channels
from latentode.data.schema import Schema
from latentode.errors import DataError


@pytest.fixture
def choose(csv_file):
    def run(text, **options):
        layout = options.setdefault("layout", "wide")
        defaults = {"id_column": "series_id", "time_column": "time", "channels": None, "schema": None}
        cells = read_cells(
            csv_file(text), text_columns=["series_id", "time", "channel"] if layout == "long" else ["series_id", "time"]
        )
        return cells, choose_columns(cells, **{**defaults, **options})

    return run


def refusal(function, *args, **options):
    with pytest.raises(DataError) as caught:
        function(*args, **options)
    return str(caught.value).rpartition("/")[2]


def test_every_remaining_column_is_a_candidate(choose):
    _, columns = choose("series_id,b,time,a\nA,1,2,3\n")
    assert (columns.id, columns.time, columns.channels, columns.is_chosen) == ("series_id", "time", ("b", "a"), False)


def test_default_id_column_may_be_absent_a_chosen_one_may_not(choose):
    assert choose("time,a\n1,2\n")[1].id is None
    message = refusal(choose, "time,station_id,a\n1,2,3\n", id_column="station")
    assert message == (
        "data.csv: has no column 'station' of series ids (it has 'time', 'station_id', 'a'); "
        "did you mean 'station_id'? If not, name it with --data.id_column (`id_column`)."
    )


@pytest.mark.parametrize(
    ("header", "hint"),
    [("Time", "did you mean 'Time'? If not, "), ("timestamp", "did you mean 'timestamp'? If not, "), ("ds", "")],
)
def test_table_without_its_time_column_is_refused(choose, header, hint):
    assert refusal(choose, f"series_id,{header},a\nA,1,2\n") == (
        f"data.csv: has no time column 'time' (it has 'series_id', '{header}', 'a'); {hint}"
        "name it with --data.time_column (`time_column`)."
    )


def test_id_and_time_are_two_columns(choose):
    assert "column 'time' cannot be both the series id and the time" in refusal(
        choose, "time,a\n1,2\n", id_column="time"
    )


def test_table_without_values_is_refused(choose):
    assert "has no column of values beside 'series_id', 'time'; add at least one channel." in refusal(
        choose, "series_id,time\nA,1\n"
    )


def test_unknown_channel_is_refused_with_the_nearest_name(choose):
    message = refusal(choose, "time,temp,wind\n1,2,3\n", channels=["wind", "tmp"])
    assert message == (
        "data.csv: has no channel column 'tmp' (it has 'temp', 'wind'); did you mean 'temp'? If not, "
        "correct --data.channels (`channels`)."
    )


@pytest.mark.parametrize(("name", "role"), [("time", "time"), ("series_id", "series id")])
def test_id_and_time_are_no_channels(choose, name, role):
    assert f"column '{name}' is the {role} and cannot be a channel" in refusal(
        choose, "series_id,time,a\nA,1,2\n", channels=[name]
    )


def test_channel_of_a_fitted_model_that_is_missing_is_refused(choose):
    schema = Schema(None, "time", ("a", "b"), ("a",), "none", "number", None)
    message = refusal(choose, "time,a\n1,2\n", channels=schema.channels, schema=schema)
    assert "has no column 'b', a channel of the fitted model (it has 'a'); add the column, with empty cells" in message


def test_fitted_id_column_may_not_be_absent(choose):
    schema = Schema("series_id", "time", ("a",), ("a",), "text", "number", None)
    assert "has no column 'series_id' of series ids" in refusal(choose, "time,a\n1,2\n", channels=("a",), schema=schema)


def test_columns_that_are_not_chosen_are_counted(choose):
    _, columns = choose("time,c,a,b\n1,2,3,4\n", channels=["b", "a"])
    assert columns.channels == ("b", "a")
    assert columns.notes == ("1 column is no channel and left out: 'c'.",)


def test_column_of_text_is_left_out_and_counted(choose):
    cells, columns = choose("time,site,a\n1,north,2\n2,south,\n3,,\n")
    names, values, notes = read_channels(cells, columns)
    assert names == ("a",)
    np.testing.assert_array_equal(values, [[2], [np.nan], [np.nan]])
    assert notes == ("Column 'site' holds no numbers (2 cells of text or other kind) and was left out.",)


@pytest.mark.parametrize("channels", [None, ["a"]])
def test_text_in_a_channel_is_refused_with_its_line(choose, channels):
    cells, columns = choose("time,a\n1,2\n2,low\n3,high\n", channels=channels)
    assert refusal(read_channels, cells, columns) == (
        "data.csv:3: column 'a' holds 'low', which is not a number (2 such rows); correct it, empty the cell if nothing was observed, "
        "or leave the channel out with --data.channels (`channels`)."
    )


def test_chosen_column_of_text_is_refused(choose):
    cells, columns = choose("time,site\n1,north\n", channels=["site"])
    assert "data.csv:2: column 'site' holds 'north', which is not a number" in refusal(read_channels, cells, columns)


@pytest.mark.parametrize("cell", ["inf", "-Inf", "Infinity", "1e999"])
def test_infinite_value_is_refused_with_its_line(choose, cell):
    cells, columns = choose(f"time,a\n1,2\n2,{cell}\n")
    assert refusal(read_channels, cells, columns) == (
        "data.csv:3: column 'a' holds an infinite value (1 such row); correct it, or empty the cell if nothing was observed."
    )


def test_table_of_text_only_is_refused(choose):
    cells, columns = choose("time,site\n1,north\n")
    assert "none of the columns 'site' holds numbers" in refusal(read_channels, cells, columns)


def test_channel_without_a_single_value_stays_a_channel(choose):
    cells, columns = choose("time,a,b\n1,2,NA\n2,3,\n")
    assert read_channels(cells, columns)[0] == ("a", "b")


LONG = "time,channel,value\n1,b,1\n1, a ,2\n2,b,\n2,c,x\n2,c,inf\n"


def test_channels_of_the_long_layout_stand_in_order_of_appearance(choose):
    cells, columns = choose("time,channel,value\n1,b,1\n1, a ,2\n2,b,\n", layout="long")
    names, channel, value, notes = read_long_channels(cells, columns)
    assert (names, channel.tolist(), notes) == (("b", "a"), [0, 1, 0], ())
    np.testing.assert_array_equal(value, [1, 2, np.nan])


def test_channels_that_are_not_chosen_are_not_judged_but_counted(choose):
    cells, columns = choose(LONG, layout="long", channels=["a", "b"])
    names, channel, value, notes = read_long_channels(cells, columns)
    assert (names, channel.tolist()) == (("a", "b"), [1, 0, 1, -1, -1])
    np.testing.assert_array_equal(value, [1, 2, np.nan, np.nan, np.nan])
    assert notes == ("1 channel is not chosen and left out (2 rows): 'c'.",)


def test_text_in_the_long_layout_is_refused_with_its_line(choose):
    cells, columns = choose(LONG, layout="long")
    assert refusal(read_long_channels, cells, columns).startswith(
        "data.csv:5: column 'value' (channel 'c') holds 'x', which is not a number (1 such row)"
    )


def test_infinite_value_in_the_long_layout_is_refused(choose):
    cells, columns = choose(LONG.replace("x", "1"), layout="long")
    assert refusal(read_long_channels, cells, columns).startswith(
        "data.csv:6: column 'value' (channel 'c') holds an infinite value (1 such row)"
    )


def test_unknown_channel_of_the_long_layout_is_refused(choose):
    cells, columns = choose(LONG, layout="long", channels=["d"])
    assert "column 'channel' never names the channel 'd' (it names 'b', 'a', 'c')" in refusal(
        read_long_channels, cells, columns
    )


def test_long_row_without_a_channel_is_refused(choose):
    cells, columns = choose("time,channel,value\n1,,1\n", layout="long")
    assert refusal(read_long_channels, cells, columns).startswith(
        "data.csv:2: column 'channel' holds no channel name (1 such row)"
    )


def test_channel_named_like_the_time_column_is_refused(choose):
    cells, columns = choose("time,channel,value\n1,time,1\n", layout="long")
    assert "a channel is named 'time' like a column of the table" in refusal(read_long_channels, cells, columns)


def test_long_layout_without_its_columns_is_refused(choose):
    assert (
        "has no column 'channel' of the long layout (it has 'time', 'a'); add it, or choose --data.layout wide"
        in refusal(choose, "time,a\n1,2\n", layout="long")
    )
