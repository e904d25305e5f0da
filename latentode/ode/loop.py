"""The masked loop: every sample steps on its own clock until it has passed its last query.

A sample's clock `tau` runs from 0 at `t0` up to its `span`, in float64 (float32 where the device has no float64), whatever the
state's dtype: `t = t0 + direction * tau`. A sample that is done, or has failed, rests: its clock stands at its span, so its
next step has length 0 and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .control import Controller, FixedStep, PIDController, initial_step
from .dense import Steps
from .runge_kutta import ButcherTableau, Field, rk_step

SUCCESS, MAX_STEPS, STEP_TOO_SMALL, NOT_FINITE = range(4)

# Steps that are kept before the queries inside them are read off: many share one set of calls, but their stages take memory.
_STEPS_PER_READING = 64


@dataclass(frozen=True)
class Problem:
    """An initial value problem on the clock, all samples in one flat state.

    Attributes:
        field: `field(t_B, y_BD) -> (B, D)`, with `t` in the state's dtype.
        y0: `(B, D)`.
        t0: `(B,)`, detached, in the clock's dtype.
        direction: +1 or -1, `(B,)`.
        span: length of the solve, `(B,)`.
        tau_eval: clock times of the queries, `(B, Q)`, ascending; differentiable.
        t_carrier: zero with the gradient of `t0`, `(B,)`, or None: steps are constants, so `t0` reaches `f` through it alone.
        jumps: clock times where the field jumps, from 0 on, padded with infinity, `(B, J)`, or None.
        grid: clock times of a fixed grid, ascending, `(B, G)`, or None.
    """

    field: Field
    y0: Tensor
    t0: Tensor
    direction: Tensor
    span: Tensor
    tau_eval: Tensor
    t_carrier: Tensor | None = None
    jumps: Tensor | None = None
    grid: Tensor | None = None

    def times(self, tau: Tensor) -> Tensor:
        """Turn clock times `(..., B)` into the field's times."""
        t = torch.addcmul(self.t0, self.direction, tau).to(self.y0.dtype)
        return t if self.t_carrier is None else t + self.t_carrier


@dataclass(frozen=True)
class Options:
    """How to solve a `Problem`: what `solve` was told, checked."""

    tableau: ButcherTableau
    controller: Controller
    dt0: float | None
    max_steps: int
    is_joint: bool
    keep_steps: bool


@dataclass
class Trajectory:
    """What came of a `Problem`.

    Attributes:
        ys: states at the queries, `(B, Q, D)`.
        steps: the interpolants, where they were to be kept.
        n_steps, n_rejected, nfe: counts, `(B,)` int64.
        status: SUCCESS or how a sample failed, `(B,)` int64.
        tau, dt: the clock and the step at which it failed, `(B,)`.
    """

    ys: Tensor
    steps: Steps | None
    n_steps: Tensor
    n_rejected: Tensor
    nfe: Tensor
    status: Tensor
    tau: Tensor
    dt: Tensor


