r"""Forecasts that are linear in the last value and the history mean: what every model has to beat, and what it may start from.

With values in units of the training standard deviation around the training mean :math:`m`, the forecast of a channel is
:math:`m + w_1 (\mathrm{last} - m) + w_2 (\mathrm{history\ mean} - m)`; here :math:`m = 0`. `Moments` holds the sums that give the
squared error of *every* pair of weights in closed form, so that choosing them costs one pass over the data.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.conformal import Calibration, UntrainedModel
from latentode.models.history import at_targets, summarise
from latentode.models.lead import lead_bin

PSEUDO_COUNT = 50.0  # targets that a channel needs to weigh as much as what all channels together say
MIN_STD = 1e-3  # in training standard deviations; keeps a constant channel's density finite


@dataclass(frozen=True)
class Moments:
    """Sums over targets, per channel, of the products of features `x` (K of them) and target `y`; float64.

    Attributes:
        xx: `(C, K, K)`.
        xy: `(C, K)`.
        yy: `(C,)`.
        count: `(C,)`.
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor
    count: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy, self.count + other.count)

    def squared_error(self, weight: Tensor) -> Tensor:
        """Give the mean squared error of `weight` `(..., C, K)`: shape `(..., C)`, 0 where a channel has no target."""
        quadratic = torch.einsum("...ck,ckl,...cl->...c", weight, self.xx, weight)
        total = self.yy - 2 * (weight * self.xy).sum(-1) + quadratic
        return total.clamp(min=0) / self.count.clamp(min=1)


def moments_of(x: Tensor, batch: Batch) -> Moments:
    """Sum the products of features `x` `(B, M, K)` and the targets of a batch, channel by channel."""
    n_features = x.shape[-1]
    seen = batch.target_observed
    channel = batch.target_channel[seen]
    x, y = x[seen].double(), batch.target_value[seen].double()
    xx = x.new_zeros(batch.n_channels, n_features, n_features)
    xy, yy = x.new_zeros(batch.n_channels, n_features), x.new_zeros(batch.n_channels)
    return Moments(
        xx.index_add(0, channel, x[:, :, None] * x[:, None, :]),
        xy.index_add(0, channel, x * y[:, None]),
        yy.index_add(0, channel, y * y),
        yy.index_add(0, channel, torch.ones_like(y)),
    )


def base_features(batch: Batch) -> Tensor:
    """Give last value and history mean of every target's channel, `(B, M, 2)`."""
    summary = summarise(batch)
    return torch.stack([at_targets(summary.last, batch), at_targets(summary.mean, batch)], -1)


def collect(batches: Iterable[Batch]) -> Moments:
    """Sum the moments of last value and history mean over batches."""
    total: Moments | None = None
    for batch in batches:
        part = moments_of(base_features(batch), batch)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("no batch to collect moments from")
    return total


def least_squares(moments: Moments, strength: float = 1e-2) -> Tensor:
    """Solve for the weights `(C, 2)` of least squared error, drawn towards those of all channels, and these towards "last value".

    A channel with a handful of targets, one of which is far out, would otherwise get weights that no other has. The pull is a ridge: of
    `PSEUDO_COUNT` targets towards the mean of the channels' own solutions, and of the share `strength` towards the last value in these,
    which matters where the two features are one.
    """
    known = (moments.count > 0)[:, None]
    n_known = known.sum().clamp(min=1)
    power = moments.xx.diagonal(dim1=-2, dim2=-1).mean(-1)
    own = _ridge(moments, strength * power, moments.xx.new_tensor([1.0, 0.0]))
    if len(own) == 1:
        return own
    typical = torch.where(known, own, 0.0).sum(0) / n_known
    drawn = _ridge(moments, PSEUDO_COUNT / moments.count.clamp(min=1) * power, typical)
    return torch.where(known, drawn, own)


def _ridge(moments: Moments, scale_C: Tensor, towards: Tensor) -> Tensor:
    scale_C = scale_C + 1e-9
    eye = torch.eye(2, dtype=moments.xx.dtype, device=moments.xx.device)
    return torch.linalg.solve(moments.xx + scale_C[:, None, None] * eye, moments.xy + scale_C[:, None] * towards)


def grid_search(moments: Moments, n_steps: int = 20) -> Tensor:
    """Choose the weights `(C, 2)` from a grid over `[0, 1]²`, for the least squared error of each channel."""
    level = torch.linspace(0, 1, n_steps + 1, dtype=moments.xx.dtype, device=moments.xx.device)
    grid = torch.cartesian_prod(level, level)
    error = moments.squared_error(grid[:, None, :].expand(-1, moments.xx.shape[0], -1))
    return grid[error.argmin(0)]


class LinearBaseline(UntrainedModel):
    """A forecast `w1 last + w2 history mean` with a Gaussian error whose width depends on channel and lead time."""

    weight: Tensor

    def setup(self, schema: Schema) -> None:
        """Make the buffers: weights `(C, 2)` and the calibration."""
        n_channels = len(schema.channels)
        self.register_buffer("weight", self.initial_weight().repeat(n_channels, 1))
        self.calibration = Calibration(n_channels)

    @abstractmethod
    def initial_weight(self) -> Tensor:
        """Give the weights `(2,)` before any data was seen."""

    def choose_weight(self, moments: Moments) -> Tensor | None:
        """Choose weights `(C, 2)` on validation; None keeps the initial ones."""
        return None

    def choose(self, validation: Sequence[Batch]) -> None:
        """Choose the weights, and take the error's deviation from the same windows."""
        moments = collect(validation)
        chosen = self.choose_weight(moments)
        if chosen is not None:
            self.weight.copy_(torch.where((moments.count > 0)[:, None], chosen.to(self.weight.dtype), self.weight))
        parts = zip(*(self._errors(batch) for batch in validation), strict=True)
        self.calibration.fit_width(*(torch.cat(column) for column in parts))

    def _errors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Give the error of every known target, its channel and its bin of lead time."""
        seen = batch.target_observed
        error = (batch.target_value - self._mean(batch))[seen].double()
        return error, batch.target_channel[seen], lead_bin(batch)[seen]

    def _mean(self, batch: Batch) -> Tensor:
        return (base_features(batch) * self.weight[batch.target_channel]).sum(-1)

    def raw(self, batch: Batch) -> Normal:
        """Forecast every target `(B, M)`."""
        std = self.calibration.width_at(batch).clamp(min=MIN_STD)
        return Normal(self._mean(batch), std, validate_args=False)
