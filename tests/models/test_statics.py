"""Static and known columns in models: an untrained model is still its base, rows do not see each other, and they are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentode.data.tables import read_table
from latentode.models import AttentionEncoder, GradientBoosting, LatentODE, ODERNNEncoder, Ridge
from latentode.models.baselines.linear import base_features
from latentode.models.fitted import FittedModel
from latentode.models.history import known_features
from latentode.models.statics import MAX_CATEGORIES, StaticContext, count_features, static_features
from tests.data.tables import ROLES, make_covariate_frame
from tests.models.conftest import perturb, prepare

ENCODERS = [AttentionEncoder, ODERNNEncoder]


@pytest.fixture(scope="module")
def covariates():
    return prepare(read_table(make_covariate_frame(), **ROLES), n=64)


@pytest.fixture(scope="module")
def without():
    roles = {name: columns for name, columns in ROLES.items() if name not in ("static_columns", "known_columns")}
    return prepare(read_table(make_covariate_frame(), **roles), n=64)


def make(prepared, encoder=AttentionEncoder):
    torch.manual_seed(0)
    model = LatentODE(encoder=encoder(), latent_size=4)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    return model.eval()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_untrained_model_is_its_base(covariates, encoder):
    model, batch = make(covariates, encoder), covariates.batch
    expected = (base_features(batch) * model.base_weight[batch.target_channel]).sum(-1)
    assert torch.equal(model(batch).mean, expected)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_row_of_a_batch_equals_the_row_alone(covariates, encoder):
    model = perturb(make(covariates, encoder))
    together = model(covariates.batch)
    for w in (0, 5, 11):
        batch = covariates.reader.read(covariates.windows.take(np.asarray([w])))
        known = batch.target_observed[0]
        alone, n = model(batch), len(known)
        assert torch.allclose(alone.mean[0][known], together.mean[w, :n][known], atol=2e-3)
        assert torch.allclose(alone.stddev[0][known], together.stddev[w, :n][known], atol=2e-3)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_column_is_read_and_every_weight_trained(covariates, encoder):
    model, batch = perturb(make(covariates, encoder)), covariates.batch
    before = model(batch).mean
    for name in ("known", "token_known", "statics", "categories"):
        other = getattr(batch, name).roll(1, 0)
        moved = (model(replace(batch, **{name: other})).mean - before).abs().max()
        assert moved > 1e-4, name
    model.train().loss(batch).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert [name for name in silent if "to_posterior" not in name] == []


def test_the_other_weights_are_the_same_with_and_without_such_columns(covariates, without):
    # Golden numbers of tables without them rest on this; the recurrent cell's own width is what it reads.
    full, plain = make(covariates).state_dict(), make(without).state_dict()
    assert set(plain) < set(full)
    parts = [name for name in plain if name.startswith("encoder.")]
    assert all(torch.equal(full[name], plain[name]) for name in parts)


def test_a_category_never_seen_is_one_that_is_not_known(covariates):
    model = perturb(make(covariates))
    schema = covariates.table.schema
    strangers = make_covariate_frame().replace({"kind": {"A": "Z"}})
    nameless = strangers.replace({"kind": {"Z": None}})
    forecasts = []
    for frame in (strangers, nameless):
        table = read_table(frame, schema=schema)
        assert table.schema.categories == (("A", "B", "C"),)
        batch = prepare(table, n=64).reader
        reader = type(batch)(table, covariates.scaler, max_history=512)
        forecasts.append(model(reader.read(covariates.windows)).mean)
    assert torch.equal(*forecasts)
    assert (forecasts[0] - model(covariates.batch).mean).abs().max() > 1e-4


def test_the_code_of_what_is_not_known_is_trained(covariates):
    torch.manual_seed(0)
    context = StaticContext(covariates.table.schema, 8).train()
    for _ in range(20):
        context(covariates.batch).sum().backward()
    gradient = context.from_category[0].weight.grad
    assert (gradient.abs().sum(1) > 0).all()
    context.eval()
    assert torch.equal(context(covariates.batch), context(covariates.batch))


def test_features_of_known_columns_are_those_at_the_target_the_last_value_and_on_average(covariates):
    batch, n_checked = covariates.batch, 0
    found = known_features(batch)
    for w in range(0, len(batch), 5):
        for m in batch.target_observed[w].nonzero()[:, 0].tolist():
            own = batch.token_observed[w] & (batch.token_channel[w] == batch.target_channel[w, m])
            then = batch.token_known[w][own, 0]
            at = float(batch.known[w, batch.target_row[w, m], 0])
            past = [float(then[-1]), float(then.mean())] if len(then) else [0.0, 0.0]
            assert found[w, m].tolist() == pytest.approx([at, *past], abs=1e-5)
            n_checked += 1
    assert n_checked > 10


def test_features_of_statics_are_numbers_and_one_indicator_per_common_category(covariates):
    schema, batch = covariates.table.schema, covariates.batch
    found = static_features(batch, schema)
    assert found.shape[1] == count_features(schema) == 2 + 3
    code = batch.categories[:, 0]
    assert torch.equal(found[:, 2:].argmax(1) + 1, code)
    assert torch.equal(found[:, 2:].sum(1), torch.ones(len(batch)))
    many = replace(schema, categories=(tuple(f"c{i}" for i in range(500)),))
    assert count_features(many) == static_features(batch, many).shape[1] == 2 + MAX_CATEGORIES


@pytest.mark.parametrize("make", [Ridge, lambda: GradientBoosting(n_trees=60)], ids=["ridge", "gradient_boosting"])
def test_baselines_forecast_a_driven_channel_only_by_what_drives_it(make, covariates, without):
    errors = []
    for prepared in (without, covariates):
        windows = prepare(prepared.table, n=300)
        model = make()
        model.setup(prepared.table.schema)
        model.prepare([windows.batch])
        model.calibrate([windows.validation])
        batch = windows.validation
        of_y = batch.target_observed & (batch.target_channel == 0)
        errors.append(float((model(batch).mean - batch.target_value)[of_y].square().mean()))
    assert errors[0] > 0.7
    assert errors[1] < 0.15 * errors[0]


def test_a_level_that_goes_with_a_category_is_known_of_a_series_without_history():
    # `y` is 0 or 5 by category; the history holds one value of another channel, which says nothing.
    rng = np.random.default_rng(0)
    frame = make_covariate_frame(n_series=30, n_rows=20)
    frame["y"] = frame["kind"].map({"A": -5.0, "B": 0.0, "C": 5.0}) + 0.1 * rng.normal(size=len(frame))
    table = read_table(frame, **ROLES)
    windows = prepare(table, n=600)
    model = Ridge()
    model.setup(table.schema)
    blind = replace(windows.batch, token_observed=windows.batch.token_observed & (windows.batch.token_channel == 2))
    model.prepare([blind])
    of_y = blind.target_observed & (blind.target_channel == 0)
    error = (model.own(blind).mean - blind.target_value)[of_y].square().mean()
    assert float(error) < 0.1


@pytest.mark.parametrize(
    "model", [LatentODE(latent_size=4), Ridge(), GradientBoosting()], ids=lambda m: type(m).__name__
)
def test_a_model_with_all_columns_comes_back_from_its_file(covariates, tmp_path, model):
    p = covariates
    torch.manual_seed(0)
    fitted = FittedModel.new(model, p.table, p.scaler, p.settings, p.spans, 0)
    fitted.network.prepare([p.batch])
    perturb(fitted.network)
    fitted.calibrate([p.validation])
    fitted.save(tmp_path / "best.ckpt")
    torch.load(tmp_path / "best.ckpt", weights_only=True)
    again = FittedModel.load(tmp_path / "best.ckpt")
    assert again.schema == fitted.schema
    assert again.schema.categories == (("A", "B", "C"),)
    assert again.scaler.to_dict() == fitted.scaler.to_dict()
    reader = again.reader(p.table)
    assert torch.equal(again.network(reader.read(p.windows)).mean, fitted.network(p.batch).mean)