def integrate(problem: Problem, options: Options) -> Trajectory:
    """Solve `problem`: step, judge, keep, until every sample has passed its last query or failed.

    One synchronisation with the device per step. Step sizes and decisions are constants to autograd.
    """
    tableau, controller = options.tableau, options.controller
    is_adaptive = isinstance(controller, PIDController)
    y, span = problem.y0, problem.span.clone()
    tau = torch.zeros_like(span)
    status = torch.full_like(span, SUCCESS, dtype=torch.int64)
    n_steps, n_rejected, nfe = torch.zeros_like(status), torch.zeros_like(status), torch.zeros_like(status)
    c = tau.new_tensor((*tableau.c, 1.0))[:, None]
    steps, writer = Steps([], [], [], []), QueryWriter(problem.tau_eval, y)
    n_left = int((span > 0).sum()) if span.numel() else 0
    if n_left == 0:
        return Trajectory(writer.at_rest(), steps, n_steps, n_rejected, nfe, status, tau, tau)

    k = problem.field(_time_at_start(problem), y)
    nfe += span > 0
    with torch.no_grad():
        is_bad = ~(k.isfinite().all(-1) & y.isfinite().all(-1)) & (span > 0)
        dt, n_guesses = _first_step(problem, options, k)
        nfe += n_guesses * (span > 0)
        status[is_bad], span[is_bad] = NOT_FINITE, 0.0
        n_left, n_started = int((span > 0).sum()), n_left
    if n_left and n_left < n_started:
        # NaN must not stay in the graph (its zero cotangent times NaN is NaN): a failed sample rests where a healthy one starts.
        healthy = (span > 0).to(torch.int8).argmax()
        problem = replace(problem, t0=torch.where(is_bad, problem.t0[healthy], problem.t0))
        y = torch.where(is_bad[:, None], y[healthy], y)
        k = problem.field(_time_at_start(problem), y)
    failed_dt, memory, i_step = dt, None, 0
    is_resting = span <= 0

    while n_left and i_step < options.max_steps:
        with torch.no_grad():
            stop = span if problem.jumps is None else _next_stop(problem.jumps, tau, span)
            rest = stop - tau
            # Where the step reaches the stop the clock is set to it: a sum might fall one rounding short.
            tau1 = torch.where(dt < rest, tau + dt, stop)
            h = torch.minimum(dt, rest)
        near_side = stop if problem.jumps is not None else None
        y1, k1, increments = _step(problem, tau, h, y, k, c, tableau, near_side)
        i_step += 1
        with torch.no_grad():
            own_ratio = ratio = _error_ratio(controller, tableau, increments, y, y1, k1)
            if options.is_joint:
                ratio = ratio.where(~is_resting, 0.0).amax().expand_as(ratio)
            # A finished or failed sample has nothing to reject (its stages may be NaN).
            accepted = (ratio <= 1.0).logical_or_(is_resting)
            tau1 = torch.where(accepted, tau1, tau)
            was_resting, is_resting = is_resting, tau1 >= span
            marks = [accepted, is_resting, own_ratio < torch.inf]
            if problem.jumps is not None:
                at_jump = (tau1 == stop) & (tau1 > tau) & (stop < span)
                marks.append(at_jump)
            # The one synchronisation.
            n_accepted, n_resting, n_finite, *n_at_jump = torch.stack(marks).sum(1).tolist()

        if n_finite < len(span):
            # NaN must not stay in the graph: the same step again, with length 0 where it went wild.
            is_wild = ~(own_ratio < torch.inf) & ~was_resting
            y1, k1, increments = _step(problem, tau, torch.where(is_wild, 0.0, h), y, k, c, tableau, near_side)
            nfe += is_wild * tableau.calls_per_step
        if n_accepted < len(span):
            y1, k1 = torch.where(accepted[:, None], y1, y), torch.where(accepted[:, None], k1, k)
            with torch.no_grad():
                n_rejected += ~accepted
                stuck = _find_stuck(problem, controller, tau, h, own_ratio) & ~accepted
                status = torch.where(stuck, torch.where(own_ratio < torch.inf, STEP_TOO_SMALL, NOT_FINITE), status)
                failed_dt = torch.where(stuck, h, failed_dt)
                n_steps = torch.where(stuck, i_step, n_steps)
                # From here on it rests. The count of this step does not know; at worst that costs one step of length 0.
                span = torch.where(stuck, tau, span)
                is_resting = is_resting | stuck

        steps.starts.append(tau)
        steps.ends.append(tau1)
        steps.states.append(y)
        steps.increments.append(increments)
        n_left_now = len(span) - n_resting
        with torch.no_grad():
            if n_left_now < n_left:
                n_steps = torch.where((tau < span) & is_resting, i_step, n_steps)
            if is_adaptive:
                dt_next, memory = controller.next_step(h, ratio, accepted, memory, tableau.order)
                if options.is_joint:
                    dt_next = dt_next.where(~is_resting, 0.0).amax().expand_as(dt_next)
                if problem.jumps is not None:
                    # A step that was cut by a jump says little about the step after it.
                    dt_next = torch.where(accepted & (h < dt), torch.maximum(dt, dt_next), dt_next)
                # Finished samples keep their last step: growing from 0 is no growth.
                dt = dt_next if n_resting == 0 else torch.where(is_resting, dt, dt_next)
            else:
                dt = controller.step_after(i_step, tau1, problem.grid, span)
        if any(n_at_jump):
            t = _beyond(problem, problem.times(tau1))
            k1 = torch.where(at_jump[:, None], problem.field(torch.where(at_jump, t, problem.times(tau1)), y1), k1)
            nfe += at_jump
        tau, y, k, n_left = tau1, y1, k1, n_left_now
        # Not after the last step: the last reading also takes what is left over, and needs a step to find it in.
        if len(steps.ends) >= _STEPS_PER_READING and not options.keep_steps and n_left and i_step < options.max_steps:
            writer.read(steps, tableau, is_last=False)
            steps.clear()

    if n_left:
        with torch.no_grad():
            is_late = tau < span
            status = torch.where(is_late, MAX_STEPS, status)
            n_steps, failed_dt = torch.where(is_late, i_step, n_steps), torch.where(is_late, dt, failed_dt)
    nfe = nfe + n_steps * tableau.calls_per_step
    writer.read(steps, tableau, is_last=True)
    ys = writer.collect(status != SUCCESS)
    return Trajectory(ys, steps, n_steps, n_rejected, nfe, status, tau, failed_dt)


