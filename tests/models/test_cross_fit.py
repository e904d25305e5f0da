"""Another baseline as the base: what the network trains on is what the baseline leaves of series that it has not seen."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from latentode.data.windows import heldout_windows
from latentode.errors import InputError
from latentode.models import GradientBoosting, LatentODE, LinearField, QuantileDecoder, Ridge
from latentode.models.baselines import BASELINE_MODELS
from latentode.models.cross_fit import N_FOLDS, CrossFitted
from latentode.models.fitted import FittedModel
from latentode.models.registry import from_plain, to_plain
from tests.data.tables import make_table
from tests.models.conftest import perturb, prepare

# Processes are slow to fit, and here are fitted five times.
SLOW = {"gaussian_process": pytest.mark.slow}
OTHERS = [pytest.param(name, marks=SLOW.get(name, ())) for name in BASELINE_MODELS if name != "blend"]


@pytest.fixture(scope="module")
def panel():
    return prepare(make_table(n_series=8, n_rows=40, n_channels=3), n=120)


@pytest.fixture(scope="module")
def single():
    return prepare(make_table(n_series=1, n_rows=200, n_channels=2), horizon=2.0, n=90)


@pytest.fixture(scope="module")
def small():
    return prepare(make_table(n_series=4, n_rows=20, n_channels=2), n=24)


def few_trees():
    return GradientBoosting(n_trees=8)


def make(prepared, base, **kwargs):
    torch.manual_seed(0)
    model = LatentODE(dynamics=LinearField(), decoder=QuantileDecoder(hidden_size=16), base=base, **kwargs)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch], [prepared.validation])
    return model.eval()


def crossed(prepared, base, batch=None):
    model = CrossFitted(base)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch if batch is None else batch], [prepared.validation])
    return model


def is_same(one, two):
    return all(torch.equal(x, two.state_dict()[key]) for key, x in one.state_dict().items())


@pytest.mark.parametrize("base", [Ridge, few_trees])
@pytest.mark.parametrize("data", ["panel", "single"])
def test_a_twin_does_not_know_the_targets_of_its_part(base, data, request):
    """Other targets in one part change all that were fitted on it, and not the twin that forecasts it."""
    prepared = request.getfixturevalue(data)
    model = crossed(prepared, base())
    fold = model.fold_of(prepared.batch)
    assert int(model.is_by_series) == (data == "panel")
    for i in range(N_FOLDS):
        assert (fold == i).any()
        value = torch.where((fold == i)[:, None], 3 - 2 * prepared.batch.target_value, prepared.batch.target_value)
        other = crossed(prepared, base(), replace(prepared.batch, target_value=value))
        assert is_same(model.folds[i], other.folds[i])
        assert not is_same(model.whole, other.whole)
        assert not any(is_same(model.folds[j], other.folds[j]) for j in range(N_FOLDS) if j != i)


def test_parts_are_whole_series_or_stretches_of_time(panel, single):
    fold = crossed(panel, Ridge()).fold_of(panel.batch)
    assert torch.equal(fold, panel.batch.series % N_FOLDS)
    fold = crossed(single, Ridge()).fold_of(single.batch)
    order = single.batch.origin.argsort()
    assert (fold[order].diff() >= 0).all()
    assert torch.bincount(fold).max() <= torch.bincount(fold).min() + 1


def test_no_target_of_a_stretch_of_time_is_one_of_its_twins(single):
    model, batch = crossed(single, Ridge()), single.batch
    fold, horizon = model.fold_of(batch), batch.time_scale
    for i in range(N_FOLDS):
        seen, held = batch.origin[model._may_see(batch, i)], batch.origin[fold == i]
        assert len(seen) > 0
        assert (seen[:, None] - held).abs().min() >= horizon


@pytest.mark.parametrize("base", [Ridge, few_trees])
def test_each_window_is_forecast_by_the_twin_of_its_part(panel, base):
    model, batch = crossed(panel, base()), panel.batch
    said = model.out_of_fold(batch)
    for w in (0, 17, 60, 119):
        alone = batch.take(torch.tensor([w]))
        twin = model.folds[int(model.fold_of(alone))]
        assert torch.allclose(twin.raw(alone).mean[0], said[w], atol=1e-6)
    assert torch.equal(model(batch), model.whole.raw(batch).mean)


def test_what_is_left_out_of_fold_is_what_is_left_of_new_series(panel):
    """In sample boosting leaves far less; a network that learned that would expect too little of itself."""
    model, batch = crossed(panel, GradientBoosting()), panel.batch
    # Chosen to forecast with all trees, as where there is much validation: what is at stake is the fit.
    for one in (model.whole, *model.folds):
        one.share.fill_(1.0)
    other = prepare(make_table(n_series=8, n_rows=40, n_channels=3, seed=5), n=120).batch

    def error(mean, batch):
        return float((mean - batch.target_value)[batch.target_observed].square().mean())

    own, out, new = error(model(batch), batch), error(model.out_of_fold(batch), batch), error(model(other), other)
    assert own < 0.7 * out
    assert out == pytest.approx(new, rel=0.35)


@pytest.mark.parametrize("name", OTHERS)
def test_an_untrained_model_is_its_baseline(small, name):
    model = make(small, name)
    alone = BASELINE_MODELS[name]()
    alone.setup(small.table.schema)
    alone.prepare([small.batch])
    alone.choose([small.validation])
    seen = small.validation.target_observed
    assert torch.equal(model(small.validation).mean[seen], alone.raw(small.validation).mean[seen])


def test_the_unit_is_the_deviation_of_what_is_left_out_of_fold(panel):
    model, batch = make(panel, few_trees()), panel.batch
    left = batch.target_value - model.baseline.out_of_fold(batch)
    for c in range(3):
        here = batch.target_observed & (batch.target_channel == c)
        assert float(model.unit[c]) == pytest.approx(float(left[here].square().mean().sqrt()), rel=1e-4)


def test_training_reads_the_twins_and_forecasting_the_whole(panel):
    model = perturb(make(panel, few_trees()))
    loss, forecast = model.loss(panel.batch), model(panel.batch).mean
    without_whole, without_twins = deepcopy(model), deepcopy(model)
    without_whole.baseline.whole.share.zero_()
    for twin in without_twins.baseline.folds:
        twin.share.zero_()
    assert torch.equal(without_whole.loss(panel.batch), loss)
    assert not torch.equal(without_whole(panel.batch).mean, forecast)
    assert not torch.equal(without_twins.loss(panel.batch), loss)
    assert torch.equal(without_twins(panel.batch).mean, forecast)


def test_nothing_of_the_base_is_trained(panel):
    model = make(panel, few_trees()).train()
    assert list(model.baseline.parameters()) == []
    assert not model.read(panel.batch, out_of_fold=True).features.requires_grad
    before = {key: x.clone() for key, x in model.baseline.state_dict().items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        loss = model.loss(panel.batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(x, before[key]) for key, x in model.baseline.state_dict().items())


@pytest.mark.parametrize("name", ["ridge", "last_value", "seasonal"])
def test_on_validation_no_model_is_worse_than_its_base(panel, name):
    def error(model):
        batch, seen = panel.validation, panel.validation.target_observed
        with torch.no_grad():
            square = (model(batch).mean - batch.target_value).square()
        return np.mean([float(square[seen & (batch.target_channel == c)].mean()) for c in range(3)])

    for seed in range(3):
        model, base = perturb(make(panel, name), seed), make(panel, name)
        model.calibrate([panel.validation])
        assert error(model) <= error(base) + 1e-6


@pytest.mark.parametrize("base", [few_trees, Ridge, lambda: "ridge"])
def test_a_run_gives_the_same_forecasts(panel, base, tmp_path):
    p = panel
    run = FittedModel.new(make(p, base()), p.table, p.scaler, p.settings, p.spans, 0)
    run.network.prepare([p.batch], [p.validation])
    perturb(run.network)
    run.calibrate([p.validation])
    run.save(tmp_path / "best.ckpt")
    again = FittedModel.load(tmp_path / "best.ckpt")
    windows = heldout_windows(p.table, p.split, "val", p.spans)
    assert torch.equal(again.network(p.batch).mean, run.network(p.batch).mean)
    assert torch.equal(again.network.loss(p.batch), run.network.loss(p.batch))
    assert again.score(p.table, windows)["mse"] == run.score(p.table, windows)["mse"]


def test_a_base_with_settings_of_its_own_is_plain_values():
    plain = to_plain(LatentODE(base=GradientBoosting(n_trees=7)))
    assert plain["settings"]["base"]["settings"]["n_trees"] == 7
    assert to_plain(from_plain(plain)) == plain
    assert to_plain(LatentODE(base="ridge"))["settings"]["base"] == "ridge"


@pytest.mark.parametrize("base", ["boosting", LinearField(), LatentODE()])
def test_what_is_no_baseline_is_refused(base):
    with pytest.raises(InputError, match="base is"):
        LatentODE(base=base)


def test_too_few_windows_for_all_parts_do_no_harm(single):
    windows = single.windows.take(np.arange(2))
    batch = single.reader.read(windows)
    model = crossed(single, Ridge(), batch)
    assert torch.isfinite(model.out_of_fold(single.batch)).all()
