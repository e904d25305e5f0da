"""`solve`: the door of the engine. Everything is checked here, once; what comes behind relies on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from latentode.errors import InputError, SolveError, did_you_mean

from .adjoints import Adjoint, Direct
from .backsolve import Backsolve
from .checkpointed import Checkpointed
from .control import Controller, FixedStep, PIDController
from .esdirk import EsdirkTableau
from .events import Events, EventWatch, Occurrences, read_events, settle_events
from .loop import Options, Trajectory
from .problem import Problem
from .queries import QueryWriter
from .reversible import Reversible
from .runge_kutta import ButcherTableau, Field, as_scalar
from .states import Packing, State
from .status import STATUS, SUCCESS, list_samples
from .steppers import make_stepper
from .tableaus import ESDIRK_TABLEAUS, TABLEAUS
from .transforms import any_of, bare, carries_tangents, is_any, is_transformed

Method = ButcherTableau | EsdirkTableau
ADJOINTS: dict[str, Adjoint] = {
    "direct": Direct(),
    "checkpointed": Checkpointed(),
    "reversible": Reversible(),
    "backsolve": Backsolve(),
}
SOLVERS: dict[str, Method] = {**TABLEAUS, **ESDIRK_TABLEAUS}

_DEFAULT_CONTROLLER = PIDController(rtol=1e-3, atol=1e-6)


@dataclass(frozen=True)
class Solution:
    """A solved initial value problem.

    Attributes:
        ts: the queries, `(B, Q)`, dtype of `t_eval`.
        ys: states there, `(B, Q, *state)` in the structure and dtype of `y0`; NaN for failed samples.
        stats: `nfe`, `n_steps`, `n_accepted`, `n_rejected` of each sample, `(B,)` int64.
        status: 0 or how a sample failed, `(B,)` int64; `STATUS` tells what each number means.
        event_times: when each event came first, `(B, E)`, NaN where it did not; None without events.
        events: for each event all its occurrences.
    """

    ts: Tensor
    ys: Any
    stats: dict[str, Tensor]
    status: Tensor
    event_times: Tensor | None = None
    events: tuple[Occurrences, ...] = ()
    _reader: _Reader | None = field(default=None, repr=False)

    def __call__(self, t: Tensor) -> Any:
        """Give the states at any times `(Q',)` or `(B, Q')` between `t0` and the last query, `(B, Q', *state)`.

        Raises:
            InputError: without `dense=True`, or for a time outside the solve.
        """
        return self._kept().read(t)

    def at(self, sample: Tensor, t: Tensor) -> Any:
        """Give the state of one sample at one time for each pair of these, `(P, *state)`: for samples with few and with many queries.

        Args:
            sample: int64 `(P,)`, positions in the batch.
            t: `(P,)`, between `t0` and the last query of its sample.

        Raises:
            InputError: without `dense=True`, or for a time outside the solve.
        """
        return self._kept().read_single(sample, t)

    def step_ends(self) -> Tensor:
        """Give the times at which the accepted steps of each sample ended, `(B, N)` in the order solved, NaN behind the last one.

        Raises:
            InputError: without `dense=True`.
        """
        return self._kept().step_ends()

    def _kept(self) -> _Reader:
        if self._reader is None:
            raise InputError(
                "this solution kept only its queries; call solve(..., dense=True) to read it at other times"
            )
        return self._reader


def solve(
    f: Callable[..., Any],
    y0: State,
    t_eval: Tensor,
    *,
    t0: Tensor | float | None = None,
    args: Sequence[Any] = (),
    method: str | Method = "tsit5",
    controller: Controller = _DEFAULT_CONTROLLER,
    adjoint: str | Adjoint = "direct",
    dt0: float | None = None,
    max_steps: int = 10_000,
    step_mode: str = "per_sample",
    events: Events | Sequence[Events] | None = None,
    dense: bool = False,
    on_failure: str = "raise",
    compile: bool = False,
    compact: bool = True,
) -> Solution:
    """Solve `dy/dt = f(t, y, *args)`, `y(t0) = y0`, and give the states at `t_eval`.

    Args:
        f: vector field, a function or module of `t` `(B,)` and `y` `(B, *state)`, giving `dy/dt` like `y`.
        y0: initial states `(B, *state)`, or a tuple or dict of such with a common `B`. Half precisions are kept in float32.
        t_eval: query times, `(Q,)` for all samples or `(B, Q)`, per sample ascending or descending, repeats allowed.
        t0: start, a number, `()` or `(B,)`; None: the first query.
        args: further arguments of `f`.
        method: a name in `SOLVERS` or a tableau.
        controller: `PIDController` for adaptive steps, `FixedStep` for fixed ones.
        adjoint: gradient route, a name in `ADJOINTS` or an object like those.
        dt0: first step of adaptive solves; None: guessed at the cost of one call of `f`.
        max_steps: a sample that has tried so many steps has failed.
        step_mode: "per_sample": every sample steps on its own; "joint": one step for all, that of the worst sample.
        events: functions of `(t, y)` giving `(B,)`, alone or in a sequence; a sample ends where one changes sign. `Event` makes one that is
            only recorded, or one-way. Found on the interpolant, once per step at most; after a sample's end its states are those there.
        dense: keep the interpolants, so that the solution can be called with other times.
        on_failure: "raise" a SolveError, or "return" NaN for the failed samples and the reason in `status`.
        compile: run the steps through `torch.compile`; the first solve of a field, method and batch size takes some seconds, which is
            said. `B` is padded to a power of two. Steps that cannot be fused (implicit methods, jumps, events, fixed steps, gradient
            routes other than "direct") get a compiled field.
        compact: let samples that are done leave the batch where that pays (a large one, `f` acting row by row, no gradient under way). The
            others' results are the same to rounding; with False to the last bit where `f` is element-wise.

    Returns:
        The solution. Gradients flow to `y0`, the parameters of `f` and of events, `args`, `t_eval` and `t0`, also from the times and states
        of events; step sizes are constants to them.

    Raises:
        InputError: an argument, or what `f` or an event returns, is not of the form above.
        SolveError: a sample failed and `on_failure` is "raise".

    Example:
        >>> import torch
        >>> decay = solve(lambda t, y: -y, torch.ones(1, 1), torch.tensor([0.0, 1.0]), method="dopri5")
        >>> round(float(decay.ys[0, -1, 0]), 3)
        0.368
    """
    tableau = _choose(method, SOLVERS, "method", (ButcherTableau, EsdirkTableau))
    route = _choose(adjoint, ADJOINTS, "adjoint", object)
    _check_options(controller, tableau, step_mode, on_failure, dt0, max_steps)
    packing = Packing.of(y0)
    problem, ts = _pose(f, args, packing, packing.flatten(y0), t_eval, t0, controller)
    sought = read_events(events)
    if sought and (is_transformed() or carries_tangents()):
        raise InputError(
            "events do not work under torch.func or forward-mode derivatives; take the gradient by backward()"
        )
    watch = EventWatch(sought, packing) if sought else None
    reads = dense or bool(sought) or QueryWriter(problem).reads
    is_complex = packing.dtype.is_complex
    if is_complex and isinstance(controller, PIDController) and controller.norm is None:
        # The root mean square over numbers, not over their parts.
        controller = replace(controller, norm=_complex_size)
    stepper = make_stepper(tableau, controller, dtype=problem.y0.dtype, reads=reads, is_complex=is_complex)
    options = Options(
        stepper,
        controller,
        dt0,
        max_steps,
        step_mode == "joint",
        keep_steps=dense,
        # An event cannot be told for some of the samples only, and interpolants that are kept are of all of them.
        compacts=compact and not sought and not dense,
        watch=watch,
        compiles=compile,
    )
    trajectory = route.integrate(problem, options)
    if on_failure == "raise" and trajectory.has_failed:
        raise SolveError(_describe_failure(problem, trajectory))
    occurrences: tuple[Occurrences, ...] = ()
    if sought:
        trajectory, occurrences = settle_events(sought, problem, trajectory, packing, ts.dtype)
    stats = {
        "nfe": trajectory.nfe,
        "n_steps": trajectory.n_accepted + trajectory.n_rejected,
        "n_accepted": trajectory.n_accepted,
        "n_rejected": trajectory.n_rejected,
    }
    return Solution(
        ts,
        packing.unflatten(trajectory.ys),
        stats,
        trajectory.status,
        torch.stack([each.first() for each in occurrences], 1) if sought else None,
        occurrences,
        _Reader(problem, trajectory, packing) if dense else None,
    )


def _complex_size(scaled_BD: Tensor) -> Tensor:
    return torch.linalg.vector_norm(scaled_BD, dim=-1) * max(scaled_BD.shape[-1] / 2, 1) ** -0.5


def _choose(choice: Any, table: Mapping[str, Any], what: str, kind: type | tuple[type, ...]) -> Any:
    """Look a name up in `table`, or let an object of `kind` through."""
    if not isinstance(choice, str):
        if isinstance(choice, kind) and (kind is not object or hasattr(choice, "integrate")):
            return choice
        raise InputError(f"{what} is {choice!r}; give one of {', '.join(table)}, or an object like those")
    if choice not in table:
        raise InputError(f"there is no {what} {choice!r}{did_you_mean(choice, table)}; give one of {', '.join(table)}")
    return table[choice]


def _check_options(
    controller: Controller, tableau: Method, step_mode: str, on_failure: str, dt0: float | None, max_steps: int
) -> None:
    if not isinstance(controller, (PIDController, FixedStep)):
        raise InputError(f"controller is {controller!r}; give PIDController(rtol=..., atol=...) or FixedStep(dt=...)")
    if isinstance(controller, PIDController) and tableau.b_hat is None:
        adaptive = ", ".join(name for name, t in SOLVERS.items() if t.b_hat is not None)
        raise InputError(
            "this method has no embedded pair to estimate its error with; "
            f"give controller=FixedStep(dt=...) or a method that has one ({adaptive})"
        )
    for name, value, known in (
        ("step_mode", step_mode, ("per_sample", "joint")),
        ("on_failure", on_failure, ("raise", "return")),
    ):
        if value not in known:
            raise InputError(f"{name} is {value!r}; it is {known[0]!r} or {known[1]!r}")
    if dt0 is not None and not 0 < dt0 < float("inf"):
        raise InputError(f"dt0 is {dt0!r}; a first step is a number above 0, whichever way time runs")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise InputError(f"max_steps is {max_steps!r}; give how many steps a sample may take, an integer from 1 up")
    if dt0 is not None and isinstance(controller, FixedStep):
        raise InputError(
            "dt0 is the first step of an adaptive solve; FixedStep(dt=...) already says how long steps are"
        )


def _pose(
    f: Callable[..., Any],
    args: Sequence[Any],
    packing: Packing,
    y0: Tensor,
    t_eval: Tensor,
    t0: Tensor | float | None,
    controller: Controller,
) -> tuple[Problem, Tensor]:
    """Put the problem on the clock; returns it and the queries as `(B, Q)`."""
    n_samples, device = y0.shape[0], y0.device
    ts = _as_times(t_eval, "t_eval", device)
    if ts.ndim not in (1, 2) or ts.shape[-1] == 0:
        raise InputError(f"t_eval has shape {tuple(ts.shape)}; give (Q,) or (B, Q) with at least one query")
    if ts.ndim == 2 and ts.shape[0] != n_samples:
        raise InputError(f"t_eval has {ts.shape[0]} rows but y0 {n_samples} samples; give (Q,) or one row per sample")
    # One row where all samples have the same times.
    ts = ts if ts.ndim == 2 else ts[None]
    # A Python number is meant at the precision of the queries: 0.1 is the 0.1 among them.
    start = ts[:, 0] if t0 is None else _as_times(t0, "t0", device, ts.dtype)
    if start.ndim > 1 or (start.ndim == 1 and t0 is not None and start.shape[0] != n_samples):
        raise InputError(f"t0 has shape {tuple(start.shape)}; give a number or one per sample, ({n_samples},)")
    clock = _clock_dtype(device)
    origin = start.to(clock)
    offsets = ts.to(clock) - (origin[:, None] if origin.ndim else origin)
    direction = torch.copysign(as_scalar(1.0, offsets), offsets.detach()[:, -1])
    tau_eval = offsets * direction[:, None]
    is_forward, has_inner_queries, has_repeats = _look_at_queries(tau_eval.detach(), direction, n_samples)
    carrier = (
        (start - start.detach()).to(y0.dtype).expand(n_samples) if start.requires_grad or carries_tangents() else None
    )
    origin, direction = origin.detach().expand(n_samples), direction.expand(n_samples)

    def on_clock(times: Tensor | None, name: str) -> Tensor | None:
        if times is None:
            return None
        t = _as_times(times, name, device)
        if t.ndim not in (1, 2) or (t.ndim == 2 and t.shape[0] != n_samples):
            raise InputError(f"{name} has shape {tuple(t.shape)}; give (N,) or one row per sample, ({n_samples}, N)")
        tau = (t.detach().to(clock).expand(n_samples, -1) - origin[:, None]) * direction[:, None]
        return torch.where(tau >= 0 if name == "jump_times" else tau > 0, tau, torch.inf).sort(1).values

    problem = Problem(
        field=_flat_field(f, args, packing),
        y0=y0,
        t0=origin,
        direction=direction,
        span=tau_eval.detach()[:, -1].expand(n_samples),
        tau_eval=tau_eval.expand(n_samples, -1),
        is_forward=is_forward,
        has_inner_queries=has_inner_queries,
        has_repeats=has_repeats,
        t_carrier=carrier,
        jumps=on_clock(controller.jump_times, "jump_times"),
        grid=on_clock(controller.grid, "grid") if isinstance(controller, FixedStep) else None,
        sources=(f, args),
        with_args=lambda change: _flat_field(f, tuple(map(change, args)), packing),
        narrow=lambda chosen: _flat_field(f, _some_of(args, chosen, n_samples), packing),
    )
    return problem, ts.expand(n_samples, -1)


def _flat_field(f: Callable[..., Any], args: Sequence[Any], packing: Packing) -> Field:
    """Give the field of the flat state."""

    def checked(slope: Any, y: Tensor) -> Tensor:
        flat = packing.flatten(slope, "f")
        if flat.shape != y.shape:
            raise InputError(
                f"f returned {flat.shape[0]} samples for a state of {y.shape[0]}; dy/dt must have the shape of y"
            )
        return flat

    def packed_field(t: Tensor, y: Tensor) -> Tensor:
        return checked(f(t, packing.unflatten(y), *args), y)

    def plain_field(t: Tensor, y: Tensor) -> Tensor:
        slope = f(t, y, *args)
        is_plain = isinstance(slope, Tensor) and slope.shape == y.shape and slope.dtype == y.dtype
        return slope if is_plain else checked(slope, y)

    return plain_field if packing.is_plain else packed_field


def _some_of(args: Sequence[Any], chosen: Tensor, n_samples: int) -> tuple[Any, ...]:
    """Give the arguments of some of the samples: what has a row per sample is narrowed to theirs."""

    def narrowed(arg: Any) -> Any:
        has_rows = isinstance(arg, Tensor) and arg.ndim > 0 and arg.shape[0] == n_samples
        return arg.index_select(0, chosen) if has_rows else arg

    return tuple(narrowed(arg) for arg in args)


def _as_times(times: Any, name: str, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Give times as a floating-point tensor; what is no tensor becomes `dtype`, or that of the clock."""
    try:
        t = torch.as_tensor(times)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is {type(times).__name__}; give a tensor of times") from error
    if t.is_complex() or t.dtype == torch.bool:
        raise InputError(f"{name} has dtype {t.dtype}; times are real numbers")
    clock = _clock_dtype(device)
    if not isinstance(times, Tensor):
        t = torch.as_tensor(times, dtype=dtype or clock)
    t = (t if t.is_floating_point() else t.to(clock)).to(device)
    # A sum is finite where all its terms are, but for terms so large that they are looked at one by one.
    if not bool(bare(t.detach()).sum().isfinite()) and is_any(~t.isfinite()):
        raise InputError(f"{name} holds NaN or infinity; every time must be a finite number")
    return t


