"""Times, durations and zones: what is read is what was meant, and is given back as it was written."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentode.data.schema import Schema
from latentode.data.times import (
    format_duration,
    format_times,
    parse_duration,
    parse_time_list,
    parse_times,
    zone_note,
)
from latentode.data.zones import check_zone, localize
from latentode.errors import DataError, InputError

HOUR = 3_600_000_000_000
DAY = 24 * HOUR
# The night in which summer time ends, and the one in which it begins.
AUTUMN, SPRING = "2026-10-25", "2026-03-29"


def schema(kind="datetime", zone=None):
    return Schema("series_id", "time", ("x",), ("x",), "text", kind, zone)


def utc(text):
    return np.datetime64(text, "ns").astype(np.int64)


def refusal(cells, **options):
    with pytest.raises(DataError) as caught:
        parse_times(cells, place=lambda row: f"data.csv:{row + 2}: column 'time'", **options)
    return str(caught.value)


# --- Reading -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cells",
    [
        ["0", "1.5", "-2e3"],
        [" 0 ", "+1.5", "-2000"],
        [0, 1.5, -2000],
        pd.Series([0, 1.5, -2000]),
        pa.chunked_array([["0"], ["1.5", "-2e3"]]),
    ],
)
def test_plain_numbers_stay_what_they_are(cells):
    times = parse_times(cells)
    assert (times.kind, times.zone) == ("number", None)
    assert times.value.tolist() == [0, 1.5, -2000]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T07", "2026-01-31T07:00"),
        ("2026-01-31T07:30", "2026-01-31T07:30"),
        (" 2026-01-31 07:30:15 ", "2026-01-31T07:30:15"),
        ("2026-01-31T07:30:15.5", "2026-01-31T07:30:15.5"),
        ("2026-01-31T07:30:15,123456789", "2026-01-31T07:30:15.123456789"),
        ("1969-12-31T23:59:59.999999999", "1969-12-31T23:59:59.999999999"),
        ("1678-01-01", "1678-01-01"),
        ("2261-12-31T23:59:59", "2261-12-31T23:59:59"),
        ("2024-02-29", "2024-02-29"),
    ],
)
def test_naive_datetimes_count_as_if_they_were_utc(text, meant):
    times = parse_times([text])
    assert (times.kind, times.zone) == ("datetime", None)
    assert times.value.tolist() == [utc(meant)]


def test_dates_and_clock_times_may_stand_in_one_column():
    assert parse_times(["2026-01-31", "2026-01-31T00:00:00.5"]).value.tolist() == [
        utc("2026-01-31"),
        utc("2026-01-31") + 500_000_000,
    ]


@pytest.mark.parametrize(
    ("offset", "zone"),
    [
        ("Z", "UTC"),
        ("z", "UTC"),
        ("+00:00", "UTC"),
        ("-00", "UTC"),
        ("+02:00", "+02:00"),
        ("+0200", "+02:00"),
        (" -03", "-03:00"),
        ("+05:45", "+05:45"),
    ],
)
def test_offsets_in_all_spellings(offset, zone):
    times = parse_times([f"2026-01-31T07:30:00{offset}"])
    assert times.zone == zone
    assert format_times(times.value, schema(zone=zone)).tolist() == [
        f"2026-01-31 07:30:00{zone.replace('UTC', '+00:00')}"
    ]


def test_equal_offsets_in_several_spellings_are_one_zone():
    times = parse_times(["2026-01-31T07:30Z", "2026-01-31T07:30+00:00", "2026-01-31T07:30+00"])
    assert times.zone == "UTC"
    assert len(set(times.value.tolist())) == 1


def test_mixed_offsets_need_a_time_zone():
    cells = [f"{SPRING}T01:59:00+01:00", f"{SPRING}T03:00:00+02:00"]
    assert refusal(cells) == (
        "data.csv:3: column 'time' mixes the offsets '+01:00', '+02:00'; "
        "say in which zone to read it with --data.time_zone Europe/Berlin (`time_zone`)."
    )
    for option in ("time_zone", "zone_if_mixed"):
        times = parse_times(cells, **{option: "Europe/Berlin"})
        assert times.zone == "Europe/Berlin"
        assert np.diff(times.value) == HOUR // 60


def test_a_zone_for_mixed_offsets_changes_nothing_where_they_are_equal_or_absent():
    assert parse_times(["2026-01-01T00:00+02:00"], zone_if_mixed="UTC").zone == "+02:00"
    assert parse_times(["2026-01-01T00:00"], zone_if_mixed="UTC").zone is None
    assert parse_times(["1"], zone_if_mixed="UTC").zone is None


@pytest.mark.parametrize(
    "cells",
    [
        pd.Series(pd.DatetimeIndex(["2026-01-31T07:30", "2026-02-01T00:00"])),
        pd.Series(pd.DatetimeIndex(["2026-01-31T07:30", "2026-02-01T00:00"])).astype("category"),
        [dt.datetime(2026, 1, 31, 7, 30), dt.datetime(2026, 2, 1)],
        [np.datetime64("2026-01-31T07:30"), np.datetime64("2026-02-01T00:00")],
        [pd.Timestamp("2026-01-31T07:30"), pd.Timestamp("2026-02-01")],
        pd.DatetimeIndex(["2026-01-31T07:30", "2026-02-01T00:00"]),
        pd.Series(["2026-01-31T07:30", "2026-02-01"], dtype="category"),
        [dt.datetime(2026, 1, 31, 7, 30), "2026-02-01"],
    ],
)
def test_datetimes_of_python_numpy_and_pandas(cells):
    times = parse_times(cells)
    assert (times.kind, times.zone) == ("datetime", None)
    assert times.value.tolist() == [utc("2026-01-31T07:30"), utc("2026-02-01")]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_zones_of_pandas_columns_are_kept(unit):
    stamps = pd.Series(pd.DatetimeIndex(["1969-07-20T20:17", "2026-07-01T00:00"]).as_unit(unit)).dt.tz_localize("UTC")
    for zone in ("UTC", "Europe/Berlin", "+02:00"):
        times = parse_times(stamps.dt.tz_convert(zone))
        assert times.zone == zone
        assert times.value.tolist() == [utc("1969-07-20T20:17"), utc("2026-07-01")]


def test_dates_of_python_are_midnights():
    assert parse_times([dt.date(2026, 1, 31)]).value.tolist() == [utc("2026-01-31")]


def test_datetimes_with_and_without_offset_in_one_object_column_are_refused():
    naive, aware = dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert "a time without offset where others have one" in refusal(pd.Series([aware, naive], dtype=object))
    assert "holds '5', which is no ISO 8601 datetime" in refusal([dt.date(2026, 1, 1), 5, dt.date(2026, 1, 2)])
    east = dt.timezone(dt.timedelta(hours=2))
    assert "mixes the offsets '+02:00', 'UTC'" in refusal([aware, aware.astimezone(east)])


# --- Refusals ----------------------------------------------------------------------------------------------------------------------


def test_years_that_python_cannot_tell_are_refused():
    assert "outside the years 1678 to 2261" in refusal(pa.chunked_array([pa.array([10**9], pa.date32())]))


@pytest.mark.parametrize("cell", ["", "  ", "NA", "nan", None])
@pytest.mark.parametrize("other", ["1", "2026-01-01"])
def test_missing_time_is_refused_with_its_line(cell, other):
    assert (
        refusal([other, cell, cell])
        == "data.csv:3: column 'time' holds no time (2 such rows); fill it in or remove the row."
    )


@pytest.mark.parametrize(
    "cells", [[1.0, np.nan], [1, None], pd.Series(pd.to_datetime(["2026-01-01", None])), [None, None]]
)
def test_missing_cells_of_frames_are_refused(cells):
    assert "holds no time" in refusal(cells)


def test_infinite_time_is_refused():
    assert refusal(["1", "inf"]).startswith(
        "data.csv:3: column 'time' holds 'inf', which is not a finite number (1 such row)"
    )
    assert refusal([1.0, -np.inf]).startswith("data.csv:3: column 'time' holds '-inf', which is not a finite number")


@pytest.mark.parametrize(
    "cell",
    [
        "yesterday",
        "31.01.2026",
        "2026-1-31",
        "2026-01-31T7:30",
        "2026-01-31T",
        "2026-01-31T0730",
        "07:30",
        "20260131",
        "2026-01-31T07:30 CET",
    ],
)
def test_cell_that_is_no_time_is_refused_and_told_how_to_write_it(cell):
    message = refusal(["2026-01-01", cell, "2026-01-02"], hint=", or name another column")
    assert message == (
        f"data.csv:3: column 'time' holds '{cell}', which is no ISO 8601 datetime (1 such row); "
        "write it as 2026-01-31 or 2026-01-31T07:30:00, or name another column."
    )


def test_the_slip_is_named_not_the_rest_of_the_column():
    assert refusal(["oops", "1", "2"]).startswith(
        "data.csv:2: column 'time' holds 'oops' where other rows hold numbers (1 such row)"
    )
    assert refusal(["5", "2026-01-01", "2026-01-02"]).startswith(
        "data.csv:2: column 'time' holds '5', which is no ISO 8601 datetime (1 such row)"
    )


@pytest.mark.parametrize(
    "cell", ["2026-02-30", "2025-02-29", "2026-13-01", "2026-01-01T24:00", "2026-01-01T10:60", "2026-01-01T10:00:60"]
)
def test_day_or_hour_that_does_not_exist_is_refused(cell):
    message = refusal(["2026-01-01T00:00", cell])
    assert (
        message
        == f"data.csv:3: column 'time' holds '{cell}', a day or hour that does not exist (1 such row); correct it."
    )


@pytest.mark.parametrize(
    "cells",
    [
        ["2026-01-01", "1677-12-31"],
        ["2026-01-01", "2262-01-01"],
        [dt.datetime(2026, 1, 1), dt.datetime(1, 1, 1)],
        [dt.date(2026, 1, 1), dt.date(9999, 1, 1)],
    ],
)
def test_years_that_nanoseconds_cannot_tell_are_refused(cells):
    assert refusal(cells).startswith("data.csv:3: column 'time' holds ")
    assert "outside the years 1678 to 2261" in refusal(cells)


def test_offset_in_some_rows_only_is_refused():
    message = refusal(["2026-01-01T00:00Z", "2026-01-01T01:00"])
    assert message.startswith(
        "data.csv:3: column 'time' holds '2026-01-01T01:00', a time without offset where others have one"
    )


@pytest.mark.parametrize(("cells", "what"), [(["1"], "holds plain numbers"), (["2026-01-01"], "has no offsets")])
def test_time_zone_without_offsets_is_refused(cells, what):
    assert refusal(cells, time_zone="Europe/Berlin") == (
        f"data.csv:2: column 'time' {what}, so there is nothing to convert to Europe/Berlin; leave time_zone out."
    )


@pytest.mark.parametrize("cells", [[True, False], pd.Series(pd.to_timedelta([1, 2], unit="h"))])
def test_column_of_another_type_is_refused(cells):
    assert "is of type" in refusal(cells)


@pytest.mark.parametrize("zone", ["Berlin", "Europe", "", "../etc/passwd", "CET+1x", 5])
def test_unknown_zone_is_refused(zone):
    with pytest.raises(InputError, match=r"which is no IANA zone; write one such as Europe/Berlin or UTC\."):
        check_zone(zone)


@pytest.mark.parametrize("zone", ["+99:99", "+24:00", "-01:60"])
def test_offset_of_a_day_or_more_is_refused(zone):
    with pytest.raises(InputError, match=r"offsets go from -23:59 to \+23:59, write one such as \+02:00\."):
        check_zone(zone)


@pytest.mark.parametrize("cell", ["2026-01-31T07:30+25:00", "2026-01-31T07:30+01:60", "2026-01-31 07:30:00 -2400"])
def test_offset_of_a_day_or_more_in_a_cell_is_named_as_such(cell):
    assert refusal(["2026-01-01", cell, "2026-01-02"]) == (
        f"data.csv:3: column 'time' holds '{cell}', whose offset is beyond 23:59 (1 such row); correct the offset."
    )


# --- Giving back -------------------------------------------------------------------------------------------------------------------

nanoseconds = st.integers(int(utc("1678-01-02")), int(utc("2261-12-30")))
coarse = st.builds(lambda n, step: n // step * step, nanoseconds, st.sampled_from([1, 1000, 10**6, 10**9, DAY]))
zones = st.sampled_from(
    [None, "UTC", "+02:00", "-09:30", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Europe/Amsterdam"]
)


@given(st.lists(coarse, min_size=1, max_size=8), zones)
def test_times_that_are_written_read_back_the_same(times, zone):
    texts = format_times(np.asarray(times), schema(zone=zone))
    assert parse_times(texts.tolist(), time_zone=zone).value.tolist() == times


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_that_are_written_read_back_the_same(times):
    given_back = format_times(np.asarray(times), schema("number"))
    assert parse_times([repr(float(time)) for time in given_back]).value.tolist() == times


def test_datetimes_are_written_in_the_zone_they_came_in():
    autumn = parse_times([f"{AUTUMN}T02:30+02:00", f"{AUTUMN}T02:30+01:00"], time_zone="Europe/Berlin")
    assert format_times(autumn.value, schema(zone="Europe/Berlin")).tolist() == [
        f"{AUTUMN} 02:30:00+02:00",
        f"{AUTUMN} 02:30:00+01:00",
    ]


def test_fractions_of_a_second_are_written_with_as_many_digits_as_they_need():
    time = np.asarray([0, 1_500_000_000])
    assert format_times(time, schema()).tolist() == ["1970-01-01 00:00:00.000", "1970-01-01 00:00:01.500"]
    assert format_times(time[:1], schema()).tolist() == ["1970-01-01 00:00:00"]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_no_times_are_written_as_none(zone):
    assert format_times(np.asarray([], dtype=np.int64), schema(zone=zone)).tolist() == []


# --- Lists of times ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given_times",
    [
        "2026-01-31,2026-02-01T12:00",
        ["2026-01-31", "2026-02-01T12:00"],
        [dt.datetime(2026, 1, 31), dt.datetime(2026, 2, 1, 12)],
        pd.DatetimeIndex(["2026-01-31T00:00", "2026-02-01T12:00"]),
        "2026-01-31, 2026-02-01 12:00 ,",
    ],
)
def test_list_of_datetimes(given_times):
    assert parse_time_list(given_times, schema()).tolist() == [utc("2026-01-31"), utc("2026-02-01T12:00")]


@pytest.mark.parametrize("given_times", ["1,2.5", [1, 2.5], ["1", "2.5"], np.asarray([1, 2.5]), (1, "2.5")])
def test_list_of_numbers(given_times):
    assert parse_time_list(given_times, schema("number")).tolist() == [1, 2.5]


@pytest.mark.parametrize("given_times", [3, 3.0, np.int64(3), "3"])
def test_one_time_is_a_list_of_one(given_times):
    assert parse_time_list(given_times, schema("number")).tolist() == [3]
    day = dt.date(2026, 1, 31)
    for one in (day, dt.datetime(2026, 1, 31), pd.Timestamp(day), np.datetime64(day), str(day)):
        assert parse_time_list(one, schema()).tolist() == [utc("2026-01-31")]


def test_times_without_offset_are_read_in_the_zone_of_the_table_and_it_is_said():
    berlin = schema(zone="Europe/Berlin")
    assert parse_time_list("2026-01-31T12:00,2026-07-31T12:00", berlin).tolist() == [
        utc("2026-01-31T11:00"),
        utc("2026-07-31T10:00"),
    ]
    assert (
        zone_note("2026-01-31", berlin)
        == "The times of at have no offset and were read in the table's zone, Europe/Berlin."
    )
    assert parse_time_list("2026-01-31T12:00", schema(zone="+02:00")).tolist() == [utc("2026-01-31T10:00")]
    assert zone_note("2026-01-31T12:00Z", berlin) is None
    assert zone_note("2026-01-31", schema()) is None
    assert zone_note("7", schema("number")) is None


def test_offsets_may_differ_in_a_list_since_the_table_has_a_zone():
    berlin = schema(zone="Europe/Berlin")
    text = f"{SPRING}T00:00+01:00,{SPRING}T12:00+02:00"
    assert parse_time_list(text, berlin).tolist() == [utc("2026-03-28T23:00"), utc("2026-03-29T10:00")]
    assert zone_note(text, berlin) is None


@pytest.mark.parametrize(
    ("given_times", "kind", "zone", "message"),
    [
        ("", "number", None, "at names no time; give at least one."),
        ([], "number", None, "at names no time; give at least one."),
        (None, "number", None, "at is None; give times as text, numbers or datetimes."),
        ("1,two", "number", None, "at: entry 2 holds 'two' where other rows hold numbers"),
        ("2026-01-01,tomorrow", "datetime", None, "at: entry 2 holds 'tomorrow', which is no ISO 8601 datetime"),
        ("7", "datetime", None, "at: the table's times are datetimes such as 2026-01-31T07:30, but these are numbers"),
        ("2026-01-01", "number", None, "at: the table's times are plain numbers, but these are datetimes"),
        (
            "2026-01-01T00:00Z",
            "datetime",
            None,
            "at: these times have an offset but the table's have none; leave the offset out.",
        ),
        ("inf", "number", None, "at: entry 1 holds 'inf', which is not a finite number"),
        ([None], "number", None, "at: entry 1 holds no time"),
        (
            f"{AUTUMN}T02:30",
            "datetime",
            "Europe/Berlin",
            f"at: {AUTUMN} 02:30:00 does not exist or exists twice in Europe/Berlin",
        ),
        (
            f"{SPRING}T02:30",
            "datetime",
            "Europe/Berlin",
            f"at: {SPRING} 02:30:00 does not exist or exists twice in Europe/Berlin",
        ),
    ],
)
def test_list_that_cannot_be_read_is_an_input_error(given_times, kind, zone, message):
    with pytest.raises(InputError) as caught:
        parse_time_list(given_times, schema(kind, zone))
    assert str(caught.value).startswith(message)


def test_hours_that_do_not_exist_are_counted():
    local = np.asarray([utc("2026-01-01"), utc(f"{SPRING}T02:15"), utc(f"{SPRING}T02:45")])
    with pytest.raises(DataError, match=r"q\.csv: 2026-03-29 02:15:00 .* \(2 such times\); write its offset\."):
        localize(local, "Europe/Berlin", what="q.csv")


# --- Durations ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", 7 * DAY),
        ("7D", 7 * DAY),
        ("12h", 12 * HOUR),
        ("1d12h", 36 * HOUR),
        ("1d 12h", 36 * HOUR),
        ("d", DAY),
        ("2w", 14 * DAY),
        ("1.5h", 1.5 * HOUR),
        (".5d", DAY / 2),
        ("30min", HOUR / 2),
        ("250ms", 250_000_000),
        ("5ns", 5),
        (dt.timedelta(hours=6), 6 * HOUR),
        (np.timedelta64(7, "D"), 7 * DAY),
        (pd.Timedelta("5ns"), 5),
    ],
)
def test_durations_of_datetimes_are_nanoseconds(text, expected):
    value = parse_duration(text, "datetime")
    assert value == expected
    assert isinstance(value, int)


@pytest.mark.parametrize(("text", "expected"), [("0.75", 0.75), (48, 48.0), (" 7 ", 7.0), ("1e3", 1000.0)])
def test_durations_of_numbers_are_numbers(text, expected):
    assert parse_duration(text, "number") == expected


@pytest.mark.parametrize("text", ["-7d", "0d", "0h0min", "-1d12h", dt.timedelta(0), dt.timedelta(days=-1), "0.0s"])
def test_duration_of_datetimes_that_is_not_positive_is_refused(text):
    with pytest.raises(InputError, match=r"^horizon is .*; give a positive duration\.$"):
        parse_duration(text, "datetime")


@pytest.mark.parametrize("text", ["-1", 0, "0", "nan", "inf", float("nan")])
def test_duration_of_numbers_that_is_not_positive_and_finite_is_refused(text):
    with pytest.raises(InputError, match=r"^horizon is .*; give a positive duration\.$"):
        parse_duration(text, "number")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a week",
        "7",
        7,
        "7x",
        "7d-2h",
        "1.2.3d",
        ".d",
        "d7",
        "1e3d",
        "7d,",
        None,
        True,
        np.timedelta64("NaT"),
        pd.NaT,
        dt.timedelta.max,
    ],
)
def test_nonsense_is_refused_and_told_how_to_write_a_duration(text):
    with pytest.raises(
        InputError,
        match=r'^history is .*; the table\'s times are dates, so give a duration such as "7d", "12h" or "30min"\.$',
    ):
        parse_duration(text, "datetime", name="history")


@pytest.mark.parametrize("text", ["3M", "3m", "1mo", "2Y", "1QE"])
def test_months_and_years_are_refused_since_their_length_varies(text):
    with pytest.raises(InputError, match="months and years have no fixed length"):
        parse_duration(text, "datetime")


@pytest.mark.parametrize("text", ["7d", "a week", "", None, True, dt.timedelta(days=1), np.timedelta64(1, "D")])
def test_durations_of_dates_are_refused_where_times_are_numbers(text):
    with pytest.raises(
        InputError, match="but the table's times are plain numbers; give a positive number in their unit"
    ):
        parse_duration(text, "number")


def test_durations_longer_than_nanoseconds_can_tell_are_refused():
    with pytest.raises(InputError, match="more than 292 years"):
        parse_duration("200000d", "datetime")


@given(st.integers(1, 2**63 - 1))
def test_durations_that_are_written_read_back_the_same(nanoseconds):
    assert parse_duration(format_duration(nanoseconds, "datetime"), "datetime") == nanoseconds


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_number_durations_that_are_written_read_back_the_same(value):
    assert parse_duration(format_duration(value, "number"), "number") == value


def test_durations_are_written_in_days_and_less():
    assert format_duration(26 * 7 * DAY + 90 * HOUR / 60, "datetime") == "182d1h30min"
    assert format_duration(0, "datetime") == "0s"
