"""What validation decides after training: the base, how much of the residual is kept, how wide the intervals are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentode.data.batch import Batch
from latentode.models.baselines.linear import Moments, base_features, grid_search, moments_of

if TYPE_CHECKING:
    from latentode.models.latent_ode import LatentODE

PSEUDO_COUNT = 50.0  # a channel with fewer validation values leans on what all channels together say
MIN_RESIDUALS = 200  # fewer cannot tell a channel's own 80 % quantile
CENTRAL = 0.8


@dataclass(frozen=True)
class Choice:
    """Per channel: weights of the base `(C, 2)`, weight of the residual `(C,)`, factor on the deviation `(C,)`."""

    base_weight: Tensor
    residual_weight: Tensor
    std_factor: Tensor


def choose_on_validation(model: LatentODE, validation: Iterable[Batch]) -> Choice:
    """Choose, per channel, what has the least squared error on validation, and widths that cover.

    The features are last value, history mean and residual, so the error of any choice is a quadratic form of one set of sums. Two bases
    stand for election, the one fitted on training and the blend that validation itself would choose; since the residual's weight may
    be 0, the outcome is never worse on validation than that blend, which in turn is never worse than last value and constant.

    Args:
        model: trained.
        validation: batches of validation windows; an empty one leaves the model as it is.
    """
    total: Moments | None = None
    kept = []
    for batch in validation:
        with torch.no_grad():
            posterior = model.encode(batch)
            residual = model.decode(posterior.mean, posterior, batch)
        unit = model.unit[batch.target_channel]
        features = torch.cat([base_features(batch), (unit * residual.mean)[..., None]], -1)
        part = moments_of(features, batch)
        total = part if total is None else total + part
        seen = batch.target_observed
        std = unit * residual.stddev
        kept.append((features[seen], batch.target_value[seen], std[seen], batch.target_channel[seen]))
    if total is None:
        return Choice(model.base_weight, model.residual_weight, model.std_factor)
    weight = _choose_weights(total, model)
    features, value, std, channel = (torch.cat(column) for column in zip(*kept, strict=True))
    error = value - (features * weight[channel].to(features.dtype)).sum(-1)
    factor = _choose_factor(error.abs() / std, channel, batch.n_channels)
    return Choice(weight[:, :2].to(model.unit.dtype), weight[:, 2].to(model.unit.dtype), factor)


def _choose_weights(moments: Moments, model: LatentODE) -> Tensor:
    """Give the weights `(C, 3)` of last value, history mean and residual."""
    bases = [model.base_weight.double()]
    if model.base:
        blend = grid_search(Moments(moments.xx[:, :2, :2], moments.xy[:, :2], moments.yy, moments.count))
        bases.append(torch.where((moments.count > 0)[:, None], blend, bases[0]))
    with_residual = [torch.cat([base, _residual_weight(base, moments)[:, None]], -1) for base in bases]
    without = [torch.cat([base, torch.zeros_like(base[:, :1])], -1) for base in bases]
    # On a tie the first stands: the base that training chose, with its residual.
    candidates = torch.stack(with_residual + without)
    best = moments.squared_error(candidates).argmin(0)
    return candidates[best, torch.arange(len(best), device=best.device)]


def _residual_weight(base: Tensor, moments: Moments) -> Tensor:
    """Give the weight of the residual `(C,)` in [0, 1] of least squared error, drawn towards that of all channels together."""
    cross = moments.xy[:, 2] - (moments.xx[:, 2, :2] * base).sum(-1)
    power = moments.xx[:, 2, 2]
    count = moments.count.clamp(min=1)
    overall = ((cross / count).sum() / (power / count).sum().clamp(min=1e-12)).clamp(0, 1)
    prior = PSEUDO_COUNT * power / count
    weight = (cross + prior * overall) / (power + prior).clamp(min=1e-12)
    return torch.where(moments.count > 0, weight.clamp(0, 1), overall)


def _choose_factor(ratio: Tensor, channel: Tensor, n_channels: int) -> Tensor:
    """Give the factor `(C,)` by which deviations grow so that 80 % of validation lies in the 80 % interval."""
    normal = 2**0.5 * torch.erfinv(torch.tensor(CENTRAL)).item()
    overall = _central_quantile(ratio) / normal
    factor = ratio.new_full((n_channels,), overall)
    for i in range(n_channels):
        own = ratio[channel == i]
        if len(own) >= MIN_RESIDUALS:
            factor[i] = _central_quantile(own) / normal
    return factor.clamp(0.1, 10.0)


def _central_quantile(ratio: Tensor) -> float:
    # By sorting: torch.quantile refuses more than 2**24 values.
    n_inside = min(int(CENTRAL * (len(ratio) + 1)), len(ratio) - 1)
    return float(ratio.sort().values[n_inside])
