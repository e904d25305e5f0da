"""What the loop asks of a method: a slope to start from, one step, and what interpolants and error estimate are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .control import Controller, PIDController
from .dense import to_powers
from .esdirk import EsdirkTableau, esdirk_step
from .problem import Problem
from .runge_kutta import ButcherTableau, Room, add_weighted, as_column, as_vector, chain_sum, rk_step


class Step(NamedTuple):
    """A step that was tried.

    Attributes:
        y1, k1: state and slope at its end, `(B, D)`; the next step starts from them.
        base: the state that the interpolant starts from, `(B, D)`.
        powers: the interpolant's coefficients of `theta, ..., theta**J`, `(J, B, D)`, where states inside the steps are wanted.
        error: the estimated error, `(B, D)`, or None where the method has no estimate.
        before, after: the states whose size the error is measured by, `(B, D)`.
        is_converged: False where an implicit method found no solution, `(B,)`, or None.
        n_calls: calls of the field, `(B,)`, or None where every step takes `calls_per_step`.
    """

    y1: Tensor
    k1: Tensor
    base: Tensor
    powers: Tensor | None
    error: Tensor | None
    before: Tensor
    after: Tensor
    is_converged: Tensor | None = None
    n_calls: Tensor | None = None


class Stepper(Protocol):
    """A method, as the loop uses it.

    Unless it says otherwise the loop carries the user's own state, and begins with the field's value.
    """

    @property
    def order(self) -> int:
        """Order of the step."""
        ...

    @property
    def sees_last_slope(self) -> bool:
        """Whether the error estimate turns NaN where the slope at the step's end does."""
        ...

    @property
    def calls_per_step(self) -> int:
        """Calls of the field that every step takes."""
        ...

    def start(self, y0: Tensor) -> Tensor:
        """Turn the user's state `(B, D)` into the one that the loop carries."""
        return y0

    def end(self, y: Tensor) -> Tensor:
        """Turn the loop's state back into the user's, `(B, D)`."""
        return y

    def slope(self, problem: Problem, t: Tensor, y: Tensor) -> Tensor:
        """Give the slope to begin with, `(B, D)`, at times `(B,)`."""
        return problem.field(t, y)

    def step(self, problem: Problem, tau: Tensor, h: Tensor, y: Tensor, k: Tensor, stop: Tensor | None) -> Step:
        """Take a step of length `h` `(B,)` from clock `tau`; with `stop`, its last stages see the near side of a jump there."""
        ...


@dataclass(frozen=True)
class ExplicitStepper(Stepper):
    """An explicit Runge-Kutta method.

    Attributes:
        tableau: the method.
        reads: whether states inside the steps are wanted, for which some methods take further stages.
        estimates: whether the error is.
        is_complex: whether the flat state holds real and imaginary parts in pairs: their tolerance is that of the number.
        room: working memory, used again in every step.
    """

    tableau: ButcherTableau
    reads: bool
    estimates: bool
    is_complex: bool = False
    room: Room | None = field(default_factory=Room, compare=False)

    @property
    def order(self) -> int:
        """Order of the step."""
        return self.tableau.order

    @property
    def sees_last_slope(self) -> bool:
        """Whether the last stage is at the end, and in the estimate."""
        return self.tableau.is_fsal

    @property
    def calls_per_step(self) -> int:
        """Calls of the field that every step takes."""
        return self.tableau.calls_per_step + (len(self.tableau.dense_c) if self.reads else 0)

    def step(self, problem: Problem, tau: Tensor, h: Tensor, y: Tensor, k: Tensor, stop: Tensor | None) -> Step:
        """Take a step."""
        tableau = self.tableau
        times, dt = stage_times(problem, tau, h, (*tableau.c, 1.0), stop)
        y1, k1, increments = rk_step(problem.field, times, y, k, dt, tableau, self.room)
        if increments.requires_grad:
            before, after, known = y.detach(), y1.detach(), increments.detach()
        else:
            before, after, known = y, y1, increments
        error = weigh(tableau.error_weights, known) if self.estimates else None
        if self.is_complex:
            before, after = _moduli(before), _moduli(after)
        powers = to_powers(self._with_further(problem, tau, h, y, dt, increments), tableau) if self.reads else None  # pyright: ignore[reportArgumentType]
        return Step(y1, k1, y, powers, error, before, after)

    def _with_further(
        self, problem: Problem, tau: Tensor, h: Tensor, y: Tensor, dt: Tensor, increments: Tensor
    ) -> Tensor:
        """Add the increments of the stages that only the interpolant needs."""
        if not self.tableau.dense_c:
            return increments
        times, _ = stage_times(problem, tau, h, self.tableau.dense_c, None)
        for t, row in zip(times, self.tableau.dense_a, strict=True):
            inner = add_weighted(y, row, increments[: len(row)])
            increments = torch.cat([increments, (problem.field(t, inner) * dt)[None]])
        return increments


