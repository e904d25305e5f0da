r"""Values between those of a history: a blend of the values on either side, bent as the model says that the series moves.

A query inside a history has values of its channel before and behind it. What a careful person would say of it lies on the straight line
between the nearest two; curves through more of them know of bends, their means know of noise, and the model's own forecast from the last
stamp before the query, :math:`f`, knows how this kind of series moves, and what other channels say. It also forecasts the next value
:math:`y_+` of the channel; by how much that was missed, it was missed, in part, at the query: :math:`f + a (y_+ - f_+)`, with :math:`a`
the share of the gap that lies before the query, is a bridge between the two values along the forecast's own course. (With a forecast
that is the last value, this is the straight line; with the Kalman filter's and its gain in place of :math:`a`, it is one step of the
smoother of Rauch, Tung and Striebel 1965.) The weights of all of these are those of least squares on values that are hidden in
validation windows, per channel and length of the gap, drawn to the straight line as far as cross-fitting asks; no training is needed for
it. A value that was observed stands as it was observed, noise and all: what is said is what the table would hold.

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
from latentode.models.baselines.shrunk import drawn_share
from latentode.models.between import SIDE, Ahead, Around, look_ahead, look_around
from latentode.models.conformal import Calibration
from latentode.models.history import at_targets, pick, summarise

N_GAPS = 4  # bins of gaps between two values that a forecast spans
# And of what lies in none: in a gap beyond any forecast; with values on one side only; with none at all.
UNTOLD, BEFORE, BEHIND, ALONE = range(N_GAPS, N_GAPS + 4)
N_BINS = ALONE + 1
N_FEATURES = 10
REACH = 1.0  # horizons that a forecast goes, here
PSEUDO_COUNT = 100.0  # hidden values that a cell needs to weigh as much as what it is drawn towards
RIDGE = 1e-3  # of a feature's power: bends that are nearly one share their weight
LOCAL_RIDGE = 0.01  # of the weight of one value right at the asked time
MOST_HIDDEN = 0.4  # of a window's values; with more gone, all that is around a value is farther than it will be
LONGEST = 0.3  # horizons that a stretch without values lasts
MAX_WINDOWS = 1_024  # of validation in which values are hidden
N_ASKED = 8_192  # hidden values that weights and intervals are fitted on; each takes a forecast
N_FOLDS = 5  # what is fitted on half of the values errs by more than what is fitted on all
MIN_STD = 1e-3  # training deviations
MOST_TRUST = (
    20.0  # by which an error in the shortest gap counts more than one in a middling gap, and in the longest less
)
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
        spread: how far the values around lie from the line, root mean square, `(B, M)`; 1 where there is none.
    """

    line: Tensor
    features: Tensor
    bin: Tensor
    std: Tensor
    gap: Tensor
    is_seen: Tensor
    spread: Tensor


class Smoother(nn.Module):
    """Weights and intervals for values inside a history, fitted on hidden values of validation.

    Args:
        n_channels: `C`.

    Attributes:
        weight: of the features, `(C, L, F)`.
        edges: gaps at which one bin ends and the next begins, in horizons, `(N_GAPS - 1,)`.
        exponents: of the deviation that a forecast stated, of the gap and of the spread of the values around, in the deviation of what
            is said here, `(3,)`.
        n_read: most values of a history that a forecast read in validation, int64 `(1,)`; 0: nothing was fitted.
        age: how old they were at most, in horizons, `(1,)`.
    """

    weight: Tensor
    edges: Tensor
    exponents: Tensor
    n_read: Tensor
    age: Tensor

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_channels, N_BINS, N_FEATURES))
        self.register_buffer("edges", torch.zeros(N_GAPS - 1))
        self.register_buffer("exponents", torch.zeros(3))
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
        """Fit weights on all hidden values, and the intervals on those of every fold by the weights of the others.

        Args:
            forecast: of every target of a batch.
            adjust: takes seasons out of tokens and targets; gives the batch and what left the targets.
            validation: windows.
        """
        if not validation:
            return
        hidden = [batch for batch in hide(validation) if len(batch)]
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
        sample = replace(sample, trust=_trust(sample))
        step = torch.zeros_like(sample.value)
        fold = _folds(hidden)[sample.window]
        for i in fold.unique():
            held = fold == i
            step[held] = sample.take(held).step(_least_squares(sample.take(~held), self.weight))
        share = _choose_share(sample, step, len(self.weight)).to(step.dtype)
        self.weight.copy_(share[:, None, None] * _least_squares(sample, self.weight))
        error = sample.value - sample.line - share[sample.channel] * step
        self.exponents.copy_(_exponents(error, sample))
        self.calibration.fit_width((error / self._shape(sample)).double(), sample.channel, sample.bin)
        raw = Normal(torch.zeros_like(error), self._std(sample, sample.channel), validate_args=False)
        self.calibration.fit(normal_score(raw, error), sample.channel, sample.bin, sample.time, sample.window)

    def _shape(self, between: Between | _Sample) -> Tensor:
        """Give the deviation up to a factor per channel and bin."""
        of_gap = torch.where(between.gap > 0, between.gap, 1.0).pow(self.exponents[1])
        of_std = between.std.clamp(min=MIN_STD).pow(self.exponents[0])
        of_spread = between.spread.clamp(min=MIN_STD).pow(self.exponents[2])
        return of_std * of_gap * of_spread

    def _std(self, between: Between | _Sample, channel: Tensor) -> Tensor:
        return (self._shape(between) * self.calibration.width[channel, between.bin]).clamp(min=MIN_STD)

    def _between(self, batch: Batch, forecast: Forecast, adjust: Callable[[Batch], tuple[Batch, Tensor]]) -> Between:
        adjusted, season = adjust(batch)
        around = look_around(adjusted)
        told = look_ahead(forecast, batch, around, n_read=max(int(self.n_read), 1), age=float(self.age), reach=REACH)
        # What left the next value is what left it as a token.
        next_season = around.of(batch.token_value - adjusted.token_value)[..., SIDE]
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
        std = self._std(between, channel)
        mean = torch.where(between.is_seen, between.line, mean)
        std = torch.where(between.is_seen, MIN_STD, std)
        raw = Normal(mean + adjust(batch)[1], std, validate_args=False)
        return self.calibration.mapped(raw, channel, between.bin)


