"""Errors of a point forecast, element-wise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from .quantiles import quantile


def fill_unobserved(forecast: Distribution, value: Tensor, observed: Tensor) -> Tensor:
    """Give values with the forecast's mean where nothing is observed: a distribution may refuse NaN, or padding outside its support."""
    return torch.where(observed, value, forecast.mean.nan_to_num())


def squared_error(forecast: Distribution, value: Tensor) -> Tensor:
    """Give the squared distance of the mean from the value, which the mean minimises."""
    return (forecast.mean - value).square()


def absolute_error(forecast: Distribution, value: Tensor) -> Tensor:
    """Give the distance of the median from the value, which the median minimises."""
    return (quantile(forecast, 0.5) - value).abs()


def absolute_error_of_mean(forecast: Distribution, value: Tensor) -> Tensor:
    """Give the distance of the mean from the value: what a table shows whose authors forecast one number per target."""
    return (forecast.mean - value).abs()
