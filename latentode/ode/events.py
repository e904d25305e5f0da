"""Events: where a function of time and state changes sign along a solution, with the gradient of the time and the state there.

After every step the function is asked at the step's end. Where its sign has changed, the crossing is located on the interpolant by the
ITP method of Oliveira and Takahashi (2020), "An enhancement of the bisection method average performance preserving minmax optimality",
ACM TOMS 47(1), all samples at once: as quick as the secant on smooth functions, never much slower than halving.

With `G(tau) = g(t(tau), y(tau))` on the clock, the implicit function theorem gives the gradient of an event's clock,

    d tau / dx = -(dG/dx at a fixed clock) / (dG/dtau),        dG/dtau = +-dg/dt + dg/dy . dy/dtau

(Chen, Amos and Nickel 2021, Learning neural event functions, section 3.1), with the interpolant's own slope for `dy/dtau`: it is the
gradient of the solution that was computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from latentode.errors import InputError

from .dense import evaluate_polynomials, evaluate_slopes, step_fraction
from .loop import Trajectory
from .problem import Problem
from .states import Packing, State
from .status import SUCCESS, list_samples
from .steppers import Step
from .watching import Sightings

# An event is located to this part of the step that it lies in.
_HALVINGS = 42
_RESOLUTION = 0.5**_HALVINGS
# Calls more than halving that may be spent before the method falls back to it.
_SPARE = 8


@dataclass(frozen=True)
class Event:
    """What to look for along a solution.

    Attributes:
        value: function of the times `(B,)` and the state, shaped as for `f`, to one number per sample, `(B,)`; the event is where its
            sign changes. A truth value counts as +1 or -1. A value of exactly 0 at the start is no event.
        terminal: whether a sample ends there, or goes on and the time is recorded.
        direction: +1: only where the value rises as the solve goes on; -1: only where it falls; 0: both.
    """

    value: Callable[[Tensor, Any], Tensor]
    terminal: bool = True
    direction: int = 0

    def __post_init__(self) -> None:
        if not callable(self.value):
            raise InputError(f"an event's value is {self.value!r}; give a function of t (B,) and y")
        if self.direction not in (-1, 0, 1):
            raise InputError(f"direction is {self.direction!r}; give 1 for rising, -1 for falling, 0 for both")


@dataclass(frozen=True)
class Occurrences:
    """When an event came about, as often as it did.

    Attributes:
        times: in the order of the solve, `(B, N)` with `N` the most that a sample has; NaN where it has fewer.
        ys: the states then, `(B, N, *state)` in the structure and dtype of `y0`; NaN likewise.
    """

    times: Tensor
    ys: Any

    def first(self) -> Tensor:
        """Give when it came first, `(B,)`; NaN where it did not."""
        return self.times[:, 0] if self.times.shape[1] else torch.full_like(self.times.sum(1), torch.nan)


Events = Event | Callable[[Tensor, Any], Tensor]


def read_events(events: Events | Sequence[Events] | None) -> tuple[Event, ...]:
    """Give the events of an argument: one or several, each an `Event` or a function, which ends the solve."""
    if events is None:
        return ()
    several = tuple(events) if isinstance(events, Sequence) else (events,)
    for event in several:
        if not isinstance(event, Event) and not callable(event):
            raise InputError(f"events holds {event!r}; give functions of (t, y), or Event(function, terminal=False)")
    return tuple(event if isinstance(event, Event) else Event(event) for event in several)


@dataclass
class EventWatch:
    """Looks for events in every step, as the loop's `Watch`.

    Attributes:
        events: what to look for.
        packing: how the state lies in the flat one.
        values: the events' values at the last step's end, `(E, B)`.
        found: what was found.
    """

    events: tuple[Event, ...]
    packing: Packing
    values: Tensor | None = None
    found: list[_Sighting] = field(default_factory=list)

    def look(self, problem: Problem, tau: Tensor, tau1: Tensor, step: Step, y1: Tensor) -> Tensor | None:
        """Look into a step from `tau` to `tau1` and state `y1`; tell which samples end in it, `(B,)`, None if none does.

        Raises:
            InputError: an event gives NaN, or something else than a number per sample.
        """
        with torch.no_grad():
            before = self._all_values(problem, tau, step.base) if self.values is None else self.values
            after = self._all_values(problem, tau1, y1)
            is_moving = tau1 > tau
            self.values = torch.where(is_moving, after, before)
            is_crossed = (before != 0) & (after.sign() != before.sign()) & is_moving
            for i, event in enumerate(self.events):
                if event.direction:
                    is_crossed[i] &= ~(before[i] * event.direction > 0)
            which = is_crossed.any(1).nonzero()[:, 0].tolist()
            if not which:
                return None
            self._refuse_nan(problem, tau1, after, is_crossed)
        coefficients = [step.base, *step.powers]  # pyright: ignore[reportOptionalIterable]
        length = tau1 - tau
        with torch.no_grad():

            def value_at(i: int, theta: Tensor) -> Tensor:
                return self._values(i, problem, tau + theta * length, evaluate_polynomials(theta, coefficients))

            places = {i: locate(lambda theta, i=i: value_at(i, theta), before[i], after[i]) for i in which}
            ends = torch.full_like(tau, torch.inf)
            for i, theta in places.items():
                if self.events[i].terminal:
                    ends = torch.where(is_crossed[i], torch.minimum(ends, theta), ends)
        for i, theta in places.items():
            # What comes after the end of a sample does not come about.
            is_found = is_crossed[i] & (theta <= ends)
            clock = torch.where(is_found, tau + theta * length, tau)
            theta = step_fraction(clock, tau, length)
            y = evaluate_polynomials(theta, coefficients)
            slope = evaluate_slopes(theta, coefficients, length).detach()
            self.found.append(_Sighting(i, is_found, clock, y, slope))
        has_ended = ends < torch.inf
        return has_ended if bool(has_ended.any()) else None

    def sightings(self, problem: Problem) -> Sightings:
        """Give all that was found."""
        found, y0 = self.found, problem.y0
        if not found:
            none = problem.span[:, None][:, :0]
            return Sightings([], none > 0, none, y0[:, None][:, :0], y0[:, None][:, :0])
        return Sightings(
            [sighting.event for sighting in found],
            *(torch.stack(parts, 1) for parts in zip(*(sighting.parts() for sighting in found), strict=True)),
        )

    def _all_values(self, problem: Problem, tau: Tensor, y: Tensor) -> Tensor:
        return torch.stack([self._values(i, problem, tau, y) for i in range(len(self.events))])

    def _values(self, i: int, problem: Problem, tau: Tensor, y: Tensor) -> Tensor:
        value = call_event(self.events[i], i, problem.times(tau).detach(), self.packing.unflatten(y.detach()))
        return value.to(tau.dtype)

    def _refuse_nan(self, problem: Problem, tau1: Tensor, values: Tensor, is_crossed: Tensor) -> None:
        is_bad = values.isnan() & is_crossed
        for i in is_bad.any(1).nonzero()[:, 0].tolist():
            first = int(is_bad[i].to(torch.int8).argmax())
            raise InputError(
                f"event {i} gave NaN for samples {list_samples(is_bad[i])} (sample {first} at t = "
                f"{float(problem.times(tau1)[first]):.9g}); its sign tells when the event comes"
            )


@dataclass(frozen=True)
class _Sighting:
    """One event in one step of the batch: which, for whom `(B,)`, the clock `(B,)`, state and slope per unit of the clock `(B, D)`."""

    event: int
    is_found: Tensor
    clock: Tensor
    y: Tensor
    slope: Tensor

    def parts(self) -> tuple[Tensor, ...]:
        return self.is_found, self.clock, self.y, self.slope


def call_event(event: Event, i: int, t: Tensor, state: State) -> Tensor:
    """Give an event's values, `(B,)`; raises InputError where it gives something else."""
    value = event.value(t, state)
    if not isinstance(value, Tensor) or value.shape != t.shape or value.is_complex():
        got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"event {i} gave {got}; it must give one real number per sample, ({len(t)},)")
    return 2 * value.to(t.dtype) - 1 if value.dtype == torch.bool else value


