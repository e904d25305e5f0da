"""Scores of a whole predictive distribution, element-wise; lower is better but for coverage and width."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, Normal, StudentT

from latentode.errors import InputError

from .quantiles import cumulative, quantile, student_t_cdf

N_LEVELS = 100


def crps(forecast: Distribution, value: Tensor) -> Tensor:
    """Give the continuous ranked probability score (Gneiting and Raftery 2007, equation 20), in the unit of the value.

    In closed form for a normal, a mixture of normals, a Student t and what has a method `crps`; else as twice the mean quantile loss at
    100 levels.
    """
    if isinstance(forecast, Normal):
        return crps_normal(forecast, value)
    own = getattr(forecast, "crps", None)
    if own is not None:
        return own(value)
    if isinstance(forecast, StudentT):
        return crps_student_t(forecast, value)
    if isinstance(forecast, MixtureSameFamily) and isinstance(forecast.component_distribution, Normal):
        return crps_normal_mixture(forecast, value)
    return crps_from_quantiles(forecast, value)


def crps_normal(forecast: Normal, value: Tensor) -> Tensor:
    """Give the CRPS of a normal distribution (Gneiting and Raftery 2007, section 4.2)."""
    z = (value - forecast.loc) / forecast.scale
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return forecast.scale * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def crps_normal_mixture(forecast: MixtureSameFamily, value: Tensor) -> Tensor:
    """Give the CRPS of a mixture of normals (Grimit, Gneiting, Berrocal and Johnson 2006); memory goes as components squared."""
    share = forecast.mixture_distribution.probs
    part = forecast.component_distribution
    mean, variance = part.mean, part.variance
    to_value = (share * _mean_distance(value[..., None] - mean, variance.sqrt())).sum(-1)
    apart = _mean_distance(
        mean[..., :, None] - mean[..., None, :], (variance[..., :, None] + variance[..., None, :]).sqrt()
    )
    return to_value - 0.5 * (share[..., :, None] * share[..., None, :] * apart).sum((-2, -1))


def _mean_distance(mean: Tensor, std: Tensor) -> Tensor:
    """Give `E|X|` of a normal X: the function A of Grimit et al. 2006."""
    z = mean / std
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return 2 * std * density + mean * torch.erf(z / math.sqrt(2))


def crps_student_t(forecast: StudentT, value: Tensor) -> Tensor:
    """Give the CRPS of a Student t distribution (Jordan, Krüger and Lerch 2019, appendix A); infinite where `df <= 1`.

    In float64, since the beta functions of many degrees of freedom are differences of large numbers.
    """
    df, scale = forecast.df.double(), forecast.scale.double()
    z = (value.double() - forecast.loc.double()) / scale
    density = StudentT(df, validate_args=False).log_prob(z).exp()
    spread = torch.exp(_log_beta(0.5, df - 0.5) - 2 * _log_beta(0.5, df / 2))
    inside = z * (2 * student_t_cdf(df, z) - 1)
    outside = 2 * (density * (df + z.square()) - df.sqrt() * spread) / (df - 1)
    score = torch.where(df > 1, scale * (inside + outside), torch.inf)
    return score.to(value.dtype)


def _log_beta(a: float, b: Tensor) -> Tensor:
    return math.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def crps_from_quantiles(forecast: Distribution, value: Tensor, n_levels: int = N_LEVELS) -> Tensor:
    """Give the CRPS as twice the integral of the quantile loss over the levels (Gneiting and Ranjan 2011), by midpoints."""
    # One level after another, for the memory.
    losses = (pinball(forecast, value, (i + 0.5) / n_levels) for i in range(n_levels))
    total = torch.zeros_like(value)
    for loss in losses:
        total = total + loss
    return 2 * total / n_levels


def crps_from_samples(samples: Tensor, value: Tensor) -> Tensor:
    """Give the fair CRPS of draws (Ferro 2014): unbiased for the distribution drawn from, whatever their number.

    Args:
        samples: `(S, ...)`, at least two.
        value: `(...)`.

    Raises:
        InputError: there are fewer than two draws.
    """
    n = _check_draws(samples)
    # The sum of all distances between draws in n log n: the i-th smallest is above i - 1 of them and below n - i.
    rank = torch.arange(1, n + 1, dtype=samples.dtype, device=samples.device).view(-1, *[1] * value.ndim)
    apart = ((2 * rank - n - 1) * samples.sort(0).values).sum(0)
    return (samples - value).abs().mean(0) - apart / (n * (n - 1))


def energy_score(samples: Tensor, value: Tensor, observed: Tensor | None = None) -> Tensor:
    """Give the fair energy score of joint draws (Gneiting and Raftery 2007, section 4.3): the CRPS of several channels at once.

    Args:
        samples: joint draws `(S, ..., C)`, at least two; `(S, S, ...)` distances are held in memory.
        value: `(..., C)`, in one unit for all channels, such as training deviations: distances add up over them.
        observed: bool `(..., C)`; channels that are not observed are left out of the distance.

    Returns:
        `(...)`; NaN where no channel is observed.

    Raises:
        InputError: there are fewer than two draws.
    """
    n = _check_draws(samples)
    if observed is not None:
        samples, value = (x.where(observed, torch.zeros_like(x)) for x in (samples, value))
    to_value = torch.linalg.vector_norm(samples - value, dim=-1).mean(0)
    # S first for cdist's last two axes; the plain route, since the one by matrix products loses digits.
    draws = samples.movedim(0, -2)
    apart = torch.cdist(draws, draws, compute_mode="donot_use_mm_for_euclid_dist").sum((-2, -1))
    score = to_value - 0.5 * apart / (n * (n - 1))
    return score if observed is None else torch.where(observed.any(-1), score, torch.nan)


def energy_of_targets(
    samples: Tensor, value: Tensor, row: Tensor, channel: Tensor, observed: Tensor, n_channels: int
) -> tuple[Tensor, Tensor]:
    """Give the sum of the energy scores over queries that have a target, and their number: both 0-d float64, and they add up.

    Args:
        samples: joint draws of targets `(S, B, M)`.
        value: `(B, M)`.
        row: which query of its window each target stands at, int64 `(B, M)`.
        channel: int64 `(B, M)`; a query and a channel have one target at most.
        observed: bool `(B, M)`.
        n_channels: `C`. Draws are laid out as `(S, B, Q, C)`, so memory goes with it.
    """
    n_queries = int(row.max()) + 1 if row.numel() else 0
    # Padding goes to a place behind the real ones, which is cut off.
    place = torch.where(observed, row * n_channels + channel, n_queries * n_channels)

    def spread(x: Tensor) -> Tensor:
        laid_out = x.new_zeros(*x.shape[:-1], n_queries * n_channels + 1).scatter(-1, place.expand(x.shape), x)
        return laid_out[..., :-1].unflatten(-1, (n_queries, n_channels))

    seen = spread(observed)
    score = energy_score(spread(samples), spread(value), seen)
    has_target = seen.any(-1)
    return score[has_target].double().sum(), has_target.sum().double()


def _check_draws(samples: Tensor) -> int:
    if len(samples) < 2:
        raise InputError(f"a score of draws takes at least two of them, not {len(samples)}; draw more.")
    return len(samples)


def negative_log_likelihood(forecast: Distribution, value: Tensor) -> Tensor:
    """Give the negative logarithm of the density at the value, in nats."""
    return -forecast.log_prob(value)


def pinball(forecast: Distribution, value: Tensor, level: float) -> Tensor:
    """Give the quantile loss `(1[y < q] - level)(q - y)` (Koenker and Bassett 1978), which the quantile q of that level minimises.

    Without the factor 2 of some authors: at level 0.5 it is half the absolute error.
    """
    excess = value - quantile(forecast, level)
    return torch.maximum(level * excess, (level - 1) * excess)


def interval(forecast: Distribution, share: float) -> tuple[Tensor, Tensor]:
    """Give the ends of the central interval of probability `share`."""
    return quantile(forecast, (1 - share) / 2), quantile(forecast, (1 + share) / 2)


def coverage(forecast: Distribution, value: Tensor, share: float) -> Tensor:
    """Say where the value lies in the central interval of probability `share`, as 0 or 1."""
    low, high = interval(forecast, share)
    return ((low <= value) & (value <= high)).to(value.dtype)


def width(forecast: Distribution, value: Tensor, share: float) -> Tensor:
    """Give the width of the central interval of probability `share`, shape of `value`: read it beside the coverage."""
    low, high = interval(forecast, share)
    return (high - low).expand_as(value)


def pit_values(forecast: Distribution, value: Tensor) -> Tensor:
    """Give the probability integral transform `F(value)`, uniform on [0, 1] where forecasts are calibrated (Dawid 1984)."""
    return cumulative(forecast, value)
