"""The masked loop: every sample steps on its own clock until it has passed its last query.

A sample that is done, or has failed, rests: its clock stands at its span, so its next step has length 0 and changes nothing. When
many rest, the others go on in a smaller batch.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .control import Controller, FixedStep, Memory, PIDController, initial_step
from .dense import Steps
from .problem import Problem
from .queries import QueryWriter
from .record import Record
from .runge_kutta import Field, as_scalar
from .status import MAX_STEPS, NOT_CONVERGED, NOT_FINITE, STEP_TOO_SMALL, SUCCESS
from .steppers import Step, Stepper
from .transforms import any_of, bare, is_any, is_transformed
from .watching import Hooks, Sightings, Watch

# Memory that the steps may take, in elements, before the queries inside them are read off; many steps share one set of calls.
_ELEMENTS_PER_READING = 1 << 23
_STEPS_PER_READING = 64
# A smaller batch is worth the change where this part of the samples rests, this many do, and the state is large enough for
# arithmetic rather than the number of operations to be what a step costs.
_RESTING_PART, _RESTING_ROWS, _WORTH_ELEMENTS = 0.25, 8, 4096
_STEPS_PER_LOOK = 4


@dataclass(frozen=True)
class Options:
    """How to solve a `Problem`: what `solve` was told, checked.

    Attributes:
        stepper: the method.
        controller: of the step size.
        dt0: first step, or None for a guess.
        max_steps: tries per sample.
        is_joint: one step for all samples.
        keep_steps: keep all interpolants.
        keep_slopes: read the slopes at the queries, too.
        record: keeps what the way back needs.
        compacts: whether samples that rest may leave the batch.
        hooks, watch: see the steps.
        compiles: whether to go through `torch.compile`.
        records: whether autograd is on; filled in by `integrate`.
    """

    stepper: Stepper
    controller: Controller
    dt0: float | None
    max_steps: int
    is_joint: bool
    keep_steps: bool = False
    keep_slopes: bool = False
    record: Record | None = None
    compacts: bool = True
    hooks: Hooks | None = None
    watch: Watch | None = None
    compiles: bool = False
    records: bool = True

    @property
    def is_adaptive(self) -> bool:
        """Whether the error decides about the steps."""
        return isinstance(self.controller, PIDController)


@dataclass
class Trajectory:
    """What came of a `Problem`.

    Attributes:
        ys: states at the queries, `(B, Q, D)`.
        steps: the interpolants, where they were to be kept.
        slopes: the interpolants' slopes there, per unit of the clock, `(B, Q, D)`, where they were to be kept.
        y1: the loop's state at the end, `(B, ...)`.
        n_accepted, n_rejected, nfe: counts, `(B,)` int64.
        n_tried: steps of the loop.
        status: SUCCESS or how a sample failed, `(B,)` int64.
        has_failed: whether any sample has.
        tau, dt: the clock and the step at the end, or where it failed, `(B,)`.
        sightings: the events that were found, where any were looked for.
        end, y_end: the clock `(B,)`, infinite where none came, and the state `(B, D)` of the event that ended a sample.
    """

    ys: Tensor
    steps: Steps
    slopes: Tensor | None
    y1: Tensor
    n_accepted: Tensor
    n_rejected: Tensor
    nfe: Tensor
    n_tried: int
    status: Tensor
    has_failed: bool
    tau: Tensor
    dt: Tensor
    sightings: Sightings | None = None
    end: Tensor | None = None
    y_end: Tensor | None = None

    def first(self, n: int) -> Trajectory:
        """Give what came of the first `n` samples."""
        names = ("ys", "y1", "n_accepted", "n_rejected", "nfe", "status", "tau", "dt")
        slopes = None if self.slopes is None else self.slopes[:n]
        return replace(
            self, slopes=slopes, steps=self.steps.first(n), **{name: getattr(self, name)[:n] for name in names}
        )


@dataclass
class March:
    """Where a batch stands on its way; `(B,)` or `(B, D)` each.

    Attributes:
        y, k: state and slope.
        tau, span: the clock and where it ends.
        dt: the next step.
        done: whether the sample rests.
        status, failed_dt: how it failed, and at which step.
        n_accepted, n_rejected, nfe: counts.
        memory: error ratios of the steps before.
        i_step: steps tried.
        may_have_failed: whether `status` is worth a look.
        accepted, resting: what was decided in the steps that are not counted yet.
    """

    y: Tensor
    k: Tensor
    tau: Tensor
    span: Tensor
    dt: Tensor
    done: Tensor
    status: Tensor
    failed_dt: Tensor
    n_accepted: Tensor
    n_rejected: Tensor
    nfe: Tensor
    memory: Memory | None = None
    i_step: int = 0
    may_have_failed: bool = False
    accepted: list[Tensor] = field(default_factory=list)
    resting: list[Tensor] = field(default_factory=list)

    def count(self, calls_per_step: int) -> None:
        """Add the steps since the last count to the counters."""
        if not self.accepted:
            return
        accepted, running = torch.stack(self.accepted), ~torch.stack(self.resting)
        self.n_accepted = self.n_accepted + (accepted & running).sum(0)
        self.n_rejected = self.n_rejected + (~accepted & running).sum(0)
        self.nfe = self.nfe + running.sum(0) * calls_per_step
        self.accepted.clear()
        self.resting.clear()

    def rows(self, chosen: Tensor) -> March:
        """Give some of the samples, chosen by index."""
        names = ("y", "k", "tau", "span", "dt", "done", "status", "failed_dt", "n_accepted", "n_rejected", "nfe")
        parts = {name: getattr(self, name).index_select(0, chosen) for name in names}
        memory = None if self.memory is None else (self.memory[0][chosen], self.memory[1][chosen])
        return replace(self, **parts, memory=memory, accepted=[], resting=[])

    def put(self, chosen: Tensor, part: March) -> None:
        """Put some of the samples back."""
        names = ("y", "tau", "span", "dt", "done", "status", "failed_dt", "n_accepted", "n_rejected", "nfe")
        for name in names:
            setattr(self, name, getattr(self, name).index_copy(0, chosen, getattr(part, name)))


def integrate(problem: Problem, options: Options) -> Trajectory:
    """Solve `problem`: step, judge, keep, until every sample has passed its last query or failed.

    One synchronisation with the device per step. Step sizes and decisions are constants to autograd.
    """
    options = replace(options, records=torch.is_grad_enabled(), compacts=options.compacts and not is_transformed())
    march, problem, is_running = _set_out(problem, options)
    steps = Steps.none()
    writer = QueryWriter(problem, options.keep_slopes)
    if is_running:
        with torch.no_grad():
            _march(problem, options, march, writer, steps)
    trajectory = finish(march, writer, steps, options)
    return trajectory if options.watch is None else replace(trajectory, sightings=options.watch.sightings(problem))


def finish(march: March, writer: QueryWriter, steps: Steps, options: Options) -> Trajectory:
    """Put together what came of a march that has ended."""
    failed = march.status != SUCCESS if march.may_have_failed else None
    has_failed = failed is not None and is_any(failed)
    return Trajectory(
        ys=writer.collect(options.stepper.end(march.y), failed if has_failed else None),
        steps=steps,
        slopes=writer.slopes() if options.keep_slopes else None,
        y1=march.y,
        n_accepted=march.n_accepted,
        n_rejected=march.n_rejected,
        nfe=march.nfe,
        n_tried=march.i_step,
        status=march.status,
        has_failed=has_failed,
        tau=march.tau,
        dt=march.failed_dt,
    )


def _set_out(problem: Problem, options: Options) -> tuple[March, Problem, bool]:
    """Take the slope at the start, guess the first step, and lay those to rest that cannot start; tells whether any is left to run."""
    stepper, span = options.stepper, problem.span
    y = stepper.start(problem.y0)
    k = stepper.slope(problem, problem.time_at_start(), y)
    with torch.no_grad():
        done = span <= 0
        dt, n_guesses = first_step(problem, options, k)
        zero = as_scalar(0.0, y)
        is_bad = torch.addcmul(problem.y0 * zero, k, zero).sum(-1).isnan().logical_and(~done)
        has_bad, is_running = any_of(is_bad, ~done)
        zeros = torch.zeros_like(span, dtype=torch.int64)
        nfe = torch.where(done, 0, n_guesses + 1)
        status = torch.where(is_bad, NOT_FINITE, 0) if has_bad else zeros
        if has_bad:
            span, dt, done = torch.where(is_bad, 0.0, span), torch.where(is_bad, 0.0, dt), done | is_bad
            is_running = is_any(~done)
    if has_bad and is_any(~is_bad):
        # NaN must not stay in the graph (its zero cotangent times NaN is NaN): a failed sample rests where a healthy one starts.
        healthy = (~is_bad).to(torch.int8).argmax()
        problem = replace(problem, t0=torch.where(is_bad, problem.t0[healthy], problem.t0))
        y = torch.where(is_bad[:, None], y[healthy], y)
        k = stepper.slope(problem, problem.time_at_start(), y)
    march = March(
        y=y,
        k=k,
        tau=torch.zeros_like(span),
        span=span,
        dt=dt,
        done=done,
        status=status,
        failed_dt=dt,
        n_accepted=zeros,
        n_rejected=zeros,
        nfe=nfe,
        may_have_failed=has_bad,
    )
    return march, problem, is_running


def first_step(problem: Problem, options: Options, k0: Tensor) -> tuple[Tensor, int]:
    """Give the first step `(B,)` and how many calls of the field the guess took."""
    controller, span = options.controller, problem.span
    if isinstance(controller, FixedStep):
        return controller.first_step(problem.grid, span), 0
    if options.dt0 is not None:
        dt, n_calls = torch.full_like(span, options.dt0), 0
    else:
        k0 = k0.detach()[:, : problem.y0.shape[1]]
        args = (problem.field, problem.t0, problem.y0, k0, span, problem.direction, options.stepper.order, controller)
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


def _march(
    problem: Problem,
    options: Options,
    march: March,
    writer: QueryWriter,
    steps: Steps,
) -> None:
    """Step until all samples rest, in place on `march`, `writer` and `steps`."""
    stepper, controller, jumps = options.stepper, options.controller, problem.jumps
    keeps_steps = writer.reads or options.keep_steps
    steps_per_reading = n_steps_to_keep(stepper, march.y)
    while True:
        # Detached: forward-mode derivatives pass through `no_grad`, and a step's length is a constant to them, too.
        tau, dt, done = march.tau, march.dt.detach(), march.done
        stop = march.span if jumps is None else next_stop(jumps, tau, march.span)
        tau1 = torch.minimum(tau + dt, stop)
        # What the clock makes of the step, to the last bit.
        h = tau1 - tau
        if options.hooks is not None:
            options.hooks.step(problem, tau, march.y, h)
        if options.record is not None:
            march.y = options.record.before(march.i_step, tau, march.y)
        near_side = None if jumps is None else stop
        step = _step(problem, options, march, h, near_side)
        march.i_step += 1
        own_ratio = error_ratio(stepper, controller, step)
        ratio = deciding_ratio(options, own_ratio, tau, h, done)
        # A sample that rests has h = 0, so its error is 0.
        accepted = ratio <= 1.0
        done1 = (tau1 >= march.span).logical_and(accepted)
        # The one synchronisation: the greatest error of those that are not done, -1 if all are.
        worst = bare(ratio.masked_fill(done1, -1.0)).amax().item()
        has_rejected = not worst <= 1.0
        if has_rejected:
            tau1 = torch.where(accepted, tau1, tau)
            step = _reject(problem, options, march, step, h, own_ratio, accepted, near_side)
            if not worst < math.inf or march.i_step % _STEPS_PER_LOOK == 0:
                _lay_down(problem, options, march, step, h, own_ratio, accepted)
                # Who is stuck has had its span set to its clock. Whether that was the last one is seen in the next step: to ask now
                # would be a second synchronisation.
                done1 = tau1 >= march.span
        if options.watch is not None:
            has_ended = _look(problem, options, tau, tau1, step)
            if has_ended is not None:
                # Its end lies within this step; the clock stands where the step does.
                march.span = torch.where(has_ended, tau1, march.span)
                done1 = tau1 >= march.span
                worst = worst if is_any(~done1) else -1.0
        march.accepted.append(accepted)
        march.resting.append(done)
        if step.n_calls is not None:
            march.nfe = march.nfe + torch.where(done, 0, step.n_calls)
        if keeps_steps:
            steps.append(tau, tau1, step.base, step.powers)  # pyright: ignore[reportArgumentType]
        if options.record is not None:
            options.record.after(tau1 - tau)
        if options.hooks is not None:
            options.hooks.judged(problem, tau, march.y, h, accepted)
        march.tau, march.y, march.k, march.done = tau1, step.y1, step.k1, done1
        if worst == -1.0 or march.i_step >= options.max_steps:
            break
        _propose(problem, options, march, h, ratio, accepted)
        if has_rejected:
            # Shorter the clock cannot tell; whether they are stuck there is looked at every few steps.
            march.dt = torch.maximum(march.dt, shortest_step(problem, options.controller, tau))
        if jumps is not None:
            _cross_jumps(problem, options, march, stop, tau)
        if len(steps.ends) >= steps_per_reading and not options.keep_steps:
            _read(writer, steps, options, is_last=False)
            steps.clear()
        if march.i_step % _STEPS_PER_READING == 0:
            march.count(stepper.calls_per_step)
        if (
            options.compacts
            and options.record is None
            and march.i_step % _STEPS_PER_LOOK == 0
            and _is_worth_compacting(problem, march)
        ):
            few = _leave_resting(problem, march)
            if few is not None:
                _march_few(options, march, writer, steps, *few)
                return
    march.count(stepper.calls_per_step)
    if worst != -1.0:
        is_late = ~march.done
        march.may_have_failed = True
        march.status = torch.where(is_late, MAX_STEPS, march.status)
        march.failed_dt = torch.where(is_late, march.dt, march.failed_dt)
    _read(writer, steps, options, is_last=True)


def n_steps_to_keep(stepper: Stepper, y: Tensor) -> int:
    """Give after how many steps the queries inside them are read off."""
    if is_transformed():
        # Which queries a step has passed differs between the copies that vmap carries: all are read at the end.
        return sys.maxsize
    elements_per_step = (stepper.calls_per_step + 1) * y.numel() + 1
    return max(4, min(_STEPS_PER_READING, _ELEMENTS_PER_READING // elements_per_step))


def _step(problem: Problem, options: Options, march: March, h: Tensor, stop: Tensor | None) -> Step:
    """Try a step of length `h`, under autograd's eye where there is something to see."""
    if not options.records:
        return options.stepper.step(problem, march.tau, h, march.y, march.k, stop)
    with torch.enable_grad():
        return options.stepper.step(problem, march.tau, h, march.y, march.k, stop)


