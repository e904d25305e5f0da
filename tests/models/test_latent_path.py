"""A latent path carries a state from where the posterior has it, weighs the divergence as training goes on, and reads backward as the paper does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from latentode.errors import InputError
from latentode.models import GaussianDecoder, LatentODE, LinearField, MLPField, ODERNNEncoder
from latentode.models.objectives import annealing, sum_of_means
from tests.models.conftest import perturb

FIELDS = {"closed form": LinearField, "solved": lambda: MLPField(rtol=1e-6, atol=1e-7)}


def make(prepared, **settings):
    torch.manual_seed(0)
    model = LatentODE(**settings)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    return perturb(model)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("states", ["series", "channel"])
def test_a_state_that_stands_before_the_origin_is_carried_from_there(prepared, field, states):
    model, batch = make(prepared, dynamics=FIELDS[field]()), prepared.batch
    posterior = model.path.encode(batch)
    if states == "series":
        posterior = replace(posterior, mean=posterior.mean[:, 0], std=posterior.std[:, 0])
    t0 = -torch.linspace(0.1, 1.0, len(batch))
    at_t0 = replace(posterior, t0=t0)
    # Carried to the origin first, and from there on: the same path.
    context = posterior.series_context if states == "series" else posterior.channel_context.flatten(0, 1)
    per_sample = t0 if states == "series" else t0.repeat_interleave(batch.n_channels)
    start = posterior.mean if states == "series" else posterior.mean.flatten(0, 1)
    at_origin = model.dynamics(start, per_sample, torch.zeros_like(per_sample)[:, None], context)[:, 0]
    by_way = model.path.carry(at_origin.view_as(posterior.mean), posterior, batch)
    at_once = model.path.carry(posterior.mean, at_t0, batch)
    seen = batch.target_observed
    torch.testing.assert_close(at_once[seen], by_way[seen], rtol=0, atol=1e-4)
    stays = model.path.carry(posterior.mean, posterior, batch)
    assert (stays - at_once)[seen].abs().max() > 1e-2


def test_backward_the_state_stands_at_the_oldest_stamp_that_was_read(prepared):
    batch = prepared.batch
    for max_rows in (64, 3):
        model = make(prepared, encoder=ODERNNEncoder(direction="backward", max_rows=max_rows))
        rows = batch.rows()
        t0 = model.path.encode(batch).t0
        for w in (0, 4, 9):
            assert float(t0[w]) == float(rows.time[w][rows.row_observed[w]][-max_rows:][0])
    assert make(prepared, encoder=ODERNNEncoder()).path.encode(batch).t0 is None


def test_annealing_is_the_papers_curve_over_458_epochs():
    n_epochs = 458
    for epoch in (0, 1, 50, 458):
        assert annealing(1.0, epoch / n_epochs) == pytest.approx(1 - 0.99**epoch, abs=2e-4)
    assert annealing(0.5, 0.5) == pytest.approx(0.99)
    assert annealing(0.0, 0.0) == 1.0


def test_the_divergence_counts_as_far_as_training_is(prepared):
    batch = prepared.batch

    def loss(fraction, kl_weight=1.0):
        model = make(prepared, decoder=GaussianDecoder(), objective="elbo", kl_weight=kl_weight, kl_warmup=0.5)
        model.path.at_progress(fraction)
        torch.manual_seed(1)
        return float(model.loss(batch).detach())

    none = loss(0.3, kl_weight=0.0)
    assert loss(0.0) == pytest.approx(none, abs=1e-6)
    assert (loss(0.25) - none) / (loss(0.5) - none) == pytest.approx(0.9 / 0.99, rel=1e-3)
    with pytest.raises(InputError, match="kl_warmup is 2"):
        LatentODE(kl_warmup=2)


def test_what_is_reconstructed_is_the_history_that_was_read(prepared):
    settings = {"encoder": ODERNNEncoder(direction="backward", max_rows=4), "base": None, "objective": "elbo"}
    model = make(prepared, **settings, reconstructs=True)
    batch = prepared.batch
    lesson = model.lesson(batch)
    n = batch.token_time.shape[1]
    assert torch.equal(lesson.lead_time()[:, :n], batch.token_time)
    assert torch.equal(lesson.lead_time()[:, n:], batch.lead_time())
    assert torch.equal(lesson.target_value[:, :n], batch.token_value)
    assert bool((lesson.query_time.diff(dim=1) >= 0).all())
    torch.manual_seed(2)
    loss = model.loss(batch)
    # Of the stamps before the four latest, at the start of which the state stands, no value counts; of those behind, each does.
    t0 = model.path.encode(batch).t0[:, None]
    for is_read, counts in ((batch.token_time < t0, False), (batch.token_time >= t0, True)):
        moved = torch.where(is_read & batch.token_observed, 3.0, 0.0)
        shifted = replace(
            lesson, target_value=lesson.target_value + torch.nn.functional.pad(moved, (0, batch.target_row.shape[1]))
        )
        frame = model.frame(model.read(lesson))
        torch.manual_seed(2)
        other = sum_of_means(model.path.loss_means(shifted, frame, model.loss_weight[lesson.target_channel]))
        assert bool((other - loss).abs() > 1e-3) == counts
    for wrong in ({"base": "blend"}, {"encoder": ODERNNEncoder()}):
        with pytest.raises(InputError, match="reconstructs goes with"):
            LatentODE(**{**settings, **wrong}, reconstructs=True)


def test_a_batch_without_a_target_is_not_charged_for_the_one_before(prepared):
    model = make(prepared, dynamics=MLPField(kinetic_energy=1.0)).train()
    model.loss(prepared.batch).backward()
    nothing = replace(prepared.batch, target_observed=torch.zeros_like(prepared.batch.target_observed))
    assert model.loss(nothing).item() == 0
