"""The three baselines against their definitions, and the closed forms that choose their weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentode.models import BASELINES, MODELS
from latentode.models.baselines.linear import Moments, base_features, collect, grid_search, least_squares, moments_of
from latentode.models.history import summarise


def fit(name, prepared):
    model = MODELS[name]()
    model.setup(prepared.table.schema)
    model.calibrate([prepared.validation])
    return model


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
    errors = {name: squared_error(fit(name, prepared), prepared.validation) for name in BASELINES}
    for blend, constant, last in zip(errors["blend"], errors["constant"], errors["last_value"], strict=True):
        assert blend <= min(constant, last) + 1e-6


def test_the_width_of_a_baseline_is_its_error(prepared):
    model = fit("blend", prepared)
    assert model.std.square().tolist() == pytest.approx(squared_error(model, prepared.validation), rel=1e-3)


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
