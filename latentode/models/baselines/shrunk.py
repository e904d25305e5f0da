r"""Forecasts that have to earn their weight: whatever a baseline says is drawn back to the blend as far as validation asks.

With the baseline's own forecast :math:`f` and the blend :math:`b` (both chosen per channel), the forecast is
:math:`b + s\,(f - b)`, :math:`0 \le s \le 1`; the :math:`s` of least squared error on validation has a closed form, drawn towards that
of all channels together where a channel has few values, and it is 0 where even that would be worse than the blend. So on validation no
such baseline is ever worse than the blend, which in turn is never worse than last value and constant.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.distributions import Normal

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.baselines.linear import (
    MIN_STD,
    Moments,
    base_features,
    collect,
    grid_search,
    least_squares,
    moments_of,
)
from latentode.models.conformal import PSEUDO_COUNT, Calibration, UntrainedModel
from latentode.models.lead import lead_bin


class ShrunkBaseline(UntrainedModel):
    """A forecast of its own, drawn to the blend per channel, with a Gaussian error whose width depends on channel and lead time."""

    trained_weight: Tensor
    blend_weight: Tensor
    share: Tensor

    def setup(self, schema: Schema) -> None:
        """Make the buffers: weights of the blend `(C, 2)`, by training and by validation, share `(C,)`, and the calibration."""
        n_channels = len(schema.channels)
        for name in ("trained_weight", "blend_weight"):
            self.register_buffer(name, torch.tensor([1.0, 0.0]).repeat(n_channels, 1))
        self.register_buffer("share", torch.zeros(n_channels))
        self.calibration = Calibration(n_channels)

    @abstractmethod
    def fit(self, training: Sequence[Batch]) -> None:
        """Learn from the training windows; the blend is fitted already."""

    def tune(self, validation: Sequence[Batch]) -> None:
        """Choose what validation decides beside share and width; nothing, unless the baseline has such a choice."""

    @abstractmethod
    def own(self, batch: Batch) -> Normal:
        """Forecast every target `(B, M)`; the deviation counts only up to a factor per channel and lead time."""

    def prepare(self, training: Iterable[Batch], validation: Sequence[Batch] = ()) -> None:
        """Fit the blend by least squares, then the baseline itself."""
        batches = list(training)
        moments = collect(batches)
        known = (moments.count > 0)[:, None]
        self.trained_weight.copy_(torch.where(known, least_squares(moments), self.trained_weight.double()))
        self.blend_weight.copy_(self.trained_weight)
        with torch.no_grad():
            self.fit(batches)
        self.share.fill_(1.0)

    def choose(self, validation: Sequence[Batch]) -> None:
        """Choose the blend, how far the own forecast may leave it, and the widths."""
        self.tune(validation)
        pairs = [(batch, self.own(batch)) for batch in validation]
        moments = sum_moments(
            moments_of(torch.cat([base_features(batch), forecast.mean[..., None]], -1), batch)
            for batch, forecast in pairs
        )
        known = (moments.count > 0)[:, None]
        blend = grid_search(Moments(moments.xx[:, :2, :2], moments.xy[:, :2], moments.yy, moments.count))
        self.blend_weight.copy_(torch.where(known, blend, self.blend_weight.double()))
        self.share.copy_(choose_share(moments, self.blend_weight.double()))
        parts = zip(*(self._ratios(batch, forecast) for batch, forecast in pairs), strict=True)
        self.calibration.fit_width(*(torch.cat(column) for column in parts))

    def _ratios(self, batch: Batch, forecast: Normal) -> tuple[Tensor, Tensor, Tensor]:
        """Give, of every known target, the error in the forecast's own deviations, its channel and its bin of lead time."""
        seen = batch.target_observed
        error = (batch.target_value - self._mean(batch, forecast)) / forecast.stddev
        return error[seen].double(), batch.target_channel[seen], lead_bin(batch)[seen]

    def _mean(self, batch: Batch, forecast: Normal) -> Tensor:
        blend = blend_of(batch, self.blend_weight)
        return blend + self.share[batch.target_channel] * (forecast.mean - blend)

    def trained_blend(self, batch: Batch) -> Tensor:
        """Give the forecast of every target `(B, M)` by the blend that was fitted on training, for what learns its residual.

        Validation chooses another one afterwards: a residual belongs to the blend that left it.
        """
        return blend_of(batch, self.trained_weight)

    def raw(self, batch: Batch) -> Normal:
        """Forecast every target `(B, M)`."""
        forecast = self.own(batch)
        std = self.calibration.width_at(batch) * forecast.stddev
        return Normal(self._mean(batch, forecast), std.clamp(min=MIN_STD), validate_args=False)


def blend_of(batch: Batch, weight: Tensor) -> Tensor:
    """Give the forecast of every target `(B, M)` by the blend with weights `(C, 2)`."""
    return (base_features(batch) * weight[batch.target_channel]).sum(-1)


def sum_moments(parts: Iterable[Moments]) -> Moments:
    """Add moments up; there is at least one."""
    total, *others = parts
    for part in others:
        total = total + part
    return total


def own_std(mean: Tensor) -> Normal:
    """Give a forecast whose width is the same everywhere, for baselines that have no opinion on it."""
    return Normal(mean, torch.ones_like(mean), validate_args=False)


def choose_share(moments: Moments, blend: Tensor) -> Tensor:
    """Give the share `(C,)` in [0, 1] of the own forecast that has the least squared error, or 0.

    Args:
        moments: of last value, history mean and own forecast.
        blend: weights `(C, 2)` of the first two.
    """
    # In the basis (blend, own - blend) the error is a parabola in the share.
    step = torch.cat([-blend, torch.ones_like(blend[:, :1])], -1)
    base = torch.cat([blend, torch.zeros_like(blend[:, :1])], -1)
    power = torch.einsum("ck,ckl,cl->c", step, moments.xx, step).clamp(min=0)
    cross = (step * moments.xy).sum(-1) - torch.einsum("ck,ckl,cl->c", step, moments.xx, base)
    count = moments.count.clamp(min=1)
    overall = ((cross / count).sum() / (power / count).sum().clamp(min=1e-12)).clamp(0, 1)
    share = drawn_share(cross, power, moments.count, overall, PSEUDO_COUNT)
    helps = 2 * share * cross >= share.square() * power
    return torch.where((moments.count > 0) & ~helps, 0.0, share)


def drawn_share(cross: Tensor, power: Tensor, count: Tensor, overall: Tensor, pseudo_count: float) -> Tensor:
    """Give the share in [0, 1] of least squared error, drawn towards `overall` as by `pseudo_count` more values; `overall` of no value.

    Args:
        cross: sum of step times what is left without it, per channel `(..., C)`.
        power: sum of the squared step.
        count: of the values.
        overall: what all channels together say; broadcasts.
        pseudo_count: values that weigh as much as `overall`.
    """
    prior = pseudo_count * power / count.clamp(min=1)
    share = ((cross + prior * overall) / (power + prior).clamp(min=1e-12)).clamp(0, 1)
    return torch.where(count > 0, share, overall)
