"""What sees every step of a solve of the drop-in: the callbacks of `func`, and the event that ends it.

Both go in as a gradient route, `Watched`, which lets the loop show them its steps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentode.errors import InputError

from .dense import evaluate_polynomials, step_fraction
from .loop import Options, Trajectory, first_step, integrate
from .problem import Problem
from .steppers import ExplicitStepper, ImplicitStepper, Step
from .torchdiffeq_options import Sample, State

# Methods of `func` that are called with (t0, y0, dt): before a step, and when it stands or is taken back.
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")

# How many times as far as to the given end an event is looked for.
_FAR = 1e9


@dataclass(frozen=True)
class Callbacks:
    """Calls the callbacks that a `func` has, as hooks of the loop.

    Attributes:
        given: the callbacks by name.
        sample: how a state lies in a flat one.
    """

    given: dict[str, Callable[[Tensor, State, Tensor], None]]
    sample: Sample

    @classmethod
    def of(cls, func: object, sample: Sample, supported: Sequence[str]) -> Callbacks | None:
        """Look for callbacks; None if there are none. Warns of those that the method does not call."""
        given = {name: getattr(func, name) for name in CALLBACKS if hasattr(func, name)}
        for name in [name for name in given if name not in supported]:
            warnings.warn(f"this method never calls {name}, only {', '.join(supported)}", stacklevel=4)
            del given[name]
        return cls(given, sample) if given else None

    def step(self, problem: Problem, tau: Tensor, y: Tensor, h: Tensor) -> None:
        """See a step before it is tried."""
        self._call("callback_step", problem, tau, y, h)

    def judged(self, problem: Problem, tau: Tensor, y: Tensor, h: Tensor, accepted: Tensor) -> None:
        """See what became of it."""
        name = "callback_accept_step" if bool(accepted) else "callback_reject_step"
        self._call(name, problem, tau, y, h)

    def _call(self, name: str, problem: Problem, tau: Tensor, y: Tensor, h: Tensor) -> None:
        if name in self.given:
            t0 = problem.t0 + problem.direction * tau
            self.given[name](t0[0], self.sample.unpack(y), h[0])


@dataclass
class FirstEvent:
    """Looks for the first time at which a function of time and state is positive no more.

    Attributes:
        value: the function, of a scalar and a state, positive at the start.
        sample: how a state lies in a flat one.
        tolerance: how closely the time is found.
        records: whether autograd is to follow the state.
        time: when it was, `()`; None: not yet.
        state: the flat state then, `(1, D)`, with its gradient at a fixed time.
    """

    value: Callable[[Tensor, State], Tensor]
    sample: Sample
    tolerance: float
    records: bool = True
    time: Tensor | None = None
    state: Tensor | None = None

    def look(self, problem: Problem, tau: Tensor, tau1: Tensor, step: Step, accepted: Tensor) -> Tensor | None:
        """Give the clock of the event, `(1,)`, if it lies in this step."""
        if not bool(accepted) or self._is_before(problem, tau1, step.y1):
            return None
        low, high = tau, tau1
        # Halving asks nothing of the function but its sign; it may be anything but smooth.
        for _ in range(self._n_halvings(float(tau1 - tau))):
            middle = (low + high) / 2
            is_before = self._is_before(problem, middle, _read(step, middle, tau, tau1))
            low, high = (middle, high) if is_before else (low, middle)
        end = (low + high) / 2
        self.time = (problem.t0 + problem.direction * end)[0]
        with torch.set_grad_enabled(self.records):
            # At a fixed time a later start leaves less of a way to go.
            at = end if problem.t_carrier is None else end - problem.direction * problem.t_carrier.to(end.dtype)
            self.state = _read(step, at, tau, tau1)
        return end

    def _n_halvings(self, length: float) -> int:
        halvings = math.log2(length / self.tolerance) if self.tolerance > 0 else math.inf
        return math.ceil(min(max(halvings, 0.0), 60.0))

    def _is_before(self, problem: Problem, tau: Tensor, y: Tensor) -> bool:
        t = problem.times(tau)[0].detach()
        value = self.value(t, self.sample.unpack(y.detach()))
        if bool(value.isnan()):
            raise InputError(f"event_fn gave NaN at t = {float(t):.9g}; its sign tells when the solve ends")
        return bool(value > 0)


def _read(step: Step, at: Tensor, tau: Tensor, tau1: Tensor) -> Tensor:
    """Give the state `(1, D)` at a clock inside a step."""
    assert step.powers is not None
    rows_PJD = torch.cat([step.base[:, None], step.powers.transpose(0, 1)], 1)
    return evaluate_polynomials(step_fraction(at, tau, tau1 - tau), rows_PJD)


@dataclass(frozen=True)
class Watched:
    """The direct gradient route, with callbacks or an event that see the steps."""

    callbacks: Callbacks | None = None
    event: FirstEvent | None = None

    def integrate(self, problem: Problem, options: Options) -> Trajectory:
        """Solve `problem`; where an event ends it, the given end is but a yardstick for the first step."""
        options = replace(options, hooks=self.callbacks)
        if self.event is None:
            return integrate(problem, options)
        self.event.records = torch.is_grad_enabled()
        stepper = options.stepper
        assert isinstance(stepper, (ExplicitStepper, ImplicitStepper))
        options = replace(options, stepper=replace(stepper, reads=True), watch=self.event)
        if options.is_adaptive and options.dt0 is None:
            with torch.no_grad():
                k0 = stepper.slope(problem, problem.time_at_start(), problem.y0)
                guess = float(first_step(problem, options, k0)[0])
            options = replace(options, dt0=guess if guess > 0 else None)
        return integrate(replace(problem, span=_FAR * problem.span), options)
