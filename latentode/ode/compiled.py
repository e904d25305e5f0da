"""The loop through `torch.compile`: a few steps of all samples fused into one call.

What the eager loop decides with Python, this one decides with masks: rejected steps are taken back and stuck samples laid to rest
inside the compiled code. Between two calls the loop only asks whether all samples rest. Queries are read off afterwards, eagerly, so
that their number plays no part in what is compiled; the batch is padded to a power of two.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentode.errors import InputError

from .control import Memory, PIDController
from .dense import Steps
from .loop import (
    March,
    Options,
    Trajectory,
    answers_alike,
    deciding_ratio,
    error_ratio,
    finish,
    first_step,
    integrate,
    is_no_longer,
    n_steps_to_keep,
    shortest_step,
)
from .problem import Problem
from .queries import QueryWriter
from .runge_kutta import Field
from .status import MAX_STEPS, NOT_FINITE, STEP_TOO_SMALL, SUCCESS
from .steppers import ExplicitStepper

_LOG = logging.getLogger("latentode.ode")
# Steps per call: more save calls, fewer save steps past the end, and compile sooner.
_STEPS_PER_CALL = 2
_RECOMPILE_LIMIT = 256


@dataclass(frozen=True)
class Plan:
    """What compiled code is made for; everything else are tensors.

    Attributes:
        options: method, controller and mode.
        n_steps: steps per call.
        keeps: whether the interpolants are wanted.
        is_forward: whether time runs upwards in all samples.
    """

    options: Options
    n_steps: int
    keeps: bool
    is_forward: bool


class _Moving(NamedTuple):
    """What changes from step to step, as in `March`."""

    tau: Tensor
    span: Tensor
    dt: Tensor
    y: Tensor
    k: Tensor
    status: Tensor
    memory: Memory


def can_compile_steps(problem: Problem, options: Options) -> bool:
    """Tell whether the whole step can be compiled, and not just the field."""
    return (
        isinstance(options.stepper, ExplicitStepper)
        and isinstance(options.controller, PIDController)
        # A plan is looked up by value, which tensors do not have.
        and not any(isinstance(x, Tensor) for x in (options.controller.rtol, options.controller.atol))
        and problem.jumps is None
        and options.hooks is None
        and options.watch is None
        and options.record is None
        and len(problem.y0) > 0
    )


def integrate_compiled(problem: Problem, options: Options) -> Trajectory:
    """Solve `problem` like `loop.integrate`, with compiled steps where these can be had, else with a compiled field.

    Raises:
        InputError: there is no C++ compiler, or the field cannot be compiled.
    """
    check_compiler(problem.y0.device)
    if not can_compile_steps(problem, options):
        return integrate(compile_field(problem), options)
    n_samples = len(problem.y0)
    padded = _pad(problem)
    writer = QueryWriter(padded, keeps_slopes=options.keep_slopes)
    plan = _plan(padded, options, keeps=writer.reads or options.keep_steps)
    is_new = _say_if_new(plan, padded)
    try:
        with _quietly() if is_new else nullcontext():
            march, steps, is_sound = _march(padded, options, plan, writer)
    except torch._dynamo.exc.TorchDynamoException as error:  # pyright: ignore[reportAttributeAccessIssue]
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"f cannot be compiled ({reason}); leave compile=False, the eager solver gives the same result"
        ) from error
    if not is_sound:
        # NaN at the start or, under gradients, on the way: the eager loop knows how to keep it from the other samples.
        return integrate(problem, options)
    trajectory = finish(march, writer, steps, options)
    return trajectory if len(padded.y0) == n_samples else trajectory.first(n_samples)


def compile_field(problem: Problem) -> Problem:
    """Give `problem` with its field compiled."""
    field, call = problem.field, _compiled_call()
    return replace(problem, field=lambda t, y: call(field, t, y), narrow=None)


@lru_cache(maxsize=1)
def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def check_compiler(device: torch.device) -> None:
    """Raise InputError where there is nothing to compile with."""
    if device.type == "cpu" and not _has_compiler():
        raise InputError("compile=True needs a C++ compiler on the CPU: install g++ or clang++, or leave compile=False")


def _march(problem: Problem, options: Options, plan: Plan, writer: QueryWriter) -> tuple[March, Steps, bool]:
    """Step until all samples rest; tells whether the result can be relied on."""
    begin, advance = _compile(plan)
    y, t0, direction, span = (x.contiguous() for x in (problem.y0, problem.t0, problem.direction, problem.span))
    still = (problem.field, t0, direction, problem.t_carrier)
    steps, steps_per_reading = Steps.none(), n_steps_to_keep(options.stepper, y)
    moving, counts, n_before, flags = begin(*still, span, y)
    is_bad, all_rest = flags.tolist()
    is_wild = has_failed = False
    failed_dt, i_step = moving.dt, 0
    while not (all_rest or is_bad or is_wild) and i_step < options.max_steps:
        moving, counts, failed_dt, kept, flags = advance(*still, moving, counts)
        i_step += plan.n_steps
        for part in kept:
            steps.append(*part)
        # The one synchronisation.
        all_rest, is_wild, has_failed = flags.tolist()
        # What is masked out of the result is not masked out of a gradient.
        is_wild = is_wild and y.requires_grad
        if not all_rest and len(steps.ends) >= steps_per_reading and not options.keep_steps:
            writer.read(steps, is_last=False)
            steps.clear()
    done, status = moving.tau >= moving.span, moving.status
    if not all_rest:
        status, failed_dt = torch.where(done, status, MAX_STEPS), torch.where(done, failed_dt, moving.dt)
    march = March(
        y=moving.y,
        k=moving.k,
        tau=moving.tau,
        span=moving.span,
        dt=moving.dt,
        done=done,
        status=status,
        failed_dt=failed_dt,
        n_accepted=counts[0],
        n_rejected=counts[1],
        nfe=n_before + counts.sum(0) * options.stepper.calls_per_step,
        i_step=i_step,
        may_have_failed=has_failed or not all_rest,
    )
    writer.read(steps, is_last=True)
    return march, steps, not (is_bad or is_wild)


def _make_begin(plan: Plan) -> Callable[..., Any]:
    """Give the function that takes the slope at the start and guesses the first step."""
    options = plan.options

    def begin(field: Field, t0: Tensor, direction: Tensor, carrier: Tensor | None, span: Tensor, y: Tensor) -> Any:
        problem = Problem(field, y, t0, direction, span, span[:, None], plan.is_forward, t_carrier=carrier)
        k = options.stepper.slope(problem, problem.times(torch.zeros_like(span)), y)
        with torch.no_grad():
            dt, n_guesses = first_step(problem, options, k)
            is_moving = span > 0
            is_bad = ~(y.isfinite() & k.isfinite()).all(-1) & is_moving
            one, zero = torch.ones_like(span), torch.zeros_like(span, dtype=torch.int64)
            flags = torch.stack([is_bad.any(), ~is_moving.any()])
            moving = _Moving(torch.zeros_like(span), span.clone(), dt.clone(), y, k, zero, (one, one.clone()))
            return moving, torch.stack([zero, zero]), is_moving * (n_guesses + 1), flags

    return begin


def _make_advance(plan: Plan) -> Callable[..., Any]:
    """Give the function that takes `plan.n_steps` steps; pure, of tensors and the field."""
    options = plan.options
    controller, stepper = options.controller, options.stepper
    assert isinstance(controller, PIDController)

    def advance(
        field: Field, t0: Tensor, direction: Tensor, carrier: Tensor | None, moving: _Moving, counts: Tensor
    ) -> Any:
        tau, span, dt, y, k, status, memory = moving
        problem = Problem(field, y, t0, direction, span, tau[:, None], plan.is_forward, t_carrier=carrier)
        kept, is_wild, h = [], torch.zeros_like(tau, dtype=torch.bool), dt
        for _ in range(plan.n_steps):
            done = tau >= span
            tau1 = torch.minimum(tau + dt, span)
            h = tau1 - tau
            step = stepper.step(problem, tau, h, y, k, None)
            with torch.no_grad():
                own_ratio = error_ratio(stepper, controller, step)
                ratio = deciding_ratio(options, own_ratio, tau, h, done)
                accepted = ratio <= 1.0
                tau1 = torch.where(accepted, tau1, tau)
                shortest = shortest_step(problem, controller, tau)
                stuck = ~(own_ratio <= 1.0) & ~accepted & is_no_longer(h, shortest, tau)
                status = torch.where(stuck, torch.where(own_ratio < torch.inf, STEP_TOO_SMALL, NOT_FINITE), status)
                span = torch.where(stuck, tau, span)
                is_wild = is_wild | ~(own_ratio < torch.inf)
                counts = counts + torch.stack([accepted & ~done, ~accepted & ~done])
                dt, memory_next = controller.next_step(h, ratio, accepted, memory, stepper.order)
                memory = memory if memory_next is None else memory_next
                dt = torch.where(accepted, dt, torch.maximum(dt, shortest))
                if options.is_joint:
                    dt = torch.where(tau1 >= span, 0.0, dt).amax().expand_as(dt)
            if plan.keeps:
                kept.append((tau, tau1, step.base, step.powers))
            y, k = torch.where(accepted[:, None], step.y1, y), torch.where(accepted[:, None], step.k1, k)
            tau = tau1
        flags = torch.stack([(tau >= span).all(), is_wild.any(), (status != SUCCESS).any()])
        return _Moving(tau, span, dt.clone(), y, k, status, memory), counts, h, kept, flags

    return advance


def _plan(problem: Problem, options: Options, *, keeps: bool) -> Plan:
    """Give the plan of a solve; equal plans share their code."""
    assert isinstance(options.stepper, ExplicitStepper)
    tableau = options.stepper.tableau
    # What the compiler would stumble over: properties that are worked out on first use.
    _ = tableau.is_fsal, options.stepper.estimates and tableau.error_weights
    stepper = replace(options.stepper, reads=keeps, room=None)
    # Nothing of the rest goes into the code: another `max_steps` is no reason to compile anew.
    options = replace(options, stepper=stepper, max_steps=0, keep_slopes=False, keep_steps=False)
    return Plan(options, _STEPS_PER_CALL, keeps, problem.is_forward)


@lru_cache(maxsize=64)
def _compile(plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Give the compiled functions of a plan, made once."""
    return _compiled(_make_begin(plan)), _compiled(_make_advance(plan))


