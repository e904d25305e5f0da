"""What whole models promise of static and known columns, of members and of strange histories; their laws are in `test_networks.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentode.data.tables import read_table
from latentode.models import MODELS, CDEEncoder, GRUODEBayes, LinearField, NeuralCDE, StudentTDecoder
from latentode.models.baselines.linear import base_features
from tests.data.tables import ROLES, make_covariate_frame
from tests.models.conftest import make_model, perturb, prepare
from tests.models.test_networks import NETWORKS

VARIANTS = {
    "neural_cde, linear": lambda **kwargs: NeuralCDE(CDEEncoder(fill="linear"), LinearField(), **kwargs),
    "gru_ode_bayes, rk4": lambda **kwargs: GRUODEBayes(StudentTDecoder(), method="rk4", **kwargs),
}
MAKERS = {**{name: MODELS[name] for name in NETWORKS}, **VARIANTS}


@pytest.fixture(scope="module")
def covariates():
    return prepare(read_table(make_covariate_frame(n_rows=20), **ROLES), n=16)


def make(prepared, name, **settings):
    return make_model(prepared, MAKERS[name], **settings)


@pytest.mark.parametrize("name", MAKERS)
def test_an_untrained_model_is_its_base(covariates, name):
    model, batch = make(covariates, name), covariates.batch
    expected = (base_features(batch) * model.base_weight[batch.target_channel]).sum(-1)
    assert torch.equal(model(batch).mean, expected)


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_reach_every_parameter_of_every_member(covariates, name):
    model = perturb(make(covariates, name, n_members=2)).train()
    model.loss(covariates.batch).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())] == []


@pytest.mark.parametrize("name", MAKERS)
def test_every_column_is_read(covariates, name):
    model, batch = perturb(make(covariates, name)), covariates.batch
    before = model(batch).mean
    for column in ("known", "token_known", "statics", "categories"):
        moved = model(replace(batch, **{column: getattr(batch, column).roll(1, 0)})).mean - before
        assert moved.abs().max() > 1e-4, column


@pytest.mark.parametrize("name", MAKERS)
def test_a_row_of_a_batch_equals_the_row_alone(covariates, name):
    model = perturb(make(covariates, name))
    together = model(covariates.batch)
    for w in (0, 11):
        batch = covariates.reader.read(covariates.windows.take(np.asarray([w])))
        known = batch.target_observed[0]
        assert torch.allclose(model(batch).mean[0][known], together.mean[w, : len(known)][known], atol=2e-3)


@pytest.mark.parametrize("name", MAKERS)
def test_warping_the_stamps_of_the_history_changes_the_forecast(prepared, name):
    model, batch = perturb(make(prepared, name)), prepared.batch
    warped = replace(batch, token_time=-((-batch.token_time).clamp(min=0) ** 1.5))
    assert (model(batch).mean - model(warped).mean).abs().max() > 1e-3


@pytest.mark.parametrize("name", MAKERS)
def test_a_history_without_a_value_is_forecast_by_numbers(prepared, name):
    model, batch = perturb(make(prepared, name)), prepared.batch
    said = model(replace(batch, token_observed=torch.zeros_like(batch.token_observed)))
    assert bool(said.mean.isfinite().all())
    assert bool(said.stddev.isfinite().all())


# The field of an ODE-RNN is bounded by nothing, and a step of its length is one gap.
@pytest.mark.parametrize("name", [name for name in MAKERS if name != "ode_rnn"])
def test_histories_of_any_length_are_forecast_by_numbers(prepared, name):
    """Gaps of ten thousand horizons, and of a ten-thousandth of one."""
    model, batch = perturb(make(prepared, name)), prepared.batch
    for factor in (1e4, 1e-4):
        said = model(replace(batch, token_time=batch.token_time * factor, token_value=batch.token_value * 1e3))
        assert bool(said.mean.isfinite().all())
        model.zero_grad()
        model.loss(replace(batch, token_time=batch.token_time * factor)).backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", MAKERS)
def test_a_loss_in_half_precision_is_close_to_the_one_in_full(prepared, name):
    model, batch = perturb(make(prepared, name)), prepared.batch
    full = model.loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss(batch)
    half.backward()
    assert float(half.detach()) == pytest.approx(float(full.detach()), abs=0.02)
