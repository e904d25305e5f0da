"""The continuous adjoint: solve once without a record, then solve the state and its gradient together backward in time.

Chen, Rubanova, Bettencourt and Duvenaud (2018), Neural ordinary differential equations, equations 4 and 5: with `a = dL/dy` the pair

    dy/dt = f(t, y),    da/dt = -a^T df/dy

runs from the end to the start, and `dL/dtheta` is the integral of `a^T df/dtheta` along it. The state is recovered, not remembered:
memory is constant, and the gradient is as good as the recovery.

A query inside the solve adds its gradient at its own time. It does so without ending a step there: the state at the query is taken as
the cubic Hermite interpolant of the step that it falls into, whose weights spread the gradient over both ends of the step and, through
the slopes there, over the field.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from latentode.errors import InputError, SolveError

from .adjoints import Cotangents, Sums, Way, gradients, hide
from .control import PIDController
from .dense import interpolation_weights
from .loop import Options, Trajectory, integrate
from .problem import Problem
from .runge_kutta import ButcherTableau, Increments, Room, start_increments
from .status import STATUS, SUCCESS
from .steppers import ExplicitStepper, Step, Stepper, stage_times, weigh
from .tableaus import TABLEAUS


class DriftWarning(UserWarning):
    """The backward solve did not come back to where the forward solve began, so its gradient is not to be trusted."""


# Multiple of the tolerance by which the recovered start may miss the real one: errors of many steps add up, drift multiplies them.
_DRIFT = 100.0
# Multiple of the largest state on the way there beyond which the way back has lost it.
_WAY_OUT = 10.0
_STEPS_PER_LOOK = 8


@dataclass(frozen=True)
class Backsolve:
    """Approximate, in constant memory: accuracy is bought with `rtol` and `atol` of the backward solve.

    Attributes:
        rtol, atol: tolerances backward, as `PIDController` takes them; None: those of the forward solve. Tensors with one per component
            hold for the state and its gradient alike, the least of them for the parameters.
        seminorm: leave the gradient of the parameters, a mere integral, out of the error estimate (Kidger, Chen and Lyons 2021, "Hey,
            that's not an ODE"); with False it is in it, at the price of a second pull-back per stage.
        method: of the backward solve, an explicit one; None: that of the forward solve.
        max_steps: tries backward; None: that of the forward solve.
        norm: of the scaled error of `y` and of `a`, the greater of which counts; None: that of the forward solve.
        captured: the tensors besides `y0` and times that get a gradient; None: all that the field uses.
    """

    rtol: float | Tensor | None = None
    atol: float | Tensor | None = None
    seminorm: bool = True
    method: str | ButcherTableau | None = None
    max_steps: int | None = None
    norm: Callable[[Tensor], Tensor] | None = None
    captured: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        # The controller's own checks, now rather than in the middle of a training.
        PIDController(rtol=1e-3 if self.rtol is None else self.rtol, atol=1e-6 if self.atol is None else self.atol)
        if isinstance(self.method, str) and self.method not in TABLEAUS:
            raise InputError(
                f"there is no explicit method {self.method!r} to solve backward with; give one of {', '.join(TABLEAUS)}"
            )

    def integrate(self, problem: Problem, options: Options) -> Trajectory:
        """Solve `problem`."""
        self._tableau(options)
        return hide(problem, options, "backsolve", self._solve, only=self.captured)

    def _tableau(self, options: Options) -> ButcherTableau:
        if self.method is not None:
            return TABLEAUS[self.method] if isinstance(self.method, str) else self.method
        if not isinstance(options.stepper, ExplicitStepper):
            raise InputError(
                "adjoint='backsolve' solves backward by an explicit method, and this one is implicit; "
                "give adjoint=Backsolve(method='tsit5'), or adjoint='checkpointed' for an exact gradient"
            )
        return options.stepper.tableau

    def _solve(self, problem: Problem, options: Options, captured: list[Tensor]) -> tuple[Trajectory, Way]:
        reach = _Reach(_largest(problem.y0))
        trajectory = integrate(problem, replace(options, hooks=reach))
        y1, tau1, failed = trajectory.y1, trajectory.tau, trajectory.status != SUCCESS

        def way(cotangents: Cotangents, sums: Sums) -> Tensor:
            span = torch.where(failed, 0.0, torch.minimum(problem.span, tau1))
            stepper = _BackStepper(
                self._tableau(options), cotangents, problem, span, sums, captured, self._counts_parameters(options)
            )
            back = _reversed(problem, stepper, y1, cotangents.end, span)
            bounds = _WAY_OUT * torch.maximum(reach.largest, _largest(y1)) + self._noise(options)
            found = integrate(back, replace(self._options(options, stepper), hooks=_Watching(stepper, bounds)))
            if found.has_failed:
                raise SolveError(_describe(found))
            recovered, g_y0 = found.y1.chunk(2, 1)
            self._look_for_drift(problem, options, recovered, failed)
            return g_y0 + cotangents.start

        return trajectory, way

    def _counts_parameters(self, options: Options) -> PIDController | None:
        """Give the tolerances of the parameters' error, None where it does not count."""
        controller = self._options(options, None).controller
        return None if self.seminorm or not isinstance(controller, PIDController) else controller

    def _options(self, options: Options, stepper: _BackStepper | None) -> Options:
        controller = options.controller
        if isinstance(controller, PIDController):
            rtol, atol = self._tolerances(controller)
            size = replace(controller, norm=self.norm or controller.norm).size
            # The greater of the two, so that neither hides behind the other.
            controller = replace(
                controller,
                rtol=_for_both(rtol),
                atol=_for_both(atol),
                norm=lambda scaled: _greater(size, scaled, 0.0 if stepper is None else stepper.parameters_ratio),
                jump_times=None,
            )
        return Options(
            stepper,  # pyright: ignore[reportArgumentType]
            controller,
            dt0=None,
            max_steps=self.max_steps or options.max_steps,
            is_joint=options.is_joint,
            compacts=False,
        )

    def _tolerances(self, controller: PIDController) -> tuple[float | Tensor, float | Tensor]:
        """Give `rtol` and `atol` of the backward solve after a forward one under `controller`."""
        return controller.rtol if self.rtol is None else self.rtol, controller.atol if self.atol is None else self.atol

    def _noise(self, options: Options) -> float:
        """Give a size below which a state is nothing."""
        controller = options.controller
        atol = self._tolerances(controller)[1] if isinstance(controller, PIDController) else 1e-3
        return _DRIFT * float(torch.as_tensor(atol).max())

    def _look_for_drift(self, problem: Problem, options: Options, recovered: Tensor, failed: Tensor) -> None:
        controller = options.controller
        if not isinstance(controller, PIDController):
            controller = PIDController(rtol=1e-3, atol=1e-3)
        size = problem.y0.abs()
        rtol, atol = self._tolerances(controller)
        # Whichever solve was the coarser one.
        scale = torch.maximum(controller.atol + controller.rtol * size, atol + rtol * size)
        # Where atol is 0 and a component too, its scale is no yardstick: leave it out.
        scale = torch.where(scale > 0, scale, torch.inf)
        drift = torch.where(failed, 0.0, controller.size((recovered - problem.y0) / scale))
        # NaN counts as drift.
        is_off = ~(drift <= _DRIFT)
        if bool(is_off.any()):
            worst = int(torch.nan_to_num(drift, nan=torch.inf).argmax())
            warnings.warn(
                f"adjoint='backsolve' came back {float(drift[worst]):.3g} times the tolerance away from y0 (sample {worst}; "
                f"{int(is_off.sum())} samples beyond {_DRIFT:g} times): the gradient follows another trajectory; "
                "choose adjoint='checkpointed' or 'reversible', which are exact, or tighten Backsolve(rtol=, atol=)",
                DriftWarning,
                stacklevel=2,
            )


def _reversed(problem: Problem, stepper: _BackStepper, y1: Tensor, g_end: Tensor, span: Tensor) -> Problem:
    """Give the problem of state and gradient, from the end to the start."""

    def mirrored(times: Tensor | None) -> Tensor | None:
        if times is None:
            return None
        tau = span[:, None] - times
        return torch.where((tau >= 0) & (times > 0), tau, torch.inf).sort(1).values

    return replace(
        problem,
        field=lambda t, pair: stepper.pull(t, pair)[0],
        y0=torch.cat([y1, g_end], 1),
        t0=problem.t0 + problem.direction * span,
        direction=-problem.direction,
        is_forward=False,
        span=span,
        tau_eval=span[:, None],
        has_inner_queries=False,
        has_repeats=False,
        t_carrier=None,
        jumps=mirrored(problem.jumps),
        grid=mirrored(problem.grid),
        narrow=None,
    )


def _describe(found: Trajectory) -> str:
    first = int((found.status != SUCCESS).to(torch.int8).argmax())
    return (
        f"the backward solve of adjoint='backsolve' failed for {int((found.status != SUCCESS).sum())} samples: sample {first} "
        f"{STATUS[int(found.status[first])]} (after {int(found.n_accepted[first] + found.n_rejected[first])} steps, at a step of "
        f"{float(found.dt[first]):.3g}); choose adjoint='checkpointed' or 'reversible', whose gradients need no second solution"
    )


def _for_both(tolerance: float | Tensor) -> float | Tensor:
    """Give a tolerance of the state for state and gradient side by side."""
    is_per_component = isinstance(tolerance, Tensor) and tolerance.ndim > 0 and tolerance.shape[-1] > 1
    return torch.cat([tolerance, tolerance], -1) if is_per_component else tolerance  # pyright: ignore[reportArgumentType, reportCallIssue]


def _greater(size: Callable[[Tensor], Tensor], scaled: Tensor, parameters_ratio: float) -> Tensor:
    """Give the greatest of the norms of state and gradient, `(B,)`, and of the parameters' error, which all samples share."""
    y, a = scaled.chunk(2, 1)
    return torch.maximum(size(y), size(a)).clamp(min=parameters_ratio)


@dataclass
class _Spread:
    """Gradients of the queries inside a step, as those of the states and of the slopes at its ends, `(B, D)` each."""

    g_start: Tensor
    k_start: Tensor
    g_end: Tensor
    k_end: Tensor


def middle_weights(rows: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
    """Give the weight of each increment at the middle of a step."""
    return tuple(sum(c * 0.5 ** (j + 1) for j, c in enumerate(row)) for row in rows)


@dataclass
class _BackStepper(Stepper):
    """A step of state and gradient, side by side in `(B, 2 D)`, that adds up the gradients of all else on its way.

    The pull-back of a stage gives the slope of `a` row by row, and the gradient of the parameters as a sum over the rows. If each row goes
    in with its own weight `w = -dt b`, the sum is that stage's share of the integral, and the slope is what comes out over `w`: one
    pull-back serves both. Shares count once their step is accepted; where only some rows are, they are taken anew for these.

    Attributes:
        tableau: an explicit method.
        cotangents: gradients of the queries; those between the ends are let in on the way.
        forward: the problem that was solved.
        span: how far, `(B,)`.
        sums: where the shares go.
        captured: what has a share.
        controller: tolerances of the parameters' error; None: it does not count.
        left: the inner queries that are still to be let in, `(B, Q)`.
        inside: those in the step at hand.
        parameters_ratio: error of the parameters in the step at hand as a multiple of the tolerance, 0 where it does not count.
        shares: of the stages of the step at hand.
        query_shares: of the queries in it; exact, so that they are no part of its error.
    """

    tableau: ButcherTableau
    cotangents: Cotangents
    forward: Problem
    span: Tensor
    sums: Sums
    captured: list[Tensor]
    controller: PIDController | None
    room: Room = field(default_factory=Room)
    shares: list[tuple[Tensor | None, list[Tensor | None]]] = field(default_factory=list)
    query_shares: list[tuple[Tensor | None, list[Tensor | None]]] = field(default_factory=list)
    left: Tensor = field(init=False)
    inside: Tensor | None = None
    parameters_ratio: float = 0.0
    has_inner: bool = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.cotangents.inner
        self.has_inner = bool(self.left.any())

    @property
    def order(self) -> int:
        """Order of the step."""
        return self.tableau.order

    @property
    def sees_last_slope(self) -> bool:
        """Whether the slope at the end is in the estimate."""
        return self.tableau.is_fsal

    @property
    def calls_per_step(self) -> int:
        """Calls of the field that every step takes."""
        return self.tableau.n_stages

    def slope(self, problem: Problem, t: Tensor, y: Tensor) -> Tensor:
        """Give the slopes of state and gradient; only the guess of the first step reads them."""
        return self.pull(t, y)[0]

    def step(self, problem: Problem, tau: Tensor, h: Tensor, y: Tensor, k: Tensor, stop: Tensor | None) -> Step:
        """Take a step."""
        tableau = self.tableau
        self.at_hand = (problem, tau, h, y, stop)
        y1, k1, increments = self._walk(*self.at_hand, tableau.b)
        error = None if tableau.b_hat is None else weigh(tableau.error_weights, increments)
        if error is not None and self.inside is not None:
            error = self._with_error_between(error, increments)
        if error is not None and self.controller is not None:
            self.parameters_ratio = self._error_of_parameters(self.controller)
        return Step(y1, k1, y, None, error, y, y1)

    def count(self, accepted: Tensor) -> None:
        """Count the shares of the step at hand, for the rows that were accepted."""
        if not bool(accepted.all()):
            self._walk(*self.at_hand, self.tableau.b, accepted)
        for share in (*self.shares, *self.query_shares):
            self.sums.add(*share)
        if self.inside is not None:
            self.left = self.left & ~(self.inside & accepted[:, None])
            self.has_inner = bool(self.left.any())

    def _with_error_between(self, error: Tensor, increments: Tensor) -> Tensor:
        """Let the error of the cubic in the middle count, too, where queries are taken from it.

        It is measured by the method's own interpolant, of a higher order: without this the gradients of queries would be worse than
        the tolerance promises, the steps of a method of order 5 being long for a cubic.
        """
        if self.tableau.dense is None or self.tableau.dense_c:
            return error
        assert self.inside is not None
        own = middle_weights(interpolation_weights(self.tableau))  # pyright: ignore[reportArgumentType]
        cubic = middle_weights(interpolation_weights(replace(self.tableau, dense=None)))  # pyright: ignore[reportArgumentType]
        n = len(increments)
        y_increments = increments[..., : error.shape[1] // 2]
        gap = weigh(tuple(a - b for a, b in zip(own[:n], cubic[:n], strict=True)), y_increments)
        gap = torch.where(self.inside.any(1, keepdim=True), gap, 0.0)
        y_error, a_error = error.chunk(2, 1)
        return torch.cat([torch.maximum(y_error.abs(), gap.abs()), a_error], 1)

    def _error_of_parameters(self, controller: PIDController) -> float:
        """Give the error of the parameters' integral over this step as a multiple of the tolerance."""
        kept = self.shares, self.query_shares, self.inside
        self._walk(*self.at_hand, self.tableau.error_weights)
        estimate, totals = Sums(None, [None] * len(self.captured)), Sums(None, self.sums.captured)
        for _, captured in self.shares:
            estimate.add(None, captured)
        self.shares, self.query_shares, self.inside = kept
        for _, captured in self.shares:
            totals.add(None, captured)
        rtol, atol = (float(torch.as_tensor(x).min()) for x in (controller.rtol, controller.atol))
        ratios = []
        for error, total in zip(estimate.captured, totals.captured, strict=True):
            if error is not None:
                # With atol = 0 a gradient that stays 0 would be 0 / 0.
                scale = atol + rtol * (torch.zeros_like(error) if total is None else total.abs())
                ratios.append((error / torch.where(scale > 0, scale, torch.inf)).flatten())
        return (
            float(torch.linalg.vector_norm(torch.cat(ratios))) / max(sum(map(len, ratios)), 1) ** 0.5 if ratios else 0.0
        )

    def _walk(
        self,
        problem: Problem,
        tau: Tensor,
        h: Tensor,
        y: Tensor,
        stop: Tensor | None,
        share_of: tuple[float, ...],
        counted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Go through the stages, whose shares weigh `share_of`, of the rows that are `counted` (None: all)."""
        tableau = self.tableau
        times, dt = stage_times(problem, tau, h, (*tableau.c, 1.0), stop)
        if problem.jumps is not None:
            times = (problem.times_after(tau), *times[1:])
        self.shares, self.query_shares, self.inside = [], [], None
        spread = self._spread(tau, h, dt) if self.has_inner else None
        weight = -dt if counted is None else torch.where(counted[:, None], -dt, 0.0)
        if spread is not None:
            y = self.let_in(times[0], y, spread.g_start, spread.k_start, counted)
        k, share = self.pull(times[0], y, weight * share_of[0])
        sums: Increments = start_increments(tableau.n_stages, y, k, dt, self.room)
        self.shares.append(share)
        for i in range(1, tableau.n_stages):
            k, share = self.pull(times[i], sums.add_to(y, tableau.a[i]), weight * share_of[i])
            self.shares.append(share)
            sums = sums.append(k, dt)
        y1 = sums.add_to(y, tableau.b)
        if spread is not None:
            y1 = self.let_in(times[-1], y1, spread.g_end, spread.k_end, counted)
        return y1, k, sums.stacked()

    def pull(
        self, t: Tensor, state: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor | None, list[Tensor | None]]]:
        """Give the slopes of state and gradient, `(B, 2 D)`, and the shares of everything else with `weight` `(B, 1)`."""
        y, a = state.chunk(2, 1)
        slope, leaf, carrier = self._call(t, y)
        if weight is None:
            found = gradients([slope], [a], leaf, None, [])
        else:
            # A row without weight has no share; its slope is asked for all the same.
            found = gradients(
                [slope], [a * torch.where(weight == 0.0, 1.0, weight)], leaf, carrier, self.captured, keep=True
            )
            if self.captured or carrier is not None:
                is_void = weight == 0.0
                if bool(is_void.any()):
                    shares = gradients([slope], [a * weight], leaf, carrier, self.captured, keep=True)
                    found = (found[0], *shares[1:])
        g_y = found[0]
        if g_y is None:
            g_y = torch.zeros_like(y)
        elif weight is not None:
            g_y = g_y / torch.where(weight == 0.0, 1.0, weight)
        return torch.cat([slope.detach(), -g_y], 1), (found[1], found[2])

    def let_in(self, t: Tensor, state: Tensor, g_y: Tensor, g_slope: Tensor, counted: Tensor | None) -> Tensor:
        """Add gradients of a state, and of the slope there, to the gradient that is under way."""
        y, a = state.chunk(2, 1)
        slope, leaf, carrier = self._call(t, y)
        found = gradients([slope], [g_slope], leaf, carrier, self.captured, keep=True)
        a = a + g_y if found[0] is None else a + g_y + found[0]
        if counted is not None:
            rows = torch.where(counted[:, None], g_slope, 0.0)
            found = gradients([slope], [rows], leaf, carrier, self.captured, keep=True)
        self.query_shares.append((found[1], found[2]))
        return torch.cat([y, a], 1)

    def _call(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Call the field under autograd's eye; gives the slope, the state and the shift of time that it hangs on."""
        carrier = None if self.sums.t0 is None else torch.zeros_like(self.sums.t0).requires_grad_()
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            slope = self.forward.field(t if carrier is None else t + carrier, leaf)
        return slope, leaf, carrier

    def _spread(self, tau: Tensor, h: Tensor, dt: Tensor) -> _Spread | None:
        """Spread the gradients of the queries inside a step over its ends (the weights of the cubic Hermite interpolant)."""
        at = self.span[:, None] - self.cotangents.tau
        # Which queries are left, not where the last step has ended, tells what is new: two roundings may differ.
        inside = self.left & (at <= (tau + h)[:, None])
        if not bool(inside.any()):
            return None
        self.inside = inside
        s = ((at - tau[:, None]) / torch.where(h > 0, h, 1.0)[:, None]).clamp(0.0, 1.0).to(dt)
        basis = ((1 + 2 * s) * (1 - s) ** 2, s * (1 - s) ** 2, s**2 * (3 - 2 * s), s**2 * (s - 1))
        weights = torch.stack([torch.where(inside, part, 0.0) for part in basis], 1)
        g_start, k_start, g_end, k_end = torch.bmm(weights, self.cotangents.each).unbind(1)
        return _Spread(g_start, k_start * dt, g_end, k_end * dt)


def _largest(y: Tensor) -> Tensor:
    """Give the size of the largest component of each state, `(B,)`; 0 where it has none."""
    return y.detach().abs().amax(1) if y.shape[1] else y.new_zeros(len(y))


@dataclass
class _Reach:
    """Notes, `(B,)`, how large the states of the forward solve become."""

    largest: Tensor

    def step(self, problem: Problem, tau: Tensor, y: Tensor, h: Tensor) -> None:
        """See a step before it is tried."""
        self.largest = torch.maximum(self.largest, _largest(y))

    def judged(self, problem: Problem, tau: Tensor, y: Tensor, h: Tensor, accepted: Tensor) -> None:
        """Nothing."""


@dataclass
class _Watching:
    """Tells the stepper which of its steps stand, and stops a solve that goes where the forward one never was.

    A field that is stable forward in time is unstable backward. Where the state that is recovered runs off to infinity its steps become
    ever shorter: without this a solve of seconds would end after hours.

    Attributes:
        stepper: of the backward solve.
        bounds: of the largest component of each sample's state, `(B,)`.
        n: steps seen.
    """

    stepper: _BackStepper
    bounds: Tensor
    n: int = 0

    def step(self, problem: Problem, tau: Tensor, y: Tensor, h: Tensor) -> None:
        """Look every few steps how large the state has become."""
        self.n += 1
        if self.n % _STEPS_PER_LOOK:
            return
        size = _largest(y.chunk(2, 1)[0])
        is_out = size > self.bounds
        if bool(is_out.any()):
            first = int(is_out.to(torch.int8).argmax())
            raise SolveError(
                f"the backward solve of adjoint='backsolve' has lost the way for {int(is_out.sum())} samples: sample {first} has "
                f"reached {float(size[first]):.3g} at t = {float(problem.times(tau)[first]):.9g}, over {_WAY_OUT:g} times as far as the "
                "forward solve; the field is unstable backward in time: choose adjoint='checkpointed' or 'reversible', which are exact"
            )

    def judged(self, problem: Problem, tau: Tensor, y: Tensor, h: Tensor, accepted: Tensor) -> None:
        """Count what stands."""
        self.stepper.count(accepted)
