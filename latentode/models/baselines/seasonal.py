"""A seasonal profile per channel, read off the clock, around the blend: take the season out, blend what is left, put it back.

The profile is the mean of the training targets by phase of a period, each bin drawn to the training mean by a few values' weight, so that
an empty bin says nothing. Periods that stand for election are those of the calendar, where times are dates, and the strongest of a
periodogram of what the blend leaves (Lomb 1976, in the form for unit errors without its phase offset); validation elects one per channel,
or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Normal

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.baselines.linear import base_features, collect, grid_search
from latentode.models.baselines.shrunk import ShrunkBaseline, own_std

DAY = 86_400e9  # nanoseconds, the unit of dates in a table
CALENDAR = (DAY, 7 * DAY, 365.2425 * DAY)
N_PEAKS = 3
N_BINS = 24  # hours of a day, fortnights of a year
BIN_PRIOR = 10.0  # values that a bin needs to outweigh the training mean
MIN_CYCLES = 3  # seen fewer times than this, a period is a drift
# Of the periodogram: frequencies and targets at most, and frequencies looked at around each peak.
MAX_FREQUENCIES, MAX_TARGETS, N_AROUND = 2_000, 20_000, 41


class Seasonal(ShrunkBaseline):
    """Forecasts the blend of the history without its season, plus the season at the query time."""

    period: Tensor
    profile: Tensor
    choice: Tensor
    weight: Tensor

    def setup(self, schema: Schema) -> None:
        """Make the buffers: periods in table time `(P,)`, profiles `(P, C, bins)`, elected period `(C,)`, weights `(C, 2)`."""
        super().setup(schema)
        n_channels = len(schema.channels)
        self._held: list[tuple[int, float]] = []
        self._calendar = CALENDAR if schema.time_kind == "datetime" else ()
        n_periods = len(self._calendar) + N_PEAKS
        self.register_buffer("period", torch.ones(n_periods, dtype=torch.float64))
        self.register_buffer("profile", torch.zeros(n_periods, n_channels, N_BINS))
        self.register_buffer("choice", torch.zeros(n_channels, dtype=torch.int64))
        self.register_buffer("weight", torch.tensor([1.0, 0.0]).repeat(n_channels, 1))

    def fit(self, training: Sequence[Batch]) -> None:
        """Find periods and the profile of each."""
        left = [(batch.target_value - self.trained_blend(batch))[batch.target_observed] for batch in training]
        peaks = find_periods(training, torch.cat(left), N_PEAKS)
        periods = torch.cat([self.period.new_tensor(self._calendar), peaks.to(self.period)])
        # A place for which no period was found keeps a profile of zeros, which is the blend.
        self.period[: len(periods)] = periods
        for i in range(len(periods)):
            self.profile[i] = fit_profile(training, float(periods[i]))
        self.weight.copy_(self.trained_weight)

    def tune(self, validation: Sequence[Batch]) -> None:
        """Elect, per channel, the period whose profile, with its best blend, has the least squared error."""
        n_periods, n_channels = self.profile.shape[:2]
        weights, errors = [], []
        for i in range(n_periods):
            choice = torch.full_like(self.choice, i)
            moments = collect([self._deseasonalise(batch, choice)[0] for batch in validation])
            weights.append(grid_search(moments))
            errors.append(moments.squared_error(weights[-1]))
        self.choice.copy_(torch.stack(errors).argmin(0))
        self.weight.copy_(torch.stack(weights)[self.choice, torch.arange(n_channels)])

    def own(self, batch: Batch) -> Normal:
        """Forecast every target `(B, M)`."""
        plain, season = self._deseasonalise(batch, self.choice)
        return own_std((base_features(plain) * self.weight[batch.target_channel]).sum(-1) + season)

    def _deseasonalise(self, batch: Batch, choice: Tensor) -> tuple[Batch, Tensor]:
        """Take the season of period number `choice` `(C,)` out of tokens and targets; give the batch and what left the targets."""
        at_token = self._season(batch, batch.token_time, batch.token_channel, choice)
        at_target = self._season(batch, batch.lead_time(), batch.target_channel, choice)
        token_value = torch.where(batch.token_observed, batch.token_value - at_token, 0.0)
        target_value = torch.where(batch.target_observed, batch.target_value - at_target, 0.0)
        return replace(batch, token_value=token_value, target_value=target_value), at_target

    def _season(self, batch: Batch, time: Tensor, channel: Tensor, choice: Tensor) -> Tensor:
        """Give the profile's value at model times of channels, both `(B, X)`."""
        bins = torch.zeros_like(channel)
        which = choice[channel]
        for i, period in self._held or self._elected(choice):
            bins = torch.where(which == i, phase_bin(batch, time, period), bins)
        return self.profile[which, channel, bins]

    def _elected(self, choice: Tensor) -> list[tuple[int, float]]:
        return [(i, float(self.period[i])) for i in choice.unique().tolist()]

    def hold(self) -> None:
        """Hold the elected periods as numbers from now on: a program that is exported cannot ask its buffers which they are."""
        self._held = self._elected(self.choice)


