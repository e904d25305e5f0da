"""What validation decides after training: the base, how much of the residual is kept, what stands beside it, how wide it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.special import ndtr

from latentode.data.batch import Batch
from latentode.metrics.quantiles import student_t_quantile
from latentode.models.baselines.linear import Moments, grid_search, moments_of
from latentode.models.baselines.shrunk import drawn_share, sum_moments
from latentode.models.lead import lead_bin

PSEUDO_COUNT = 500.0  # validation values that a channel needs to weigh as much as what all channels together say
MIN_UNIT = 0.02  # training deviations; a channel that its base forecasts exactly must not be divided by zero
EVIDENCE = 2.0  # standard errors by which another choice has to be better than that of training

if TYPE_CHECKING:
    from latentode.models.residual import ResidualModel


@dataclass(frozen=True)
class Choice:
    """Weights of the base `(C, F)` and of the residual `(C,)`; of `P` known targets error, stated deviation, channel and lead bin."""

    base_weight: Tensor
    residual_weight: Tensor
    error: Tensor
    std: Tensor
    channel: Tensor
    lead: Tensor


def choose_on_validation(model: ResidualModel, validation: Iterable[Batch]) -> Choice:
    """Choose, per channel, what has the least squared error on validation, and give the errors that it leaves.

    The features are what the base weighs and the residual, so the error of any choice is a quadratic form of one set of sums. Two bases
    stand for election, the one fitted on training and the blend that validation itself would choose, with and without the residual; of
    another base than the blend there is one, which validation has chosen already.
    Training's base with the residual is replaced in a channel where validation has evidence; over all channels the outcome is never
    worse on validation than that blend, which in turn is never worse than last value and constant.

    Args:
        model: trained.
        validation: batches of validation windows, at least one.
    """
    parts, kept = [], []
    for batch in validation:
        reading = model.read(batch)
        batch, frame = reading.batch, model.frame(reading)
        with torch.no_grad():
            residual = model.residual(batch, frame)
        unit = frame.unit
        features = torch.cat([reading.features, (unit * residual.mean)[..., None]], -1)
        parts.append(moments_of(features, batch))
        seen = batch.target_observed
        columns = (features, batch.target_value, unit * residual.stddev, batch.target_channel, lead_bin(batch))
        kept.append(tuple(column[seen] for column in columns))
    features, value, std, channel, lead = (torch.cat(column) for column in zip(*kept, strict=True))
    weight = _choose_weights(sum_moments(parts), model, features.double(), value.double(), channel)
    error = value - (features * weight[channel].to(features.dtype)).sum(-1)
    dtype = model.unit.dtype
    return Choice(weight[:, :-1].to(dtype), weight[:, -1].to(dtype), error.double(), std.double(), channel, lead)


def _choose_weights(
    moments: Moments, model: ResidualModel, features_PK: Tensor, value_P: Tensor, channel_P: Tensor
) -> Tensor:
    """Give the weights `(C, F + 1)` of what the base weighs and of the residual."""
    bases = [model.base_weight.double()]
    if model.base == "blend":
        blend = grid_search(Moments(moments.xx[:, :2, :2], moments.xy[:, :2], moments.yy, moments.count))
        bases.append(torch.where((moments.count > 0)[:, None], blend, bases[0]))
    with_residual = [torch.cat([base, _residual_weight(base, moments, model.unit)[:, None]], -1) for base in bases]
    without = [torch.cat([base, torch.zeros_like(base[:, :1])], -1) for base in bases]
    candidates_JCK = torch.stack(with_residual + without)
    error_JC = moments.squared_error(candidates_JCK)
    gain_JC = error_JC[:1] - error_JC
    # What training chose, with its residual, stands where validation has no evidence against it: of sixty values with one far out
    # whichever candidate happens to lie nearer to that one would win.
    # One candidate at a time: with all of them at once millions of values would take gigabytes.
    square_JP = [(value_P - (features_PK * candidate[channel_P]).sum(-1)).square() for candidate in candidates_JCK]
    variation_JC = [
        torch.zeros_like(gain).index_add(0, channel_P, (square_JP[0] - square_P - gain[channel_P]).square())
        for square_P, gain in zip(square_JP, gain_JC, strict=True)
    ]
    is_evident = gain_JC * moments.count > EVIDENCE * torch.stack(variation_JC).sqrt()
    # The first gains nothing over itself, and stands where no other is evidently better.
    best = torch.where(is_evident, gain_JC, 0.0).argmax(0)
    each = torch.arange(len(best), device=best.device)
    chosen = candidates_JCK[best, each]
    # Never worse on validation than what needs no network, over all channels: as many as that takes, those that lose most by it, take
    # what did best in them.
    lost_C = moments.squared_error(chosen) - error_JC.amin(0)
    excess = (moments.squared_error(chosen).sum() - error_JC[len(bases) :].sum(1).amin()).clamp(min=0)
    order = lost_C.argsort(descending=True)
    is_given_up = (lost_C[order].cumsum(0) - lost_C[order] < excess)[order.argsort()]
    return torch.where(is_given_up[:, None], candidates_JCK[error_JC.argmin(0), each], chosen)


def _residual_weight(base: Tensor, moments: Moments, unit: Tensor) -> Tensor:
    """Give the weight of the residual `(C,)` in [0, 1] of least squared error, drawn towards that of all channels together."""
    cross = moments.xy[:, -1] - (moments.xx[:, -1, :-1] * base).sum(-1)
    power = moments.xx[:, -1, -1]
    count = moments.count.clamp(min=1)
    # In units of what the base leaves, and by the root of the counts: as in training, no single channel says what holds for all.
    share = count.rsqrt() / unit.double().square()
    overall = ((share * cross).sum() / (share * power).sum().clamp(min=1e-12)).clamp(0, 1)
    return drawn_share(cross, power, moments.count, overall, PSEUDO_COUNT)


def block_of(batch: Batch) -> Tensor:
    """Name the stretch of its series, a horizon long, in which each target's origin lies, int64 `(B, M)`."""
    stretch = (batch.origin.double() / batch.time_scale).floor().long()
    # One number for the two: in no table do the stretches span as many horizons as that.
    name = batch.series * (1 << 31) + stretch % (1 << 31)
    return name[:, None].expand_as(batch.target_channel)


