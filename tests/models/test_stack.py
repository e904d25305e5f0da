"""Two baselines stacked, and when a latent ODE starts from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentode.models import LatentODE, MixtureDecoder
from latentode.models import latent_ode as module
from latentode.models.registry import to_plain
from latentode.models.stack import Stack
from tests.data.tables import make_table
from tests.models.conftest import prepare
from tests.models.test_season import daily_and_weekly, dated


@pytest.fixture(scope="module")
def panel():
    return prepare(make_table(n_series=8, n_rows=40, n_channels=3), n=120)


@pytest.fixture(scope="module")
def seasonal():
    return dated(daily_and_weekly)


def fit(prepared, model):
    torch.manual_seed(0)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch], [prepared.validation])
    return model.eval()


def stacked(prepared):
    stack = fit(prepared, Stack())
    stack.choose([prepared.validation])
    return stack


def error(mean, batch):
    return float((mean - batch.target_value)[batch.target_observed].square().mean())


def test_of_one_channel_no_other_share_errs_less_on_validation():
    alone = prepare(make_table(n_series=8, n_rows=40, n_channels=1), n=120)
    stack, batch = stacked(alone), alone.validation
    own = error(stack.raw(batch).mean, batch)
    for share in np.linspace(0, 1, 21):
        stack.share.fill_(float(share))
        assert own <= error(stack.raw(batch).mean, batch) + 1e-6


def test_it_lies_between_what_the_two_say(panel):
    stack, batch = stacked(panel), panel.batch
    both = torch.stack(stack._both(batch), -1)
    mean = stack.raw(batch).mean
    assert bool((mean >= both.amin(-1) - 1e-5).all())
    assert bool((mean <= both.amax(-1) + 1e-5).all())
    # A share that leans on the regression says what it says.
    stack.share.fill_(1.0)
    assert torch.allclose(stack.raw(batch).mean, both[..., 1], atol=1e-5)


def test_its_regression_reads_a_series_without_its_season(seasonal):
    stack, batch = stacked(seasonal), seasonal.validation
    assert stack.season.profile[:, 0].abs().max() > 0
    with_season = stack._both(batch)[1]
    plain = stack.ridge.raw(stack.season.adjust(batch)[0]).mean
    assert torch.allclose(with_season - plain, stack.season.adjust(batch)[1], atol=1e-5)


def test_an_untrained_model_of_dates_is_its_stack(seasonal):
    """The season that leaves the series beneath the network comes back once, though the stack has one of its own."""
    model, stack, batch = fit(seasonal, LatentODE()), stacked(seasonal), seasonal.validation
    seen = batch.target_observed
    assert model.base == "stack"
    assert torch.allclose(model(batch).mean[seen], stack.raw(batch).mean[seen], atol=1e-5)


def test_of_many_windows_a_model_starts_from_the_blend(panel, monkeypatch):
    monkeypatch.setattr(module, "FEW_WINDOWS", len(panel.batch) - 1)
    many, blend = fit(panel, LatentODE()), fit(panel, LatentODE(base="blend"))
    assert to_plain(many) == to_plain(blend)
    assert many.state_dict().keys() == blend.state_dict().keys()
    assert all(torch.equal(x, blend.state_dict()[name]) for name, x in many.state_dict().items())
    monkeypatch.setattr(module, "FEW_WINDOWS", len(panel.batch))
    assert to_plain(fit(panel, LatentODE()))["settings"]["base"] == "stack"


def test_a_stream_of_windows_is_not_kept(panel, monkeypatch):
    monkeypatch.setattr(module, "FEW_WINDOWS", 30)
    parts = [panel.batch.take(torch.arange(i, i + 12)) for i in range(0, 120, 12)]
    n_drawn = 0

    def stream():
        nonlocal n_drawn
        for part in parts:
            n_drawn += 1
            yield part

    given, are_few = module._count(stream(), 30)
    assert (n_drawn, are_few) == (3, False)
    assert [id(part) for part in given] == [id(part) for part in parts]
    model, other = LatentODE(), LatentODE(base="blend")
    for one, training in ((model, stream()), (other, parts)):
        one.setup(panel.table.schema)
        one.prepare(training, [panel.validation])
    assert torch.equal(model.base_weight, other.base_weight)


def test_without_validation_nothing_could_choose_the_shares(panel):
    model = LatentODE()
    model.setup(panel.table.schema)
    model.prepare([panel.batch])
    assert model.base == "blend"
    assert model.baseline is None


def test_a_decoder_sees_the_training_windows_pass(panel):
    batch = replace(panel.batch, target_value=panel.batch.target_value.round())
    model = LatentODE(decoder=MixtureDecoder())
    model.setup(panel.table.schema)
    model.prepare([batch], [panel.validation])
    assert model.base == "stack"
    assert bool((model.decoder.atom != 0).any())
