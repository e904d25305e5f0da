"""What every network promises that gradients train, whatever it is made of, beyond the laws of `test_laws.py`: it starts as its base, and learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from latentode.models import MODELS
from latentode.models.baselines.linear import base_features
from latentode.models.residual import ResidualModel
from tests.models.conftest import check_smoothing_of_rows_alone, make_model, perturb, whole_loss

# Those of `LatentODE`, with all its parts, are in test_latent_ode.py.
NETWORKS = [name for name, cls in MODELS.items() if issubclass(cls, ResidualModel) and name != "latent_ode"]


def make(prepared, name, **settings):
    return make_model(prepared, MODELS[name], **settings)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_untrained_network_is_its_base(prepared, name):
    model, batch = make(prepared, name), prepared.batch
    expected = (base_features(batch) * model.base_weight[batch.target_channel]).sum(-1)
    assert torch.equal(model(batch).mean, expected)
    assert make(prepared, name, base=None)(batch).mean.abs().max() == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_neither_the_order_of_targets_nor_queries_that_nobody_needs_matter(prepared, name):
    model, batch = perturb(make(prepared, name)), prepared.batch
    order = torch.arange(batch.target_row.shape[1]).flip(0)
    names = ("target_row", "target_channel", "target_value", "target_observed")
    turned = replace(batch, **{key: getattr(batch, key)[:, order] for key in names})
    seen = batch.target_observed
    assert torch.allclose(model(turned).mean[:, order][seen], model(batch).mean[seen], atol=1e-5)
    # Queries behind the last one, which no target stands at.
    n_more = 3
    more = batch.query_time[:, -1:] + torch.tensor([0.0, 0.1, 0.2])
    longer = replace(
        batch,
        query_time=torch.cat([batch.query_time, more], 1),
        query_observed=torch.cat([batch.query_observed, batch.query_observed.new_zeros(len(batch), n_more)], 1),
    )
    assert torch.allclose(model(longer).mean[seen], model(batch).mean[seen], atol=2e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter_and_training_lowers_the_loss(prepared, name):
    model = perturb(make(prepared, name)).train()
    model.loss(prepared.batch).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())] == []
    model = make(prepared, name)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    before = whole_loss(model, prepared.batch)
    for _ in range(15):
        loss = model.train().loss(prepared.batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert whole_loss(model, prepared.batch) < before - 0.02


@pytest.mark.parametrize("name", NETWORKS)
def test_what_lies_inside_a_history_is_told_for_every_row_alone(prepared, name):
    check_smoothing_of_rows_alone(perturb(make(prepared, name)), prepared)