def _first_step(problem: Problem, options: Options, k0: Tensor) -> tuple[Tensor, int]:
    """Give the first step `(B,)` and how many calls of the field the guess took."""
    controller, span = options.controller, problem.span
    if isinstance(controller, FixedStep):
        return controller.first_step(problem.grid, span), 0
    if options.dt0 is not None:
        dt, n_calls = torch.full_like(span, options.dt0), 0
    else:
        args = (problem.field, problem.t0, problem.y0, k0, span, problem.direction, options.tableau.order, controller)
        dt, n_calls = initial_step(*args), 1
    if controller.dtmax is not None:
        dt = dt.clamp(max=controller.dtmax)
    if controller.dtmin is not None:
        dt = dt.clamp(min=controller.dtmin)
    # A guess of 0 (an infinite slope nearby) would never move.
    dt = torch.where(dt > 0, dt, 1e-6 * span)
    if options.is_joint:
        dt = torch.where(span > 0, dt, torch.inf).amin().expand_as(dt)
    return dt, n_calls


def _step(
    problem: Problem,
    tau: Tensor,
    h: Tensor,
    y: Tensor,
    k: Tensor,
    c: Tensor,
    tableau: ButcherTableau,
    stop: Tensor | None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Take one step of length `h` `(B,)` from clock `tau`; with `stop`, its last stages see the near side of a jump there."""
    t_stages = problem.times(torch.addcmul(tau, c, h))
    if stop is not None:
        t_end = problem.times(stop)
        inside = t_end + (torch.nextafter(t_end.detach(), problem.times(tau).detach()) - t_end.detach())
        t_stages = torch.where((t_stages == t_end) & (h > 0), inside, t_stages)
    dt = (h * problem.direction).to(y.dtype)[:, None]
    return rk_step(problem.field, t_stages.unbind(0), y, k, dt, tableau)


def _error_ratio(
    controller: Controller, tableau: ButcherTableau, increments: list[Tensor], y0: Tensor, y1: Tensor, k1: Tensor
) -> Tensor:
    """Give the error of a step as a multiple of the tolerance, `(B,)`; NaN or infinite where the step ran into NaN or infinity."""
    if isinstance(controller, FixedStep):
        # Whatever is finite stands. The slope at the end counts: the interpolant and the next step start from it.
        return torch.where(y1.isfinite().all(-1) & k1.isfinite().all(-1), 0.0, torch.inf)
    ratio = controller.error_ratio(increments, y0, y1, tableau)
    # Without first-same-as-last the estimate knows nothing of that slope.
    return ratio if tableau.is_fsal else torch.where(k1.isfinite().all(-1), ratio, torch.inf)


def _find_stuck(problem: Problem, controller: Controller, tau: Tensor, h: Tensor, own_ratio: Tensor) -> Tensor:
    """Tell which samples, if rejected, can go no further: their own error is too large on a step as short as time resolves."""
    is_to_blame = ~(own_ratio <= 1.0)
    if isinstance(controller, FixedStep):
        return is_to_blame
    resolution = 8 * torch.finfo(tau.dtype).eps * (problem.t0.abs() + tau)
    shortest = torch.maximum(resolution, 1e-20 * problem.span)
    if controller.dtmin is not None:
        shortest = shortest.clamp(min=controller.dtmin)
    return is_to_blame & (h <= shortest)


def _time_at_start(problem: Problem) -> Tensor:
    """Give the field's time at the start, on the far side of a jump there, `(B,)`."""
    t = problem.times(torch.zeros_like(problem.span))
    if problem.jumps is None:
        return t
    return torch.where((problem.jumps == 0.0).any(1), _beyond(problem, t), t)


def _beyond(problem: Problem, t: Tensor) -> Tensor:
    """Give the next time that floating point knows, in the direction of the solve, `(B,)`."""
    return t + (torch.nextafter(t.detach(), problem.direction.to(t) * torch.inf) - t.detach())


def _next_stop(jumps: Tensor, tau: Tensor, span: Tensor) -> Tensor:
    """Give the clock of the next jump, or the span if there is none before it."""
    return torch.minimum(torch.where(jumps > tau[:, None], jumps, torch.inf).amin(1), span)


class QueryWriter:
    """Collects the states at the queries, read off the interpolants in a few large pieces.

    Writing into one `(B, Q, D)` output at every step would cost the whole output per step, forward and backward.
    """

    def __init__(self, tau_eval: Tensor, y0: Tensor) -> None:
        self.tau_eval = tau_eval
        self.y0 = y0
        self.read_up_to = torch.full_like(tau_eval[:, 0].detach(), -1.0)
        self.pieces: list[Tensor] = []
        self.places: list[Tensor] = []

    def at_rest(self) -> Tensor:
        """Give the output where no sample has anything to solve."""
        return self.y0[:, None].expand(-1, self.tau_eval.shape[1], -1)

    def read(self, steps: Steps, tableau: ButcherTableau, *, is_last: bool) -> None:
        """Read the queries that `steps` have passed; the last time, all that are left (a failed sample's are void)."""
        if not steps.ends:
            return
        tau = self.tau_eval.detach()
        is_due = tau > self.read_up_to[:, None]
        if not is_last:
            # A sample that has not moved keeps even its query at the start for later.
            has_moved = (steps.ends[-1] > 0)[:, None]
            is_due &= (tau <= steps.ends[-1][:, None]) & has_moved
            self.read_up_to = torch.where(has_moved[:, 0], steps.ends[-1], self.read_up_to)
        if is_last and not self.places:
            place = torch.arange(tau.numel(), device=tau.device)
        else:
            place = is_due.flatten().nonzero()[:, 0]
        if len(place) == 0:
            return
        self.places.append(place)
        sample = torch.div(place, tau.shape[1], rounding_mode="floor")
        self.pieces.append(steps.evaluate(self.tau_eval.flatten().index_select(0, place), sample, tableau))

    def collect(self, failed: Tensor) -> Tensor:
        """Give the states at all queries, `(B, Q, D)`, NaN for the samples that failed."""
        n_samples, n_queries = self.tau_eval.shape
        if not self.pieces:
            ys = self.at_rest()
        elif len(self.pieces) == 1:
            ys = self.pieces[0].view(n_samples, n_queries, -1)
        else:
            places = torch.cat(self.places)
            where = torch.empty_like(places).scatter_(0, places, torch.arange(len(places), device=places.device))
            ys = torch.cat(self.pieces).index_select(0, where).view(n_samples, n_queries, -1)
        return torch.where(failed[:, None, None], torch.nan, ys) if bool(failed.any()) else ys
