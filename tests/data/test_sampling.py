"""When series are observed: counts, ranges and the law of each way."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.data.sampling import SAMPLINGS

DURATION, N_SERIES, N = 7.0, 300, 40


def wave(series, time):
    return np.stack([np.sin(2 * np.pi * time / DURATION), np.zeros_like(time)], axis=1)


def draw(name, seed=0, n=N):
    return SAMPLINGS[name](np.random.default_rng(seed), wave, DURATION, N_SERIES, n)


def gaps(name):
    series, time = draw(name)
    order = np.lexsort((time, series))
    series, time = series[order], time[order]
    return np.diff(time)[np.diff(series) == 0]


@pytest.mark.parametrize("name", SAMPLINGS)
def test_stamps_lie_in_the_series_span_and_in_the_asked_number(name):
    series, time = draw(name)
    assert series.shape == time.shape
    assert time.min() >= 0
    assert time.max() <= DURATION
    assert set(series) == set(range(N_SERIES))
    assert len(time) / N_SERIES == pytest.approx(N, rel=0.05)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_seed_decides(name):
    for one, two in zip(draw(name), draw(name), strict=True):
        np.testing.assert_array_equal(one, two)
    if name != "uniform":
        assert not np.array_equal(draw(name)[1][:50], draw(name, seed=1)[1][:50])


def test_uniform_is_a_grid_with_both_ends():
    series, time = draw("uniform", n=8)
    np.testing.assert_allclose(time[series == 3], np.arange(8.0))


@pytest.mark.statistical
def test_gaps_of_a_poisson_process_vary_as_much_as_their_mean_and_those_of_bursts_more():
    poisson, bursty = gaps("poisson"), gaps("bursty")
    assert poisson.std() / poisson.mean() == pytest.approx(1, abs=0.06)
    assert bursty.std() / bursty.mean() > 1.8
    assert gaps("uniform").std() < 1e-12


@pytest.mark.statistical
def test_informative_times_stand_where_the_first_channel_is_high():
    levels = {name: wave(*draw(name))[:, 0].mean() for name in ("poisson", "informative")}
    assert abs(levels["poisson"]) < 0.03
    assert levels["informative"] > 0.3


def test_a_series_has_at_least_a_row_to_read_and_one_to_forecast():
    for name in ("poisson", "bursty"):
        series, _ = draw(name, n=1)
        assert np.bincount(series, minlength=N_SERIES).min() >= 2
