"""Distribution and quantile function of any forecast, also where `torch.distributions` lacks them (mixtures, Student t).

A score asks here and not the distribution itself, so that it holds for every decoder. No gradient flows through what is inverted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, Normal, StudentT

N_STEPS = 100
MAX_SCORE = 37.0  # standard normal deviations; the probability further out is 0 in float64


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


def quantile(forecast: Distribution, level: float | Tensor) -> Tensor:
    """Give the value below which the forecast lies with probability `level`, in the dtype of the forecast's mean.

    By `icdf` where the distribution has one, by the incomplete beta function for a Student t, else by inverting `cumulative`.

    Args:
        forecast: any distribution that `cumulative` takes.
        level: one for all, or a tensor that broadcasts with the batch shape.
    """
    if isinstance(forecast, StudentT):
        return forecast.loc + forecast.scale * student_t_quantile(forecast.df, level)
    try:
        return forecast.icdf(_like_mean(forecast, level))
    except NotImplementedError:
        return _invert(forecast, level)


def normal_score(forecast: Distribution, value: Tensor) -> Tensor:
    r"""Give :math:`\Phi^{-1}(F(\mathrm{value}))`, the probability as deviations of a standard normal, float64, at most `MAX_SCORE` from 0.

    It tells values apart far out, where the probability itself is 0 or 1 in floating point: each tail is taken as such. Exact for a
    normal and for what has a method `normal_score`; of a distribution that knows only `cdf`, the upper tail is told to the rounding of
    that.
    """
    own = getattr(forecast, "normal_score", None)
    if own is not None:
        score = own(value).double()
    elif isinstance(forecast, Normal):
        score = (value.double() - forecast.loc.double()) / forecast.scale.double()
    else:
        below, above = _tails(forecast, value)
        score = torch.where(below < above, torch.special.ndtri(below), -torch.special.ndtri(above))
    return score.clamp(-MAX_SCORE, MAX_SCORE)


def at_score(forecast: Distribution, score: Tensor) -> Tensor:
    r"""Give the quantile of level :math:`\Phi(\mathrm{score})`: `normal_score` undone, in the dtype of the forecast's mean.

    By a method `at_score` where the forecast has one.

    Args:
        forecast: any distribution that `cumulative` takes.
        score: float64, of the forecast's batch shape, or with further axes before it.
    """
    own = getattr(forecast, "at_score", None)
    if own is not None:
        return own(score)
    if isinstance(forecast, Normal):
        return (forecast.loc + forecast.scale * score).to(forecast.loc.dtype)
    if isinstance(forecast, StudentT):
        lower = student_t_quantile(forecast.df, torch.special.ndtr(-score.abs()))
        return forecast.loc - forecast.scale * lower * score.sign().to(lower.dtype)
    # Where the level is no number between 0 and 1 in the dtype of the forecast, the outermost that is one.
    room = torch.finfo(forecast.mean.dtype)
    return quantile(forecast, torch.special.ndtr(score).clamp(room.tiny, 1 - room.eps))


def _tails(forecast: Distribution, value: Tensor) -> tuple[Tensor, Tensor]:
    """Give the probabilities below and above `value`, float64."""
    if isinstance(forecast, Normal | StudentT):
        z = (value.double() - forecast.loc.double()) / forecast.scale.double()
        if isinstance(forecast, Normal):
            return torch.special.ndtr(z), torch.special.ndtr(-z)
        return student_t_cdf(forecast.df, z), student_t_cdf(forecast.df, -z)
    if isinstance(forecast, MixtureSameFamily):
        share = forecast.mixture_distribution.probs.double()
        below, above = _tails(forecast.component_distribution, value[..., None])
        return (share * below).sum(-1), (share * above).sum(-1)
    below = forecast.cdf(value).double().clamp(0, 1)
    return below, 1 - below


def _like_mean(forecast: Distribution, level: float | Tensor) -> Tensor:
    mean = forecast.mean
    return level.to(mean) if isinstance(level, Tensor) else mean.new_tensor(level)


def student_t_cdf(df: Tensor, z: Tensor) -> Tensor:
    """Give the standard Student t distribution function at `z`, by SciPy in float64: torch has no incomplete beta function."""
    from scipy.special import stdtr

    found = stdtr(df.detach().double().cpu().numpy(), z.detach().double().cpu().numpy())
    return torch.as_tensor(found, dtype=z.dtype, device=z.device)


def student_t_quantile(df: Tensor, level: float | Tensor) -> Tensor:
    """Give the standard Student t quantile for each `df` and level, by SciPy in float64."""
    from scipy.special import stdtrit

    p = level.detach().double().cpu().numpy() if isinstance(level, Tensor) else level
    found = stdtrit(df.detach().double().cpu().numpy(), p)
    return torch.as_tensor(found, dtype=df.dtype, device=df.device)


@torch.no_grad()
def _invert(forecast: Distribution, level: float | Tensor) -> Tensor:
    """Solve `cumulative(x) = level` by Newton's steps kept inside a bracket (Press et al. 2007, section 9.4)."""
    level = _like_mean(forecast, level)
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


def _bracket(forecast: Distribution, level: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give values on either side of the quantile, where a normal of like moments has it, and the size of the distribution."""
    # A heavy tail may have neither mean nor deviation: any start will do, since the bracket grows.
    centre = torch.nan_to_num(forecast.mean, nan=0.0, posinf=0.0, neginf=0.0)
    spread = torch.nan_to_num(forecast.stddev, nan=1.0, posinf=1.0).clamp(min=torch.finfo(centre.dtype).tiny)
    centre, spread = torch.broadcast_tensors(centre, spread + 0 * level)
    low, high, radius = centre - 4 * spread, centre + 4 * spread, 4 * spread
    for _ in range(N_STEPS):
        is_above, is_below = cumulative(forecast, low) > level, cumulative(forecast, high) < level
        if not bool((is_above | is_below).any()):
            break
        radius = 2 * radius
        low, high = torch.where(is_above, low - radius, low), torch.where(is_below, high + radius, high)
    start = centre + spread * torch.special.ndtri(level)
    return low, high, start, spread