@dataclass(frozen=True)
class _Sample:
    """Hidden values, `P` of them, and what is known of each; see `Between`, and `_trust` for the last column."""

    line: Tensor
    features: Tensor
    bin: Tensor
    std: Tensor
    gap: Tensor
    spread: Tensor
    value: Tensor
    channel: Tensor
    time: Tensor
    window: Tensor
    trust: Tensor

    @classmethod
    def of(cls, between: Between, batch: Batch, first: int) -> _Sample:
        seen = batch.target_observed
        window = torch.arange(first, first + len(batch), device=seen.device)[:, None].expand_as(seen)
        columns = (
            between.line,
            between.features,
            between.bin,
            between.std,
            between.gap,
            between.spread,
            batch.target_value,
        )
        others = (batch.target_channel, batch.lead_time(), window, torch.ones_like(between.gap))
        return cls(*(x[seen] for x in (*columns, *others)))

    @classmethod
    def join(cls, parts: Sequence[_Sample]) -> _Sample:
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def take(self, index: Tensor) -> _Sample:
        return _Sample(*(getattr(self, f.name)[index] for f in fields(self)))

    def binned(self, edges: Tensor) -> _Sample:
        return replace(self, bin=torch.where(self.bin < N_GAPS, torch.bucketize(self.gap, edges), self.bin))

    def step(self, weight: Tensor) -> Tensor:
        """Give what the features add to the line."""
        return (self.features * weight[self.channel, self.bin]).sum(-1)


def describe(batch: Batch, around: Around, told: Ahead, edges: Tensor) -> Between:
    """Give what is known of every target of a batch without seasons."""
    value, time = around.of(batch.token_value), around.of(batch.token_time)
    last, following = SIDE - 1, SIDE
    has_before, has_behind = around.exists[..., last], around.exists[..., following]
    both = has_before & has_behind
    before = torch.where(has_before, value[..., last], value[..., following])
    behind = torch.where(has_behind, value[..., following], value[..., last])
    gap = torch.where(both, time[..., following] - time[..., last], 0.0)
    share = torch.where(both, (batch.lead_time() - time[..., last]) / gap.clamp(min=1e-9), 0.0)
    line = torch.lerp(before, behind, share)
    inner = slice(last - 1, following + 2)
    two_before = torch.where(around.exists[..., last - 1], value[..., last - 1], before)
    two_behind = torch.where(around.exists[..., following + 1], value[..., following + 1], behind)
    after = time - batch.lead_time()[..., None]
    course = torch.where(told.is_told, told.mean - line, 0.0)
    missed = torch.where(told.is_told & has_behind, behind - told.mean_next, 0.0)
    features = [
        course,
        torch.where(both, share, 1.0) * missed,
        _bend(value[..., inner], time[..., inner], around.exists[..., inner], share, gap),
        two_before - line,
        two_behind - line,
        *(x - line for x in _local_fits(value, after, around.exists, line)),
        at_targets(summarise(batch).mean, batch) - line,
        -line,
    ]
    bin_ = torch.where(told.is_told, torch.bucketize(gap, edges), UNTOLD)
    bin_ = torch.where(both, bin_, torch.where(has_before, BEFORE, torch.where(has_behind, BEHIND, ALONE)))
    std = torch.where(told.is_told, told.std, 1.0)
    n_around = around.exists.sum(-1)
    square = torch.where(around.exists, (value - line[..., None]).square(), 0.0).sum(-1)
    spread = torch.where(n_around > 0, (square / n_around.clamp(min=1)).sqrt(), 1.0)
    return Between(line, torch.stack(features, -1), bin_, std, gap, around.is_seen, spread)


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


