"""Scores against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Laplace, Normal

from latentode.metrics import absolute_error, coverage, crps, negative_log_likelihood, squared_error

DOUBLE = torch.float64


def crps_by_definition(forecast, value):
    """The integral of (F(x) - 1[x >= value])^2 (Gneiting and Raftery 2007, equation 20)."""
    x = torch.linspace(-60, 60, 1_200_001, dtype=DOUBLE)
    return float(torch.trapezoid((forecast.cdf(x) - (x >= value).to(DOUBLE)).square(), x))


@pytest.mark.parametrize(("mean", "std", "value"), [(0.0, 1.0, 0.3), (2.0, 0.5, -1.0), (-1.0, 3.0, 10.0)])
def test_crps_of_a_normal_is_the_integral(mean, std, value):
    forecast = Normal(torch.tensor(mean, dtype=DOUBLE), torch.tensor(std, dtype=DOUBLE))
    assert float(crps(forecast, torch.tensor(value, dtype=DOUBLE))) == pytest.approx(
        crps_by_definition(forecast, value), abs=1e-4
    )


def test_crps_of_another_distribution_comes_close_by_its_quantiles():
    forecast = Laplace(torch.tensor([0.5], dtype=DOUBLE), torch.tensor([1.5], dtype=DOUBLE))
    value = torch.tensor([1.7], dtype=DOUBLE)
    assert float(crps(forecast, value)) == pytest.approx(crps_by_definition(forecast, 1.7), rel=0.03)


def test_point_errors_use_mean_and_median():
    forecast = Normal(torch.tensor([1.0]), torch.tensor([2.0]))
    assert float(squared_error(forecast, torch.tensor([4.0]))) == 9.0
    assert float(absolute_error(forecast, torch.tensor([4.0]))) == pytest.approx(3.0, abs=1e-6)


def test_likelihood_is_the_density():
    forecast = Normal(torch.tensor([1.0], dtype=DOUBLE), torch.tensor([2.0], dtype=DOUBLE))
    expected = 0.5 * ((3.0 - 1.0) / 2) ** 2 + math.log(2 * math.sqrt(2 * math.pi))
    assert float(negative_log_likelihood(forecast, torch.tensor([3.0], dtype=DOUBLE))) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_coverage_of_the_truth_is_its_probability(share):
    value = torch.randn(200_000, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    forecast = Normal(torch.zeros_like(value), torch.ones_like(value))
    assert float(coverage(forecast, value, share).mean()) == pytest.approx(share, abs=0.005)
