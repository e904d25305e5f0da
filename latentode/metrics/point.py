"""Errors of a point forecast, element-wise."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution


def squared_error(forecast: Distribution, value: Tensor) -> Tensor:
    """Give the squared distance of the mean from the value, which the mean minimises."""
    return (forecast.mean - value).square()


def absolute_error(forecast: Distribution, value: Tensor) -> Tensor:
    """Give the distance of the median from the value, which the median minimises."""
    return (forecast.icdf(forecast.mean.new_tensor(0.5)) - value).abs()
