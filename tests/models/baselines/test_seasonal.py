"""The season: phases exact to the nanosecond, periods found again, empty bins silent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from latentode.data.tables import read_table
from latentode.models.baselines import Seasonal
from latentode.models.baselines.seasonal import CALENDAR, DAY, N_BINS, phase_bin
from tests.models.conftest import prepare


def waves(period, *, n=1200, span=60.0, dates=False, noise=0.1, seed=0):
    """A sine of absolute time on top of a level that differs by series, at uneven times; `span` and `period` in days."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(3):
        time = np.sort(rng.uniform(0, span, n))
        value = np.sin(2 * np.pi * time / period) + i + noise * rng.normal(size=n)
        stamp = pd.Timestamp("2026-03-01") + pd.to_timedelta(time, unit="D").round("s") if dates else time
        frames.append(pd.DataFrame({"series_id": f"s{i}", "time": stamp, "x": value}))
    table = read_table(pd.concat(frames).drop_duplicates(["series_id", "time"]))
    return prepare(table, horizon="2D" if dates else 2.0, n=600)


def fit(prepared):
    model = Seasonal()
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    model.calibrate([prepared.validation])
    return model


def share_left(model, batch):
    """The error in units of what the blend leaves."""
    seen = batch.target_observed
    own = (model(batch).mean - batch.target_value)[seen].square().mean()
    model.share.zero_()
    return float(own / (model(batch).mean - batch.target_value)[seen].square().mean())


def test_a_daily_season_of_dates_is_found_and_used():
    prepared = waves(1.0, dates=True)
    model = fit(prepared)
    assert float(model.period[model.choice[0]]) == pytest.approx(DAY, rel=0.01)
    assert share_left(model, prepared.validation) < 0.2


@pytest.mark.parametrize("period", [0.83, 3.7])
def test_a_period_of_numbers_is_found_and_used(period):
    prepared = waves(period)
    model = fit(prepared)
    # A multiple of the period has the season too.
    found = float(model.period[model.choice[0]])
    assert found / period == pytest.approx(max(round(found / period), 1), rel=0.01)
    assert share_left(model, prepared.validation) < 0.3


def test_without_a_season_validation_keeps_the_blend_or_better():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"time": np.cumsum(rng.exponential(1.0, 400)), "x": np.cumsum(rng.normal(size=400))})
    prepared = prepare(read_table(frame), n=200)
    assert share_left(fit(prepared), prepared.validation) <= 1.0


def test_dates_know_the_periods_of_the_calendar_and_numbers_do_not():
    assert fit(waves(1.0, dates=True, n=200)).period.tolist()[: len(CALENDAR)] == list(CALENDAR)
    assert len(fit(waves(1.0, n=200)).period) < len(CALENDAR) + 3


def with_origin(batch, origin, offsets, scale):
    time = torch.tensor(offsets)[None].expand(len(origin), -1)
    return replace(batch, origin=origin, time_scale=scale), time


def test_a_batch_knows_when_its_queries_stand_in_the_calendar():
    prepared = waves(1.0, dates=True, n=100)
    batch = prepared.batch.to("cpu")
    at = batch.origin[:, None].double() + batch.query_time.double() * batch.time_scale
    for w in range(0, len(batch), 50):
        row = int(batch.series[w])
        stamps = prepared.table.time[prepared.table.starts[row] : prepared.table.starts[row + 1]]
        known = at[w][batch.query_observed[w]].numpy()
        assert np.abs(stamps[:, None] - known).min(0).max() < 1e9 * 60


def test_phases_of_dates_are_exact_far_from_1970(prepared):
    day = int(DAY)
    # Within a nanosecond before, at, and an hour after a midnight some 290 years on, where float64 knows 1,000 ns.
    midnight = 100_000 * day
    origin = torch.tensor([midnight - 1, midnight, midnight + day // 24])
    batch, time = with_origin(prepared.batch, origin, [0.0, 0.5], float(day))
    bins = phase_bin(batch, time, DAY)
    assert bins[:, 0].tolist() == [N_BINS - 1, 0, 1]
    assert bins[1:, 1].tolist() == [N_BINS // 2, N_BINS // 2 + 1]


def test_phases_before_the_origin_of_numbers_count_on_backwards(prepared):
    origin = torch.tensor([-0.25, 0.25], dtype=torch.float64)
    batch, time = with_origin(prepared.batch, origin, [0.0, -1.0, -2.5], 1.0)
    assert phase_bin(batch, time, 1.0).tolist() == [[18, 18, 6], [6, 6, 18]]


def test_an_empty_bin_says_nothing():
    # Observed before noon only: the afternoon's bins of the day stay at the training mean.
    rng = np.random.default_rng(0)
    time = np.sort(np.floor(rng.uniform(0, 60, 800)) + rng.uniform(0, 0.5, 800))
    stamp = pd.Timestamp("2026-03-01") + pd.to_timedelta(time, unit="D").round("s")
    frame = pd.DataFrame({"time": stamp, "x": np.sin(2 * np.pi * time)}).drop_duplicates("time")
    model = fit(prepare(read_table(frame), horizon="2D", n=300))
    assert model.profile[0, 0, 12:].abs().max() == 0
    assert model.profile[0, 0, :12].abs().min() > 0.01