def _local_fits(value: Tensor, after: Tensor, exists: Tensor, line: Tensor) -> list[Tensor]:
    """Give the weighted mean, line and parabola of least squares through all values around, at the asked time (Cleveland 1979).

    Values count less the farther they are, by his tricube weights; a small ridge keeps slope and bend of few values small.

    Args:
        value, after: of the values, and how long after the asked time they are, `(B, M, 2 SIDE)`.
        exists: bool, the same shape.
        line: what is counted from, `(B, M)`; it is given back where there is no value.
    """
    seen = exists.double()
    reach = 1.1 * (after.abs() * seen).amax(-1, keepdim=True).clamp(min=1e-9)
    u = after.double() / reach
    weight = seen * (1 - u.abs().pow(3)).clamp(min=0).pow(3)
    powers = torch.stack([torch.ones_like(u), u, u.square()], -1)
    y = (value - line[..., None]).double()
    xx = torch.einsum("...n,...ni,...nj->...ij", weight, powers, powers)
    xy = torch.einsum("...n,...ni,...n->...i", weight, powers, y)
    ridge = torch.diag(xx.new_tensor([1e-9, LOCAL_RIDGE, LOCAL_RIDGE]))
    fits = [torch.linalg.solve((xx + ridge)[..., :k, :k], xy[..., :k])[..., 0] for k in (1, 2, 3)]
    limit = (y.abs() * seen).amax(-1)
    return [(line + torch.minimum(torch.maximum(fit, -limit), limit)).to(line.dtype) for fit in fits]


def _folds(hidden: Sequence[Batch]) -> Tensor:
    """Give the fold of every window, int64 `(W,)`: series are dealt out; of fewer than folds, the stretches of their time line are."""
    series, origin = (torch.cat([getattr(batch, name) for batch in hidden]) for name in ("series", "origin"))
    names, place = series.unique(return_inverse=True)
    if len(names) >= N_FOLDS:
        return place % N_FOLDS
    rank = origin.argsort(stable=True).argsort(stable=True)
    return torch.div(rank * N_FOLDS, len(rank), rounding_mode="floor")


def _trust(sample: _Sample) -> Tensor:
    """Give by what the error of each value is divided before it counts, `(P,)`: a power of the gap, fitted on the errors of the line.

    In a long gap all are wrong by much: counted as they are, a few of these would decide for all.
    """
    one = torch.ones_like(sample.gap)
    power = _exponents(sample.value - sample.line, replace(sample, std=one, spread=one))[1]
    has_gap = sample.gap > 0
    size = sample.gap.clamp(min=1e-6).log()
    middle = torch.where(has_gap, size, 0.0).sum() / has_gap.sum().clamp(min=1)
    trust = torch.exp(power * (size - middle)).clamp(1 / MOST_TRUST, MOST_TRUST)
    return torch.where(has_gap, trust, 1.0)


def _exponents(error: Tensor, sample: _Sample) -> Tensor:
    """Give the powers of stated deviation, gap and spread, `(3,)`, in [0, 2], that the size of the errors goes with.

    By the regression of the errors' logarithms (Harvey 1976), among values with a gap around them.
    """
    inside = sample.gap > 0
    if int(inside.sum()) < MIN_HIDDEN:
        return error.new_tensor([1.0, 0.0, 0.0])
    std, spread = (x.clamp(min=MIN_STD) for x in (sample.std, sample.spread))
    columns = (std, sample.gap.clamp(min=1e-6), spread, error.abs() + MIN_STD)
    *x, y = ((column[inside].double().log()) for column in columns)
    x = torch.stack([one - one.mean() for one in x], 1)
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return torch.linalg.solve(x.T @ x + 1e-3 * len(x) * eye, x.T @ (y - y.mean())).clamp(0, 2).to(error.dtype)


