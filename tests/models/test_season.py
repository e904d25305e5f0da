"""Seasonal adjustment: what the calendar explains is taken out and put back, what it does not explain stays."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from latentode.data.calendar import with_calendar
from latentode.data.tables import read_table
from latentode.models import LatentODE
from latentode.models.season import Season
from tests.models.conftest import prepare

NOISE = 0.1


def dated(value_of, *, n=1500, span=60.0, seed=0):
    """Series of `value_of(days, rng)` at uneven dates, with what the calendar says of them."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(2):
        days = np.sort(rng.uniform(0, span, n))
        stamp = pd.Timestamp("2026-03-01") + pd.to_timedelta(days, unit="D").round("s")
        columns = {name: value + i for name, value in value_of(days, rng).items()}
        frames.append(pd.DataFrame({"series_id": f"s{i}", "time": stamp, **columns}))
    table = read_table(pd.concat(frames).drop_duplicates(["series_id", "time"]))
    return prepare(with_calendar(table, "auto", np.ones(table.n_rows, bool)), horizon="2D", n=400)


def daily_and_weekly(days, rng):
    weekend = (days.astype(int) + 6) % 7 >= 5  # 1 March 2026 is a Sunday
    wave = 2 * np.sin(2 * np.pi * days) + weekend
    return {"x": wave + NOISE * rng.normal(size=len(days)), "y": np.cumsum(rng.normal(size=len(days))) / 10}


@pytest.fixture(scope="module")
def seasonal():
    return dated(daily_and_weekly)


def fitted(prepared):
    season = Season(prepared.table.schema.calendar, len(prepared.table.schema.channels))
    season.fit([prepared.batch])
    return season


def deviation(batch, channel):
    """Of targets around their window's mean, in scaled units."""
    seen = batch.target_observed & (batch.target_channel == channel)
    mean = (batch.target_value * seen).sum(1) / seen.sum(1).clamp(min=1)
    return (batch.target_value - mean[:, None])[seen].std()


def test_what_the_calendar_explains_is_taken_out_of_what_was_not_fitted_on(seasonal):
    season, batch = fitted(seasonal), seasonal.validation
    assert season.periods[0] == 86_400e9
    adjusted, _ = season.adjust(batch)
    # Steps cost some: in the day an hour's, in the week seven hours' around either end of a weekend.
    assert deviation(adjusted, 0) < 0.2 * deviation(batch, 0)


def test_what_wanders_has_no_season(seasonal):
    assert fitted(seasonal).profile[:, 1].abs().max() == 0


def test_a_value_loses_the_same_whether_it_is_read_or_asked_for(seasonal):
    season, reader, windows = fitted(seasonal), seasonal.reader, seasonal.windows.take(np.asarray([0]))
    batch = reader.read(windows)
    later, _ = reader.read_queries(windows, np.zeros(1, np.int64), windows.origin + 3_600_000_000_000)
    moved = reader.read(type(windows)(windows.series, windows.until, windows.until + 1, windows.history_from))
    taken = season.adjust(batch)[1][0][batch.target_observed[0]]
    lost = (moved.token_value - season.adjust(moved)[0].token_value)[0]
    assert len(taken) > 10
    order = torch.argsort(batch.query_time.gather(1, batch.target_row)[0][batch.target_observed[0]], stable=True)
    assert torch.allclose(lost[-len(taken) :].sort().values, taken[order].sort().values, atol=1e-6)
    assert season.adjust(later)[1].shape == later.target_value.shape


def test_the_adjusted_target_and_its_season_are_the_target(seasonal):
    season, batch = fitted(seasonal), seasonal.batch
    adjusted, taken = season.adjust(batch)
    seen = batch.target_observed
    assert torch.allclose((adjusted.target_value + taken)[seen], batch.target_value[seen], atol=1e-6)
    assert bool((adjusted.token_value[~batch.token_observed] == 0).all())


def test_an_untrained_model_of_dates_is_better_than_a_blend_without_the_season(seasonal):
    errors = []
    for base in ("blend", "without"):
        torch.manual_seed(0)
        model = LatentODE()
        model.setup(seasonal.table.schema)
        if base == "without":
            model.season = Season((), 2)
        model.prepare([seasonal.batch])
        batch = seasonal.validation
        with torch.no_grad():
            error = model.eval()(batch).mean - batch.target_value
        errors.append(float(error[batch.target_observed & (batch.target_channel == 0)].square().mean()))
    assert errors[0] < 0.1 * errors[1]


def test_numbers_have_no_season(prepared):
    model = LatentODE()
    model.setup(prepared.table.schema)
    assert model.season.periods == ()
    assert not any(name.startswith("season") for name in model.state_dict())
    assert model.season.adjust(prepared.batch)[0] is prepared.batch