def locate(value: Callable[[Tensor], Tensor], before: Tensor, after: Tensor) -> Tensor:
    """Locate where `value`, of `theta` `(B,)` in [0, 1], changes sign, `(B,)`: the near side of the crossing.

    Args:
        value: of one number per sample.
        before, after: its values at 0 and 1; samples whose signs agree are not looked into.
    """
    low, high = torch.zeros_like(before), torch.ones_like(before)
    side, y_low, y_high = before.sign(), before, after
    high = torch.where(after.sign() == side, low, high)
    for i in range(_HALVINGS + _SPARE):
        width = high - low
        if not bool((width > _RESOLUTION).any()):
            break
        middle = low + width / 2
        # Interpolate, truncate towards the middle, project onto where halving would be by now (k1 = 0.2, k2 = 2, n0 = _SPARE).
        secant = low + width * (y_low / (y_low - y_high))
        secant = torch.where(secant.isfinite(), secant, middle)
        gap = middle - secant
        slack = (0.5 ** (i - _SPARE + 1) - width / 2).clamp(min=0.0)
        nudged = secant + torch.minimum(0.2 * width**2 + _RESOLUTION / 4, gap.abs()) * gap.sign()
        theta = torch.maximum(torch.minimum(nudged, middle + slack), middle - slack)
        y = value(theta)
        is_before = y.sign() == side
        low, y_low = torch.where(is_before, theta, low), torch.where(is_before, y, y_low)
        high, y_high = torch.where(is_before, high, theta), torch.where(is_before, y_high, y)
    return low