def _look(problem: Problem, options: Options, tau: Tensor, tau1: Tensor, step: Step) -> Tensor | None:
    assert options.watch is not None
    with torch.set_grad_enabled(options.records):
        return options.watch.look(problem, tau, tau1, step, options.stepper.end(step.y1))


def _read(writer: QueryWriter, steps: Steps, options: Options, *, is_last: bool) -> None:
    with torch.set_grad_enabled(options.records):
        writer.read(steps, is_last=is_last)


def _propose(problem: Problem, options: Options, march: March, h: Tensor, ratio: Tensor, accepted: Tensor) -> None:
    """Choose the step that follows one of length `h`."""
    controller = options.controller
    if isinstance(controller, FixedStep):
        march.dt = controller.step_after(march.i_step, march.tau, problem.grid, march.span)
        return
    dt, march.memory = controller.next_step(h, ratio, accepted, march.memory, options.stepper.order)
    if problem.jumps is not None:
        # A step that was cut by a jump says little about the step after it.
        dt = torch.where(accepted & (h < march.dt), torch.maximum(dt, march.dt), dt)
    if options.is_joint:
        dt = dt.masked_fill(march.done, 0.0).amax().expand_as(dt)
    march.dt = dt


def _cross_jumps(problem: Problem, options: Options, march: March, stop: Tensor, tau: Tensor) -> None:
    """Take the slope anew where a step has ended at a jump of the field."""
    at_jump = (march.tau == stop) & (march.tau > tau) & (stop < march.span)
    if is_any(at_jump):
        with torch.set_grad_enabled(options.records):
            t = problem.times(march.tau)
            slope = options.stepper.slope(problem, torch.where(at_jump, problem.beyond(t), t), march.y)
            march.k = torch.where(at_jump[:, None], slope, march.k)
        march.nfe = march.nfe + at_jump