@dataclass(frozen=True)
class ImplicitStepper(Stepper):
    """An implicit Runge-Kutta method for stiff systems.

    Attributes:
        tableau: the method.
        reads, estimates, is_complex: as in `ExplicitStepper`.
        rtol, atol: tolerances that Newton's method stays well below.
    """

    tableau: EsdirkTableau
    reads: bool
    estimates: bool
    is_complex: bool
    rtol: float | Tensor
    atol: float | Tensor

    @property
    def order(self) -> int:
        """Order of the step."""
        return self.tableau.order

    @property
    def sees_last_slope(self) -> bool:
        """Whether the last stage is in the estimate."""
        return True

    @property
    def calls_per_step(self) -> int:
        """Nothing: Newton's method counts for itself."""
        return 0

    def step(self, problem: Problem, tau: Tensor, h: Tensor, y: Tensor, k: Tensor, stop: Tensor | None) -> Step:
        """Take a step."""
        tableau = self.tableau
        times, dt = stage_times(problem, tau, h, tableau.c, stop)
        size = _moduli(y.detach()) if self.is_complex else y.detach().abs()
        scale = (size * self.rtol + self.atol).clamp(min=torch.finfo(y.dtype).tiny)
        # Where steps have a given length nobody shortens one whose stages are hard to solve.
        step = esdirk_step(problem.field, times, y, k, dt, tableau, scale=scale, is_patient=not self.estimates)
        known = step.increments.detach()
        error = weigh(tableau.error_weights, known) if self.estimates else None
        powers = to_powers(step.increments, tableau) if self.reads else None
        before, after = y.detach(), step.y1.detach()
        if self.is_complex:
            before, after = _moduli(before), _moduli(after)
        return Step(step.y1, step.k1, y, powers, error, before, after, step.is_converged, step.n_calls)


def make_stepper(
    tableau: ButcherTableau | EsdirkTableau,
    controller: Controller,
    *,
    dtype: torch.dtype,
    reads: bool,
    is_complex: bool,
) -> Stepper:
    """Give the stepper of a method; with fixed steps an implicit one solves its stages nearly to the rounding of `dtype`."""
    estimates = isinstance(controller, PIDController)
    if isinstance(tableau, ButcherTableau):
        return ExplicitStepper(tableau, reads, estimates, is_complex)
    if isinstance(controller, PIDController):
        rtol, atol = controller.rtol, controller.atol
    else:
        rtol = atol = 1e3 * torch.finfo(dtype).eps
    return ImplicitStepper(tableau, reads, estimates, is_complex, rtol, atol)


def _moduli(y: Tensor) -> Tensor:
    """Give the modulus of each complex number for both of its parts, `(B, D)`."""
    pairs = y.view(len(y), -1, 2)
    return torch.linalg.vector_norm(pairs, dim=-1, keepdim=True).expand_as(pairs).reshape_as(y)


def stage_times(
    problem: Problem, tau: Tensor, h: Tensor, c: tuple[float, ...], stop: Tensor | None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Give the times of the stages at `c`, `(B,)` each, and the signed step `(B, 1)` in the state's dtype."""
    signed = h if problem.is_forward else h * problem.direction
    start = problem.t0 + tau if problem.is_forward else torch.addcmul(problem.t0, problem.direction, tau)
    if torch.compiler.is_compiling():
        # One expression per stage, to be fused into what reads it.
        t = torch.stack([start + place * signed for place in c]).to(problem.y0.dtype)
    else:
        t = torch.addcmul(start, as_column(c, tau.dtype, tau.device), signed).to(problem.y0.dtype)
    if problem.t_carrier is not None:
        t = t + problem.t_carrier
    if stop is not None:
        t_end = problem.times(stop)
        inside = t_end + (torch.nextafter(t_end.detach(), problem.times(tau).detach()) - t_end.detach())
        t = torch.where((t == t_end) & (h > 0), inside, t)
    return t.unbind(0), signed.to(problem.y0.dtype).unsqueeze(1)


def weigh(weights: tuple[float, ...], increments: Tensor) -> Tensor:
    """Sum as many of the increments `(K, B, D)` as there are weights, `(B, D)`."""
    if torch.compiler.is_compiling():
        return chain_sum(weights, increments.unbind(0))
    n = len(weights)
    row = as_vector(weights, increments.dtype, increments.device)
    known = increments if len(increments) == n else increments[:n]
    return torch.mv(known.reshape(n, -1).t(), row).view(increments.shape[1:])
