"""Distribution and quantile function of any forecast, also where `torch.distributions` lacks them (mixtures, Student t).

A score asks here and not the distribution itself, so that it holds for every decoder. No gradient flows through what is inverted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, StudentT

N_STEPS = 100


def cumulative(forecast: Distribution, value: Tensor) -> Tensor:
    """Give the probability of a value at or below `value`, element-wise.

    Args:
        forecast: any distribution with `cdf`, a Student t, or a mixture of either.
        value: broadcasts with the batch shape of `forecast`.
    """
    if isinstance(forecast, StudentT):
        return student_t_cdf(forecast.df, (value - forecast.loc) / forecast.scale)
    if isinstance(forecast, MixtureSameFamily):
        share = forecast.mixture_distribution.probs
        return (share * cumulative(forecast.component_distribution, value[..., None])).sum(-1)
    return forecast.cdf(value)


def quantile(forecast: Distribution, level: float) -> Tensor:
    """Give the value below which the forecast lies with probability `level`, shape and dtype of the forecast's mean.

    By `icdf` where the distribution has one, by the incomplete beta function for a Student t, else by inverting `cumulative`.
    """
    if isinstance(forecast, StudentT):
        return forecast.loc + forecast.scale * student_t_quantile(forecast.df, level)
    try:
        return forecast.icdf(forecast.mean.new_tensor(level))
    except NotImplementedError:
        return _invert(forecast, level)


def student_t_cdf(df: Tensor, z: Tensor) -> Tensor:
    """Give the standard Student t distribution function at `z`, by SciPy in float64: torch has no incomplete beta function."""
    from scipy.special import stdtr

    found = stdtr(df.detach().double().cpu().numpy(), z.detach().double().cpu().numpy())
    return torch.as_tensor(found, dtype=z.dtype, device=z.device)


def student_t_quantile(df: Tensor, level: float) -> Tensor:
    """Give the standard Student t quantile for each `df`, by SciPy in float64."""
    from scipy.special import stdtrit

    found = stdtrit(df.detach().double().cpu().numpy(), level)
    return torch.as_tensor(found, dtype=df.dtype, device=df.device)


@torch.no_grad()
def _invert(forecast: Distribution, level: float) -> Tensor:
    """Solve `cumulative(x) = level` by Newton's steps kept inside a bracket (Press et al. 2007, section 9.4)."""
    low, high, start, spread = _bracket(forecast, level)
    tolerance = torch.finfo(low.dtype).eps ** 0.75 * spread
    x, step = torch.clamp(start, low, high), high - low
    for _ in range(N_STEPS):
        excess = cumulative(forecast, x) - level
        low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
        newton = -excess / forecast.log_prob(x).exp()
        # Between the modes of a mixture the density is near zero and Newton's step useless: it has to stay inside and to shrink.
        is_good = (x + newton >= low) & (x + newton <= high) & (newton.abs() <= 0.5 * step.abs())
        # What was found stays: Newton comes in from one side, so the bracket may still be wide and its middle far away.
        is_found = step.abs() <= tolerance
        step = torch.where(is_found, 0.0, torch.where(is_good, newton, (low + high) / 2 - x))
        x = x + step
        if bool(is_found.all()):
            break
    return x


def _bracket(forecast: Distribution, level: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give values on either side of the quantile, where a normal of like moments has it, and the size of the distribution."""
    # A heavy tail may have neither mean nor deviation: any start will do, since the bracket grows.
    centre = torch.nan_to_num(forecast.mean, nan=0.0, posinf=0.0, neginf=0.0)
    spread = torch.nan_to_num(forecast.stddev, nan=1.0, posinf=1.0).clamp(min=torch.finfo(centre.dtype).tiny)
    low, high, radius = centre - 4 * spread, centre + 4 * spread, 4 * spread
    for _ in range(N_STEPS):
        is_above, is_below = cumulative(forecast, low) > level, cumulative(forecast, high) < level
        if not bool((is_above | is_below).any()):
            break
        radius = 2 * radius
        low, high = torch.where(is_above, low - radius, low), torch.where(is_below, high + radius, high)
    start = centre + spread * torch.special.ndtri(torch.full_like(centre, level))
    return low, high, start, spread
