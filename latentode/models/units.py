r"""Forecasts in other units than those that a model sees, so that no model has to know of scalings and supports.

A model's value :math:`u` of a channel stands for :math:`x = h(l + s u)` in the user's units, with the scaler's :math:`l` and :math:`s` and
the map :math:`h` into the channel's support (`data.links`), and for :math:`v = (x - m) / d` in those of errors, training deviations around
the training mean. All of these rise, so quantiles and probabilities go through them as they are; means and deviations do not where
:math:`h` is no straight line. A count, and a value at a bound, have probabilities and no densities: those of all :math:`u` that are rounded
or cut to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, Normal
from torch.special import log_ndtr, ndtr

from latentode.data.links import Links
from latentode.data.scaling import Scaler
from latentode.metrics.probabilistic import crps_from_quantiles, crps_normal
from latentode.metrics.quantiles import at_score, cumulative, normal_score, quantile
from latentode.models.conformal import Calibrated
from latentode.models.support import Support

# In standard normal deviations; a level further out than 5 is 1 in float32.
NODES = tuple(i / 4 for i in range(-20, 21))
N_SINGLE = 32  # counts whose probabilities are added up one by one for a mean
NARROW = 1e-3  # normal deviations; the probability of a narrower stretch is its density times its length


class Mapped(Distribution):
    """The distribution of `(h(l + s u) - m) / d` where `u` has the distribution `base`, in float64.

    Args:
        base: any distribution that `latentode.metrics.quantiles` can ask.
        location, scale: `l` and `s` of each value.
        support: of each value, with its `h`.
        mean, std: `m` and `d`.
    """

    def __init__(
        self, base: Distribution, location: Tensor, scale: Tensor, support: Support, mean: Tensor, std: Tensor
    ) -> None:
        super().__init__(location.shape, validate_args=False)
        self.base = base
        self._location, self._scale, self._support = location, scale, support
        self._mean, self._std = mean, std

    def forward(self, u: Tensor) -> Tensor:
        """Bring values of the base here."""
        return (self._support.original(self._location + self._scale * u.double()) - self._mean) / self._std

    def backward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Bring values back to the base; also give the logarithm of how much a step here is there, -inf where no value can be."""
        z, log_slope, is_possible = self._support.linked(self._in_user_units(value))
        log_slope = log_slope + self._std.log() - self._scale.log()
        return (z - self._location) / self._scale, torch.where(is_possible, log_slope, -torch.inf)

    def _in_user_units(self, value: Tensor) -> Tensor:
        return value.double() * self._std + self._mean

    def _to_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Bring values behind the links, which may be infinite, to the base as finite ones; also say which were."""
        u = (z - self._location) / self._scale
        return torch.where(u.isfinite(), u, 0.0).to(self.base.mean.dtype), u

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the value in the user's units."""
        z = self._location + self._scale * self.base.mean.double()
        spread = self._scale * self.base.stddev.double()
        if self._support.is_plain:
            return z, spread
        is_log, is_count = self._support.is_log, self._support.is_count
        if bool(is_log.any()):
            log_mean, log_std = _moments_of_exponential(self.base, self._location, self._scale)
            z, spread = torch.where(is_log, log_mean, z), torch.where(is_log, log_std, spread)
        if bool(self._support.is_bounded.any()):
            mean, std = self._moments_by_nodes(self._support.original)
            is_bounded = self._support.is_bounded
            z, spread = torch.where(is_bounded, mean, z), torch.where(is_bounded, std, spread)
        if bool(is_count.any()):
            mean, std = self._moments_of_counts()
            z, spread = torch.where(is_count, mean, z), torch.where(is_count, std, spread)
        return z, spread

    def _moments_by_nodes(self, h: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        return _moments_by_nodes(_raw(self.base), lambda u: h(self._location + self._scale * u))

    def _moments_of_counts(self) -> tuple[Tensor, Tensor]:
        r"""Give mean and deviation by :math:`E Y = \sum_{k \geq 0} P(Y > k)` and :math:`E Y^2 = \sum_k (2k + 1) P(Y > k)`.

        One by one up to `N_SINGLE`; what is beyond is taken as not rounded.
        """
        raw, n = _raw(self.base), N_SINGLE
        first, second = torch.zeros_like(self._location), torch.zeros_like(self._location)
        for k in range(n):
            u, _ = self._to_base(torch.full_like(self._location, math.log(k + 1.5)))
            above = 1 - cumulative(raw, u).double()
            first, second = first + above, second + (2 * k + 1) * above
        beyond, std = self._moments_by_nodes(lambda z: (z.expm1() - n).clamp(min=0))
        first, second = first + beyond, second + 2 * n * beyond + beyond.square() + std.square()
        return first, (second - first.square()).clamp(min=0).sqrt()

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return (self._moments[0] - self._mean) / self._std

    @property
    def stddev(self) -> Tensor:
        """The standard deviation."""
        return self._moments[1] / self._std

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self.stddev.square()

    def icdf(self, value: Tensor) -> Tensor:
        """Give the quantile of one level, 0-d."""
        return self.forward(quantile(self.base, float(value)))

    def at_score(self, score: Tensor) -> Tensor:
        """Give the quantiles of normal scores `(..., *batch_shape)`, float64."""
        return self.forward(at_score(self.base, score))

    def cdf(self, value: Tensor) -> Tensor:
        """Give the probability of a value at or below `value`."""
        u, exact = self._to_base(self._support.top(self._in_user_units(value)))
        found = cumulative(self.base, u).double()
        return torch.where(exact.isfinite(), found, (exact > 0).to(found.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        """Give the logarithm of the density, by change of variables, or of the probability where the value has one."""
        u, log_slope = self.backward(value)
        density = self.base.log_prob(u.to(self.base.mean.dtype)).double()
        found = torch.where(log_slope > -torch.inf, density + log_slope, -torch.inf)
        if not self._support.has_mass:
            return found
        start, end = self._support.cell(self._in_user_units(value))
        log_mass = self._log_mass(start, end, density)
        return torch.where((start < end) & (log_slope > -torch.inf), log_mass, found)

    def _log_mass(self, start: Tensor, end: Tensor, density: Tensor) -> Tensor:
        """Give the logarithm of the raw forecast's probability between two `z`; `density` is that of the base in between."""
        scores = []
        for z in (start, end):
            u, exact = self._to_base(z)
            score = normal_score(_raw(self.base), u)
            scores.append(torch.where(exact.isfinite(), score, exact))
        low, high = scores
        # In the tail that it lies in, where digits are.
        is_upper = low + high > 0
        low, high = torch.where(is_upper, -high, low), torch.where(is_upper, -low, high)
        inside = low.isfinite()
        is_wide = ~inside | (high - low > NARROW)
        ratio = (log_ndtr(torch.where(inside, low, -1.0)) - log_ndtr(torch.where(inside & is_wide, high, 1.0))).exp()
        wide = log_ndtr(high) + torch.where(inside & is_wide, torch.log1p(-ratio), 0.0)
        length = torch.where(start.isfinite() & end.isfinite(), (end - start) / self._scale, 1.0)
        return torch.where(is_wide, wide, density + length.clamp(min=torch.finfo(torch.float64).tiny).log())

    def crps(self, value: Tensor) -> Tensor:
        """Give the CRPS: of a normal and a log-normal in closed form (Baran and Lerch 2015, equation 5), else from quantiles."""
        if not isinstance(self.base, Normal) or self._support.has_mass:
            return crps_from_quantiles(self, value)
        mean, spread = self._location + self._scale * self.base.mean.double(), self._scale * self.base.stddev.double()
        x = self._in_user_units(value)
        plain = crps_normal(Normal(mean, spread, validate_args=False), x)
        z = (x.clamp(min=torch.finfo(torch.float64).tiny).log() - mean) / spread
        tail = ndtr(z - spread) + ndtr(spread / math.sqrt(2)) - 1
        log = x * (2 * ndtr(z) - 1) - 2 * (mean + spread.square() / 2).exp() * tail
        return torch.where(self._support.is_log, log, plain) / self._std

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw values `(*sample_shape, *batch_shape)`."""
        return self.forward(self.base.sample(torch.Size(sample_shape)))


def in_user_units(forecast: Distribution, channel: Tensor, scaler: Scaler) -> Mapped:
    """Give a model's forecast of channels `channel` (int64, the forecast's batch shape) in the user's units, float64."""
    zero = torch.zeros(channel.shape, dtype=torch.float64, device=channel.device)
    return Mapped(forecast, *_channel_map(channel, scaler), zero, zero + 1)


def in_error_units(forecast: Distribution, channel: Tensor, scaler: Scaler) -> Distribution:
    """Give a model's forecast in training deviations around the training mean: what scores take, see `Batch.target_error_units`.

    Where models see just that, it is the forecast itself; and a normal stays one where no channel has a support, calibrated or not, so
    that its scores keep their closed forms.
    """
    if scaler.channel_map is None:
        return forecast
    mean, std = (_of_channels(x, channel) for x in (scaler.mean, scaler.std))
    mapped = Mapped(forecast, *_channel_map(channel, scaler), mean, std)
    if not isinstance(_raw(forecast), Normal) or not scaler.channel_map.links.is_plain.all():
        return mapped
    plain = Normal(mapped.mean, mapped.stddev, validate_args=False)
    return forecast.over(plain) if isinstance(forecast, Calibrated) else plain


def _raw(forecast: Distribution) -> Distribution:
    return forecast.base if isinstance(forecast, Calibrated) else forecast


def _channel_map(channel: Tensor, scaler: Scaler) -> tuple[Tensor, Tensor, Support]:
    spread = scaler.spread()
    links = Links.none(len(scaler.mean)) if scaler.channel_map is None else scaler.channel_map.links
    location, scale = (_of_channels(x, channel) for x in (spread.centre, spread.size))
    return location, scale, Support.of(links, channel)


def _of_channels(per_channel: np.ndarray, channel: Tensor) -> Tensor:
    return torch.from_numpy(per_channel).to(channel.device)[channel]


def _moments_of_exponential(base: Distribution, location: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    r"""Give mean and deviation of `exp(location + scale u)`.

    Those of the raw forecast where it is calibrated. In closed form for a normal (Johnson, Kotz and Balakrishnan 1994, section 14.3) and
    for mixtures; else from the quantile function, :math:`\int Q(\Phi(t))^k \varphi(t)\,dt`, by the trapezoidal rule. The exponential of a
    heavy tail, such as a Student t's, has no mean; what is given for it is that of its values between the outermost levels, 3e-7 and
    1 - 3e-7.
    """
    base = _raw(base)
    if isinstance(base, Normal):
        z, spread = location + scale * base.loc.double(), scale * base.scale.double()
        mean = (z + spread.square() / 2).exp()
        return mean, mean * torch.expm1(spread.square()).sqrt()
    if isinstance(base, MixtureSameFamily):
        share = base.mixture_distribution.probs.double()
        parts = _moments_of_exponential(base.component_distribution, location[..., None], scale[..., None])
        mean = (share * parts[0]).sum(-1)
        around = parts[1].square() + (parts[0] - mean[..., None]).square()
        return mean, (share * around).sum(-1).sqrt()
    return _moments_by_nodes(base, lambda u: (location + scale * u).exp())


def _moments_by_nodes(base: Distribution, h: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Give mean and deviation of `h(u)` by the trapezoidal rule over the normal scores of `u`."""
    levels = (0.5 * math.erfc(-t / math.sqrt(2)) for t in NODES)
    x = torch.stack([h(quantile(base, level).double()) for level in levels], -1)
    weight = (-0.5 * x.new_tensor(NODES).square()).exp()
    weight = weight / weight.sum()
    mean = (x * weight).sum(-1)
    return mean, ((x - mean[..., None]).square() * weight).sum(-1).sqrt()
