r"""Forecasts in other units than those that a model sees, so that no model has to know of scalings and logarithms.

A model's value :math:`u` of a channel stands for :math:`x = g^{-1}(l + s u)` in the user's units, with the scaler's :math:`g`, :math:`l`
and :math:`s`, and for :math:`v = (x - m) / d` in those of errors, training deviations around the training mean. Both maps are monotone,
so quantiles and probabilities go through them as they are; means and deviations do not where :math:`g` is the logarithm.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, Normal
from torch.special import ndtr

from latentode.data.scaling import Scaler
from latentode.metrics.probabilistic import crps_from_quantiles, crps_normal
from latentode.metrics.quantiles import at_score, cumulative, quantile
from latentode.models.conformal import Calibrated

# In standard normal deviations; a level further out than 5 is 1 in float32.
NODES = tuple(i / 4 for i in range(-20, 21))


class Mapped(Distribution):
    """The distribution of `(g^-1(l + s u) - m) / d` where `u` has the distribution `base`, in float64.

    Args:
        base: any distribution that `latentode.metrics.quantiles` can ask.
        location, scale: `l` and `s` of each value.
        is_log: whether `g` is the logarithm.
        mean, std: `m` and `d`.
    """

    def __init__(
        self, base: Distribution, location: Tensor, scale: Tensor, is_log: Tensor, mean: Tensor, std: Tensor
    ) -> None:
        super().__init__(location.shape, validate_args=False)
        self.base = base
        self._location, self._scale, self._is_log = location, scale, is_log
        self._mean, self._std = mean, std

    def forward(self, u: Tensor) -> Tensor:
        """Bring values of the base here."""
        return (self._original(self._location + self._scale * u.double()) - self._mean) / self._std

    def _original(self, z: Tensor) -> Tensor:
        return torch.where(self._is_log, z.exp(), z)

    def backward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Bring values back to the base; also give the logarithm of how much a step here is there, -inf where no value can be."""
        x = value.double() * self._std + self._mean
        is_possible = ~self._is_log | (x > 0)
        log_x = x.clamp(min=torch.finfo(torch.float64).tiny).log()
        u = (torch.where(self._is_log, log_x, x) - self._location) / self._scale
        log_slope = self._std.log() - self._scale.log() - torch.where(self._is_log, log_x, 0.0)
        return u, torch.where(is_possible, log_slope, -torch.inf)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the value in the user's units."""
        z = self._location + self._scale * self.base.mean.double()
        spread = self._scale * self.base.stddev.double()
        if not bool(self._is_log.any()):
            return z, spread
        log_mean, log_std = _moments_of_exponential(self.base, self._location, self._scale)
        return torch.where(self._is_log, log_mean, z), torch.where(self._is_log, log_std, spread)

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
        u, log_slope = self.backward(value)
        found = cumulative(self.base, u.to(self.base.mean.dtype)).double()
        return torch.where(log_slope > -torch.inf, found, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Give the logarithm of the density, by change of variables."""
        u, log_slope = self.backward(value)
        density = self.base.log_prob(u.to(self.base.mean.dtype)).double()
        return torch.where(log_slope > -torch.inf, density + log_slope, -torch.inf)

    def crps(self, value: Tensor) -> Tensor:
        """Give the CRPS: of a normal and a log-normal in closed form (Baran and Lerch 2015, equation 5), else from quantiles."""
        if not isinstance(self.base, Normal):
            return crps_from_quantiles(self, value)
        mean, spread = self._location + self._scale * self.base.mean.double(), self._scale * self.base.stddev.double()
        x = value.double() * self._std + self._mean
        plain = crps_normal(Normal(mean, spread, validate_args=False), x)
        z = (x.clamp(min=torch.finfo(torch.float64).tiny).log() - mean) / spread
        tail = ndtr(z - spread) + ndtr(spread / math.sqrt(2)) - 1
        log = x * (2 * ndtr(z) - 1) - 2 * (mean + spread.square() / 2).exp() * tail
        return torch.where(self._is_log, log, plain) / self._std

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw values `(*sample_shape, *batch_shape)`."""
        return self.forward(self.base.sample(torch.Size(sample_shape)))


def in_user_units(forecast: Distribution, channel: Tensor, scaler: Scaler) -> Mapped:
    """Give a model's forecast of channels `channel` (int64, the forecast's batch shape) in the user's units, float64."""
    zero = torch.zeros(channel.shape, dtype=torch.float64, device=channel.device)
    return Mapped(forecast, *_channel_map(channel, scaler), zero, zero + 1)


def in_error_units(forecast: Distribution, channel: Tensor, scaler: Scaler) -> Distribution:
    """Give a model's forecast in training deviations around the training mean: what scores take, see `Batch.target_error_units`.

    Where models see just that, it is the forecast itself; and a normal stays one where there is no logarithm, calibrated or not, so that
    its scores keep their closed forms.
    """
    if scaler.channel_map is None:
        return forecast
    mean, std = (_of_channels(x, channel) for x in (scaler.mean, scaler.std))
    mapped = Mapped(forecast, *_channel_map(channel, scaler), mean, std)
    raw = forecast.base if isinstance(forecast, Calibrated) else forecast
    if not isinstance(raw, Normal) or scaler.channel_map.is_log.any():
        return mapped
    plain = Normal(mapped.mean, mapped.stddev, validate_args=False)
    return forecast.over(plain) if isinstance(forecast, Calibrated) else plain


def _channel_map(channel: Tensor, scaler: Scaler) -> tuple[Tensor, Tensor, Tensor]:
    spread = scaler.spread()
    is_log = np.zeros(len(scaler.mean), bool) if scaler.channel_map is None else scaler.channel_map.is_log
    location, scale, flags = (_of_channels(x, channel) for x in (spread.centre, spread.size, is_log))
    return location, scale, flags


def _of_channels(per_channel: np.ndarray, channel: Tensor) -> Tensor:
    return torch.from_numpy(per_channel).to(channel.device)[channel]


def _moments_of_exponential(base: Distribution, location: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    r"""Give mean and deviation of `exp(location + scale u)`.

    Those of the raw forecast where it is calibrated. In closed form for a normal (Johnson, Kotz and Balakrishnan 1994, section 14.3) and
    for mixtures; else from the quantile function, :math:`\int Q(\Phi(t))^k \varphi(t)\,dt`, by the trapezoidal rule. The exponential of a
    heavy tail, such as a Student t's, has no mean; what is given for it is that of its values between the outermost levels, 3e-7 and
    1 - 3e-7.
    """
    if isinstance(base, Calibrated):
        return _moments_of_exponential(base.base, location, scale)
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
    levels = (0.5 * math.erfc(-t / math.sqrt(2)) for t in NODES)
    x = torch.stack([(location + scale * quantile(base, level).double()).exp() for level in levels], -1)
    weight = (-0.5 * x.new_tensor(NODES).square()).exp()
    weight = weight / weight.sum()
    mean = (x * weight).sum(-1)
    return mean, ((x - mean[..., None]).square() * weight).sum(-1).sqrt()