def _is_worth_compacting(problem: Problem, march: March) -> bool:
    """Tell whether so many samples rest that the others had better go on alone."""
    n_samples = len(march.done)
    if problem.narrow is None or march.y.requires_grad or march.k.requires_grad or march.y.numel() < _WORTH_ELEMENTS:
        return False
    n_resting = int(march.done.sum())
    return n_resting >= max(_RESTING_ROWS, _RESTING_PART * n_samples) and n_resting < n_samples


def _leave_resting(problem: Problem, march: March) -> tuple[Problem, Tensor] | None:
    """Give the problem of those that still run, and which they are; None where the field does not act row by row."""
    assert problem.narrow is not None
    chosen = (~march.done).nonzero()[:, 0]
    few = problem.rows(chosen, problem.narrow(chosen))
    n_state = problem.y0.shape[1]
    t, y, k = (part.index_select(0, chosen) for part in (march.tau, march.y, march.k))
    if not answers_alike(few.field, few.times(t), y[:, :n_state], k[:, :n_state]):
        return None
    march.nfe = march.nfe + ~march.done
    return few, chosen


def answers_alike(field: Field, t: Tensor, y: Tensor, known: Tensor) -> bool:
    """Ask the field of a batch of another size whether its first rows have the slopes `known` from the whole batch, `(B', D)`.

    Only a field that acts row by row does. One that knows the size of its batch raises an exception, or says something else.
    """
    try:
        slope = field(t, y)
    except Exception:
        return False
    atol = 1e-4 * float(torch.nan_to_num(known).abs().amax())
    return slope.shape == y.shape and torch.allclose(slope[: len(known)], known, rtol=1e-3, atol=atol, equal_nan=True)


