"""What every baseline promises, whatever it computes; the three linear ones against their definitions, and what chooses their weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentode.data.tables import read_table
from latentode.models import BASELINES, MODELS
from latentode.models.baselines.linear import (
    MIN_STD,
    Moments,
    base_features,
    collect,
    grid_search,
    least_squares,
    moments_of,
)
from latentode.models.baselines.shrunk import ShrunkBaseline
from latentode.models.conformal import choose_width
from latentode.models.fitted import FittedModel
from latentode.models.history import extremes, most_seen, summarise
from latentode.models.lead import lead_bin
from tests.data.tables import make_frame, make_table
from tests.models.conftest import prepare

NAMES = [name for name, cls in MODELS.items() if cls.__module__.startswith("latentode.models.baselines.")]
SHRUNK = [name for name in NAMES if issubclass(MODELS[name], ShrunkBaseline)]


def fit(name, prepared):
    model = MODELS[name]() if isinstance(name, str) else name()
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    model.calibrate([prepared.validation])
    return model


@pytest.fixture(scope="module")
def panel():
    """Enough windows for trees to grow."""
    return prepare(make_table(n_series=8, n_rows=40, n_channels=3), n=160)


@pytest.fixture(scope="module")
def fitted(panel):
    return {name: fit(name, panel) for name in NAMES}


def assert_same(one, two, seen=..., **tolerance):
    assert torch.allclose(one.mean[seen], two.mean[seen], **tolerance)
    assert torch.allclose(one.stddev[seen], two.stddev[seen], **tolerance)


def pad(batch, n=3, junk=99.0):
    """Widen every axis by padding that holds junk."""

    def widen(x, value):
        return torch.cat([x, x.new_full((len(x), n), value)], 1)

    return replace(
        batch,
        token_time=widen(batch.token_time, 0.0),
        token_value=widen(batch.token_value, junk),
        token_channel=widen(batch.token_channel, 1),
        token_observed=widen(batch.token_observed, False),
        query_time=torch.cat([batch.query_time, batch.query_time[:, -1:].expand(-1, n)], 1),
        query_observed=widen(batch.query_observed, False),
        target_row=widen(batch.target_row, 0),
        target_channel=widen(batch.target_channel, 1),
        target_value=widen(batch.target_value, junk),
        target_observed=widen(batch.target_observed, False),
    )


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing_whatever_it_holds(panel, fitted, name):
    batch = panel.batch
    padded = fitted[name](pad(batch))
    n = batch.target_row.shape[1]
    seen = batch.target_observed
    assert padded.mean.shape == (len(batch), n + 3)
    assert torch.allclose(padded.mean[:, :n][seen], fitted[name](batch).mean[seen], atol=1e-6)
    assert torch.allclose(padded.stddev[:, :n][seen], fitted[name](batch).stddev[seen], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing_in_fitting(panel, fitted, name):
    model = MODELS[name]()
    model.setup(panel.table.schema)
    model.prepare([pad(panel.batch)])
    model.calibrate([pad(panel.validation)])
    assert_same(model(panel.batch), fitted[name](panel.batch), panel.batch.target_observed, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_a_batch_equals_the_row_alone(panel, fitted, name):
    together = fitted[name](panel.batch)
    for w in (0, 41, 159):
        batch = panel.reader.read(panel.windows.take(np.asarray([w])))
        known = batch.target_observed[0]
        alone = fitted[name](batch)
        assert torch.allclose(alone.mean[0][known], together.mean[w, : len(known)][known], atol=1e-5)
        assert torch.allclose(alone.stddev[0][known], together.stddev[w, : len(known)][known], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_series_does_not_matter(panel, fitted, name):
    order = np.random.default_rng(1).permutation(len(panel.windows))
    shuffled = fitted[name](panel.reader.read(panel.windows.take(order)))
    straight = fitted[name](panel.batch)
    seen = panel.batch.target_observed[torch.from_numpy(order)]
    assert torch.allclose(shuffled.mean[seen], straight.mean[order][seen], atol=1e-5)
    assert torch.allclose(shuffled.stddev[seen], straight.stddev[order][seen], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_forecast_does_not_read_what_it_forecasts(panel, fitted, name):
    blind = replace(panel.batch, target_value=torch.full_like(panel.batch.target_value, 7.0))
    assert_same(fitted[name](blind), fitted[name](panel.batch))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_gives_the_same_forecasts(panel, fitted, name):
    again = MODELS[name]()
    again.setup(panel.table.schema)
    again.load_state_dict(fitted[name].state_dict())
    assert torch.equal(again(panel.batch).mean, fitted[name](panel.batch).mean)
    assert torch.equal(again(panel.batch).stddev, fitted[name](panel.batch).stddev)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_gives_the_same_forecasts(panel, fitted, name, tmp_path):
    p = panel
    run = FittedModel.new(MODELS[name](), p.table, p.scaler, p.settings, p.spans, 0)
    run.network.load_state_dict(fitted[name].state_dict())
    run.save(tmp_path / "best.ckpt")
    again = FittedModel.load(tmp_path / "best.ckpt").network
    assert type(again) is MODELS[name]
    assert torch.equal(again(p.batch).mean, fitted[name](p.batch).mean)


@pytest.mark.parametrize("name", NAMES)
def test_no_buffer_is_spoilt_by_averaging(fitted, name):
    # What training's average of weights does to a buffer: a number that is not finite would become NaN, a bool has no difference.
    for key, buffer in fitted[name].state_dict().items():
        assert torch.equal((buffer + 0.5 * (buffer - buffer)).to(buffer.dtype), buffer), key


@pytest.mark.parametrize("name", NAMES)
def test_calibrating_twice_is_calibrating_once(panel, fitted, name):
    model = MODELS[name]()
    model.setup(panel.table.schema)
    model.load_state_dict(fitted[name].state_dict())
    model.calibrate([panel.validation])
    assert_same(model(panel.batch), fitted[name](panel.batch), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_constant_and_unseen_channels_do_no_harm(name):
    frame = make_frame(n_series=6, n_rows=40, n_channels=4)
    frame["x1"] = np.where(frame["x1"].isna(), np.nan, 5.0)
    frame["x2"] = np.nan
    # Seen in one series only: most histories know nothing of it.
    frame.loc[frame["series_id"] != "s0", "x3"] = np.nan
    prepared = prepare(read_table(frame), n=120)
    model = fit(name, prepared)
    forecast = model(prepared.batch)
    assert torch.isfinite(forecast.mean).all()
    assert torch.isfinite(forecast.stddev).all()
    assert (forecast.stddev > 0).all()
    of_constant = prepared.batch.target_observed & (prepared.batch.target_channel == 1)
    assert of_constant.any()
    assert forecast.mean[of_constant].abs().max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_history_without_a_value_is_forecast(panel, fitted, name):
    batch = replace(panel.batch, token_observed=torch.zeros_like(panel.batch.token_observed))
    forecast = fitted[name](batch)
    assert torch.isfinite(forecast.mean).all()
    assert (forecast.stddev > 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "seasonal"])  # whose calendar is the absolute time
@pytest.mark.parametrize(("unit", "start"), [(86_400.0, 0.0), (1.0, 1e6)])
def test_neither_the_unit_nor_the_origin_of_numeric_time_matters(panel, fitted, name, unit, start):
    moved = prepare(make_table(n_series=8, n_rows=40, n_channels=3, unit=unit, start=start), horizon=3.0 * unit, n=160)
    # The stamps are rounded in the other unit, and windows drawn between stamps with them.
    assert_same(fitted[name](moved.batch), fitted[name](panel.batch), atol=2e-3)


@pytest.mark.parametrize("name", SHRUNK)
def test_on_validation_nothing_is_worse_than_the_blend(panel, fitted, name):
    blend = squared_error(fitted["blend"], panel.validation)
    for own, reference in zip(squared_error(fitted[name], panel.validation), blend, strict=True):
        assert own <= reference * (1 + 1e-5) + 1e-9


@pytest.mark.parametrize("name", SHRUNK)
def test_a_baseline_that_has_learned_nothing_is_the_blend(panel, fitted, name):
    # Trained on noise, it must fall back: what it says has no share where it does not help.
    model = MODELS[name]()
    model.setup(panel.table.schema)
    model.calibrate([])
    batch = panel.batch
    expected = (base_features(batch) * model.blend_weight[batch.target_channel]).sum(-1)
    assert torch.equal(model(batch).mean, expected)


@pytest.mark.parametrize("name", SHRUNK)
def test_errors_on_validation_have_unit_variance_in_the_widths_given(panel, fitted, name):
    batch = panel.validation
    forecast = fitted[name](batch)
    seen = batch.target_observed
    ratio = ((batch.target_value - forecast.mean) / forecast.stddev)[seen].square().mean()
    assert 0.8 < float(ratio) < 1.25


@pytest.mark.parametrize("make", [MODELS["ridge"], lambda: MODELS["gradient_boosting"](n_trees=3)])
def test_of_many_channels_those_seen_most_are_read_by_all(make):
    frame = make_frame(n_series=3, n_rows=40, n_channels=70, share=0.3)
    # The first channels are nearly unseen.
    frame.loc[10:, [f"x{c}" for c in range(5)]] = np.nan
    prepared = prepare(read_table(frame), n=60)
    model = fit(make, prepared)
    assert len(model.inputs) < 70
    assert model.inputs.min() >= 5
    again = make()
    again.setup(prepared.table.schema)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(prepared.batch).mean, model(prepared.batch).mean)


def test_extremes_are_least_and_greatest(panel):
    batch = panel.batch
    low, high = extremes(batch)
    for w in range(0, len(batch), 7):
        for c in range(batch.n_channels):
            own = batch.token_value[w][batch.token_observed[w] & (batch.token_channel[w] == c)]
            expected = (own.min(), own.max()) if len(own) else (0.0, 0.0)
            assert (low[w, c], high[w, c]) == expected


def test_the_channels_seen_most_are_those_counted_most(panel):
    batch = panel.batch
    count = [int((batch.token_observed & (batch.token_channel == c)).sum()) for c in range(3)]
    assert most_seen([batch, batch], 2).tolist() == sorted(np.argsort(count)[-2:])


def squared_error(model, batch):
    seen = batch.target_observed
    error = (model(batch).mean - batch.target_value).square()
    return [float(error[seen & (batch.target_channel == c)].mean()) for c in range(batch.n_channels)]


def test_the_summary_of_a_history_is_last_mean_count_and_age(prepared):
    batch = prepared.batch
    summary = summarise(batch)
    for w in range(len(batch)):
        seen = batch.token_observed[w]
        for c in range(batch.n_channels):
            own = seen & (batch.token_channel[w] == c)
            value, time = batch.token_value[w][own], batch.token_time[w][own]
            assert summary.count[w, c] == own.sum()
            if own.any():
                assert summary.last[w, c] == value[-1]
                assert summary.mean[w, c] == pytest.approx(float(value.mean()), abs=1e-5)
                assert summary.age[w, c] == -time[-1]
            else:
                assert summary.last[w, c] == summary.mean[w, c] == 0


def test_constant_and_last_value_are_what_they_say(prepared):
    batch = prepared.batch
    assert fit("constant", prepared)(batch).mean.abs().max() == 0
    assert torch.equal(fit("last_value", prepared)(batch).mean, base_features(batch)[..., 0])


def test_the_blend_is_on_validation_never_worse_than_constant_and_last_value(prepared):
    assert set(BASELINES) == {"constant", "last_value", "blend"}
    errors = {name: squared_error(fit(name, prepared), prepared.validation) for name in BASELINES}
    for blend, constant, last in zip(errors["blend"], errors["constant"], errors["last_value"], strict=True):
        assert blend <= min(constant, last) + 1e-6


@pytest.mark.parametrize("name", BASELINES)
def test_the_width_of_a_baseline_is_its_error(prepared, name):
    batch, model = prepared.validation, fit(name, prepared)
    seen = batch.target_observed
    error = (batch.target_value - model.raw(batch).mean)[seen].double()
    expected = choose_width(error, batch.target_channel[seen], lead_bin(batch)[seen], 3).clamp(min=MIN_STD)
    place = batch.target_channel, lead_bin(batch)
    assert torch.allclose(model.raw(batch).stddev[seen].double(), expected[place][seen], rtol=1e-4)


def test_moments_give_the_squared_error_of_any_weights(prepared):
    batch = prepared.batch
    moments = moments_of(base_features(batch), batch)
    weight = torch.tensor([[0.3, 0.6], [1.0, -0.2], [0.0, 0.0]], dtype=torch.float64)
    mean = (base_features(batch).double() * weight[batch.target_channel]).sum(-1)
    seen = batch.target_observed
    for c, found in enumerate(moments.squared_error(weight)):
        here = seen & (batch.target_channel == c)
        assert float(found) == pytest.approx(float((mean - batch.target_value)[here].square().mean()), rel=1e-5)


def random_moments(n=200, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = x @ [0.6, 0.3] + 0.1 * rng.normal(size=n)
    to = torch.as_tensor
    return x, y, Moments(to(x.T @ x)[None], to(x.T @ y)[None], to(y @ y)[None], to([float(n)], dtype=torch.float64))


def test_least_squares_agrees_with_numpy():
    x, y, moments = random_moments()
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    assert np.allclose(least_squares(moments, strength=1e-9)[0], expected, atol=1e-6)


def test_without_data_the_ridge_says_last_value():
    empty = Moments(*(torch.zeros(shape, dtype=torch.float64) for shape in ((1, 2, 2), (1, 2), (1,), (1,))))
    assert np.allclose(least_squares(empty), [[1.0, 0.0]])


def test_grid_search_finds_the_best_of_the_grid():
    x, y, moments = random_moments()
    level = np.linspace(0, 1, 21)
    errors = [((x @ [a, b] - y) ** 2).mean() for a in level for b in level]
    best = np.unravel_index(np.argmin(errors), (21, 21))
    assert np.allclose(grid_search(moments)[0], [level[best[0]], level[best[1]]])


def test_moments_of_parts_add_up(prepared):
    windows = prepared.windows
    parts = [prepared.reader.read(windows.take(np.arange(a, a + 8))) for a in (0, 8, 16)]
    whole, summed = collect([prepared.batch]), collect(parts)
    assert torch.allclose(whole.xx, summed.xx)
    assert torch.equal(whole.count, summed.count)