def _clock_dtype(device: torch.device) -> torch.dtype:
    # Some accelerators have no float64.
    return torch.float64 if device.type != "mps" else torch.float32


def _look_at_queries(tau_eval: Tensor, direction: Tensor, n_samples: int) -> tuple[bool, bool, bool]:
    """Tell whether time runs upwards, queries lie inside a solve, and several at an end; refuses queries that run both ways from `t0`."""
    # From t0 on: queries on both sides of t0 are as little one way as unsorted ones.
    gaps = torch.diff(tau_eval, dim=1, prepend=torch.zeros_like(tau_eval[:, :1]))
    is_end = tau_eval == tau_eval[:, -1:]
    later = tau_eval > 0
    marks = (~(gaps >= 0), direction < 0, later & ~is_end, (later & is_end)[:, :-1])
    is_wrong, is_backward, has_inner_queries, has_repeats = any_of(*marks)
    if is_wrong:
        if is_transformed():
            raise InputError("t_eval or t0 holds NaN or infinity, or does not run one way from t0")
        samples = marks[0].any(1).expand(n_samples) if len(tau_eval) == 1 else marks[0].any(1)
        if not bool(tau_eval.isfinite().all()):
            raise InputError("t_eval or t0 holds NaN or infinity; every time must be a finite number")
        raise InputError(
            f"t_eval does not run one way from t0 (samples {list_samples(samples)}): "
            "sort the query times of each sample, ascending or descending, all on one side of t0"
        )
    return not is_backward, has_inner_queries, has_repeats


