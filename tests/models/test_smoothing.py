"""Values inside a history: better than the straight line where something is known, and intervals that hold what they say."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline

from latentode.data.batch import WindowReader
from latentode.data.tables import read_table
from latentode.data.windows import heldout_windows
from latentode.errors import InputError
from latentode.metrics import coverage
from latentode.models import Blend, LatentODE, smoothing
from latentode.models.between import SIDE, look_around
from latentode.models.smoothing import MOST_HIDDEN, N_FOLDS, Smoother, _bend, _exponents, _folds, _hide, _Sample, hide
from tests.data.tables import make_table
from tests.models.conftest import perturb, prepare


def fit(prepared, **kwargs):
    torch.manual_seed(0)
    model = LatentODE(**kwargs)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    model.eval().calibrate([prepared.validation])
    return model


def walks(n_series=120, n_rows=60, seed=0, noise=0.0):
    """Random walks: the best guess between two values is the straight line, its error a Brownian bridge's."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n_series):
        step = rng.exponential(1.0, n_rows)
        values = np.cumsum(np.sqrt(step) * rng.normal(size=n_rows)) + noise * rng.normal(size=n_rows)
        frames.append(pd.DataFrame({"series_id": f"s{i:02}", "time": np.cumsum(step), "x": values}))
    return read_table(pd.concat(frames, ignore_index=True))


@pytest.fixture(scope="module")
def prepared_walks():
    return prepare(walks(), horizon=5.0, n=64)


@pytest.fixture(scope="module")
def model(prepared_walks):
    return fit(prepared_walks)


@pytest.fixture(scope="module")
def unseen(prepared_walks):
    """Windows of other walks, with some values hidden."""
    other = prepare(walks(seed=1), horizon=5.0)
    windows = heldout_windows(other.table, other.split, "val", other.spans)
    return hide([WindowReader(other.table, prepared_walks.scaler, max_history=512).read(windows)])[0]


def test_of_random_walks_the_straight_line_is_found(model, unseen):
    said, seen = model.smooth(unseen), unseen.target_observed
    error = (said.mean - unseen.target_value)[seen]
    around = look_around(unseen)
    value, time = around.of(unseen.token_value), around.of(unseen.token_time)
    both = seen & around.exists[..., SIDE - 1] & around.exists[..., SIDE]
    share = (unseen.lead_time() - time[..., SIDE - 1]) / (time[..., SIDE] - time[..., SIDE - 1])
    line = torch.lerp(value[..., SIDE - 1], value[..., SIDE], share)
    ratio = (said.mean - unseen.target_value)[both].square().mean() / (line - unseen.target_value)[both].square().mean()
    assert float(ratio) < 1.05
    assert float(error.square().mean()) < float((value[..., SIDE - 1] - unseen.target_value)[seen].square().mean())


def test_intervals_of_unseen_series_hold_what_they_say(model, unseen):
    said, seen = model.smooth(unseen), unseen.target_observed
    for level in (0.5, 0.8):
        held = coverage(said, unseen.target_value, level)[seen].mean()
        assert float(held) == pytest.approx(level, abs=0.05)


def test_the_size_of_errors_is_found_as_powers_of_what_it_goes_with():
    rng = np.random.default_rng(0)
    std, gap, spread = (torch.from_numpy(np.exp(rng.normal(size=20_000))) for _ in range(3))
    error = std.pow(0.3) * gap.pow(0.5) * spread.pow(1.2) * torch.from_numpy(rng.normal(size=20_000)) * 10
    empty = torch.zeros_like(std)
    sample = _Sample(*([empty] * 3), std, gap, spread, *([empty] * 5))
    assert torch.allclose(_exponents(error, sample), torch.tensor([0.3, 0.5, 1.2]).double(), atol=0.03)


def test_errors_between_two_values_of_a_walk_grow_with_gap_and_spread(model):
    # Both with the root of time, as the deviation of a Brownian bridge: their powers share that one.
    powers = model.smoother.exponents
    assert 0.35 < float(powers[1] + 0.5 * powers[2]) < 0.65


def test_where_a_value_was_observed_it_stands(model, unseen):
    asked = replace(
        unseen,
        query_time=unseen.token_time,
        query_observed=unseen.token_observed,
        target_row=torch.arange(unseen.token_time.shape[1]).expand_as(unseen.token_time),
        target_channel=unseen.token_channel,
        target_value=unseen.token_value,
        target_observed=unseen.token_observed,
    )
    said, seen = model.smooth(asked), asked.target_observed
    assert torch.allclose(said.mean[seen], asked.token_value[seen], atol=1e-5)
    assert float(said.stddev[seen].max()) < 0.01


def test_with_noise_it_is_better_than_the_straight_line():
    # Level series with noise alone: a straight line has one and a half times its variance or more, the mean of all hardly any.
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "series_id": np.repeat([f"s{i:02}" for i in range(30)], 60),
            "time": np.tile(np.arange(60.0), 30),
            "x": rng.normal(size=1800) + np.repeat(3 * rng.normal(size=30), 60),
        }
    )
    prepared = prepare(read_table(frame), horizon=8.0, n=64)
    model = fit(prepared)
    batch = hide([prepared.validation])[0]
    seen = batch.target_observed
    error = (model.smooth(batch).mean - batch.target_value)[seen] * prepared.scaler.std[0]
    assert float(error.square().mean()) < 1.15


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_alone_is_the_row_in_its_batch(channels):
    prepared = prepare(make_table(n_channels=channels))
    model = perturb(fit(prepared))
    batch = hide([prepared.validation])[0]
    said = model.smooth(batch)
    for b in range(len(batch)):
        alone = model.smooth(batch.take(torch.tensor([b])))
        seen = batch.target_observed[b]
        for name in ("mean", "stddev"):
            assert torch.allclose(getattr(alone, name)[0][seen], getattr(said, name)[b][seen], atol=1e-4)