def settle_events(
    events: tuple[Event, ...], problem: Problem, trajectory: Trajectory, packing: Packing, dtype: torch.dtype
) -> tuple[Trajectory, tuple[Occurrences, ...]]:
    """Put the events of a solve together; times in `dtype`.

    Returns:
        The trajectory, whose states after a sample's end are those at its end, and the occurrences of each event.
    """
    sightings = trajectory.sightings
    assert sightings is not None
    is_sound = (trajectory.status == SUCCESS)[:, None]
    t0 = problem.t0 if problem.t_carrier is None else problem.t0 + problem.t_carrier
    occurrences = []
    end, y_end = torch.full_like(problem.span, torch.inf), problem.y0
    for i, event in enumerate(events):
        columns = [j for j, which in enumerate(sightings.events) if which == i]
        found, clock, y = _gather(event, i, sightings, columns, problem, packing)
        if event.terminal and clock.shape[1]:
            is_first = found[:, 0] & (clock[:, 0] < end)
            end, y_end = torch.where(is_first, clock[:, 0], end), torch.where(is_first[:, None], y[:, 0], y_end)
        found = found & is_sound
        times = torch.where(found, t0[:, None] + problem.direction[:, None] * clock, torch.nan)
        occurrences.append(Occurrences(times.to(dtype), packing.unflatten(torch.where(found[..., None], y, torch.nan))))
    end = end.detach()
    is_over = (problem.tau_eval.detach() > end[:, None]) & is_sound
    ys = torch.where(is_over[..., None], y_end[:, None], trajectory.ys)
    return replace(trajectory, ys=ys, end=end, y_end=y_end), tuple(occurrences)


def _gather(
    event: Event, i: int, sightings: Sightings, columns: list[int], problem: Problem, packing: Packing
) -> tuple[Tensor, Tensor, Tensor]:
    """Move each sample's sightings of one event to the front: found `(B, N)`, clocks `(B, N)`, states `(B, N, D)`."""
    found, clock = sightings.is_found[:, columns], sightings.clocks[:, columns]
    y, slope = sightings.ys[:, columns], sightings.slopes[:, columns]
    n_most = int(found.sum(1).amax()) if found.numel() else 0
    order = torch.sort(~found, dim=1, stable=True).indices[:, :n_most]
    wide = order[..., None].expand(-1, -1, y.shape[2])
    found, clock, y, slope = found.gather(1, order), clock.gather(1, order), y.gather(1, wide), slope.gather(1, wide)
    if not torch.is_grad_enabled() or n_most == 0:
        return found, clock, y
    moved = [
        _let_move(event, i, problem, packing, *(part[:, n] for part in (found, clock, y, slope))) for n in range(n_most)
    ]
    return found, torch.stack([c for c, _ in moved], 1), torch.stack([y for _, y in moved], 1)


def _let_move(
    event: Event,
    i: int,
    problem: Problem,
    packing: Packing,
    found: Tensor,
    clock: Tensor,
    y: Tensor,
    slope: Tensor,
) -> tuple[Tensor, Tensor]:
    """Give an event's clock `(B,)` and state `(B, D)` the gradient by the implicit function theorem; `y` has that at a fixed clock."""
    value = call_event(event, i, problem.times(clock), packing.unflatten(y))
    if not value.requires_grad:
        return clock, y
    t_leaf, y_leaf = problem.times(clock).detach().requires_grad_(), y.detach().requires_grad_()
    by_t, by_y = torch.autograd.grad(
        call_event(event, i, t_leaf, packing.unflatten(y_leaf)).sum(),
        (t_leaf, y_leaf),
        allow_unused=True,
        materialize_grads=True,
    )
    rate = torch.where(found, problem.direction.to(by_t) * by_t + (by_y * slope).sum(-1), 1.0)
    shift = _Shift.apply(torch.where(found, value, 0.0), rate)
    return clock + shift.to(clock), y + slope * shift[:, None]


class _Shift(torch.autograd.Function):
    """Nothing, whose gradient is that of the clock at which `value`, changing at `rate`, is 0."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rate: Tensor) -> Tensor:
        ctx.save_for_backward(rate)
        return torch.zeros_like(value)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            raise InputError("the time of an event has first derivatives only; leave create_graph=False")
        (rate,) = ctx.saved_tensors
        return -g / rate, None
