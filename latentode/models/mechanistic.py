"""A scientist's own equation as a model: its unknown numbers from data, its forecasts with what is left open of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.distributions import Normal

from latentode.data.batch import Batch
from latentode.data.durations import parse_duration
from latentode.data.scaling import Scaler
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.conformal import Calibration, UntrainedModel
from latentode.models.equations.correction import Correction
from latentode.models.equations.curves import Curves, Record, Scale, typical_sizes
from latentode.models.equations.equation import Equation
from latentode.models.lead import lead_bin
from latentode.models.mixed_effects import Linear, Modes, Population
from latentode.models.population import Guess, find_modes, fit_population
from latentode.ode import SOLVERS

MAX_SERIES = 512  # on which the population is estimated
VAGUE = 10.0  # a number may have been guessed so many times as badly as is said
CORRECTION_SIZE = 0.3  # of the last weights of a correction, before data say how large they are


@dataclass(frozen=True)
class Estimate:
    """An unknown number as it was estimated.

    Attributes:
        name: of the constant; of a state, for its value at the start.
        value: the estimate, in the user's units; of one that every series has its own, the typical series'.
        low, high: ends of the interval.
    """

    name: str
    value: Tensor
    low: Tensor
    high: Tensor


class Mechanistic(UntrainedModel):
    """Forecasts by a differential equation whose unknown numbers it finds: shared ones, and those that every series has its own.

    Fitting is by Gauss-Newton steps through the solver and a mixed model of all series (`mixed_effects.py`), not by gradient descent. A
    series that was never seen is forecast from the numbers that its own history and the population make most probable; intervals hold
    the noise of the values and what is left open of all numbers, to first order.

    Args:
        equation: the equation.
        correction: width of a small network on the state that is added to the slope, for what the equation leaves out; 0: none.
        method: a name in `latentode.ode.SOLVERS`; "kvaerno5" for a stiff equation.
        rtol: tolerance of the solves, per step and relative to the size of each state.
        time_unit: of a table of dates, the unit in which the equation's time is.

    Raises:
        InputError: there is no such method, or `correction` is negative.
    """

    centre: Tensor
    spread: Tensor
    noise: Tensor
    covariance: Tensor
    channel_centre: Tensor
    channel_size: Tensor
    channel_is_log: Tensor
    static_centre: Tensor
    static_size: Tensor
    horizon: Tensor

    def __init__(
        self,
        equation: Equation,
        *,
        correction: int = 0,
        method: str = "tsit5",
        rtol: float = 1e-6,
        time_unit: str = "1d",
    ) -> None:
        super().__init__()
        if method not in SOLVERS:
            raise InputError(f"method is {method!r}; choose one of {', '.join(SOLVERS)}.")
        if correction < 0:
            raise InputError(f"correction is {correction}; give the width of a network, or 0 for none.")
        self.equation = equation
        self.correction = correction
        self.method = method
        self.rtol = rtol
        self.time_unit = time_unit

    def setup(self, schema: Schema) -> None:
        """Make the buffers: the population and how values are scaled.

        Raises:
            InputError: the equation reads a column that is not there.
        """
        missing = [name for name in self.equation.covariates if name not in schema.static_numbers]
        if missing:
            raise InputError(
                f"{type(self.equation).__name__} reads the covariate {missing[0]!r}, which is no static column of numbers of the table; "
                f"name it in static_columns."
            )
        self.schema = schema
        self._per_unit = (
            1 if schema.time_kind == "number" else parse_duration(self.time_unit, "datetime", name="time_unit")
        )
        n_channels = len(schema.channels)
        self.register_buffer("channel_centre", torch.zeros(n_channels, dtype=torch.float64))
        self.register_buffer("channel_size", torch.ones(n_channels, dtype=torch.float64))
        self.register_buffer("channel_is_log", torch.zeros(n_channels, dtype=torch.int64))
        self.register_buffer("static_centre", torch.zeros(len(schema.static_numbers), dtype=torch.float64))
        self.register_buffer("static_size", torch.ones(len(schema.static_numbers), dtype=torch.float64))
        self.register_buffer("horizon", torch.ones((), dtype=torch.float64))
        guess = self._guess().population(n_channels)
        for name in ("centre", "spread", "noise", "covariance"):
            self.register_buffer(name, getattr(guess, name))
        self.calibration = Calibration(n_channels)

    def see_scaling(self, scaler: Scaler) -> None:
        """Take in how to come from what models see to the user's units.

        Raises:
            InputError: a channel is of counts or between bounds.
        """
        self.horizon.fill_(scaler.time_scale / self._per_unit)
        if self.equation.units == "model":
            self.horizon.fill_(1.0)
            return
        spread = scaler.spread()
        self.channel_centre.copy_(torch.from_numpy(spread.centre))
        self.channel_size.copy_(torch.from_numpy(spread.size))
        if scaler.channel_map is not None:
            links = scaler.channel_map.links
            if links.is_count.any() or links.is_bounded.any():
                raise InputError(
                    "an equation sees channels as they are or by their logarithm; leave out count_channels and bounded_channels."
                )
            self.channel_is_log.copy_(torch.from_numpy(links.is_log))
        self.static_centre.copy_(torch.from_numpy(scaler.statics.centre))
        self.static_size.copy_(torch.from_numpy(scaler.statics.size))

    @property
    def population(self) -> Population:
        """What the series have in common, as it was fitted."""
        return Population(self.centre, self.spread, self.noise, self.covariance)

    @property
    def curves(self) -> Curves:
        """The equation's curves, as functions of its free numbers."""
        scale = Scale(self.channel_centre, self.channel_size, self.channel_is_log > 0)
        return Curves(self.equation, self.schema.channels, scale, self._network(), self.method, self.rtol)

    def _network(self) -> Correction | None:
        if self.correction == 0:
            return None
        place = {name: i for i, name in enumerate(self.schema.channels)}
        names = list(self.equation.states)
        # Of a state that is no channel only the order of magnitude is known.
        centre = [float(self.channel_centre[place[name]]) if name in place else 0.0 for name in names]
        size = typical_sizes(self.equation, self.schema.channels, self.channel_size)
        centre_D, size_D = (self.channel_centre.new_tensor(x) for x in (centre, size))
        return Correction(len(names), self.correction, centre_D, size_D, float(self.horizon))

    def _guess(self) -> Guess:
        curves = self.curves
        n_free = curves.n_shared + curves.n_own
        start, reach, prior = (torch.zeros(n_free, dtype=torch.float64) for _ in range(3))
        is_named, is_sized = (torch.zeros(n_free, dtype=torch.bool) for _ in range(2))
        for place, one in zip(curves.place(), curves.named.values(), strict=True):
            start[place], reach[place], prior[place] = one.free_start, one.spread, VAGUE * one.spread
            is_named[place] = True
        if curves.correction is not None:
            weight = (~is_named).nonzero()[:, 0]
            start[weight] = curves.correction.start()
            is_last = start[weight] == 0
            prior[weight] = torch.where(is_last, CORRECTION_SIZE, 1.0).double()
            is_sized[weight] = is_last
        return Guess(start, reach, prior, curves.n_own, is_named, is_sized)

    @torch.no_grad()
    def prepare(self, training: Iterable[Batch], validation: Sequence[Batch] = ()) -> None:
        """Estimate the population on the training windows, histories and targets together, of each series the one with most values.

        Raises:
            InputError: no output of the equation is a channel of the table.
        """
        curves = self.curves
        batches = list(training)
        record = _longest(batches, [self._record(batch, with_targets=True) for batch in batches])
        observed = curves.outputs()
        if not set(observed) & set(self.schema.channels):
            raise InputError(
                f"{type(self.equation).__name__} observes {', '.join(observed)}, none of which is a channel of the table "
                f"({', '.join(self.schema.channels)}); give what `observe` returns the names of channels."
            )
        population, _ = fit_population(curves, record, self._guess(), len(self.schema.channels))
        for name in ("centre", "spread", "noise", "covariance"):
            getattr(self, name).copy_(getattr(population, name))

    def choose(self, validation: Sequence[Batch]) -> None:
        """Take the widths from validation: by how much errors differ from what the equation states."""
        ratio, channel, lead = [], [], []
        for batch in validation:
            seen, forecast = batch.target_observed, self._own(batch)
            ratio.append(((batch.target_value - forecast.mean) / forecast.stddev)[seen].double())
            channel.append(batch.target_channel[seen])
            lead.append(lead_bin(batch)[seen])
        self.calibration.fit_width(torch.cat(ratio), torch.cat(channel), torch.cat(lead))

    def raw(self, batch: Batch) -> Normal:
        """Forecast every target `(B, M)`."""
        own = self._own(batch)
        return Normal(own.mean, own.stddev * self.calibration.width_at(batch), validate_args=False)

    def smooth(self, batch: Batch) -> Normal:
        """Give every target among the tokens `(B, M)`: the curve passes there, too."""
        return self._own(batch)

    def loss(self, batch: Batch) -> Tensor:
        """Give the squared error that the fit left on training values: where nothing is learned no curve is sought anew."""
        return self.noise[batch.target_channel][batch.target_observed].square().mean()

    def _own(self, batch: Batch) -> Normal:
        """Forecast without the widths of validation; made once of a batch, since validation asks again and again."""
        numbers = torch.cat([x.flatten() for x in (self.centre, self.spread, self.noise, self.covariance)])
        return batch.derived(f"curves of {hash(tuple(numbers.tolist()))}", self._by_curves)

    @torch.no_grad()
    def _by_curves(self, batch: Batch) -> Normal:
        """Forecast by the curve of the most probable numbers; its deviation is that of noise and, to first order, of the numbers."""
        history = self._record(batch)
        asked, order = self._clocked(
            batch, batch.lead_time(), batch.target_value, batch.target_channel, batch.target_observed
        )
        modes, uncertainty = self._posterior(history)
        mean, slope = self.curves(modes.free, asked, list(range(modes.free.shape[1])))
        variance = torch.einsum("rnp,rpq,rnq->rn", slope, uncertainty, slope)
        variance = variance + self.noise[asked.channel].square()
        # A curve that cannot be solved as far as that is not known there: the training mean, within all that training saw.
        is_known = mean.isfinite() & variance.isfinite()
        mean, std = torch.where(is_known, mean, 0.0), torch.where(is_known, variance.sqrt(), 1.0)
        mean, std = (torch.zeros_like(x).scatter(1, order, x).to(batch.target_value.dtype) for x in (mean, std))
        return Normal(mean, std, validate_args=False)

    def _posterior(self, history: Record) -> tuple[Modes, Tensor]:
        """Give the most probable numbers of each series, and the covariance of all numbers, `(R, P, P)`."""
        curves, population = self.curves, self.population
        modes = find_modes(curves, history, population)
        value, slope = curves(modes.free, history, list(range(modes.free.shape[1])))
        # Of a series without a curve nothing is known but the population.
        seen = history.seen & modes.cost.isfinite()[:, None]
        linear = Linear.of(
            replace(history, seen=seen), value.nan_to_num(), slope.nan_to_num(), modes.free, len(self.schema.channels)
        )
        return modes, linear.given(population).uncertainty(population.covariance)

    def estimates(self, level: float = 0.9) -> list[Estimate]:
        """Give the estimates of all named numbers, with intervals, 0-d; of those of each series, the typical one."""
        curves = self.curves
        free = self.centre[curves.place()]
        return _in_intervals(curves, free, self.covariance.diagonal()[curves.place()].sqrt(), level)

    @torch.no_grad()
    def series_estimates(self, batch: Batch, level: float = 0.9) -> list[Estimate]:
        """Give the estimates of the named numbers of each series by its history, with intervals, each `(B,)`."""
        curves = self.curves
        modes, uncertainty = self._posterior(self._record(batch))
        place = curves.place()
        std = uncertainty.diagonal(dim1=1, dim2=2)[:, place].sqrt()
        return _in_intervals(curves, modes.free[:, place], std, level)

    def remarks(self) -> list[str]:
        """Say what was found, and of which channels the equation says nothing."""
        name, said = type(self.equation).__name__, list[str]()
        found = [
            f"{one.name} {float(one.value):.4g} ({float(one.low):.4g} to {float(one.high):.4g})"
            for one in self.estimates()
        ]
        if found:
            said.append(f"{name}, typical numbers and their 90 % intervals: {', '.join(found)}.")
        observed = self.curves.outputs()
        left_out = [channel for channel in self.schema.channels if channel not in observed]
        if left_out:
            said.append(f"{name} says nothing of {', '.join(left_out)}, forecast by the training mean.")
        return said

    def _record(self, batch: Batch, *, with_targets: bool = False) -> Record:
        """Give what was seen of each series, its targets too if they are to be learned from."""
        columns = (batch.token_time, batch.token_value, batch.token_channel, batch.token_observed)
        if with_targets:
            targets = (batch.lead_time(), batch.target_value, batch.target_channel, batch.target_observed)
            columns = tuple(torch.cat(pair, 1) for pair in zip(columns, targets, strict=True))
        return self._clocked(batch, *columns)[0]

    def _clocked(
        self, batch: Batch, time: Tensor, value: Tensor, channel: Tensor, seen: Tensor
    ) -> tuple[Record, Tensor]:
        """Bring times to the equation's unit and values into their order; also give where each one stood, int64 `(B, N)`."""
        is_user = self.equation.units == "user"
        unit = batch.time_scale / self._per_unit if is_user else 1.0
        origin = batch.origin.double() / self._per_unit * float(is_user)
        first = torch.where(batch.token_observed, batch.token_time, 0.0).amin(1).double() * unit
        start = first if self.equation.starts_at is None else self.equation.starts_at - origin
        names = [self.schema.static_numbers.index(name) for name in self.equation.covariates]
        statics = (batch.statics.double() * self.static_size + self.static_centre)[:, names]
        # Padding stands at the end, so that times ascend.
        last = torch.where(seen, time, -torch.inf).amax(1, keepdim=True).clamp(min=float(time.min()))
        time, order = torch.where(seen, time, last).sort(dim=1, stable=True)
        value, channel, seen = (x.gather(1, order) for x in (value, channel, seen))
        return Record(time.double() * unit, value.double(), channel, seen, origin, start, statics), order


