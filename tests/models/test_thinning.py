"""Hidden values: what stays of a history is read as if the rest had never been measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import latentode.models.residual as module
from latentode.data.batch import Batch
from latentode.errors import InputError
from latentode.models import AttentionEncoder, LatentODE, ODERNNEncoder
from latentode.models.history import sum_by_channel, summarise
from latentode.models.thinning import thin
from tests.models.conftest import perturb

NONE = torch.zeros(3, dtype=torch.bool)


def only_seen(batch: Batch) -> Batch:
    """Give the batch that a reader would have made of the values that are not hidden: these first, padding at the end."""
    order = (~batch.token_observed).to(torch.int8).argsort(dim=1, stable=True)
    seen = batch.token_observed.gather(1, order)
    moved = {name: getattr(batch, name).gather(1, order) for name in ("token_time", "token_value", "token_channel")}
    return replace(batch, token_observed=seen, **{name: torch.where(seen, x, 0) for name, x in moved.items()})


def count(batch: Batch) -> torch.Tensor:
    return sum_by_channel(batch.token_observed.float()[..., None], batch)[..., 0]


@given(seed=st.integers(0, 2**16), most=st.floats(0.01, 0.99))
@settings(max_examples=30, deadline=None)
def test_values_are_hidden_and_none_is_shown_that_was_not_there(prepared, seed, most):
    batch = prepared.batch
    torch.manual_seed(seed)
    thinned = thin(batch, most, NONE)
    assert not (thinned.token_observed & ~batch.token_observed).any()
    assert torch.equal(thinned.target_value, batch.target_value)


def test_shares_are_uniform_and_drawn_for_each_window_apart(prepared):
    torch.manual_seed(0)
    most = 0.8
    batch = prepared.batch.take(count(prepared.batch).sum(1) >= 10)
    n = count(batch).sum(1)
    hidden = torch.stack([1 - count(thin(batch, most, NONE)).sum(1) / n for _ in range(400)])
    # Of a share uniform in (0, most): its mean, and its variance with that of the binomial counts, E[p (1 - p)] / n.
    assert torch.allclose(hidden.mean(0), torch.tensor(most / 2), atol=4 * float(hidden.std(0).max()) / 400**0.5)
    variance = most**2 / 12 + (most / 2 - most**2 / 3) / n
    assert torch.allclose(hidden.var(0), variance, rtol=0.3)
    # One share for all windows would make their hidden counts rise and fall together.
    assert float(torch.corrcoef(hidden.T).fill_diagonal_(0).abs().max()) < 0.25


def test_of_a_spared_channel_nothing_is_hidden(prepared):
    torch.manual_seed(0)
    batch = prepared.batch
    thinned = count(thin(batch, 0.9, torch.tensor([True, False, False])))
    assert torch.equal(thinned[:, 0], count(batch)[:, 0])
    assert (thinned[:, 1:].sum(0) < 0.9 * count(batch)[:, 1:].sum(0)).all()


def test_training_spares_rare_channels(prepared, monkeypatch):
    n = torch.bincount(prepared.batch.target_channel[prepared.batch.target_observed], minlength=3)
    model = LatentODE(thinning=0.5)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch], [prepared.validation])
    assert torch.equal(model.n_targets, n.float())
    assert "n_targets" not in model.state_dict()
    # A channel has one target too few, the others enough.
    monkeypatch.setattr(module, "MIN_THINNED", int(n[0]) + 1)
    model.n_targets.copy_(torch.tensor([float(n[0]), 1e6, 1e6]))
    model.train()
    read, shown = [], model.read
    monkeypatch.setattr(model, "read", lambda batch, **kwargs: read.append(batch) or shown(batch, **kwargs))
    model.loss(prepared.batch)
    hidden = count(prepared.batch) - count(read[0])
    assert hidden[:, 0].sum() == 0
    assert (hidden[:, 1:].sum(0) > 0).all()


def test_nothing_is_hidden_of_a_share_of_0(prepared):
    assert thin(prepared.batch, 0.0, NONE) is prepared.batch


@pytest.mark.parametrize("encoder", [AttentionEncoder, ODERNNEncoder])
def test_a_model_reads_a_thinned_history_as_one_that_never_had_the_hidden_values(prepared, encoder):
    torch.manual_seed(3)
    model = LatentODE(encoder=encoder())
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch], [prepared.validation])
    perturb(model)
    thinned = thin(prepared.batch, 0.9, NONE)
    short = only_seen(thinned)
    for name in ("last", "mean", "count", "age", "lowest", "highest", "recent"):
        assert torch.allclose(getattr(summarise(thinned), name), getattr(summarise(short), name), atol=1e-6), name
    assert torch.allclose(model(thinned).mean, model(short).mean, atol=1e-5)
    assert not torch.allclose(model(thinned).mean, model(prepared.batch).mean, atol=1e-3)


def test_training_hides_values_and_forecasts_read_them_all(prepared):
    model = LatentODE(encoder=AttentionEncoder(dropout=0.0), thinning=0.5)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch], [prepared.validation])
    # So few targets are all rare.
    model.n_targets.fill_(1e6)
    perturb(model).train()
    losses = {float(model.loss(prepared.batch).detach()) for _ in range(4)}
    assert len(losses) == 4
    model.thinning = 0.0
    assert len({float(model.loss(prepared.batch).detach()) for _ in range(4)}) == 1
    assert torch.equal(model(prepared.batch).mean, model(prepared.batch).mean)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InputError, match="thinning"):
        LatentODE(thinning=share)