@lru_cache(maxsize=1)
def _compiled_call() -> Callable[..., Tensor]:
    def call(field: Field, t: Tensor, y: Tensor) -> Tensor:
        return field(t, y)

    return _compiled(call)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    more: dict[str, Any] = {}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        # One function serves all fields and batch sizes; the default allows for eight.
        more = {"recompile_limit": _RECOMPILE_LIMIT, "isolate_recompiles": True}
    if hasattr(torch.compiler, "keep_tensor_guards_unsafe"):  # this torch knows filters
        more["options"] = {"guard_filter_fn": _keep_guards}
    return torch.compile(function, dynamic=False, fullgraph=True, **more)


# What may differ from one call of compiled code to the next. Of the loop's own tensors the state and the slope tell: the others have
# as many samples.
_VARIABLE = ("field", "carrier", "y", "t")
_VARIABLE_STATE = ("moving.y", "moving.k")


def _keep_guards(guards: Any) -> list[bool]:
    """Tell which of its assumptions compiled code has to look at in every call.

    The plan is the key under which the code is found, and our own modules do not change: to check each coefficient of a tableau anew
    took longer than a step. What stays are the field with all that it holds, the tensors, and the modes of torch.
    """

    def keep(name: str) -> bool:
        if name.startswith("G["):
            return "__import_" in name and "__import_latentode" not in name and "__import_torch" not in name
        first = re.match(r"\w*", name)
        return first is None or first.group() in ("", *_VARIABLE) or name in _VARIABLE_STATE

    return [keep(guard.name.removeprefix("L['")) for guard in guards]


