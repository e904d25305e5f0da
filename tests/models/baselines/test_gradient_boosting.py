"""Boosting: what its trees read, that they are scikit-learn's, and that they find what no line can say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

from latentode.data.tables import read_table
from latentode.errors import RunError
from latentode.models.baselines import GradientBoosting
from latentode.models.fitted import FittedModel
from latentode.models.history import UNSEEN_AGE
from tests.data.tables import make_table
from tests.models.conftest import prepare


def switch(n=900, seed=0):
    """`y` moves up or down by one according to the sign of the product of two others: no line can say that."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n))
    y = np.zeros(n)
    y[1:] = np.where(a[:-1] * b[:-1] > 0, 1.0, -1.0)
    frame = pd.DataFrame({"time": np.arange(n, dtype=float), "a": a, "b": b, "y": y})
    return prepare(read_table(frame), horizon=1.0, n=600)


def fit(prepared, **settings):
    model = GradientBoosting(**settings)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    model.calibrate([prepared.validation])
    return model


@pytest.fixture(scope="module")
def switched():
    prepared = switch()
    return prepared, fit(prepared)


def test_trees_find_what_no_line_can_say(switched):
    prepared, model = switched
    batch = prepared.validation
    of_y = batch.target_observed & (batch.target_channel == 2)
    error = (model(batch).mean - batch.target_value)[of_y].square().mean()
    assert float(error) < 0.3 * float(batch.target_value[of_y].square().mean())


def test_noise_keeps_few_trees(switched):
    # `a` and `b` are noise: what trees learned of them in training does not survive validation.
    _, model = switched
    n_grown = model.offset.diff()
    assert n_grown.tolist() == [150, 150, 150]
    assert (model.n_kept[:2] < 40).all()
    assert model.n_kept[2] > 10


def test_the_trees_are_scikit_learn_s_on_the_same_features(switched):
    prepared, model = switched
    batch = prepared.batch
    features = model._features(batch)
    seen = batch.target_observed & (batch.target_channel == 2)
    x = torch.cat([features.own[seen], features.others[seen.nonzero()[:, 0]]], -1).numpy()
    blend = model.trained_blend(batch)[seen]
    peer = HistGradientBoostingRegressor(
        max_iter=150, learning_rate=0.06, max_leaf_nodes=31, max_depth=6, early_stopping=False
    ).fit(x, (batch.target_value[seen] - blend).numpy())
    model.n_kept[2], kept = 150, int(model.n_kept[2])
    own = model.own(batch).mean[seen]
    model.n_kept[2] = kept
    assert np.allclose(own, blend.numpy() + peer.predict(x), atol=1e-4)


def test_the_features_are_what_a_person_would_read_off():
    prepared = prepare(make_table(n_channels=3))
    model = GradientBoosting()
    model.setup(prepared.table.schema)
    batch = prepared.batch
    features = model._features(batch)
    for w in range(0, len(batch), 3):
        for m in batch.target_observed[w].nonzero()[:, 0].tolist():
            own = batch.token_observed[w] & (batch.token_channel[w] == batch.target_channel[w, m])
            value, time = batch.token_value[w][own], batch.token_time[w][own]
            lead = batch.query_time[w, batch.target_row[w, m]]
            if own.any():
                rest = [value[-1], lead - time[-1], value.mean(), value.min(), value.max(), len(value)]
            else:
                rest = [np.nan, lead + UNSEEN_AGE, np.nan, np.nan, np.nan, 0]
            assert np.allclose(features.own[w, m], [lead, *rest], atol=1e-5, equal_nan=True)


def test_a_channel_with_few_targets_stays_with_the_blend():
    prepared = prepare(make_table(n_series=2, n_rows=20), n=6)
    model = fit(prepared)
    assert model.leaf.shape[0] == 0
    assert torch.allclose(model.own(prepared.batch).mean, model.trained_blend(prepared.batch))


def test_trees_take_the_size_of_what_is_loaded_and_nothing_else(switched, tmp_path):
    prepared, model = switched
    p = prepared
    run = FittedModel.new(GradientBoosting(), p.table, p.scaler, p.settings, p.spans, 0)
    run.network.load_state_dict(model.state_dict())
    path = tmp_path / "best.ckpt"
    run.save(path)
    assert FittedModel.load(path).network.leaf.shape == model.leaf.shape
    content = torch.load(path, weights_only=True)
    content["state_dict"]["network.leaf"] = torch.zeros(5, 3)
    torch.save(content, path)
    with pytest.raises(RunError, match="does not hold together"):
        FittedModel.load(path)
