"""Seeded forecasts and values that several test files score."""

from __future__ import annotations

import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal, StudentT

DOUBLE = torch.float64


def normal_mixture(shape=(40, 5), n_parts=3, seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, n_parts, generator=generator, dtype=dtype)
    mean = 3 * torch.randn(*shape, n_parts, generator=generator, dtype=dtype)
    std = 0.2 + torch.rand(*shape, n_parts, generator=generator, dtype=dtype)
    return MixtureSameFamily(Categorical(logits=logits), Normal(mean, std))


def student_t(shape=(40, 5), seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    df = 1.2 + 20 * torch.rand(*shape, generator=generator, dtype=dtype)
    loc = torch.randn(*shape, generator=generator, dtype=dtype)
    return StudentT(df, loc, 0.3 + torch.rand(*shape, generator=generator, dtype=dtype))


def draw(n=60, n_channels=3, seed=0, dtype=torch.float32):
    """Give a normal forecast of `(n, 4)` targets with values, channels, what is observed, and lead times in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    mean, value = (torch.randn(n, 4, generator=generator, dtype=dtype) for _ in range(2))
    std = 0.5 + torch.rand(n, 4, generator=generator, dtype=dtype)
    channel = torch.randint(0, n_channels, (n, 4), generator=generator)
    observed = torch.rand(n, 4, generator=generator) < 0.7
    return Normal(mean, std), value, channel, observed, torch.rand(n, 4, generator=generator, dtype=dtype)


def part_of(forecast, part):
    return Normal(forecast.loc[part], forecast.scale[part], validate_args=forecast._validate_args)