def _describe_failure(problem: Problem, trajectory: Trajectory) -> str:
    """Say for the first failure which samples, when, at which step, and what to do."""
    if is_transformed():
        code = int(bare(trajectory.status).amax())
        return f"{STATUS[code]} (which sample is not known under torch.func)"
    failed = trajectory.status != SUCCESS
    first = int(failed.to(torch.int8).argmax())
    code = int(trajectory.status[first])
    alike = trajectory.status == code
    t = float((problem.t0 + problem.direction * trajectory.tau)[first])
    n_more = int((failed & ~alike).sum())
    return (
        f"samples {list_samples(alike)}: {STATUS[code]} (sample {first} at t = {t:.9g}, step {float(trajectory.dt[first]):.3g}"
        f", after {int((trajectory.n_accepted + trajectory.n_rejected)[first])} steps)"
        + (f"; {n_more} more failed otherwise" if n_more else "")
        + '; on_failure="return" keeps the other samples'
    )


@dataclass(frozen=True)
class _Reader:
    """Reads a solution at other times than its queries."""

    problem: Problem
    trajectory: Trajectory
    packing: Packing

    def read(self, t: Tensor) -> State:
        """Give the states at `(Q,)` or `(B, Q)`."""
        problem, n_samples = self.problem, len(self.problem.y0)
        t = _as_times(t, "t", problem.y0.device)
        if t.ndim not in (1, 2) or (t.ndim == 2 and t.shape[0] != n_samples):
            raise InputError(f"t has shape {tuple(t.shape)}; give (Q,) or one row per sample, ({n_samples}, Q)")
        tau = self._clock(t.expand(n_samples, -1), None)
        if not self.trajectory.steps.ends or t.shape[-1] == 0:
            ys = problem.y0[:, None].expand(-1, t.shape[-1], -1)
        else:
            ys = self.trajectory.steps.evaluate(tau).view(n_samples, tau.shape[1], -1)
        return self._finish(ys, tau, None)

    def read_single(self, sample: Tensor, t: Tensor) -> State:
        """Give the states of `sample` `(P,)` at `t` `(P,)`."""
        t = _as_times(t, "t", self.problem.y0.device)
        if t.ndim != 1 or t.shape != sample.shape:
            raise InputError(f"t has shape {tuple(t.shape)} and sample {tuple(sample.shape)}; give two of (P,)")
        tau = self._clock(t, sample)
        steps = self.trajectory.steps
        ys = steps.evaluate_single(sample, tau) if steps.ends else self.problem.y0.index_select(0, sample)
        return self._finish(ys, tau, sample)

    def step_ends(self) -> Tensor:
        """Give the times at which accepted steps ended, `(B, N)`, NaN behind the last."""
        steps, problem = self.trajectory.steps, self.problem
        if not steps.ends:
            return problem.t0.new_full((len(problem.y0), 0), torch.nan)
        starts, ends = torch.stack(steps.starts, 1).detach(), torch.stack(steps.ends, 1).detach()
        # A sample that rested, or whose step was rejected, has not moved.
        tau = torch.where(ends > starts, ends, torch.inf).sort(1).values[:, : int((ends > starts).sum(1).max())]
        return torch.where(tau.isinf(), torch.nan, problem.t0[:, None] + problem.direction[:, None] * tau)

    def _clock(self, t: Tensor, sample: Tensor | None) -> Tensor:
        """Give clock times; `t` is `(B, Q)`, or `(P,)` with the sample of each."""
        problem = self.problem

        t0 = problem.t0 if problem.t_carrier is None else problem.t0 + problem.t_carrier
        tau = (t.to(problem.t0.dtype) - _of(t0, sample)) * _of(problem.direction, sample)
        # A time that the query's own dtype rounded out of the solve is still inside.
        slack = 4 * torch.finfo(t.dtype).eps * _of(problem.t0.abs() + problem.span, sample)
        outside = (tau < -slack) | (tau > _of(problem.span, sample) + slack)
        if is_any(outside):
            which = outside.any(1) if sample is None else torch.zeros_like(problem.span, dtype=torch.bool)
            which = which if sample is None else which.index_put((sample[outside],), outside[outside])
            raise InputError(
                f"t lies outside the solve (samples {list_samples(which)}): it runs from t0 to the last of t_eval"
            )
        return tau

    def _finish(self, ys: Tensor, tau: Tensor, sample: Tensor | None) -> State:
        """Put what comes after a terminal event, and failures, into states `(B, Q, D)` or `(P, D)`."""
        trajectory = self.trajectory

        if trajectory.end is not None:
            assert trajectory.y_end is not None
            ys = torch.where((tau.detach() > _of(trajectory.end, sample))[..., None], _of(trajectory.y_end, sample), ys)
        ys = torch.where(_of(trajectory.status != SUCCESS, sample)[..., None], torch.nan, ys)
        return self.packing.unflatten(ys)


def _of(x_B: Tensor, sample: Tensor | None) -> Tensor:
    """Give a figure of every sample beside its queries, or of the sample of each query."""
    return x_B[:, None] if sample is None else x_B.index_select(0, sample)
