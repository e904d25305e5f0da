"""Quantiles undo the distribution function, for every kind of forecast."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Laplace, MixtureSameFamily, Normal, StudentT

from latentode.metrics import cumulative, quantile
from tests.metrics.draws import DOUBLE, normal_mixture, student_t

LEVELS = [0.001, 0.025, 0.1, 0.5, 0.9, 0.975, 0.999]


def mixture_of_student_t():
    parts = student_t((40, 5, 2))
    return MixtureSameFamily(Categorical(logits=torch.zeros(40, 5, 2, dtype=DOUBLE)), parts)


FORECASTS = {
    "normal": Normal(torch.randn(40, 5, dtype=DOUBLE), torch.ones(40, 5, dtype=DOUBLE)),
    "laplace": Laplace(torch.randn(40, 5, dtype=DOUBLE), torch.ones(40, 5, dtype=DOUBLE)),
    "student t": student_t(),
    "mixture of normals": normal_mixture(),
    "mixture of student t": mixture_of_student_t(),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FORECASTS)
def test_the_distribution_function_at_a_quantile_is_its_level(name, level):
    at = cumulative(FORECASTS[name], quantile(FORECASTS[name], level))
    assert torch.allclose(at, torch.full_like(at, level), atol=1e-9)


def test_quantiles_of_a_student_t_are_scipys():
    forecast = student_t()
    expected = stats.t.ppf(0.9, forecast.df, forecast.loc, forecast.scale)
    assert torch.allclose(quantile(forecast, 0.9), torch.from_numpy(expected), rtol=1e-10)


def test_a_tail_without_mean_and_deviation_has_quantiles():
    parts = StudentT(torch.ones(4, 1, dtype=DOUBLE), torch.tensor([[7.0]], dtype=DOUBLE), 2.0)
    forecast = MixtureSameFamily(Categorical(logits=torch.zeros(4, 1, dtype=DOUBLE)), parts)
    assert torch.allclose(quantile(forecast, 0.99), 7 + 2 * torch.tensor(math.tan(math.pi * 0.49), dtype=DOUBLE))


def test_a_quantile_between_far_modes_is_found():
    mean = torch.tensor([[-1e4, 1e4]], dtype=DOUBLE)
    forecast = MixtureSameFamily(Categorical(logits=torch.zeros(1, 2, dtype=DOUBLE)), Normal(mean, 1e-3))
    for level, near in ((0.25, -1e4), (0.75, 1e4)):
        assert float(quantile(forecast, level)) == pytest.approx(near, abs=1e-6)


def test_single_precision_stays_single_and_close():
    forecast, exact = normal_mixture(dtype=torch.float32), normal_mixture(dtype=torch.float32)
    found = quantile(forecast, 0.1)
    assert found.dtype == torch.float32
    assert torch.allclose(cumulative(exact, found), torch.full_like(found, 0.1), atol=1e-5)


class Counted(Normal):
    """A normal without quantiles that counts how often its distribution function is asked."""

    n_asked = 0

    def icdf(self, value):
        raise NotImplementedError

    def cdf(self, value):
        self.n_asked += 1
        return super().cdf(value)


@pytest.mark.parametrize("level", LEVELS)
def test_an_inversion_takes_few_steps(level):
    # Halving alone would take 43.
    forecast = Counted(torch.zeros(5, dtype=DOUBLE), torch.logspace(-3, 3, 5, dtype=DOUBLE))
    expected = forecast.scale * stats.norm.ppf(level)
    assert torch.allclose(quantile(forecast, level), expected, rtol=1e-11)
    assert forecast.n_asked <= 8
