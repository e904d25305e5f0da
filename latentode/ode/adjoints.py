"""Gradient routes: how the gradient of a solve comes about. Each is an object with `integrate(problem, options)`.

`direct` leaves it to autograd. The others hide the solve from autograd behind one node (`hide`) and find their own way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from latentode.errors import InputError

from .captured import check_captured, find_tensors
from .compiled import check_compiler, compile_field, integrate_compiled
from .loop import Options, Trajectory, integrate
from .problem import Problem
from .stand_ins import StandIns
from .transforms import is_transformed


class Adjoint(Protocol):
    """A gradient route: solves a problem so that autograd finds its way back."""

    def integrate(self, problem: Problem, options: Options) -> Trajectory:
        """Solve `problem`."""
        ...


@dataclass(frozen=True)
class Direct:
    """Differentiate through every operation of the solver: exact for the steps taken, memory grows with their number."""

    def integrate(self, problem: Problem, options: Options) -> Trajectory:
        """Solve `problem`, recording every operation."""
        return integrate_compiled(problem, options) if options.compiles else integrate(problem, options)


@dataclass
class Sums:
    """Gradients on their way back: of the starts of time `(B,)`, and of each tensor that the field has captured."""

    t0: Tensor | None
    captured: list[Tensor | None]

    def add(self, t0: Tensor | None, captured: list[Tensor | None]) -> None:
        """Add the gradients of some steps."""
        self.t0 = _plus(self.t0, t0)
        self.captured = [_plus(total, part) for total, part in zip(self.captured, captured, strict=True)]


def _plus(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    return total if part is None else part if total is None else total + part


@dataclass
class Cotangents:
    """The gradients of the states at the queries, sorted by where those lie; 0 for samples that failed.

    Attributes:
        start, end: summed over the queries at the start and at the end of each sample, `(B, D)`.
        tau: the clock of every query, `(B, Q)`.
        inner: whether it lies between, `(B, Q)`.
        each: of every query, `(B, Q, D)`.
    """

    start: Tensor
    end: Tensor
    tau: Tensor
    inner: Tensor
    each: Tensor

    def places_between(self, start_B: Tensor, end_B: Tensor) -> Tensor:
        """Give the inner queries after clock `start_B` and up to `end_B`, as indices into the flat `(B * Q,)`, `(P,)`."""
        is_inside = self.inner & (self.tau > start_B[:, None]) & (self.tau <= end_B[:, None])
        return is_inside.flatten().nonzero()[:, 0]


class Way(Protocol):
    """The way back from a solve."""

    def __call__(self, cotangents: Cotangents, sums: Sums) -> Tensor:
        """Give the gradient of `y0`, `(B, D)`, and add those of everything else to `sums`."""
        ...


def hide(
    problem: Problem,
    options: Options,
    route: str,
    solve: Callable[[Problem, Options, list[Tensor]], tuple[Trajectory, Way]],
    *,
    only: Sequence[Tensor] | None = None,
) -> Trajectory:
    """Solve `problem` as one node of autograd's graph.

    Args:
        problem: to be solved.
        options: how.
        route: name of the route, for errors.
        solve: gives the trajectory, and the way back; it is called without autograd, with the tensors that the field has captured.
        only: the captured tensors that a gradient is wanted for; None: all.

    Raises:
        InputError: under `torch.func` transforms; with `dense=True`; the field uses a tensor that cannot be found.
    """
    if is_transformed():
        raise InputError(f"adjoint={route!r} does not work under torch.func; choose adjoint='direct'")
    # The backward solve pulls back through one call several times, which compiled code does not allow.
    compiles = options.compiles and route != "backsolve"
    if compiles:
        check_compiler(problem.y0.device)
    inputs = (problem.y0, problem.tau_eval, problem.t_carrier)
    captured: list[Tensor] = []
    originals: list[Tensor] = []
    if torch.is_grad_enabled():
        problem, captured, originals = _cut_off(problem, compiles, only)
    elif compiles:
        problem = compile_field(problem)
    if not torch.is_grad_enabled() or not any(x is not None and x.requires_grad for x in (*inputs, *captured)):
        return solve(problem, options, [])[0]
    if options.keep_steps:
        raise InputError(
            f"a solution with dense=True cannot be read with gradients after adjoint={route!r}; "
            "choose adjoint='direct', or name the times in t_eval"
        )
    box: list[Trajectory] = []
    ys = _Hidden.apply(solve, box, problem, options, captured, *inputs, *originals)
    trajectory, n_queries = box[0], problem.tau_eval.shape[1]
    if trajectory.sightings is None:
        return replace(trajectory, ys=ys)
    return replace(trajectory, ys=ys[:, :n_queries], sightings=replace(trajectory.sightings, ys=ys[:, n_queries:]))


def _cut_off(
    problem: Problem, compiles: bool, only: Sequence[Tensor] | None
) -> tuple[Problem, list[Tensor], list[Tensor]]:
    """Cut a problem's field off the graph outside, which is the outer backward's.

    Returns:
        The problem, the tensors that its field draws gradients to, and those whose gradients these are: the same, but for stand-ins.
    """
    f, args = problem.sources
    if only is None:
        inside = find_tensors(f, [arg for arg in args if not isinstance(arg, Tensor)])
        known = find_tensors(inside, args)
    else:
        inside = known = [tensor for tensor in only if tensor.requires_grad]
    stand_ins = StandIns.of(known)
    hidden = [tensor for tensor in inside if tensor.grad_fn is not None]
    if stand_ins.computed and problem.with_args is not None:
        problem = replace(problem, field=problem.with_args(stand_ins.instead_of))
    if compiles:
        problem = compile_field(problem)
    elif hidden:
        problem = replace(problem, field=stand_ins.seen_by(problem.field))
    # What is no argument of its own may be used past its stand-in, so it is among them, too.
    captured = [*map(stand_ins.instead_of, known), *hidden]
    if only is None:
        captured = check_captured(problem.field, problem.time_at_start(), problem.y0, captured)
    return problem, captured, [stand_ins.original(tensor) for tensor in captured]


def gradients(
    outputs: Sequence[Tensor],
    g_outputs: Sequence[Tensor],
    y: Tensor,
    carrier: Tensor | None,
    captured: list[Tensor],
    *,
    keep: bool = False,
) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
    """Pull gradients back to a state, to the start of time, and to what the field has captured; None where nothing leads there.

    With `keep` the graph can be used once more.
    """
    pairs = [(out, g) for out, g in zip(outputs, g_outputs, strict=True) if out.requires_grad]
    if not pairs:
        return None, None, [None] * len(captured)
    extra = [] if carrier is None else [carrier]
    found = torch.autograd.grad(
        [out for out, _ in pairs],
        [y, *extra, *captured],
        [g for _, g in pairs],
        allow_unused=True,
        retain_graph=keep,
    )
    return found[0], found[1] if extra else None, list(found[1 + len(extra) :])


class _Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, solve, box, problem, options, captured, y0, tau_eval, t_carrier, *originals):  # noqa: ANN001, ANN002, ANN205
        wants_t = t_carrier is not None
        bare = replace(problem, y0=y0.detach(), tau_eval=tau_eval.detach(), t_carrier=None)
        # The slopes at the queries are all that the gradient of their times needs.
        options = replace(options, keep_slopes=tau_eval.requires_grad)
        trajectory, way = solve(bare, options, captured)
        ctx.way, ctx.slopes, ctx.wants_t, ctx.n_captured = way, trajectory.slopes, wants_t, len(captured)
        ctx.tau, ctx.span, ctx.n_queries = bare.tau_eval, bare.span, bare.tau_eval.shape[1]
        ctx.failed = trajectory.status != 0 if trajectory.has_failed else None
        # Saved for the complaint that autograd makes where one was written over in the meantime.
        ctx.save_for_backward(y0, *originals)
        # The box, not the context, holds the trajectory: the context would hold itself by the states in it.
        box.append(trajectory)
        if trajectory.sightings is None:
            return trajectory.ys
        # An event is one more query, whose time only the solve can tell.
        ctx.tau = torch.cat([ctx.tau, trajectory.sightings.clocks], 1)
        return torch.cat([trajectory.ys, trajectory.sightings.ys], 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_ys):  # noqa: ANN001, ANN205
        _ = ctx.saved_tensors
        if ctx.failed is not None:
            g_ys = torch.where(ctx.failed[:, None, None], 0.0, g_ys)
        g_tau = None if ctx.slopes is None else (g_ys[:, : ctx.n_queries] * ctx.slopes).sum(-1).to(ctx.tau)
        later = ctx.tau > 0
        is_end = later & (ctx.tau >= ctx.span[:, None])
        cotangents = Cotangents(
            start=(g_ys * ~later[..., None]).sum(1),
            end=(g_ys * is_end[..., None]).sum(1),
            tau=ctx.tau,
            inner=later & ~is_end,
            each=g_ys,
        )
        sums = Sums(g_ys.new_zeros(len(g_ys)) if ctx.wants_t else None, [None] * ctx.n_captured)
        g_y0 = ctx.way(cotangents, sums)
        return (None, None, None, None, None, g_y0, g_tau, sums.t0, *sums.captured)
