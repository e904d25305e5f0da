"""Trees as tensors say what scikit-learn says, whatever is missing and wherever a branch ended early."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingRegressor

from latentode.models.baselines import trees
from latentode.models.baselines.trees import Forest, _round_down


def data(seed, n=400, missing=0.3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    # Few distinct values, a column that is mostly missing, one where being missing is the news.
    x[:, 1] = np.round(x[:, 1])
    y = np.where(x[:, 0] > 0, x[:, 1], -x[:, 2]) + 0.1 * rng.normal(size=n)
    x[rng.random(x.shape) < missing] = np.nan
    x[rng.random(n) < 0.9, 4] = np.nan
    x[:2, 4] = 0.0, 1.0  # scikit-learn cannot bin a column without a value
    return x, y + np.isnan(x[:, 3])


def grow(x, y, depth, n_trees=20):
    return HistGradientBoostingRegressor(
        max_iter=n_trees, max_depth=depth, max_leaf_nodes=12, min_samples_leaf=3, early_stopping=False, random_state=0
    ).fit(x, y)


@given(seed=st.integers(0, 1000), depth=st.integers(1, 6), missing=st.sampled_from([0.0, 0.3, 0.9]))
@settings(max_examples=12, deadline=None)
def test_a_forest_says_what_scikit_learn_says(seed, depth, missing):
    x, y = data(seed, missing=missing)
    model = grow(x, y, depth)
    forest = Forest.of_sklearn(model._predictors, depth)
    new, _ = data(seed + 1)
    # Values at the thresholds themselves, and beyond all of them.
    new[: len(x) // 2] = x[: len(x) // 2]
    new[-1], new[-2] = 3e38, -3e38
    said = forest.values(torch.from_numpy(new)).double().sum(1).numpy() + model._baseline_prediction.item()
    assert np.allclose(said, model.predict(new), atol=1e-5)


def test_staged_sums_are_scikit_learn_s_stages():
    x, y = data(0)
    model = grow(x, y, 4)
    staged = Forest.of_sklearn(model._predictors, 4).values(torch.from_numpy(x)).double().cumsum(1).numpy()
    expected = np.stack(list(model.staged_predict(x)), 1) - model._baseline_prediction.item()
    assert np.allclose(staged, expected, atol=1e-5)


def test_rows_that_go_down_in_parts_arrive_at_the_same_leaves(monkeypatch):
    x, y = data(0)
    forest = Forest.of_sklearn(grow(x, y, 5)._predictors, 5)
    whole = forest.values(torch.from_numpy(x))
    monkeypatch.setattr(trees, "AT_ONCE", 100)
    assert torch.equal(forest.values(torch.from_numpy(x)), whole)


def test_a_forest_without_trees_says_nothing():
    assert Forest.empty(3).values(torch.zeros(4, 2)).shape == (4, 0)
    assert Forest.of_sklearn([], 3).leaf.shape == (0, 8)
    x, y = data(0)
    assert Forest.of_sklearn(grow(x, y, 3)._predictors, 3).values(torch.zeros(0, 5)).shape == (0, 20)


@given(
    threshold=st.floats(-1e30, 1e30) | st.just(float("inf")),
    step=st.integers(-3, 3),
)
@settings(max_examples=200)
def test_a_rounded_threshold_parts_float32_values_as_the_exact_one_does(threshold, step):
    rounded = _round_down(np.asarray([threshold]))[0]
    assert np.isfinite(rounded)
    value = np.float32(min(threshold, 3e38))
    for _ in range(abs(step)):
        value = np.nextafter(value, np.float32(np.sign(step) * np.inf))
    assert (value <= rounded) == (np.float64(value) <= threshold)


@pytest.mark.parametrize("depth", [1, 6])
def test_buffers_are_finite(depth):
    x, y = data(3)
    forest = Forest.of_sklearn(grow(x, y, depth)._predictors, depth)
    assert forest.threshold.isfinite().all()