def _longest(batches: Sequence[Batch], records: Sequence[Record]) -> Record:
    """Give of each series the window with most values, of at most `MAX_SERIES` series, evenly over all."""
    series = torch.cat([batch.series for batch in batches])
    count = torch.cat([record.seen.sum(1) for record in records])
    order = count.argsort(descending=True, stable=True)
    order = order[series[order].argsort(stable=True)]
    is_first = torch.ones_like(order, dtype=torch.bool)
    is_first[1:] = series[order][1:] != series[order][:-1]
    chosen = order[is_first]
    if len(chosen) > MAX_SERIES:
        chosen = chosen[torch.linspace(0, len(chosen) - 1, MAX_SERIES, device=chosen.device).long()]
    return _side_by_side(records).take(chosen)


def _side_by_side(records: Sequence[Record]) -> Record:
    width = max(record.time.shape[1] for record in records)

    def padded(record: Record) -> Record:
        n = width - record.time.shape[1]
        again = {name: getattr(record, name) for name in ("time", "value", "channel", "seen")}
        again = {name: torch.cat([x, x[:, -1:].expand(-1, n)], 1) for name, x in again.items()}
        again["seen"][:, width - n :] = False
        return replace(record, **again)

    wide = [padded(record) for record in records]
    return Record(**{f.name: torch.cat([getattr(record, f.name) for record in wide]) for f in fields(Record)})


def _in_intervals(curves: Curves, free: Tensor, std: Tensor, level: float) -> list[Estimate]:
    """Bring estimates to the user's units; an interval goes through the same map."""
    reach = math.sqrt(2) * torch.erfinv(std.new_tensor(level))
    found = []
    for i, (name, one) in enumerate(curves.named.items()):
        middle, open_ = free[..., i], reach * std[..., i]
        found.append(Estimate(name, *(one.natural(x) for x in (middle, middle - open_, middle + open_))))
    return found
