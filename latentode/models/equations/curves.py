r"""What an equation says of observations, with derivatives in its unknown numbers.

State and sensitivities are solved together: with :math:`S = \partial y / \partial v`, :math:`\dot S = f_y S + f_v` (Hairer, Norsett and
Wanner 1993, equation I.14.13). The right-hand side is one call of the equation on numbers that carry their derivatives along (forward
mode), all directions at once; so the equation itself is ordinary element-wise torch, and any method of the engine solves it.

Legend: `R` series, `N` values of each, `D` states, `K` constants, `P` free numbers, `G` directions of derivatives, `C` channels. Numbers
that carry derivatives are `(..., 1 + G, R)`: first themselves, then along each direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace

import torch
import torch.autograd.forward_ad as forward
from torch import Tensor

from latentode.errors import InputError
from latentode.models.equations.correction import Correction
from latentode.models.equations.equation import Equation
from latentode.models.equations.unknowns import Unknown
from latentode.ode import PIDController, solve

AT_ONCE = 1 << 24  # numbers with derivatives that are held together
MAX_STEPS = 4_000  # of a solve; numbers under which a curve takes more are no candidates
ROUGH, ROUGH_STEPS = 1e-4, 300  # tolerance and most steps where a search begins


@dataclass(frozen=True)
class Record:
    """Values of `R` series, and from where their states are solved.

    Attributes:
        time: from the origin, in the equation's unit, ascending, float64 `(R, N)`.
        value: scaled, float64 `(R, N)`.
        channel: int64 `(R, N)`.
        seen: bool `(R, N)`; False is padding.
        origin: float64 `(R,)`.
        start: when states have their values at the start, from the origin, float64 `(R,)`.
        covariates: in the user's units, float64 `(R, n)`.
    """

    time: Tensor
    value: Tensor
    channel: Tensor
    seen: Tensor
    origin: Tensor
    start: Tensor
    covariates: Tensor

    def __len__(self) -> int:
        return len(self.time)

    def take(self, row: Tensor) -> Record:
        """Give the series at these positions."""
        return replace(self, **{f.name: getattr(self, f.name)[row] for f in fields(self)})

    def repeat(self, n: int) -> Record:
        """Give all series `n` times, one round after the other."""
        return self.take(torch.arange(len(self), device=self.time.device).repeat(n))

    def until(self, share: float) -> Record:
        """Give what was seen in the first share of the time between the start and the last value."""
        last = torch.where(self.seen, self.time, self.start[:, None]).amax(1)
        end = self.start + share * (last - self.start)
        # Nothing is solved further than that.
        return replace(self, seen=self.seen & (self.time <= end[:, None]), time=self.time.minimum(end[:, None]))


@dataclass(frozen=True)
class Scale:
    """How models see the channels: `(g(x) - centre) / size`, `g` the logarithm where `is_log`; each `(C,)`."""

    centre: Tensor
    size: Tensor
    is_log: Tensor


@dataclass(frozen=True)
class Curves:
    """An equation's curves as functions of its free numbers: the shared ones, the correction's weights, those of each series.

    Attributes:
        equation: whose curves they are.
        channels: of the table.
        scale: of the channels.
        correction: what is added to the slope; None: nothing.
        method: a name in `latentode.ode.SOLVERS`.
        rtol: tolerance of the solves.
    """

    equation: Equation
    channels: Sequence[str]
    scale: Scale
    correction: Correction | None = None
    method: str = "tsit5"
    rtol: float = 1e-6
    max_steps: int = MAX_STEPS

    @property
    def named(self) -> dict[str, Unknown]:
        """The unknown numbers: first the shared ones, then those of each series."""
        found = unknowns(self.equation)
        return dict(sorted(found.items(), key=lambda pair: pair[1].per_series))

    @property
    def n_own(self) -> int:
        """Free numbers of each series; they are the last ones."""
        return sum(one.per_series for one in self.named.values())

    @property
    def n_shared(self) -> int:
        """Free numbers that all series share, weights of the correction included."""
        n_weights = 0 if self.correction is None else self.correction.n_weights
        return len(self.named) - self.n_own + n_weights

    def outputs(self) -> list[str]:
        """Give the names under which the equation is observed."""
        one = torch.ones(1, dtype=torch.float64)
        names = list(self.equation.states)
        _, constants = self._split([one] * (len(self.named) + len(self.equation.covariates)))
        return list(self.equation.observe(one, SimpleNamespace(**dict.fromkeys(names, one)), constants))

    def place(self) -> list[int]:
        """Give where among the free numbers each of `named` stands."""
        n_weights = 0 if self.correction is None else self.correction.n_weights
        n_first = len(self.named) - self.n_own
        return [*range(n_first), *range(n_first + n_weights, len(self.named) + n_weights)]

    def rough(self) -> Curves:
        """Give the curves as a search far from its end needs them: solved loosely, and given up early where numbers are far off."""
        return replace(self, rtol=max(self.rtol, ROUGH), max_steps=min(self.max_steps, ROUGH_STEPS))

    @torch.no_grad()
    def __call__(self, free: Tensor, record: Record, directions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Give what the curves say of a record's values, scaled, and its derivatives.

        Args:
            free: free numbers of each series, float64 `(R, P)`; weights of the correction are those of the first row.
            record: where the curves are asked for.
            directions: along which of the free numbers derivatives are taken.

        Returns:
            `(R, N)` and `(R, N, G)`; NaN for a series whose curve cannot be solved.
        """
        n_states, n_at = len(self.equation.states), record.time.shape[1]
        per_series = (n_states + len(self.named) + 4) * (1 + len(directions)) * n_at
        rows = torch.arange(len(record), device=free.device).split(max(AT_ONCE // per_series, 1))
        parts = [self._part(free[row], record.take(row), directions) for row in rows]
        value, slope = (torch.cat(column) for column in zip(*parts, strict=True))
        return value, slope

    def _part(self, free: Tensor, record: Record, directions: Sequence[int]) -> tuple[Tensor, Tensor]:
        seed = torch.zeros(free.shape[1], len(directions), len(free), dtype=free.dtype, device=free.device)
        for i, direction in enumerate(directions):
            seed[direction, i] = 1.0
        seeded = torch.cat([free.T[:, None], seed], 1)
        place = torch.tensor(self.place(), dtype=torch.int64, device=free.device)
        numbers = carry(self._natural, seeded[place])
        if record.covariates.shape[1]:
            still = numbers.new_zeros(record.covariates.shape[1], *numbers.shape[1:])
            still[:, 0] = record.covariates.T
            numbers = torch.cat([numbers, still])
        weights = None
        if self.correction is not None:
            first = len(self.named) - self.n_own
            weights = seeded[first : first + self.correction.n_weights, :, 0]
        states = self._solve(numbers, weights, record)
        return self._observe(states, numbers, record)

    def _natural(self, free: Sequence[Tensor]) -> list[Tensor]:
        return [one.natural(x) for one, x in zip(self.named.values(), free, strict=True)]

    def _split(self, numbers: Sequence[Tensor]) -> tuple[dict[str, Tensor | float], SimpleNamespace]:
        """Give states at the start, by name, and constants with covariates, from the numbers that are unknown."""
        known = dict(zip([*self.named, *self.equation.covariates], numbers, strict=True))
        start = {
            name: known[name] if isinstance(one, Unknown) else float(one) for name, one in self.equation.states.items()
        }
        constants = {
            name: known[name] if isinstance(one, Unknown) else float(one)
            for name, one in self.equation.constants.items()
        }
        return start, SimpleNamespace(**constants, **{name: known[name] for name in self.equation.covariates})

    def _solve(self, numbers: Tensor, weights: Tensor | None, record: Record) -> Tensor:
        """Give the states at every time of the record, `(D, 1 + G, R, N)`."""
        equation, n_rows = self.equation, len(record)

        def at_start(numbers: Sequence[Tensor]) -> list[Tensor]:
            start, _ = self._split(numbers)
            like = numbers[0] if numbers else record.start
            return [x if isinstance(x, Tensor) else torch.full_like(like, x) for x in start.values()]

        state = carry(at_start, numbers) if len(numbers) else _still(at_start([]), numbers.shape[1])
        shape = state.shape[:2]
        asked = torch.maximum(record.time, record.start[:, None])
        end = torch.maximum(asked.amax(1), record.start)
        found = state.new_zeros(*shape, n_rows, record.time.shape[1])
        sizes = typical_sizes(equation, self.channels, self.scale.size)
        atol = (1e-2 * self.rtol * state.new_tensor(sizes)).repeat_interleave(shape[1])
        controller = PIDController(rtol=self.rtol, atol=atol)

        def slope(t: Tensor, flat: Tensor, origin: Tensor, held: Tensor) -> Tensor:
            # Inside the loop finished series may have left: what belongs to a series comes as an argument.
            rates = self._slope(origin + t, flat.T.reshape(*shape, -1), held.permute(1, 2, 0), weights)
            return rates.flatten(0, 1).T

        low = record.start
        for jump in (*equation.jump_times, None):
            # A value that was observed at a jump belongs to what comes before; one at the start has nothing before.
            high = end if jump is None else (jump - record.origin).clamp(min=low).minimum(end)
            at = torch.cat([asked.clamp(min=low[:, None]).minimum(high[:, None]), high[:, None]], 1)
            solution = solve(
                slope,
                state.flatten(0, 1).T.contiguous(),
                at,
                t0=low,
                args=(record.origin, numbers.permute(2, 0, 1).contiguous()),
                method=self.method,
                controller=controller,
                max_steps=self.max_steps,
                on_failure="return",
            )
            ys = solution.ys.permute(2, 0, 1).unflatten(0, shape)
            is_here = (asked > low[:, None]) | (low == record.start)[:, None]
            found = torch.where(is_here, ys[..., :-1], found)
            state = ys[..., -1]
            if jump is not None:
                happens = (jump >= record.origin + record.start) & (jump <= record.origin + end)
                state = torch.where(happens, self._jump(jump, state, numbers), state)
            low = high
        return found

    def _slope(self, t: Tensor, state: Tensor, numbers: Tensor, weights: Tensor | None) -> Tensor:
        names = list(self.equation.states)

        def rates(values: Sequence[Tensor]) -> list[Tensor]:
            y = SimpleNamespace(**dict(zip(names, values, strict=False)))
            _, constants = self._split(values[len(names) :])
            given = list(self.equation.slope(t, y, constants))
            if len(given) != len(names):
                raise InputError(
                    f"slope of {type(self.equation).__name__} gave {len(given)} rates of change for the {len(names)} states "
                    f"{', '.join(names)}."
                )
            return given

        found = carry(rates, torch.cat([state, numbers]))
        if self.correction is not None and weights is not None:
            found = found + self.correction(state, weights)
        return found

    def _jump(self, jump: float, state: Tensor, numbers: Tensor) -> Tensor:
        names = list(self.equation.states)

        def jumped(values: Sequence[Tensor]) -> list[Tensor]:
            y = dict(zip(names, values, strict=False))
            _, constants = self._split(values[len(names) :])
            changed = self.equation.jump(jump, SimpleNamespace(**y), constants)
            return [changed.get(name, y[name]) for name in names]

        return carry(jumped, torch.cat([state, numbers]))

    def _observe(self, states: Tensor, numbers: Tensor, record: Record) -> tuple[Tensor, Tensor]:
        """Bring states to what is seen of them, scaled."""
        names, n_at = list(self.equation.states), record.time.shape[1]
        t = (record.origin[:, None] + record.time).flatten()
        outputs: list[str] = []

        def observed(values: Sequence[Tensor]) -> list[Tensor]:
            y = SimpleNamespace(**dict(zip(names, values, strict=False)))
            _, constants = self._split(values[len(names) :])
            given = {name: x for name, x in self.equation.observe(t, y, constants).items() if name in self.channels}
            outputs[:] = given
            return list(given.values())

        both = torch.cat([states, numbers[..., None].expand(-1, -1, -1, n_at)]).flatten(2)
        found = carry(observed, both)
        place = torch.full((len(self.channels),), -1, device=t.device)
        for i, name in enumerate(outputs):
            place[self.channels.index(name)] = i
        # Which output each value is of; a channel that the equation says nothing of stays at its centre.
        which = place[record.channel.flatten()]
        picked = found.gather(0, which.clamp(min=0)[None, None].expand(1, found.shape[1], -1))[0]
        channel = record.channel.flatten()
        centre, size, is_log = (x[channel] for x in (self.scale.centre, self.scale.size, self.scale.is_log))
        value = picked[0].clamp(min=torch.finfo(picked.dtype).tiny)
        scaled = (torch.where(is_log, value.log(), picked[0]) - centre) / size
        slope = torch.where(is_log, picked[1:] / value, picked[1:]) / size
        scaled, slope = (torch.where(which >= 0, x, 0.0) for x in (scaled, slope))
        return scaled.view(-1, n_at), slope.T.reshape(len(record), n_at, len(slope))


def typical_sizes(equation: Equation, channels: Sequence[str], size: Tensor) -> list[float]:
    """Give how large each state typically is: as its channel, else as its value at the start, else as the largest channel.

    Args:
        equation: whose states.
        channels: of the table.
        size: of each channel, `(C,)`.
    """
    seen = dict(zip(channels, size.tolist(), strict=True))
    sizes = []
    for name, one in equation.states.items():
        start = float(one.natural(size.new_tensor(one.free_start))) if isinstance(one, Unknown) else float(one)
        sizes.append(seen.get(name) or abs(start) or max(seen.values()))
    return sizes


def unknowns(equation: Equation) -> dict[str, Unknown]:
    """Give the unknown numbers of an equation by name: values at the start under the names of their states, and constants."""
    both = {**equation.states, **equation.constants}
    return {name: one for name, one in both.items() if isinstance(one, Unknown)}


def carry(f: Callable[[Sequence[Tensor]], Sequence[Tensor]], x: Tensor) -> Tensor:
    """Call an element-wise function on numbers that carry derivatives.

    Args:
        f: takes `n` tensors of one shape, gives `m` that broadcast to it.
        x: `(n, 1 + G, L)`.

    Returns:
        `(m, 1 + G, L)`.
    """
    if len(x) == 0:
        return x
    if x.shape[1] == 1:
        return _still(f(x[:, 0].unbind()), 1)
    value, along = x[:, :1], x[:, 1:]
    with forward.dual_level():
        dual = forward.make_dual(value.expand_as(along).contiguous(), along.contiguous())
        out = torch.stack(torch.broadcast_tensors(*(_like(y, along[0]) for y in f(dual.unbind()))))
        y, dy = forward.unpack_dual(out)
    dy = torch.zeros_like(y) if dy is None else dy
    return torch.cat([y[:, :1], dy], 1)


def _like(y: Tensor | float, shaped: Tensor) -> Tensor:
    return y.expand(shaped.shape) if isinstance(y, Tensor) else torch.full_like(shaped, y)


def _still(values: Sequence[Tensor], width: int) -> Tensor:
    """Give numbers whose derivatives are 0, `(n, width, L)`."""
    stacked = torch.stack(torch.broadcast_tensors(*values))
    return torch.cat([stacked[:, None], stacked.new_zeros(len(stacked), width - 1, stacked.shape[1])], 1)