def _march_few(
    options: Options, march: March, writer: QueryWriter, steps: Steps, problem: Problem, chosen: Tensor
) -> None:
    """Let the `chosen` samples go on alone, as `problem`, and put them back."""
    march.count(options.stepper.calls_per_step)
    if steps.ends:
        writer.read(steps, is_last=False)
        steps.clear()
    few = march.rows(chosen)
    _march(problem, options, few, writer.few(problem, chosen), steps)
    march.put(chosen, few)
    march.may_have_failed |= few.may_have_failed


def error_ratio(stepper: Stepper, controller: Controller, step: Step) -> Tensor:
    """Give the error of a step as a multiple of the tolerance, `(B,)`; NaN or infinite where the step ran into NaN or infinity."""
    if step.error is None or isinstance(controller, FixedStep):
        # Whatever is finite stands. The slope at the end counts: the interpolant and the next step start from it.
        zero = as_scalar(0.0, step.y1)
        ratio = torch.addcmul(step.after * zero, step.k1.detach(), zero).sum(-1)
    else:
        ratio = controller.error_ratio(step.error, step.before, step.after)
        if not stepper.sees_last_slope:
            # The estimate knows nothing of the slope at the end: times 0 it is 0, or NaN.
            zero = as_scalar(0.0, step.y1)
            ratio = torch.addcmul(ratio, step.k1.detach().sum(-1), zero)
    return ratio if step.is_converged is None else torch.where(step.is_converged, ratio, torch.inf)


