r"""Values between those of a history: a blend of the values on either side, bent as the model says that the series moves.

A query inside a history has values of its channel before and behind it. What a careful person would say of it lies on the straight line
between the nearest two; a line through four of them knows of bends, their means know of noise, and the model's own forecast from the last
stamp before the query, :math:`f`, knows how this kind of series moves, and what other channels say. It also forecasts the next value
:math:`y_+` of the channel; by how much that was missed, it was missed, in part, at the query: :math:`f + a (y_+ - f_+)`, with :math:`a` the
share of the gap that lies before the query, is a bridge between the two values along the forecast's own course. (With a forecast that is the
last value, this is the straight line; with the Kalman filter's and its gain in place of :math:`a`, it is the Rauch-Tung-Striebel smoother of
one step, Rauch, Tung and Striebel 1965.) The weights of all of these are those of least squares on values that are hidden in validation
windows, per channel and length of the gap; no training is needed for it.

Legend: `P` hidden values, `C` channels, `L` bins of gaps, `F` features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from latentode.data.batch import Batch
from latentode.metrics.quantiles import normal_score
from latentode.models.between import Ahead, Around, look_ahead, look_around
from latentode.models.conformal import Calibration, split_in_halves
from latentode.models.history import at_targets, pick, summarise

N_GAPS = 4  # bins of gaps between two values that a forecast spans
UNTOLD, BEFORE, BEHIND, ALONE = range(
    N_GAPS, N_GAPS + 4
)  # a gap beyond any forecast; values on one side only; none at all
N_BINS = ALONE + 1
N_FEATURES = 7
REACH = 1.0  # horizons that a forecast goes, here
PSEUDO_COUNT = 50.0  # hidden values that a channel needs to weigh as much as what all channels together say
RIDGE = 1e-3  # of a feature's power: bends that are nearly one share their weight
MOST_HIDDEN = 0.5  # of a window's values
N_ASKED = 4_096  # hidden values that weights and intervals are fitted on; each takes a forecast
MIN_STD = 1e-3  # training deviations
MIN_HIDDEN = 20  # fewer hidden values say nothing

Forecast = Callable[[Batch], Distribution]


@dataclass(frozen=True)
class Between:
    """What is known of targets inside a history.

    Attributes:
        line: the straight line between the values on either side; the one value where there is one side, 0 without any, `(B, M)`.
        features: what may be added to it, `(B, M, F)`.
        bin: where the target lies, int64 `(B, M)`.
        std: deviation that the forecast stated, 1 where there is none, `(B, M)`.
        gap: from one value to the other, in horizons, `(B, M)`; 0 but where both are there.
        is_seen: whether the channel was observed at the very time, bool `(B, M)`: the line is then that value.
    """

    line: Tensor
    features: Tensor
    bin: Tensor
    std: Tensor
    gap: Tensor
    is_seen: Tensor


class Smoother(nn.Module):
    """Weights and intervals for values inside a history, fitted on hidden values of validation.

    Args:
        n_channels: `C`.

    Attributes:
        weight: of the features, `(C, L, F)`.
        edges: gaps at which one bin ends and the next begins, in horizons, `(N_GAPS - 1,)`.
        n_read: most values of a history that a forecast read in validation, int64 `(1,)`; 0: nothing was fitted.
        age: how old they were at most, in horizons, `(1,)`.
    """

    weight: Tensor
    edges: Tensor
    n_read: Tensor
    age: Tensor

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_channels, N_BINS, N_FEATURES))
        self.register_buffer("edges", torch.zeros(N_GAPS - 1))
        self.register_buffer("n_read", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("age", torch.zeros(1))
        self.calibration = Calibration(n_channels, N_BINS)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # A run of an older version has none of this, and cannot say what lies inside a history.
        if prefix + "weight" not in state_dict:
            for name, tensor in self.state_dict().items():
                state_dict.setdefault(prefix + name, tensor)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def is_fitted(self) -> bool:
        """Whether validation had values to hide."""
        return int(self.n_read) > 0

    @torch.no_grad()
    def fit(
        self, forecast: Forecast, adjust: Callable[[Batch], tuple[Batch, Tensor]], validation: Sequence[Batch]
    ) -> None:
        """Fit weights on all hidden values, and the intervals on either half by the weights of the other.

        Args:
            forecast: of every target of a batch.
            adjust: takes seasons out of tokens and targets; gives the batch and what left the targets.
            validation: windows.
        """
        hidden = [batch for half in split_in_halves(validation) for batch in half]
        n_first = sum(map(len, split_in_halves(validation)[0]))
        hidden = hide(hidden)
        if sum(int(part.target_observed.sum()) for part in hidden) < MIN_HIDDEN:
            return
        self.n_read.fill_(max(batch.token_time.shape[1] for batch in validation))
        self.age.fill_(max(float((-batch.token_time).max()) for batch in validation))
        first, samples = 0, []
        for batch in hidden:
            samples.append(_Sample.of(self._between(batch, forecast, adjust), adjust(batch)[0], first))
            first += len(batch)
        sample = _Sample.join(samples)
        gap = sample.gap[sample.gap > 0]
        if len(gap):
            level = torch.arange(1, N_GAPS, dtype=gap.dtype, device=gap.device) / N_GAPS
            self.edges.copy_(gap.quantile(level))
        sample = sample.binned(self.edges)
        self.weight.copy_(_least_squares(sample, self.weight))
        error = torch.zeros_like(sample.value)
        is_second = sample.window >= n_first
        for held in (is_second, ~is_second):
            error[held] = sample.take(held).left(_least_squares(sample.take(~held), self.weight))
        self.calibration.fit_width((error / sample.std).double(), sample.channel, sample.bin)
        raw = Normal(torch.zeros_like(error), self._width(sample.std, sample.channel, sample.bin), validate_args=False)
        self.calibration.fit(normal_score(raw, error), sample.channel, sample.bin, sample.time, sample.window)

    def _width(self, std: Tensor, channel: Tensor, bin_: Tensor) -> Tensor:
        return (std * self.calibration.width[channel, bin_]).clamp(min=MIN_STD)

    def _between(self, batch: Batch, forecast: Forecast, adjust: Callable[[Batch], tuple[Batch, Tensor]]) -> Between:
        adjusted, season = adjust(batch)
        around = look_around(adjusted)
        told = look_ahead(forecast, batch, around, n_read=max(int(self.n_read), 1), age=float(self.age), reach=REACH)
        # What left the next value is what left it as a token.
        next_season = around.of(batch.token_value - adjusted.token_value)[..., 2]
        told = replace(told, mean=told.mean - season, mean_next=told.mean_next - next_season)
        return describe(adjusted, around, told, self.edges)

    @torch.no_grad()
    def forward(
        self, batch: Batch, forecast: Forecast, adjust: Callable[[Batch], tuple[Batch, Tensor]]
    ) -> Distribution:
        """Give every target `(B, M)`, which lies inside its history, as a distribution."""
        between = self._between(batch, forecast, adjust)
        channel = batch.target_channel
        mean = between.line + (between.features * self.weight[channel, between.bin]).sum(-1)
        std = self._width(between.std, channel, between.bin)
        mean = torch.where(between.is_seen, between.line, mean)
        std = torch.where(between.is_seen, MIN_STD, std)
        raw = Normal(mean + adjust(batch)[1], std, validate_args=False)
        return self.calibration.mapped(raw, channel, between.bin)


@dataclass(frozen=True)
class _Sample:
    """Hidden values, `P` of them, and what is known of each."""

    line: Tensor
    features: Tensor
    bin: Tensor
    std: Tensor
    gap: Tensor
    value: Tensor
    channel: Tensor
    time: Tensor
    window: Tensor

    @classmethod
    def of(cls, between: Between, batch: Batch, first: int) -> _Sample:
        seen = batch.target_observed
        window = torch.arange(first, first + len(batch), device=seen.device)[:, None].expand_as(seen)
        columns = (between.line, between.features, between.bin, between.std, between.gap, batch.target_value)
        return cls(*(x[seen] for x in (*columns, batch.target_channel, batch.lead_time(), window)))

    @classmethod
    def join(cls, parts: Sequence[_Sample]) -> _Sample:
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def take(self, index: Tensor) -> _Sample:
        return _Sample(*(getattr(self, f.name)[index] for f in fields(self)))

    def binned(self, edges: Tensor) -> _Sample:
        return replace(self, bin=torch.where(self.bin < N_GAPS, torch.bucketize(self.gap, edges), self.bin))

    def left(self, weight: Tensor) -> Tensor:
        """Give what the blend with these weights leaves."""
        return self.value - self.line - (self.features * weight[self.channel, self.bin]).sum(-1)


def describe(batch: Batch, around: Around, told: Ahead, edges: Tensor) -> Between:
    """Give what is known of every target of a batch without seasons."""
    value, time = around.of(batch.token_value), around.of(batch.token_time)
    has_before, has_behind = around.exists[..., 1], around.exists[..., 2]
    both = has_before & has_behind
    before = torch.where(has_before, value[..., 1], value[..., 2])
    behind = torch.where(has_behind, value[..., 2], value[..., 1])
    gap = torch.where(both, time[..., 2] - time[..., 1], 0.0)
    share = torch.where(both, (batch.lead_time() - time[..., 1]) / gap.clamp(min=1e-9), 0.0)
    line = torch.lerp(before, behind, share)
    outer = [torch.where(around.exists[..., i], value[..., i], near) for i, near in ((0, before), (3, behind))]
    bend = _bend(value, time, around.exists, share, gap)
    mean = at_targets(summarise(batch).mean, batch)
    is_told = told.is_told
    course = torch.where(is_told, told.mean - line, 0.0)
    missed = torch.where(is_told & has_behind, behind - told.mean_next, 0.0)
    features = torch.stack(
        [course, torch.where(both, share, 1.0) * missed, bend, outer[0] - line, outer[1] - line, mean - line, -line], -1
    )
    bin_ = torch.where(is_told, torch.bucketize(gap, edges), UNTOLD)
    bin_ = torch.where(both, bin_, torch.where(has_before, BEFORE, torch.where(has_behind, BEHIND, ALONE)))
    std = torch.where(is_told, told.std, 1.0)
    return Between(line, features, bin_, std, gap, around.is_seen)


def _bend(value: Tensor, time: Tensor, exists: Tensor, share: Tensor, gap: Tensor) -> Tensor:
    """Give how far the cubic Hermite interpolant of four values lies from the straight line between the inner two; 0 where one is missing.

    Its slopes at the inner two are those of the parabolas through three values each. It leaves the line by no more than the values differ.
    """
    v, t = value.unbind(-1), time.unbind(-1)
    slopes = [(v[i + 1] - v[i]) / (t[i + 1] - t[i]).clamp(min=1e-9) for i in range(3)]
    steps = [(t[i + 1] - t[i]).clamp(min=1e-9) for i in range(3)]
    at = [
        (steps[i + 1] * slopes[i] + steps[i] * slopes[i + 1]) / (steps[i] + steps[i + 1]) - slopes[1] for i in range(2)
    ]
    bend = share * (1 - share) * gap * ((1 - share) * at[0] - share * at[1])
    limit = torch.stack([(v[i + 1] - v[i]).abs() for i in range(3)]).amax(0)
    return torch.where(exists.all(-1), bend.clamp(-limit, limit), 0.0)


def _least_squares(sample: _Sample, like: Tensor) -> Tensor:
    """Give the weights `(C, L, F)` of least squared error, drawn per bin towards those of all channels, and these towards the line."""
    n_channels, n_bins, n_features = like.shape
    cell = sample.channel * n_bins + sample.bin
    x, y = sample.features.double(), (sample.value - sample.line).double()
    empty = x.new_zeros(n_channels * n_bins, n_features, n_features)
    xx = empty.index_add(0, cell, x[:, :, None] * x[:, None, :]).unflatten(0, (n_channels, n_bins))
    xy = empty[..., 0].index_add(0, cell, x * y[:, None]).unflatten(0, (n_channels, n_bins))
    count = torch.bincount(cell, minlength=n_channels * n_bins).view(n_channels, n_bins).to(x)
    eye = torch.eye(n_features, dtype=x.dtype, device=x.device)
    # Channels count by the root of their values: none drowns the others.
    share = count.clamp(min=1).rsqrt()[..., None]
    all_xx, all_xy = (share[..., None] * xx).sum(0), (share * xy).sum(0)
    of_all = torch.linalg.solve(
        all_xx + RIDGE * all_xx.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * eye + 1e-9 * eye, all_xy
    )
    pull = PSEUDO_COUNT / count.clamp(min=1) * xx.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-9
    own = torch.linalg.solve(xx + pull[..., None, None] * eye, xy + pull[..., None] * of_all)
    return torch.where((count > 0)[..., None], own, of_all).to(like.dtype)


def hide(validation: Sequence[Batch]) -> list[Batch]:
    """Give validation windows as histories that go on to their last target, some of whose values are hidden and asked for.

    Of every window a random share of the values is hidden, up to `MOST_HIDDEN`, and in every other one all within a random stretch of
    time, so that gaps of many lengths come up. The draw is the same for the same windows. About `N_ASKED` values are asked for, in all.
    """
    generator = torch.Generator().manual_seed(0)
    n_values = sum(int(batch.token_observed.sum()) + int(batch.target_observed.sum()) for batch in validation)
    keep = min(1.0, N_ASKED / max(n_values * 0.35, 1))
    return [_hide(batch, keep, generator) for batch in validation]


def _hide(batch: Batch, keep: float, generator: torch.Generator) -> Batch:
    """Hide values of one batch, and ask for a share `keep` of them."""
    joined = {
        "token_time": (batch.token_time, batch.lead_time()),
        "token_value": (batch.token_value, batch.target_value),
        "token_channel": (batch.token_channel, batch.target_channel),
        "token_observed": (batch.token_observed, batch.target_observed),
        "token_known": (batch.token_known, pick(batch.known, batch.target_row)),
    }
    tokens = {name: torch.cat(pair, 1) for name, pair in joined.items()}
    seen = tokens["token_observed"]
    order = torch.where(seen, tokens["token_time"], torch.inf).argsort(dim=1, stable=True)
    tokens = {name: x.gather(1, order if x.ndim == 2 else order[..., None].expand_as(x)) for name, x in tokens.items()}
    seen, time = tokens["token_observed"], torch.where(tokens["token_observed"], tokens["token_time"], 0.0)
    drawn = torch.rand(len(batch), 2 * time.shape[1] + 4, generator=generator).to(time)
    share, at, length, is_stretch = drawn[:, :4, None].unbind(1)
    of_value, of_asked = drawn[:, 4:].chunk(2, 1)
    first, last = time.amin(1, keepdim=True), time.amax(1, keepdim=True)
    start = torch.lerp(first, last, at)
    in_stretch = (is_stretch > 0.5) & (time > start) & (time < start + 0.3 * length)
    is_hidden = seen & ((of_value < MOST_HIDDEN * share) | in_stretch)
    # Padding stands at the end.
    query_time, target_row = time.where(seen, last), torch.arange(time.shape[1], device=time.device).expand_as(time)
    return replace(
        batch,
        token_time=time,
        token_value=torch.where(seen, tokens["token_value"], 0.0),
        token_channel=torch.where(seen, tokens["token_channel"], 0),
        token_observed=seen & ~is_hidden,
        token_known=tokens["token_known"],
        query_time=query_time,
        query_observed=seen,
        known=tokens["token_known"],
        target_row=target_row,
        target_value=torch.where(seen, tokens["token_value"], 0.0),
        target_channel=torch.where(seen, tokens["token_channel"], 0),
        target_observed=is_hidden & (of_asked < keep),
        target_error_units=None,
    )
