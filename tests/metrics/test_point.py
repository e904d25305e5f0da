"""Errors of a point forecast take the point that minimises them."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from latentode.metrics import absolute_error, absolute_error_of_mean, quantile, squared_error
from tests.metrics.draws import normal_mixture


def test_point_errors_use_mean_and_median():
    forecast = Normal(torch.tensor([1.0]), torch.tensor([2.0]))
    assert float(squared_error(forecast, torch.tensor([4.0]))) == 9.0
    assert float(absolute_error(forecast, torch.tensor([4.0]))) == pytest.approx(3.0, abs=1e-6)


def test_mean_and_median_of_a_skewed_forecast_are_told_apart():
    forecast = normal_mixture()
    value = torch.zeros(40, 5, dtype=torch.float64)
    assert torch.allclose(absolute_error_of_mean(forecast, value), forecast.mean.abs())
    assert torch.allclose(absolute_error(forecast, value), quantile(forecast, 0.5).abs())
    assert not torch.allclose(absolute_error(forecast, value), absolute_error_of_mean(forecast, value), atol=0.1)
