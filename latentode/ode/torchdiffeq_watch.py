"""What sees every step of a solve of the drop-in: the callbacks of `func`.

They go in as a gradient route, `Watched`, which lets the loop show them its steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .loop import Options, Trajectory, first_step, integrate
from .problem import Problem
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


@dataclass(frozen=True)
class Watched:
    """The direct gradient route, with callbacks that see the steps.

    Attributes:
        callbacks: what to call.
        is_open_end: whether an event ends the solve, and the given end is but a yardstick for the first step.
    """

    callbacks: Callbacks | None = None
    is_open_end: bool = False

    def integrate(self, problem: Problem, options: Options) -> Trajectory:
        """Solve `problem`."""
        options = replace(options, hooks=self.callbacks)
        if not self.is_open_end:
            return integrate(problem, options)
        if options.is_adaptive and options.dt0 is None:
            with torch.no_grad():
                k0 = options.stepper.slope(problem, problem.time_at_start(), problem.y0)
                guess = float(first_step(problem, options, k0)[0])
            options = replace(options, dt0=guess if guess > 0 else None)
        return integrate(replace(problem, span=_FAR * problem.span), options)