def test_shifting_time_and_changing_its_unit_change_nothing():
    said = []
    for options in ({}, {"start": 1000.0}, {"unit": 60.0}):
        prepared = prepare(make_table(n_channels=2, **options), horizon=3.0 * options.get("unit", 1.0))
        batch = hide([prepared.validation])[0]
        said.append(fit(prepared).smooth(batch).mean[batch.target_observed])
    assert torch.allclose(said[0], said[1], atol=1e-4)
    assert torch.allclose(said[0], said[2], atol=1e-4)


def test_what_a_forecast_says_is_not_changed(prepared_walks, model):
    other = fit(prepared_walks)
    other.smoother = type(other.smoother)(1)
    batch = prepared_walks.validation
    assert torch.equal(model(batch).mean, other(batch).mean)
    assert torch.equal(model(batch).icdf(torch.tensor(0.1)), other(batch).icdf(torch.tensor(0.1)))


def test_a_loaded_model_smooths_the_same(model, unseen):
    again = deepcopy(model)
    again.smoother = Smoother(1)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.smooth(unseen).icdf(torch.tensor(0.1)), model.smooth(unseen).icdf(torch.tensor(0.1)))


def test_a_run_of_before_forecasts_and_refuses(prepared_walks, model):
    again = deepcopy(model)
    again.smoother = Smoother(1)
    again.load_state_dict({name: x for name, x in model.state_dict().items() if "smoother" not in name})
    assert torch.equal(again(prepared_walks.validation).mean, model(prepared_walks.validation).mean)
    with pytest.raises(InputError, match="too few values in validation"):
        again.smooth(prepared_walks.validation)


def test_what_only_forecasts_says_so(prepared_walks):
    blend = Blend()
    blend.setup(prepared_walks.table.schema)
    with pytest.raises(InputError, match="Blend forecasts only"):
        blend.smooth(prepared_walks.validation)


def test_the_bend_is_the_hermite_interpolant_with_the_slopes_of_parabolas():
    time = torch.tensor([0.0, 1.0, 2.5, 3.0], dtype=torch.float64)
    value = time.square() + 0.5 * time
    spline = CubicHermiteSpline(time[1:3], value[1:3], [2 * 1.0 + 0.5, 2 * 2.5 + 0.5])
    for at in (1.0, 1.4, 2.0, 2.5):
        share = torch.tensor((at - 1.0) / 1.5, dtype=torch.float64)
        line = torch.lerp(value[1], value[2], share)
        found = line + _bend(value, time, torch.ones(4, dtype=torch.bool), share, torch.tensor(1.5).double())
        assert float(found) == pytest.approx(float(spline(at)), abs=1e-6)
        # Through a parabola it is the parabola.
        assert float(found) == pytest.approx(at**2 + 0.5 * at, abs=1e-6)


def test_hiding_takes_values_away_and_asks_for_them_only(prepared_walks):
    whole = prepared_walks.validation
    batch = _hide(whole, 1.0, torch.Generator().manual_seed(0))
    n_whole = int(whole.token_observed.sum() + whole.target_observed.sum())
    n_hidden = int(batch.target_observed.sum())
    assert int(batch.token_observed.sum()) + n_hidden == n_whole
    assert 0.1 * n_whole < n_hidden < MOST_HIDDEN * n_whole
    # No value is both read and asked for.
    assert not bool((batch.token_observed & batch.target_observed).any())
    assert torch.equal(batch.token_value[batch.target_observed], batch.target_value[batch.target_observed])
    assert torch.equal(hide([whole])[0].target_observed, hide([whole])[0].target_observed)


def test_series_are_held_out_whole_and_a_single_one_by_time(prepared_walks):
    whole = prepared_walks.validation
    fold = _folds([whole])
    assert sorted(set(fold.tolist())) == list(range(N_FOLDS))
    assert all(len(set(fold[whole.series == s].tolist())) == 1 for s in whole.series.unique())
    single = replace(whole, series=torch.zeros_like(whole.series))
    fold = _folds([single])
    assert all(single.origin[fold == i].max() <= single.origin[fold == i + 1].min() for i in range(N_FOLDS - 1))


def test_of_many_windows_few_are_taken(prepared_walks, monkeypatch):
    whole = prepared_walks.validation
    monkeypatch.setattr(smoothing, "MAX_WINDOWS", 50)
    parts = hide([whole.take(torch.arange(i, i + 1)) for i in range(len(whole))])
    # So few that each comes up twice.
    assert len(parts) == 2 * len(whole)
    assert 50 < sum(map(len, parts)) < 180
    model = fit(prepared_walks)
    assert model.smoother.is_fitted


def test_without_validation_nothing_is_said(prepared_walks):
    model = fit(prepared_walks)
    model.smoother = Smoother(1)
    model.calibrate([])
    assert not model.smoother.is_fitted


def test_of_many_values_few_are_asked_for(prepared_walks):
    whole = prepared_walks.validation
    generator = torch.Generator().manual_seed(0)
    few, all_of_them = (int(_hide(whole, keep, generator).target_observed.sum()) for keep in (0.1, 1.0))
    assert few < 0.2 * all_of_them