def phase_bin(batch: Batch, time: Tensor, period: float) -> Tensor:
    """Give the bin of the phase of a period at model times `(B, X)`, int64, in `[0, N_BINS)`.

    Args:
        batch: whose origins and unit of time hold.
        time: model times.
        period: in table time.
    """
    origin = batch.origin
    if origin.is_floating_point():
        start = origin.double() % period
    else:
        # In whole nanoseconds, since a float64 holds those of our days only to some hundred.
        start = (origin % max(round(period), 1)).double()
    cycles = (start[:, None] + time.double() * batch.time_scale) / period
    return ((cycles % 1) * N_BINS).long().clamp(max=N_BINS - 1)


def fit_profile(training: Sequence[Batch], period: float, *, is_centred: bool = False) -> Tensor:
    """Give the mean of the training targets by channel and bin, drawn to 0, the training mean: `(C, N_BINS)`.

    Args:
        training: the windows.
        period: in table time.
        is_centred: whether the mean of a channel's targets is taken out: a level, which may have moved since, is then not a season's.
    """
    n_channels = training[0].n_channels
    total = training[0].target_value.new_zeros(n_channels * N_BINS, dtype=torch.float64)
    count = torch.zeros_like(total)
    for batch in training:
        seen = batch.target_observed
        bins = phase_bin(batch, batch.lead_time(), period)
        place = (batch.target_channel * N_BINS + bins)[seen]
        value = batch.target_value[seen].double()
        total.index_add_(0, place, value)
        count.index_add_(0, place, torch.ones_like(value))
    total, count = total.view(n_channels, N_BINS), count.view(n_channels, N_BINS)
    if is_centred:
        total = total - count * (total.sum(1) / count.sum(1).clamp(min=1))[:, None]
    return total / (count + BIN_PRIOR)


def find_periods(training: Sequence[Batch], left: Tensor, n_peaks: int) -> Tensor:
    """Give the periods of the highest peaks of a periodogram, in table time, the highest first; fewer where there are fewer peaks.

    Args:
        training: the windows.
        left: what is searched for a period, of every known target, `(P,)`.
        n_peaks: how many at most.
    """
    first = min(batch.origin.min() for batch in training)
    scale = training[0].time_scale
    start = [((batch.origin - first).double() / scale)[:, None] + batch.lead_time().double() for batch in training]
    time = torch.cat([x[batch.target_observed] for x, batch in zip(start, training, strict=True)])
    channel = torch.cat([batch.target_channel[batch.target_observed] for batch in training])
    # Some targets, evenly: a period that is worth having shows in twenty thousand.
    step = -(-len(time) // MAX_TARGETS)
    time, channel, left = time[::step], channel[::step], left[::step].double()
    span = float(time.max() - time.min()) if len(time) else 0.0
    if span <= 0:
        return time.new_zeros(0)
    n_channels = training[0].n_channels
    frequency = (MIN_CYCLES + torch.arange(MAX_FREQUENCIES, device=time.device) / 2).double() / span
    power = _periodogram(time, left, channel, n_channels, frequency)
    is_peak = (power[1:-1] > power[:-2]) & (power[1:-1] >= power[2:])
    peaks = is_peak.nonzero()[:, 0] + 1
    highest = peaks[power[peaks].argsort(descending=True)[:n_peaks]]
    # Half a cycle in the span is too coarse to be carried on beyond it: look once more around each peak.
    around = frequency[highest][:, None] + torch.linspace(-0.5, 0.5, N_AROUND).to(frequency) / span
    power = _periodogram(time, left, channel, n_channels, around.reshape(-1)).view(around.shape)
    return scale / around.gather(1, power.argmax(1, keepdim=True))[:, 0]


def _periodogram(time: Tensor, value: Tensor, channel: Tensor, n_channels: int, frequency: Tensor) -> Tensor:
    """Give how much of the variance a sine of each frequency takes off, in units of its own noise, summed over channels, `(F,)`."""
    empty = value.new_zeros(n_channels)
    count = empty.index_add(0, channel, torch.ones_like(value)).clamp(min=1)
    value = value - (empty.index_add(0, channel, value) / count)[channel]
    variance = empty.index_add(0, channel, value.square()) / count
    value = value / variance.sqrt().clamp(min=1e-6)[channel]
    power = []
    for part in frequency.split(100):
        angle = 2 * torch.pi * time[:, None] * part
        sums = [
            value.new_zeros(n_channels, len(part)).index_add(0, channel, value[:, None] * wave)
            for wave in (angle.cos(), angle.sin())
        ]
        power.append(((sums[0].square() + sums[1].square()) * 2 / count[:, None]).sum(0))
    return torch.cat(power)
