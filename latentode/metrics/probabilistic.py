"""Scores of a whole predictive distribution, element-wise; lower is better but for coverage."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

N_LEVELS = 99


def crps(forecast: Distribution, value: Tensor) -> Tensor:
    """Give the continuous ranked probability score (Gneiting and Raftery 2007).

    For a normal distribution by its closed form (equation 21 there), else as twice the mean quantile loss over 99 levels.
    """
    if isinstance(forecast, Normal):
        z = (value - forecast.loc) / forecast.scale
        density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
        return forecast.scale * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
    level = torch.arange(1, N_LEVELS + 1, dtype=value.dtype, device=value.device) / (N_LEVELS + 1)
    level = level.view(-1, *[1] * value.ndim)
    excess = value - forecast.icdf(level)
    return 2 * torch.maximum(level * excess, (level - 1) * excess).mean(0)


def negative_log_likelihood(forecast: Distribution, value: Tensor) -> Tensor:
    """Give the negative logarithm of the density at the value, in nats."""
    return -forecast.log_prob(value)


def coverage(forecast: Distribution, value: Tensor, share: float) -> Tensor:
    """Say where the value lies in the central interval of probability `share`, as 0 or 1."""
    low = forecast.icdf(value.new_tensor((1 - share) / 2))
    high = forecast.icdf(value.new_tensor((1 + share) / 2))
    return ((low <= value) & (value <= high)).to(value.dtype)
