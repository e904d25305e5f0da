"""Laws of every network that gradients train, whatever it is made of: it starts as its base, and rows do not see each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentode.data.windows import forecast_windows
from latentode.models import MODELS
from latentode.models.baselines.linear import base_features
from latentode.models.registry import from_plain, to_plain
from latentode.models.residual import ResidualModel
from latentode.models.smoothing import hide
from tests.data.tables import make_table
from tests.models.conftest import perturb, prepare, whole_loss

# Those of `LatentODE`, with all its parts, are in test_latent_ode.py.
NETWORKS = [name for name, cls in MODELS.items() if issubclass(cls, ResidualModel) and name != "latent_ode"]


def make(prepared, name, **settings):
    torch.manual_seed(0)
    model = MODELS[name](**settings)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_an_untrained_network_is_its_base(prepared, name):
    model, batch = make(prepared, name), prepared.batch
    expected = (base_features(batch) * model.base_weight[batch.target_channel]).sum(-1)
    assert torch.equal(model(batch).mean, expected)
    assert make(prepared, name, base=None)(batch).mean.abs().max() == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_of_a_batch_equals_the_row_alone(prepared, name):
    model = perturb(make(prepared, name))
    together = model(prepared.batch)
    for w in (0, 5, 11):
        batch = prepared.reader.read(prepared.windows.take(np.asarray([w])))
        known = batch.target_observed[0]
        alone = model(batch)
        n = len(known)
        assert torch.allclose(alone.mean[0][known], together.mean[w, :n][known], atol=2e-3)
        assert torch.allclose(alone.stddev[0][known], together.stddev[w, :n][known], atol=2e-3)


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
def test_neither_the_unit_nor_the_origin_of_numeric_time_matters(name):
    forecasts = []
    for unit, start in ((1.0, 0.0), (86_400.0, -2_000.0), (1 / 24, 1e6)):
        prepared = prepare(make_table(unit=unit, start=start), horizon=3.0 * unit)
        model = perturb(make(prepared, name))
        windows = forecast_windows(prepared.table)
        rows = np.repeat(np.arange(len(windows)), 3)
        after = np.tile([0.5, 1.0, 2.9], len(windows)) * unit
        batch, _ = prepared.reader.read_queries(windows, rows, windows.origin[rows] + after)
        forecasts.append(model(batch).mean)
    assert torch.allclose(forecasts[0], forecasts[1], atol=2e-3)
    assert torch.allclose(forecasts[0], forecasts[2], atol=2e-3)


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
def test_plain_values_and_weights_are_the_whole_network(prepared, name):
    model = perturb(make(prepared, name))
    again = from_plain(to_plain(model))
    again.setup(prepared.table.schema)
    again.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(again.eval()(prepared.batch).mean, model(prepared.batch).mean)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_lies_inside_a_history_is_told_for_every_row_alone(prepared, name):
    model = perturb(make(prepared, name))
    model.calibrate([prepared.validation])
    batch = hide([prepared.validation])[0]
    said = model.smooth(batch)
    for b in (0, len(batch) - 1):
        seen = batch.target_observed[b]
        alone = model.smooth(batch.take(torch.tensor([b])))
        assert alone.mean[0][seen].isfinite().all()
        assert torch.allclose(alone.mean[0][seen], said.mean[b][seen], atol=2e-3)
