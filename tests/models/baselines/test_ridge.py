"""Ridge regression against scikit-learn on the same features, and what it is for: one channel that tells another's future."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from latentode.data.tables import read_table
from latentode.models.baselines import Ridge
from latentode.models.baselines.ridge import PENALTIES
from tests.models.conftest import prepare


def fit(prepared, *, calibrate=False):
    model = Ridge()
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    if calibrate:
        model.calibrate([prepared.validation])
    return model


def design(model, batch, channel):
    """Features and residuals of one channel's targets, target by target."""
    shared, own = model._features(batch)
    seen = batch.target_observed & (batch.target_channel == channel)
    window = seen.nonzero()[:, 0]
    residual = (batch.target_value - model.trained_blend(batch))[seen]
    return torch.cat([shared[window], own[seen]], -1).double().numpy(), residual.double().numpy()


@pytest.mark.parametrize("i", [1, 3, 5])
def test_the_weights_are_scikit_learn_s(prepared, i):
    model = fit(prepared)
    for channel in range(3):
        x, residual = design(model, prepared.batch, channel)
        expected = SklearnRidge(alpha=PENALTIES[i] * len(x), fit_intercept=False).fit(x, residual).coef_
        assert np.allclose(model.candidates[i, channel], expected, atol=1e-4)


def test_the_forecast_is_the_blend_plus_features_times_weights(prepared):
    model = fit(prepared)
    batch = prepared.batch
    mean = model.own(batch).mean
    for channel in range(3):
        x, _ = design(model, batch, channel)
        seen = batch.target_observed & (batch.target_channel == channel)
        expected = model.trained_blend(batch)[seen].double().numpy() + x @ model.weight[channel].double().numpy()
        assert np.allclose(mean[seen], expected, atol=1e-5)


def test_the_penalty_is_the_best_on_validation(prepared):
    model = fit(prepared, calibrate=True)
    for channel in range(3):
        x, residual = design(model, prepared.validation, channel)
        errors = [((residual - x @ w.double().numpy()) ** 2).mean() for w in model.candidates[:, channel]]
        assert torch.equal(model.weight[channel], model.candidates[int(np.argmin(errors)), channel])


def test_a_channel_that_tells_the_future_of_another_is_read():
    # `y` goes where `lead` was one unit of time before; its own past says nothing.
    rng = np.random.default_rng(0)
    n = 600
    lead = rng.normal(size=n)
    y = np.concatenate([[0.0], lead[:-1]])
    frame = pd.DataFrame({"time": np.arange(n, dtype=float), "lead": lead, "y": y})
    prepared = prepare(read_table(frame), horizon=1.0, n=400)
    model = fit(prepared, calibrate=True)
    batch = prepared.validation
    of_y = batch.target_observed & (batch.target_channel == 1)
    error = (model(batch).mean - batch.target_value)[of_y].square().mean()
    assert float(error) < 0.05 * float(batch.target_value[of_y].square().mean())
