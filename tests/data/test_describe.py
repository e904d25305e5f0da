"""The figures of `describe`, by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from latentode.data.describe import describe
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
    assert "never change: y" in notes
    json.dumps(d.to_dict(), allow_nan=False)


def test_dates_are_shown_as_dates_and_durations():
    d = describe(make_table(datetimes=True), DataSettings())
    assert str(d.first).startswith("2026-01-01")
    assert d.horizon[-1] in "hdn"
    assert set(d.n_heldout) == {"validation", "test"}


def test_a_table_that_cannot_be_forecast_is_described_all_the_same():
    d = describe(read_table(pd.DataFrame({"time": [1.0], "x": [2.0]})), DataSettings())
    assert d.horizon is None
    assert any("single row" in note for note in d.notes)
