"""Two baselines stacked, and when a latent ODE has them beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentode.models import LatentODE, QuantileDecoder
from latentode.models import residual as module
from latentode.models.fitted import FittedModel
from latentode.models.registry import to_plain
from latentode.models.stack import Stack
from tests.data.tables import make_table
from tests.models.conftest import perturb, prepare
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


def accompanied(prepared, **kwargs):
    return fit(prepared, LatentODE(decoder=QuantileDecoder(hidden_size=16), **kwargs))


def test_where_it_has_the_whole_share_a_model_says_what_its_companion_says(seasonal):
    model, stack, batch = accompanied(seasonal), stacked(seasonal), seasonal.validation
    model.companion.choose([batch])
    model.companion_share.fill_(1.0)
    seen = batch.target_observed
    assert torch.allclose(model.raw(batch).mean[seen], stack.raw(batch).mean[seen], atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_moves_the_forecast_and_keeps_its_shape(panel, share):
    model, batch = perturb(accompanied(panel)), panel.batch
    before, said = model.raw(batch), model.companion.raw(batch).mean
    model.companion_share.fill_(share)
    after = model.raw(batch)
    assert torch.allclose(after.mean, before.mean + share * (said - before.mean), atol=1e-5)
    assert torch.allclose(after.stddev, before.stddev, atol=1e-6)
    assert torch.allclose(
        after.icdf(torch.tensor(0.9)) - after.mean, before.icdf(torch.tensor(0.9)) - before.mean, atol=1e-4
    )


def test_training_knows_nothing_of_the_companion(panel):
    model, alone = accompanied(panel), accompanied(panel, has_companion=False)
    assert torch.equal(model.unit, alone.unit)
    assert torch.equal(perturb(model).loss(panel.batch), perturb(alone).loss(panel.batch))
    assert list(model.companion.parameters()) == []


def test_validation_gives_the_share_and_the_width_of_what_is_then_said(panel):
    model, batch = perturb(accompanied(panel)), panel.validation
    model.choose([batch])
    # A network of random weights has no evidence for itself.
    assert bool((model.companion_share == 1).all())
    n = len(model.companion_share)
    assert f"In {n} of {n} channels" in model.remarks()[0]
    model.companion_share[0] = 0.9
    assert f"In {n - 1} of {n} channels" in model.remarks()[0]
    model.companion_share.fill_(1.0)
    with torch.no_grad():
        forecast = model.raw(batch)
    ratio = ((batch.target_value - forecast.mean) / forecast.stddev)[batch.target_observed]
    assert float(ratio.square().mean()) == pytest.approx(1.0, abs=0.1)


def test_of_many_windows_a_model_has_no_companion(panel, monkeypatch):
    monkeypatch.setattr(module, "FEW_WINDOWS", len(panel.batch) - 1)
    many, alone = accompanied(panel), accompanied(panel, has_companion=False)
    assert to_plain(many) == to_plain(alone)
    assert many.remarks() == []
    assert many.state_dict().keys() == alone.state_dict().keys()
    assert all(torch.equal(x, alone.state_dict()[name]) for name, x in many.state_dict().items())
    monkeypatch.setattr(module, "FEW_WINDOWS", len(panel.batch))
    assert accompanied(panel).companion is not None


def test_a_stream_of_many_windows_is_not_kept(panel):
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


def test_without_validation_or_on_another_base_there_is_none(panel):
    model = LatentODE()
    model.setup(panel.table.schema)
    model.prepare([panel.batch])
    assert model.companion is None
    assert not to_plain(model)["settings"]["has_companion"]
    for base in ("ridge", None):
        assert not LatentODE(base=base).has_companion


def test_a_run_gives_the_same_forecasts(panel, tmp_path):
    p = panel
    run = FittedModel.new(LatentODE(), p.table, p.scaler, p.settings, p.spans, 0)
    run.network.prepare([p.batch], [p.validation])
    perturb(run.network)
    run.calibrate([p.validation])
    run.save(tmp_path / "best.ckpt")
    again = FittedModel.load(tmp_path / "best.ckpt")
    assert bool(again.network.companion_share.any())
    assert torch.equal(again.network(p.batch).mean, run.network(p.batch).mean)