def deciding_ratio(options: Options, own_ratio: Tensor, tau: Tensor, h: Tensor, done: Tensor) -> Tensor:
    """Give the ratio that decides about each sample's step: its own, or that of the worst where there is one step for all."""
    ratio, controller = own_ratio, options.controller
    if options.is_joint:
        ratio = ratio.masked_fill(done, 0.0).amax().expand_as(ratio)
    if isinstance(controller, PIDController) and controller.force_dtmin:
        assert controller.dtmin is not None
        is_forced = is_no_longer(h, controller.dtmin, tau) & (ratio < torch.inf)
        ratio = torch.where(is_forced, ratio.clamp(max=1.0), ratio)
    return ratio


def _reject(
    problem: Problem,
    options: Options,
    march: March,
    step: Step,
    h: Tensor,
    own_ratio: Tensor,
    accepted: Tensor,
    stop: Tensor | None,
) -> Step:
    """Undo the step for those whose error is too large."""
    if step.y1.requires_grad:
        is_wild = ~(own_ratio < torch.inf)
        if is_any(is_wild):
            # NaN must not stay in the graph: the same step again, with length 0 where it went wild.
            step = _step(problem, options, march, torch.where(is_wild, 0.0, h), stop)
            march.nfe = march.nfe + is_wild * options.stepper.calls_per_step
    chosen = accepted[:, None]
    with torch.set_grad_enabled(options.records):
        y1, k1 = torch.where(chosen, step.y1, march.y), torch.where(chosen, step.k1, march.k)
    return step._replace(y1=y1, k1=k1)


