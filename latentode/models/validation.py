"""What validation decides after training: the base, how much of the residual is kept, how wide it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentode.data.batch import Batch
from latentode.models.baselines.linear import Moments, base_features, grid_search, moments_of
from latentode.models.baselines.shrunk import sum_moments
from latentode.models.conformal import PSEUDO_COUNT
from latentode.models.lead import lead_bin

if TYPE_CHECKING:
    from latentode.models.latent_ode import LatentODE


@dataclass(frozen=True)
class Choice:
    """Weights of the base `(C, 2)` and of the residual `(C,)`; of `P` known targets the error in deviations, its channel and lead bin."""

    base_weight: Tensor
    residual_weight: Tensor
    ratio: Tensor
    channel: Tensor
    lead: Tensor


def choose_on_validation(model: LatentODE, validation: Iterable[Batch]) -> Choice:
    """Choose, per channel, what has the least squared error on validation, and give the errors that it leaves.

    The features are last value, history mean and residual, so the error of any choice is a quadratic form of one set of sums. Two bases
    stand for election, the one fitted on training and the blend that validation itself would choose; since the residual's weight may
    be 0, the outcome is never worse on validation than that blend, which in turn is never worse than last value and constant.

    Args:
        model: trained.
        validation: batches of validation windows, at least one.
    """
    parts, kept = [], []
    for batch in validation:
        with torch.no_grad():
            residual = model.residual(batch)
        unit = model.unit[batch.target_channel]
        features = torch.cat([base_features(batch), (unit * residual.mean)[..., None]], -1)
        parts.append(moments_of(features, batch))
        seen = batch.target_observed
        columns = (features, batch.target_value, unit * residual.stddev, batch.target_channel, lead_bin(batch))
        kept.append(tuple(column[seen] for column in columns))
    weight = _choose_weights(sum_moments(parts), model)
    features, value, std, channel, lead = (torch.cat(column) for column in zip(*kept, strict=True))
    error = value - (features * weight[channel].to(features.dtype)).sum(-1)
    dtype = model.unit.dtype
    return Choice(weight[:, :2].to(dtype), weight[:, 2].to(dtype), (error / std).double(), channel, lead)


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
