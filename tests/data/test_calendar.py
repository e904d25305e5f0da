"""What the calendar says is what pandas says, in every zone; what "auto" takes is what the training rows can show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentode.data.batch import WindowReader
from latentode.data.calendar import Stamps, calendar_features, with_calendar
from latentode.data.describe import describe
from latentode.data.scaling import Scaler
from latentode.data.settings import PERIODS, DataSettings
from latentode.data.tables import read_table
from latentode.data.windows import Spans, forecast_windows, make_split, training_windows
from latentode.errors import DataError, InputError

ZONES = [None, "UTC", "+05:30", "-03:30", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]


def expected(time, zone):
    """Give the six figures `(N, 6)` by pandas' own accessors."""
    stamps = pd.Series(pd.to_datetime(time, unit="ns", utc=zone is not None))
    clock = (stamps if zone is None else stamps.dt.tz_convert(zone)).dt
    day = (clock.hour + (clock.minute + (clock.second + clock.microsecond / 1e6) / 60) / 60) / 24
    year = (clock.day_of_year - 1 + day) / np.where(clock.is_leap_year, 366, 365)
    shares = [day, clock.day_of_week / 7, year]
    return np.stack([f(2 * np.pi * share) for share in shares for f in (np.sin, np.cos)], axis=-1)


@pytest.mark.parametrize("zone", ZONES)
@given(st.lists(st.integers(pd.Timestamp("1678-01-02").value, pd.Timestamp("2261-12-30").value), min_size=1))
@settings(max_examples=25, deadline=None)
def test_features_are_those_of_pandas(zone, times):
    time = np.asarray(times, dtype=np.int64) // 1000 * 1000
    found = calendar_features(time, PERIODS, zone)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(time, zone), atol=2e-6)


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_the_hour_jumps_with_the_clock(day):
    """On the mornings when summer time begins and ends in Berlin, every quarter of an hour."""
    time = pd.date_range(day, periods=96, freq="15min", tz="UTC").as_unit("ns").asi8
    hour, cosine = calendar_features(time, ["hour"], "Europe/Berlin").T
    np.testing.assert_allclose(np.stack([hour, cosine], 1), expected(time, "Europe/Berlin")[:, :2], atol=2e-6)
    turned = np.diff(np.unwrap(np.arctan2(hour, cosine))) * 96 / (2 * np.pi)
    # One step in the day is five quarters long, or minus three.
    jump = 5 if day == "2026-03-29" else -3
    assert sorted(set(turned.round(2))) == sorted({1, jump})


def test_any_shape_of_times_is_taken():
    time = np.arange(24, dtype=np.int64).reshape(2, 3, 4) * 10**15
    whole = calendar_features(time, ["season", "hour"], "Europe/Berlin")
    assert whole.shape == (2, 3, 4, 4)
    flat = calendar_features(time.reshape(-1), PERIODS, "Europe/Berlin")
    np.testing.assert_array_equal(whole.reshape(-1, 4), flat[:, [4, 5, 0, 1]])


def make_dates(freq, n, *, zone=None, start="2024-01-01"):
    time = pd.date_range(start, periods=n, freq=freq, tz=zone)
    return pd.DataFrame({"series_id": "a", "time": time, "y": np.arange(n) % 7.0})


@pytest.mark.parametrize(
    ("frame", "periods"),
    [
        (make_dates("6h", 200), ("hour", "weekday")),
        (make_dates("D", 200), ("weekday",)),
        (make_dates("7D", 50), ()),
        (make_dates("7D", 120), ("season",)),
        (make_dates("MS", 40), ("weekday", "season")),
        (make_dates("24h", 2000), ("weekday", "season")),
        # Midnight of a zone is two hours of UTC in a year, but one on its own clock.
        (make_dates("D", 400, zone="Europe/Berlin"), ("weekday",)),
    ],
)
def test_auto_takes_what_the_training_part_can_show(frame, periods):
    table = read_table(frame)
    assert with_calendar(table, "auto", np.ones(table.n_rows, bool)).schema.calendar == periods
    assert describe(table, DataSettings(val_fraction=0.05, test_fraction=0.05)).calendar == periods