def _pad(problem: Problem) -> Problem:
    """Pad the batch to a power of two with samples that rest, where the field takes it; one compilation serves all sizes between.

    Whether it does is asked of the field, as in `loop`.
    """
    n_samples = len(problem.y0)
    n_padded = 1 << max(n_samples - 1, 0).bit_length()
    if n_padded == n_samples or problem.narrow is None:
        return problem
    place = torch.arange(n_padded, device=problem.y0.device)
    place = torch.where(place < n_samples, place, 0)
    padded = problem.rows(place, problem.narrow(place))
    with torch.no_grad():
        known = problem.field(problem.time_at_start(), problem.y0)
        if not answers_alike(padded.field, padded.time_at_start(), padded.y0, known):
            return problem
    is_real = torch.arange(n_padded, device=place.device) < n_samples
    return replace(padded, span=torch.where(is_real, padded.span, 0.0))


_SAID: set[Any] = set()


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep a warning of torch's to itself: its compiler looks at the `.grad` of every input, which states on the way do not have."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        yield


def _say_if_new(plan: Plan, problem: Problem) -> bool:
    """Tell that a compilation is coming, which takes some seconds; gives whether it is."""
    source = problem.sources[0] if problem.sources else problem.field
    key = (plan, getattr(source, "__code__", type(source)), problem.y0.shape, problem.y0.dtype, torch.is_grad_enabled())
    if key in _SAID:
        return False
    _SAID.add(key)
    _LOG.warning("compiling the solver's step for a batch of %d x %d; this takes some seconds, once", *problem.y0.shape)
    return True
