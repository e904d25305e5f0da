"""How each library solves a `Problem`: one function per library and mode, all giving a `Way`.

A library that is not installed raises ImportError here, a feature that our engine does not have InputError; the report names both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .problems import Problem

# One thread for XLA, as for torch; read when jax is first imported. `--device cuda` wants JAX_PLATFORMS=cuda in the environment.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("NPROC", "1")

# The default of our engine: a solve that needs more has failed.
MAX_STEPS = 10_000


@dataclass(frozen=True)
class Way:
    """One way to solve a problem.

    Attributes:
        run: the whole solve, forward alone or forward and backward.
        states: what `run` gave, as `(B, Q, D)`.
        gradients: what `run` gave, as one vector, `y0` first, then the parameters; empty for a forward solve.
        nfe: calls of the field in the forward solve, told by the library; None: count them.
        bare: which bare call is the yardstick, "eager", "compiled" or None.
        is_compiled: whether the first call compiles.
    """

    run: Callable[[], Any]
    states: Callable[[Any], np.ndarray]
    gradients: Callable[[Any], np.ndarray] = lambda result: np.empty(0)
    nfe: Callable[[Any], int] | None = None
    bare: str | None = "eager"
    is_compiled: bool = False


def in_torch(
    problem: Problem, solve: Callable[[Tensor], tuple[Tensor, int | None]], with_gradient: bool, **details: Any
) -> Way:
    """Make a way of `solve`, which gives `(B, Q, D)` and the calls it counted, if it counts them.

    With a gradient the loss is the sum of squares at all query times after the start, mean over the samples.
    """
    y0 = problem.y0.clone().requires_grad_(with_gradient)
    inputs = [y0, *problem.field.parameters()]

    def run() -> tuple[Tensor, int | None, tuple[Tensor, ...]]:
        with torch.set_grad_enabled(with_gradient):
            ys, nfe = solve(y0)
            gradients = torch.autograd.grad(ys[:, 1:].square().sum() / len(ys), inputs) if with_gradient else ()
        wait_for(y0.device)
        return ys, nfe, gradients

    return Way(
        run,
        states=lambda result: result[0].detach().cpu().numpy(),
        gradients=lambda result: np.concatenate([np.empty(0), *(g.cpu().numpy().ravel() for g in result[2])]),
        **details,
    )


def ours(
    problem: Problem,
    tol: float,
    *,
    with_gradient: bool = False,
    method: str = "tsit5",
    adjoint: Any = "direct",
    step_mode: str = "per_sample",
    compile: bool = False,
    dt: float | None = None,
) -> Way:
    """Solve with `latentode.ode.solve`, with fixed steps where `dt` is given."""
    from latentode.ode import FixedStep, PIDController
    from latentode.ode import solve as latentode_solve

    controller = PIDController(rtol=tol, atol=tol) if dt is None else FixedStep(dt)

    def solve(y0: Tensor) -> tuple[Tensor, int]:
        solution = latentode_solve(
            problem.field,
            y0,
            problem.t,
            args=problem.args,
            method=method,
            controller=controller,
            adjoint=adjoint,
            step_mode=step_mode,
            max_steps=MAX_STEPS if dt is None else 10 * MAX_STEPS,
            compile=compile,
        )
        return solution.ys, solution.stats["nfe"]

    # Eager solves are counted from outside, so that the engine's own count is not taken on trust.
    nfe = (lambda result: int(result[1].max())) if compile else None
    bare = "compiled" if compile else "eager"
    return in_torch(problem, solve, with_gradient, nfe=nfe, bare=bare, is_compiled=compile)


def torchdiffeq(
    problem: Problem,
    tol: float,
    *,
    with_gradient: bool = False,
    method: str = "dopri5",
    adjoint: bool = False,
    dt: float | None = None,
) -> Way:
    """Solve with torchdiffeq: one step size for the whole batch, a fixed one where `dt` is given."""
    from torchdiffeq import odeint, odeint_adjoint

    field, args = problem.field, problem.args

    def f(t: Tensor, y: Tensor) -> Tensor:
        return field(t, y, *args)

    def solve(y0: Tensor) -> tuple[Tensor, None]:
        settings = {"rtol": tol, "atol": tol, "method": method, "options": None if dt is None else {"step_size": dt}}
        if adjoint:
            ys = odeint_adjoint(f, y0, problem.t, **settings, adjoint_params=tuple(field.parameters()))
        else:
            ys = odeint(f, y0, problem.t, **settings)
        return ys.transpose(0, 1), None

    return in_torch(problem, solve, with_gradient)


def torchode(
    problem: Problem, tol: float, *, with_gradient: bool = False, adjoint: bool = False, compile: bool = False
) -> Way:
    """Solve with torchode, per sample; its adjoint route is the joint one, which is the faster of its two.

    Compiled, it is `torch.compile` on the whole solve where only the end is read, and on its step where queries lie between (there the
    whole takes longer, both to compile and to run). Its step sizes are constants to autograd, as ours are.
    """
    import torchode as to

    n_samples, n_args = len(problem.y0), len(problem.args)
    times = problem.t.expand(n_samples, -1)
    ends_only = len(problem.t) == 2
    term = to.ODETerm(problem.field, with_args=n_args > 0)
    step_method = to.Tsit5(term=term)
    controller = to.IntegralController(atol=tol, rtol=tol, term=term)
    if adjoint:
        solver = to.JointBacksolveAdjoint(term, step_method, controller)
    else:
        solver = to.AutoDiffAdjoint(step_method, controller, backprop_through_step_size_control=False)
    solve_with = solver.solve
    if compile and ends_only:
        solve_with = torch.compile(solve_with)
    elif compile:
        step_method.step = torch.compile(step_method.step)

    def solve(y0: Tensor) -> tuple[Tensor, Tensor]:
        if ends_only:
            posed = to.InitialValueProblem(y0=y0, t_start=times[:, 0], t_end=times[:, 1])
        else:
            posed = to.InitialValueProblem(y0=y0, t_eval=times)
        solution = solve_with(posed, args=problem.args[0]) if n_args else solve_with(posed)
        ys = torch.cat([y0[:, None], solution.ys], 1) if ends_only else solution.ys
        return ys, solution.stats["n_f_evals"]

    nfe = (lambda result: int(result[1].max())) if compile else None
    bare = "compiled" if compile else "eager"
    return in_torch(problem, solve, with_gradient, nfe=nfe, bare=bare, is_compiled=compile)


def diffrax(problem: Problem, tol: float, *, with_gradient: bool = False) -> Way:
    """Solve with diffrax, jitted and vmapped per sample; its gradient is that of recursive checkpointing, its default."""
    import diffrax as dx
    import jax
    import jax.numpy as jnp

    field, params = problem.field.in_jax()
    ts, y0 = jnp.asarray(problem.t.cpu().numpy()), jnp.asarray(problem.y0.cpu().numpy())
    args = tuple(jnp.asarray(a.cpu().numpy()) for a in problem.args)
    controller = dx.PIDController(rtol=tol, atol=tol)
    # Recursive checkpointing keeps room for as many steps as it is allowed.
    max_steps = 256 if with_gradient else MAX_STEPS

    def solve_one(y0: Any, params: Any, args: Any) -> tuple[Any, Any]:
        found = dx.diffeqsolve(
            dx.ODETerm(lambda t, y, p: field(t, y, p[0], *p[1])),
            dx.Tsit5(),
            ts[0],
            ts[-1],
            None,
            y0,
            args=(params, args),
            saveat=dx.SaveAt(ts=ts),
            stepsize_controller=controller,
            max_steps=max_steps,
        )
        return found.ys, found.stats["num_steps"]

    solve = jax.vmap(solve_one, in_axes=(0, None, 0))

    def loss(inputs: tuple[Any, Any]) -> tuple[Any, Any]:
        ys, n_steps = solve(*inputs, args)
        return (ys[:, 1:] ** 2).sum() / len(ys), (ys, n_steps)

    if with_gradient:
        whole = jax.jit(jax.value_and_grad(loss, has_aux=True))
        start = lambda: whole((y0, params))  # noqa: E731
        unpack = lambda result: (*result[0][1], result[1])  # noqa: E731
    else:
        whole = jax.jit(lambda y0, params: (*solve(y0, params, args), ()))
        start = lambda: whole(y0, params)  # noqa: E731
        unpack = lambda result: result  # noqa: E731

    return Way(
        lambda: unpack(jax.block_until_ready(start())),
        states=lambda result: np.asarray(result[0]),
        gradients=lambda result: np.concatenate([np.empty(0), *map(np.ravel, jax.tree.leaves(result[2]))]),
        # Six calls a step, the first slope, and one for the first step's size.
        nfe=lambda result: 6 * int(result[1].max()) + 2,
        bare=None,
        is_compiled=True,
    )


def bare_call(problem: Problem, *, with_gradient: bool, compile: bool) -> Callable[[], Any]:
    """Give one call of the field alone at the same batch, with its backward pass where asked."""
    field = torch.compile(problem.field, dynamic=False) if compile else problem.field
    t = problem.t[:1].expand(len(problem.y0))
    y0 = problem.y0.clone().requires_grad_(with_gradient)
    inputs, ones = [y0, *problem.field.parameters()], torch.ones_like(y0)

    def call() -> Any:
        with torch.set_grad_enabled(with_gradient):
            slope = field(t, y0, *problem.args)
            found = torch.autograd.grad(slope, inputs, ones) if with_gradient else slope
        wait_for(y0.device)
        return found

    return call


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was told: its work is part of the time."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def count_calls(problem: Problem, run: Callable[[], Any]) -> int:
    """Run once and count how often the field is called."""
    n_calls = 0

    def count(*_: Any) -> None:
        nonlocal n_calls
        n_calls += 1

    hook = problem.field.register_forward_pre_hook(count)
    try:
        run()
    finally:
        hook.remove()
    return n_calls
