"""The figures of `describe`, by hand."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest

from latentode.data.describe import ChannelSummary, Description, describe, overview
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from tests.data.tables import make_table


def test_counts_shares_and_gaps_are_those_of_the_table():
    frame = pd.DataFrame(
        {
            "series_id": ["a"] * 4 + ["b"],
            "time": [0.0, 1.0, 3.0, 10.0, 5.0],
            "x": [1, 2, np.nan, 4, 5],
            "y": 7.0,
            "z": np.nan,
        }
    )
    d = describe(read_table(frame), DataSettings(horizon=2.0))
    assert (d.n_series, d.n_rows, d.n_values) == (2, 5, 9)
    assert d.observed_share == pytest.approx(9 / 15)
    assert (d.first, d.last) == (0.0, 10.0)
    assert d.gaps[2] == "2"
    x, y, z = d.channels
    assert (x.n_values, x.share, x.n_series, x.mean, x.low, x.high) == (4, 0.8, 2, 3.0, 1.0, 5.0)
    assert y.is_constant
    assert z.mean is None
    notes = " ".join(d.notes)
    assert "never observed: 'z'" in notes
    assert "one row" in notes
    assert "1 channel never changes: 'y'" in notes
    json.dumps(d.to_dict(), allow_nan=False)


def test_dates_are_shown_as_dates_and_durations():
    d = describe(make_table(datetimes=True), DataSettings())
    assert str(d.first).startswith("2026-01-01")
    assert d.horizon is not None
    assert d.horizon[-1] in "hdn"
    assert set(d.n_heldout) == {"validation", "test"}


def test_a_table_that_cannot_be_forecast_is_described_all_the_same():
    d = describe(read_table(pd.DataFrame({"time": [1.0], "x": [2.0]})), DataSettings())
    assert d.horizon is None
    assert any("single row" in note for note in d.notes)


def notes_of(frame, **options):
    return describe(read_table(frame, **options), DataSettings()).notes


def two_scales(factor, n=5):
    names = np.repeat(["a", "b", "c"], n)
    values = np.tile(np.arange(1.0, n + 1), 3)
    values[names == "b"] *= factor
    return pd.DataFrame(
        {"series_id": names, "time": np.tile(np.arange(n), 3), "x": values, "y": 1e308 * (values / values.max())}
    )


@pytest.mark.parametrize(("factor", "is_noted"), [(1000, True), (1e-3, True), (900, False), (1, False)])
def test_channel_of_another_scale_in_one_series_is_noted(factor, is_noted):
    notes = [
        note for note in notes_of(two_scales(factor)) if note.startswith("'x' is of another scale in 1 series: about")
    ]
    assert bool(notes) == is_noted
    if notes:
        assert f"about {2.24 * factor:.3g} in 'b', but 2.24 in '" in notes[0]


def test_zeros_and_missing_values_have_no_scale():
    frame = two_scales(1).assign(x=[0.0, np.nan, 0, 0, 0, *np.arange(1.0, 11)])
    assert not [note for note in notes_of(frame) if "another scale" in note]


def test_figures_of_the_largest_numbers_are_finite():
    x = describe(read_table(two_scales(1000)), DataSettings()).channels[1]
    values = two_scales(1000)["y"].to_numpy() / 1e300
    assert (x.mean, x.std) == pytest.approx((values.mean() * 1e300, values.std() * 1e300))


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ([-999, 1, 2, 3, 4], "1 value of 'x' is -999, far from all others"),
        ([9999, 1, 2, 9999, 4], "2 values of 'x' are 9999, far from all others"),
        ([np.float32(9.96921e36), 1, 2, 3, 4], "1 value of 'x' is 9.96921e+36, far from all others"),
        ([-1, 50, 60, -1, 70], "2 values of 'x' are -1, the only negative number"),
        ([-99, -98, 5, 0, 99], None),
        ([-1, 50, 60, 61, 70], None),
        ([-1, 0, 1, -1, 1], None),
        ([-1, -2, 60, -1, 70], None),
        ([-999, -999, -999, -999, -999], None),
    ],
)
def test_fillers_are_noted_where_they_stand_alone(values, note):
    found = [one for one in notes_of(pd.DataFrame({"time": range(5), "x": values})) if "missing value" in one]
    assert [one.split(";")[0] for one in found] == ([note] if note else [])


@pytest.mark.parametrize(
    ("times", "note"),
    [
        ([1.7e9, 1.8e9], "seconds since 1970 (2023-11-14 22:13:20 to 2027-01-15 08:00:00 UTC)"),
        ([1.7e15, 1.8e15], "microseconds since 1970 (2023-11-14 22:13:20 to 2027-01-15 08:00:00 UTC)"),
        ([20260131, 20260201], "dates without dashes"),
        ([20260131, 20260299], None),
        ([0, 1.7e9], None),
        ([2025, 2026], None),
    ],
)
def test_numeric_times_that_look_like_dates_are_noted(times, note):
    found = [one for one in notes_of(pd.DataFrame({"time": times, "x": [1, 2]})) if "were read as plain numbers" in one]
    assert len(found) == (note is not None)
    assert note is None or note in found[0]


def test_rows_that_were_merged_are_counted():
    frame = pd.DataFrame({"time": [1, 1, 1, 2], "x": [1, 2, 3, 4]})
    assert describe(read_table(frame, duplicates="mean"), DataSettings()).n_repeats == 2
    assert describe(read_table(frame[2:]), DataSettings()).n_repeats == 0


def test_fields_of_the_json_are_documented():
    for kind in (Description, ChannelSummary):
        documented = re.findall(r"^ {8}([a-z_, ]+): ", kind.__doc__ or "", re.MULTILINE)
        names = {name.strip() for line in documented for name in line.split(",")}
        assert names == {field.name for field in dataclasses.fields(kind)}


def test_picture_of_several_series_shows_them_evenly_and_their_gaps():
    table = make_table(n_series=9, n_rows=60, datetimes=True)
    shown = overview(table, n_lines=3)
    assert shown.marks["line"].unique().tolist() == ["s0", "s4", "s8"]
    assert len(shown.marks) == np.diff(table.starts)[[0, 4, 8]].sum()
    assert shown.marks["share"].between(0.5, 1).all()
    assert shown.gap_unit == "minutes"
    hours = np.concatenate([np.diff(table.time[a:b]) for a, b in itertools.pairwise(table.starts)]) / 60e9
    np.testing.assert_allclose(shown.gaps, hours)
    np.testing.assert_allclose(shown.shares, (~np.isnan(table.values)).mean(axis=0))


def test_picture_of_one_series_shows_its_channels_on_the_clock_of_its_zone():
    frame = pd.DataFrame({"time": ["2026-07-01T23:00-03:00", "2026-07-02T01:00-03:00"], "x": [1, 2], "y": [np.nan, 3]})
    marks = overview(read_table(frame)).marks
    stamps = pd.to_datetime(["2026-07-01 23:00", "2026-07-02 01:00", "2026-07-02 01:00"])
    assert marks["line"].tolist() == ["x", "x", "y"]
    assert marks["time"].tolist() == stamps.tolist()


def test_picture_of_many_rows_is_thinned():
    table = read_table(pd.DataFrame({"time": np.arange(1000.0), "x": 1.0}))
    assert len(overview(table, n_marks=100).marks) == 100
    assert overview(table).gap_unit == "units of time"


def test_columns_that_are_no_channels_are_named_with_their_categories():
    frame = pd.DataFrame(
        {
            "series_id": ["a", "a", "b", "b", "c", "c"],
            "time": [0.0, 1.0] * 3,
            "x": np.arange(6.0),
            "dose": 1.5,
            "age": [30, 30, 40, 40, 50, 50],
            "sex": ["F", "F", "M", "M", "F", "F"],
        }
    )
    columns = {"static_columns": ["age", "sex"], "known_columns": ["dose"]}
    d = describe(read_table(frame, **columns), DataSettings(**columns))
    assert d.statics == {"age": "number", "sex": ("F", "M")}
    assert d.known == ("dose",)
    assert [channel.name for channel in d.channels] == ["x"]
    json.dumps(d.to_dict())