def _lay_down(
    problem: Problem, options: Options, march: March, step: Step, h: Tensor, own_ratio: Tensor, accepted: Tensor
) -> None:
    """Lay those to rest that can go no further: their own error is too large on a step as short as time resolves."""
    is_to_blame = ~(own_ratio <= 1.0)
    if isinstance(options.controller, PIDController):
        is_to_blame = is_to_blame & is_no_longer(h, shortest_step(problem, options.controller, march.tau), march.tau)
    stuck = is_to_blame & ~accepted
    code = torch.where(own_ratio < torch.inf, STEP_TOO_SMALL, NOT_FINITE)
    if step.is_converged is not None:
        code = torch.where(step.is_converged, code, NOT_CONVERGED)
    march.may_have_failed = True
    march.status = torch.where(stuck, code, march.status)
    march.failed_dt = torch.where(stuck, h, march.failed_dt)
    march.span = torch.where(stuck, march.tau, march.span)


def shortest_step(problem: Problem, controller: Controller, tau: Tensor) -> Tensor:
    """Give the shortest step that makes sense, `(B,)`."""
    resolution = (problem.t0.abs() + tau) * (8 * torch.finfo(tau.dtype).eps)
    # At the start the clock resolves anything; far below the span a step is none.
    shortest = torch.maximum(resolution, 1e-20 * problem.span)
    dtmin = controller.dtmin if isinstance(controller, PIDController) else None
    return shortest if dtmin is None else shortest.clamp(min=dtmin)


def is_no_longer(h: Tensor, dt: Tensor | float, tau: Tensor) -> Tensor:
    """Tell whether a step that was to be `dt` long is; what the clock makes of it may be a rounding longer."""
    return h <= dt + 4 * torch.finfo(tau.dtype).eps * tau


def next_stop(jumps: Tensor, tau: Tensor, span: Tensor) -> Tensor:
    """Give the clock of the next jump, or the span if there is none before it."""
    return torch.minimum(torch.where(jumps > tau[:, None], jumps, torch.inf).amin(1), span)
