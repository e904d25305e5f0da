"""Dates as features from a table to a forecast: learned, stored, and of the same instants whatever zone they are written in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from latentode import Forecaster
from latentode.data.schema import Schema
from latentode.models import AttentionEncoder, GaussianDecoder, LatentODE, LinearField

# One value of the history does not tell where in the week it stands.
QUICK = {"max_history": 1, "horizon": "14d", "max_epochs": 16, "windows_per_epoch": 256, "batch_size": 32}
QUICK |= {"learning_rate": 1e-2, "device": "cpu", "show_progress": False}


def small():
    # Alone: the companion finds the period of a week without a calendar.
    parts = AttentionEncoder(16, n_layers=1), LinearField(), GaussianDecoder(32, dropout=0.0)
    return LatentODE(*parts, latent_size=4, has_companion=False)


@pytest.fixture(scope="module")
def frame():
    """High at weekends in Berlin, at uneven stamps of a few days' distance."""
    rng = np.random.default_rng(0)
    frames = []
    for i in range(12):
        hours = np.cumsum(rng.integers(10, 310, 140))
        start = pd.Timestamp("2025-01-01", tz="Europe/Berlin")
        time = pd.DatetimeIndex([start + pd.Timedelta(int(n), unit="h") for n in hours])
        # Nights, in which a clock may show an hour twice, are left out.
        time = time[time.hour > 3]
        y = 5.0 * (time.day_of_week >= 5) + 0.3 * rng.normal(size=len(time))
        frames.append(pd.DataFrame({"series_id": f"s{i}", "time": time, "y": y}))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def fitted(frame):
    return Forecaster(small(), **QUICK).fit(frame)


def test_a_weekly_cycle_is_learned_from_the_calendar_alone(fitted, frame):
    assert fitted.fitted_.schema.calendar == ("hour", "weekday", "season")
    assert fitted.metrics_["calendar"] == ["hour", "weekday", "season"]
    without = Forecaster(small(), **QUICK, calendar="none").fit(frame)
    assert without.fitted_.schema.calendar == ()
    told, untold = (f.metrics_["test"]["mse"] for f in (fitted, without))
    # Two days of seven are high: in deviations of the whole nobody does much better than 1 who does not know which.
    assert untold > 0.8
    assert told < 0.2 * untold
    forecast = fitted.predict(frame, every="31h")
    day = pd.DatetimeIndex(pd.to_datetime(forecast.time, utc=True)).tz_convert("Europe/Berlin").day_of_week
    is_right = (forecast.mean[:, 0] > 2.5) == (day >= 5)
    assert is_right.mean() > 0.95


def test_the_same_instants_give_the_same_forecast_whatever_zone_they_are_written_in(fitted, frame):
    at = pd.date_range("2027-10-01", periods=12, freq="7h", tz="Europe/Berlin")
    expected = fitted.predict(frame, at=list(at)).mean
    for zone in ("UTC", "Asia/Tokyo", "-05:00"):
        other = frame.assign(time=frame["time"].dt.tz_convert(zone))
        assert np.array_equal(fitted.predict(other, at=list(at.tz_convert(zone))).mean, expected)
    # Without offset they are read in the zone of the fit.
    naive = frame.assign(time=frame["time"].dt.tz_localize(None))
    assert np.array_equal(fitted.predict(naive, at=[str(t) for t in at.tz_localize(None)]).mean, expected)


def test_a_query_table_needs_no_column_for_the_calendar(fitted, frame):
    time = pd.date_range("2027-10-01", periods=5, freq="31h", tz="Europe/Berlin")
    expected = fitted.predict(frame, at=list(time)).mean
    queries = pd.DataFrame(
        {"series_id": np.repeat(frame["series_id"].unique(), 5), "time": np.tile(time.to_numpy(), 12)}
    )
    queries["time"] = pd.to_datetime(queries["time"], utc=True)
    assert np.array_equal(fitted.predict(frame, queries=queries).mean, expected)


def test_a_run_holds_its_calendar(fitted, frame, tmp_path):
    fitted.save(tmp_path / "run")
    again = Forecaster.load(tmp_path / "run")
    assert again.fitted_.schema.calendar == ("hour", "weekday", "season")
    assert again.fitted_.settings.calendar == "auto"
    one, two = (f.predict(frame, every="9h").mean for f in (fitted, again))
    assert np.array_equal(one, two)


def test_a_schema_of_an_older_run_has_no_calendar(fitted):
    plain = fitted.fitted_.schema.to_dict()
    assert Schema.from_dict(plain) == fitted.fitted_.schema
    del plain["calendar"]
    assert Schema.from_dict(plain).calendar == ()


def test_baselines_read_it_as_well(frame):
    told, untold = (
        Forecaster("ridge", **QUICK, calendar=calendar).fit(frame).metrics_["test"]["mse"]
        for calendar in (["weekday"], "none")
    )
    assert told < 0.7 * untold


def test_a_model_without_calendar_begins_with_the_same_weights(fitted):
    weights = []
    for calendar in ((), ("hour", "season")):
        model = LatentODE()
        for part in (model.encoder, model.dynamics, model.decoder):
            torch.manual_seed(0)
            part.setup(replace(fitted.fitted_.schema, calendar=calendar), model.latent_size, model.context_size)
        weights.append(model.state_dict())
    without, told = weights
    extra = set(told) - set(without)
    assert extra
    assert all("known" in name for name in extra)
    assert all(torch.equal(value, told[name]) for name, value in without.items())


def test_a_backtest_that_refits_keeps_the_calendar(frame):
    # A refit sees a second summer, from which it would choose the season as well.
    short = frame[frame["time"] < pd.Timestamp("2026-12-01", tz="Europe/Berlin")]
    forecaster = Forecaster("ridge", **{**QUICK, "max_epochs": 1}, test_fraction=0.4).fit(short)
    assert forecaster.fitted_.schema.calendar == ("hour", "weekday")
    report = forecaster.backtest(frame, origins=1, horizon="14d", refit=True)
    assert np.isfinite(report["mse"])
    grown = Forecaster("ridge", **{**QUICK, "max_epochs": 1}, test_fraction=0.0).fit(frame)
    assert grown.fitted_.schema.calendar == ("hour", "weekday", "season")