def choose_companion(error: Tensor, other: Tensor, channel: Tensor, block: Tensor, n_channels: int) -> Tensor:
    r"""Give the share `(C,)` in [0, 1] of a companion's forecast that stands in for a network's.

    The network's share :math:`s` has the least squared error on validation, drawn towards that of all channels together. It is 0, and
    the companion stands alone, unless the network has evidence: what each stretch gains, under the share that the others give, has to be
    above 0 on average by a one-sided t test over the stretches, at the level of `EVIDENCE` normal standard errors. Values of one stretch
    fail together, and a network has more ways to fit one by luck than a straight line has.

    Args:
        error, other: of the network and of the companion, float64 `(P,)`.
        channel, block: of each target, int64 `(P,)`; blocks are what may count as independent.
        n_channels: `C`.
    """
    stretch, place = block.unique(return_inverse=True)
    n_blocks, cell = len(stretch), place * n_channels + channel
    empty, step = error.new_zeros(n_blocks * n_channels), other - error
    count_KC, cross_KC, power_KC, square_KC = (
        empty.index_add(0, cell, x).view(n_blocks, n_channels)
        for x in (torch.ones_like(error), step * other, step.square(), other.square())
    )
    count, cross, power = count_KC.sum(0), cross_KC.sum(0), power_KC.sum(0)
    # In units of what the companion leaves, and by the root of the counts: no single channel says what holds for all.
    n = count.clamp(min=1)
    weight = n.rsqrt() / (square_KC.sum(0) / n).clamp(min=MIN_UNIT**2)
    share = _share_of_network(count, cross, power, weight)
    if n_blocks < 2:
        return torch.ones_like(share)
    share_KC = _share_of_network(count - count_KC, cross - cross_KC, power - power_KC, weight)
    gain_K = (weight * (2 * share_KC * cross_KC - share_KC.square() * power_KC)).sum(1)
    needed = student_t_quantile(gain_K.new_tensor(n_blocks - 1), ndtr(gain_K.new_tensor(EVIDENCE)))
    is_evident = bool(gain_K.mean() > needed * gain_K.std() / n_blocks**0.5)
    return 1 - share if is_evident else torch.ones_like(share)


def _share_of_network(count: Tensor, cross: Tensor, power: Tensor, weight: Tensor) -> Tensor:
    """Give the share in [0, 1] of least squared error from sums `(..., C)`, drawn towards that of all channels."""
    overall = (weight * cross).sum(-1, keepdim=True) / (weight * power).sum(-1, keepdim=True).clamp(min=1e-12)
    return drawn_share(cross, power, count, overall.clamp(0, 1), PSEUDO_COUNT)