def test_auto_looks_at_the_training_part_alone():
    table = read_table(make_dates("7D", 120))
    is_first = np.arange(120) < 60
    assert with_calendar(table, "auto", is_first).schema.calendar == ()
    assert with_calendar(table, "auto", np.zeros(120, bool)).schema.calendar == ()


def test_a_single_slip_of_the_clock_is_no_cycle():
    frame = make_dates("7D", 60)
    frame.loc[30, "time"] += pd.Timedelta("3h")
    table = read_table(pd.concat([frame.assign(series_id=f"s{i}") for i in range(3)] + [make_dates("7D", 40)]))
    assert Stamps.of(table, np.ones(table.n_rows, bool)).periods() == ("hour",)
    long = read_table(pd.concat([make_dates("7D", 70).assign(series_id=f"s{i}") for i in range(3)] + [frame]))
    assert Stamps.of(long, np.ones(long.n_rows, bool)).periods() == ()


def test_stamps_of_parts_add_up():
    table = read_table(make_dates("5h", 400))
    is_first = np.arange(400) < 170
    parts = Stamps.of(table, is_first) + Stamps.of(table, ~is_first) + Stamps.none()
    whole = Stamps.of(table, np.ones(400, bool))
    assert parts.per_hour.tolist() == whole.per_hour.tolist()
    assert parts.per_weekday.tolist() == whole.per_weekday.tolist()
    assert (parts.first, parts.last) == (whole.first, whole.last)


def test_numeric_times_have_no_calendar():
    table = read_table(pd.DataFrame({"time": [0.0, 1.0], "y": [1.0, 2.0]}))
    seen = np.ones(2, bool)
    for calendar in ("auto", "none"):
        assert with_calendar(table, calendar, seen).schema.calendar == ()
    with pytest.raises(DataError, match="calendar names 'hour', but the times are numbers"):
        with_calendar(table, ["hour"], seen)


def test_periods_that_are_named_are_taken_in_one_order():
    table = read_table(make_dates("D", 30))
    schema = with_calendar(table, ["season", "hour"], np.ones(30, bool)).schema
    assert schema.calendar == ("hour", "season")
    assert schema.n_known == 4


@pytest.mark.parametrize("value", ["hour", [], ["hour", "hour"], ["month"], None, 3])
def test_settings_that_name_no_calendar_are_refused(value):
    with pytest.raises(InputError, match=r"calendar is .*; choose auto, none, or a list of hour, weekday, season"):
        DataSettings(calendar=value)


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_a_batch_holds_the_calendar_of_every_token_and_query_behind_known_columns(zone):
    frame = pd.concat([make_dates("5h", 60 + i, zone=zone).assign(series_id=f"s{i}") for i in range(3)])
    frame["dose"] = np.linspace(0, 1, len(frame))
    table = read_table(frame, known_columns=["dose"])
    given = DataSettings(horizon="2d", known_columns=["dose"])
    split, spans = make_split(table, given), Spans.of(table, given)
    table = with_calendar(table, "auto", split.train_rows(table))
    assert table.schema.calendar == ("hour", "weekday")
    reader = WindowReader(table, Scaler.fit(table, split, spans.horizon), max_history=40)
    batch = reader.read(training_windows(table, split, spans, np.random.default_rng(0), 9))

    def check(known, model_time, inside):
        # float32 model time is right to some seconds.
        time = batch.origin.numpy()[:, None] + (model_time.numpy().astype(np.float64) * spans.horizon).round()
        here = expected(time[inside].astype(np.int64), zone)[:, :2]
        np.testing.assert_allclose(known[inside].numpy()[:, 1:3], here, atol=2e-3)
        assert (known[~inside] == 0).all()
        assert known.shape[-1] == table.schema.n_known == 5

    check(batch.token_known, batch.token_time, batch.token_observed.numpy())
    check(batch.known, batch.query_time, batch.query_observed.numpy())
    windows = forecast_windows(table)
    asked = windows.origin[np.asarray([2, 0, 0])] + np.asarray([90, 30, 600]) * 60_000_000_000
    batch, column = reader.read_queries(windows, np.asarray([2, 0, 0]), asked, np.zeros((3, 1)))
    found = batch.known[[2, 0, 0], column].numpy()[:, 1:]
    np.testing.assert_allclose(found, expected(asked, zone)[:, :4], atol=2e-6)
