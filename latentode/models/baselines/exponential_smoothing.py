r"""Exponential smoothing for irregular gaps: an average of the history in which old values fade, and which is itself forgotten.

The level at the origin is :math:`\ell = \sum_i v_i e^{-a_i/\tau} / \sum_i e^{-a_i/\tau}` over the values :math:`v_i` of age
:math:`a_i`: simple exponential smoothing carried over to uneven gaps by Wright (1986, Forecasting data published at irregular time
intervals, equations 3 to 5), written as the sum that his recursion builds up. With :math:`\tau \to 0` it is the last value, with
:math:`\tau \to \infty` the history mean :math:`\bar v`. At lead time :math:`h` the forecast is
:math:`w_1 e^{-h/\theta} (\ell - \bar v) + w_2 \bar v`: what sets the level apart from the mean fades with time constant :math:`\theta`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.distributions import Normal

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.baselines.linear import grid_search, moments_of
from latentode.models.baselines.shrunk import ShrunkBaseline, own_std, sum_moments
from latentode.models.history import at_targets, summarise

# In 1/horizon. The first keeps the last value alone, 0 weighs all alike; finite, since buffers get averaged.
FADING = (1e9, 64.0, 24.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.0)
FORGETTING = (0.0, 0.25, 0.7, 2.0, 6.0)


class ExponentialSmoothing(ShrunkBaseline):
    """Forecasts a faded average of the history that reverts to its mean; both time constants per channel, chosen on training."""

    fading: Tensor
    forgetting: Tensor
    weight: Tensor

    def setup(self, schema: Schema) -> None:
        """Make the buffers: rates `1 / tau`, `1 / theta`, `(C,)`, and weights `(C, 2)`."""
        super().setup(schema)
        n_channels = len(schema.channels)
        self.register_buffer("fading", torch.full((n_channels,), FADING[0]))
        self.register_buffer("forgetting", torch.zeros(n_channels))
        self.register_buffer("weight", torch.ones(n_channels, 2))

    def fit(self, training: Sequence[Batch]) -> None:
        """Try every pair of rates with its best weights; keep, per channel, the pair of least squared error."""
        n_channels = training[0].n_channels
        best = torch.full((n_channels,), torch.inf, dtype=torch.float64, device=self.weight.device)
        for fading, forgetting in product(FADING, FORGETTING):
            rates = [self.fading.new_full((n_channels,), rate) for rate in (fading, forgetting)]
            moments = sum_moments(moments_of(_features(batch, *rates), batch) for batch in training)
            weight = grid_search(moments)
            error = moments.squared_error(weight)
            better = (error < best) & (moments.count > 0)
            best = torch.where(better, error, best)
            self.fading.masked_fill_(better, fading)
            self.forgetting.masked_fill_(better, forgetting)
            self.weight.copy_(torch.where(better[:, None], weight, self.weight.double()))

    def own(self, batch: Batch) -> Normal:
        """Forecast every target `(B, M)`."""
        x = _features(batch, self.fading, self.forgetting)
        return own_std((x * self.weight[batch.target_channel]).sum(-1))


def smooth(batch: Batch, fading: Tensor) -> Tensor:
    """Give the level of every channel at the origin, `(B, C)`; 0 where the channel was not seen.

    Args:
        batch: histories.
        fading: rate `1 / tau` per channel, `(C,)`.
    """
    summary = summarise(batch)
    channel, n_channels = batch.token_channel, batch.n_channels
    # Ages count from the channel's own last value, which so weighs 1: an old history cannot underflow.
    age = -batch.token_time - summary.age.gather(1, channel)
    weight = torch.exp(-fading[channel] * age.clamp(min=0)) * batch.token_observed
    empty = weight.new_zeros(len(batch), n_channels)
    total = empty.scatter_add(1, channel, weight * batch.token_value)
    return total / empty.scatter_add(1, channel, weight).clamp(min=1e-30)


def _features(batch: Batch, fading: Tensor, forgetting: Tensor) -> Tensor:
    """Give what is left of level less mean at each target's time, and the mean, `(B, M, 2)`."""
    mean = summarise(batch).mean
    left = at_targets(smooth(batch, fading) - mean, batch)
    kept = torch.exp(-forgetting[batch.target_channel] * batch.lead_time())
    return torch.stack([kept * left, at_targets(mean, batch)], -1)
