"""What a careful person would read off a history first: per channel the last value, the mean, the count and the age of the last value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentode.data.batch import Batch


@dataclass(frozen=True)
class HistorySummary:
    """Per-channel figures of every history, each `(B, C)`, in scaled units and model time.

    Attributes:
        last: the latest value; 0, the training mean, where the channel was not seen.
        mean: the mean of the values; 0 where there are none.
        count: how many values were seen.
        age: time from the latest value to the origin, >= 0; `UNSEEN_AGE` where the channel was not seen.
        lowest, highest: the least and the greatest value; 0 where there is none.
        recent: the mean of the values, each weighted by `exp(-RECENCY * age)`; drawn towards 0 where the latest are old.
    """

    last: Tensor
    mean: Tensor
    count: Tensor
    age: Tensor
    lowest: Tensor
    highest: Tensor
    recent: Tensor


CLAMP = 5.0  # training deviations: an outlier says "very large", not "a hundred times as large"
DRAW = 0.1  # values at hand that the training mean counts as
RECENCY = 6.0  # per horizon: what is a sixth of a horizon old counts 1/e of what has just been seen
UNSEEN_AGE = 10.0  # ten horizons: older than what any forecast still profits from


def summarise(batch: Batch) -> HistorySummary:
    """Summarise every history of a batch; base, encoder and decoder ask for the same one, which is made once."""
    return batch.derived("summary", _summarise)


def _summarise(batch: Batch) -> HistorySummary:
    """Summarise as sums over the tokens."""
    value, age = batch.token_value, -batch.token_time
    seen = batch.token_observed.to(value.dtype)
    weight = torch.exp(-RECENCY * age) * seen
    sums = sum_by_channel(torch.stack([seen, value * seen, weight, weight * value], -1), batch)
    count, total, mass, weighted = sums.unbind(-1)
    latest = _latest(batch)
    is_seen = latest >= 0
    at = latest.clamp(min=0)
    lowest, highest = extremes(batch)
    return HistorySummary(
        last=torch.where(is_seen, value.gather(1, at), 0.0),
        mean=total / count.clamp(min=1),
        count=count,
        age=torch.where(is_seen, age.gather(1, at), UNSEEN_AGE),
        lowest=lowest,
        highest=highest,
        recent=weighted / (mass + 1e-3),
    )


def smooth(batch: Batch, n_lags: int) -> Tensor:
    """Give every channel's course over the last horizon, at lags that all series share, `(B, C, 2 n_lags)`.

    At lags from 0 to a horizon, evenly spaced, stands the mean of the values, each weighted by a Gaussian of its distance with the spacing
    as deviation (Nadaraya 1964; Watson 1964), drawn to 0, the training mean, where nothing is near; behind all of these the logarithm of
    1 + the weights' sum. Values are clamped to `CLAMP`. Nothing of it is learned, so that no gradient comes back here.
    """
    lag = torch.linspace(0, 1, n_lags, dtype=batch.token_time.dtype, device=batch.token_time.device)
    distance = (batch.token_time[..., None] + lag) * max(n_lags - 1, 1)
    weight = torch.exp(-0.5 * distance.square()) * batch.token_observed[..., None]
    value = batch.token_value.clamp(-CLAMP, CLAMP)[..., None]
    total, mass = sum_by_channel(torch.cat([weight * value, weight], -1), batch).split(n_lags, -1)
    return torch.cat([total / (mass + DRAW), mass.log1p()], -1)


def sum_by_channel(x_BNK: Tensor, batch: Batch) -> Tensor:
    """Sum what belongs to the tokens of each channel, `(B, C, K)`; what belongs to padding has to be 0."""
    n_batch, n_channels = batch.token_channel.shape[0], batch.n_channels
    cell = torch.arange(n_batch, device=x_BNK.device)[:, None] * n_channels + batch.token_channel
    # Row by row: some five times as fast on a CPU as a scatter of single elements.
    summed = x_BNK.new_zeros(n_batch * n_channels, x_BNK.shape[-1]).index_add(0, cell.flatten(), x_BNK.flatten(0, 1))
    return summed.view(n_batch, n_channels, -1)


def _latest(batch: Batch) -> Tensor:
    """Give the position of the latest token of each channel, int64 `(B, C)`; -1 where there is none."""
    slot = _slot(batch)
    position = torch.arange(slot.shape[1], device=slot.device).expand_as(slot)
    latest = torch.full_like(slot[:, :1], -1).expand(-1, batch.n_channels + 1)
    return latest.scatter_reduce(1, slot, position, "amax")[:, :-1]


def _slot(batch: Batch) -> Tensor:
    """Give each token's channel; padding goes to one beside the real ones, which is cut off afterwards: int64 `(B, N)`."""
    return torch.where(batch.token_observed, batch.token_channel, batch.n_channels)


def known_features(batch: Batch) -> Tensor:
    """Give what the known columns hold at each target, at the latest value of its channel, and on average over those, `(B, M, 3 K)`.

    What a known column does to a channel shows in the difference: the last value was due to what it held then. Where the channel was
    not seen, the columns' training means, 0, stand for both.
    """
    at_query = pick(batch.known, batch.target_row)
    n_known = batch.known.shape[-1]
    if n_known == 0:
        return at_query
    seen = batch.token_observed.to(batch.token_value.dtype)
    sums = sum_by_channel(torch.cat([batch.token_known, seen[..., None]], -1) * seen[..., None], batch)
    total, count = sums[..., :-1], sums[..., -1]
    latest = _latest(batch)
    last = torch.where((latest >= 0)[..., None], pick(batch.token_known, latest.clamp(min=0)), 0.0)
    mean = total / count.clamp(min=1)[..., None]
    return torch.cat([at_query, *(pick(x, batch.target_channel) for x in (last, mean))], -1)


def pick(x_BKH: Tensor, index_BM: Tensor) -> Tensor:
    """Pick rows of the second axis, `(B, M, H)`."""
    n_batch, n_rows, width = x_BKH.shape
    row = torch.arange(n_batch, device=index_BM.device)[:, None] * n_rows + index_BM
    # Row by row, and the gradient too: on a CPU several times as fast as a gather of single elements.
    return x_BKH.flatten(0, 1).index_select(0, row.flatten()).view(*index_BM.shape, width)


def at_targets(per_channel_BC: Tensor, batch: Batch) -> Tensor:
    """Pick, for every target `(B, M)`, the figure of its channel."""
    return per_channel_BC.gather(1, batch.target_channel)


def extremes(batch: Batch) -> tuple[Tensor, Tensor]:
    """Give the least and the greatest value of every channel of every history, `(B, C)` each; 0 where there is none."""
    n_channels = batch.n_channels
    slot = _slot(batch)
    empty = batch.token_value.new_zeros(slot.shape[0], n_channels + 1)
    # Without the zero of the start: a channel that was only ever above it has its own least value.
    low, high = (
        empty.scatter_reduce(1, slot, batch.token_value, which, include_self=False)[:, :n_channels]
        for which in ("amin", "amax")
    )
    return low, high


def most_seen(batches: Sequence[Batch], n_most: int) -> Tensor:
    """Give the positions of the `n_most` channels of which the histories hold most values, ascending; ties go to the first."""
    seen = [torch.bincount(b.token_channel[b.token_observed], minlength=b.n_channels) for b in batches]
    return torch.stack(seen).sum(0).argsort(descending=True, stable=True)[:n_most].sort().values
