"""Smoothing over uneven gaps against the recursion it sums up, its two ends, and a process whose time constant is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentode.data.tables import read_table
from latentode.models.baselines.exponential_smoothing import FADING, ExponentialSmoothing, smooth
from latentode.models.history import summarise
from tests.models.conftest import prepare


def wright(time, value, rate):
    """Wright (1986), equations 3 to 5, one value after the other."""
    level, v = value[0], 1.0
    for i in range(1, len(value)):
        b = np.exp(-rate * (time[i] - time[i - 1]))
        v = v / (b + v)
        level = (1 - v) * level + v * value[i]
    return level


@pytest.mark.parametrize("rate", [0.0, 0.7, 5.0])
def test_the_level_is_what_the_recursion_of_wright_comes_to(prepared, rate):
    batch = prepared.batch
    level = smooth(batch, torch.full((3,), rate))
    for w in range(0, len(batch), 5):
        for c in range(3):
            own = batch.token_observed[w] & (batch.token_channel[w] == c)
            if own.any():
                time, value = batch.token_time[w][own].double().numpy(), batch.token_value[w][own].double().numpy()
                assert float(level[w, c]) == pytest.approx(wright(time, value, rate), abs=1e-5)


def test_the_ends_are_last_value_and_history_mean(prepared):
    summary = summarise(prepared.batch)
    assert torch.equal(smooth(prepared.batch, torch.full((3,), FADING[0])), summary.last)
    assert torch.allclose(smooth(prepared.batch, torch.zeros(3)), summary.mean, atol=1e-6)


def noisy_walk(noise, pull, n=250, seed=0):
    """Two series of a level that walks, drawn to a mean of its own, seen through noise at uneven times."""
    rng = np.random.default_rng(seed)
    frames = {"series_id": [], "time": [], "x": []}
    for i in range(4):
        gaps = rng.exponential(0.3, n)
        level, walk = np.empty(n), 0.0
        for k in range(n):
            kept = np.exp(-pull * gaps[k])
            scale = np.sqrt((1 - kept**2) / (2 * pull)) if pull else np.sqrt(gaps[k])
            walk = kept * walk + scale * rng.normal()
            level[k] = walk
        frames["series_id"] += [f"s{i}"] * n
        frames["time"] += list(np.cumsum(gaps))
        frames["x"] += list(level + noise * rng.normal(size=n))
    import pandas as pd

    return prepare(read_table(pd.DataFrame(frames)), horizon=4.0, n=200)


def fit(prepared):
    model = ExponentialSmoothing()
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    return model


def test_a_noisy_level_is_averaged_and_a_clean_one_is_carried_forward():
    noisy, clean = fit(noisy_walk(2.0, 0.0)), fit(noisy_walk(0.0, 0.0))
    assert 0 < float(noisy.fading) < 8.0
    assert float(clean.fading) >= 24.0


def test_what_reverts_is_forgotten_and_what_wanders_is_not():
    assert float(fit(noisy_walk(0.0, 0.5)).forgetting) >= 0.7
    assert float(fit(noisy_walk(0.0, 0.0)).forgetting) <= 0.25