def _least_squares(sample: _Sample, like: Tensor) -> Tensor:
    """Give the weights `(C, L, F)` of least squared error, per channel and bin.

    They are drawn towards those of all channels in the bin, these towards those of all bins, and these towards the straight line.
    """
    n_channels, n_bins, n_features = like.shape
    cell = sample.channel * n_bins + sample.bin
    trust = sample.trust.double()
    x, y = sample.features.double() / trust[:, None], (sample.value - sample.line).double() / trust
    empty = x.new_zeros(n_channels * n_bins, n_features, n_features)
    xx = empty.index_add(0, cell, x[:, :, None] * x[:, None, :]).unflatten(0, (n_channels, n_bins))
    xy = empty[..., 0].index_add(0, cell, x * y[:, None]).unflatten(0, (n_channels, n_bins))
    count = torch.bincount(cell, minlength=n_channels * n_bins).view(n_channels, n_bins).to(x)
    # Channels count by the root of their values: none drowns the others.
    share = count.clamp(min=1).rsqrt()
    bin_xx, bin_xy, bin_count = share[..., None, None] * xx, share[..., None] * xy, share * count
    bin_xx, bin_xy, bin_count = bin_xx.sum(0), bin_xy.sum(0), bin_count.sum(0)
    all_xx, all_xy, all_count = (part.sum(0, keepdim=True) for part in (bin_xx, bin_xy, bin_count))
    top = _drawn(all_xx, all_xy, all_count, RIDGE * all_count, torch.zeros_like(all_xy))
    pull = PSEUDO_COUNT * bin_count / count.sum(0).clamp(min=1)
    of_bin = _drawn(bin_xx, bin_xy, bin_count, pull, top.expand_as(bin_xy))
    own = _drawn(xx, xy, count, torch.full_like(count, PSEUDO_COUNT), of_bin.expand_as(xy))
    return own.to(like.dtype)


def _drawn(xx: Tensor, xy: Tensor, count: Tensor, pull: Tensor, towards: Tensor) -> Tensor:
    """Solve for weights `(..., F)`, drawn towards others as by `pull` values of the features' mean power; without any, these others."""
    eye = torch.eye(xx.shape[-1], dtype=xx.dtype, device=xx.device)
    power = xx.diagonal(dim1=-2, dim2=-1).mean(-1) / count.clamp(min=1e-9)
    scale = pull * power + 1e-9
    return torch.linalg.solve(xx + scale[..., None, None] * eye, xy + scale[..., None] * towards)


def _choose_share(sample: _Sample, step: Tensor, n_channels: int) -> Tensor:
    """Give the share `(C,)` in [0, 1] of what the features add to the line that leaves the least on values they were not fitted on."""
    step, left = (x.double() / sample.trust.double() for x in (step, sample.value - sample.line))
    empty = step.new_zeros(n_channels)
    cross, power = (empty.index_add(0, sample.channel, step * x) for x in (left, step))
    count = torch.bincount(sample.channel, minlength=n_channels).to(step)
    n = count.clamp(min=1)
    overall = ((cross / n).sum() / (power / n).sum().clamp(min=1e-12)).clamp(0, 1)
    return drawn_share(cross, power, count, overall, PSEUDO_COUNT)


def hide(validation: Sequence[Batch]) -> list[Batch]:
    """Give validation windows as histories that go on to their last target, some of whose values are hidden and asked for.

    Of every window a random share of the values is hidden, up to `MOST_HIDDEN`; in every fourth also all within a random stretch of
    time, and in every fourth those of one channel there: so gaps of many lengths come up, at times when others were seen and when none
    was. The draw is the same for the same windows. Of about `MAX_WINDOWS` windows about `N_ASKED` values are asked for, in all.
    """
    generator = torch.Generator().manual_seed(0)
    share = MAX_WINDOWS / max(sum(map(len, validation)), 1)
    if share < 1:
        drawn = [
            torch.rand(len(batch), generator=generator).to(batch.token_time.device) < share for batch in validation
        ]
        validation = [batch.take(few) for batch, few in zip(validation, drawn, strict=True)]
    n_values = sum(int(batch.token_observed.sum()) + int(batch.target_observed.sum()) for batch in validation)
    # Some 25 % of all are hidden. Where they are few, each window comes up twice, with others hidden.
    keep = N_ASKED / max(0.25 * n_values, 1)
    return [_hide(batch, keep, generator) for batch in [*validation] * (1 if keep < 1 else 2)]


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
    drawn = torch.rand(len(batch), 2 * time.shape[1] + 5, generator=generator).to(time)
    share, at, length, kind, which = drawn[:, :5, None].unbind(1)
    of_value, of_asked = drawn[:, 5:].chunk(2, 1)
    first, last = time.amin(1, keepdim=True), time.amax(1, keepdim=True)
    start = torch.lerp(first, last, at)
    is_hit = (kind < 0.25) | ((kind < 0.5) & (tokens["token_channel"] == (which * batch.n_channels).long()))
    in_stretch = is_hit & (time > start) & (time < start + LONGEST * length)
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
