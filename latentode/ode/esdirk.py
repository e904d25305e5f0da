"""An implicit step for stiff systems as data (`EsdirkTableau`) and as a pure function (`esdirk_step`).

ESDIRK: the first stage is explicit, every other one is implicit in itself alone, all with the same diagonal entry `gamma`, so that
one factorised matrix `I - gamma dt J` per sample and step serves all stages (Hairer and Wanner 1996, section IV.8).

Gradients do not run through Newton's iterations: each stage is the solution of an equation, and the implicit function theorem
gives its derivative, once, with the Jacobian at the solution. Suffixes as in `runge_kutta`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from latentode.errors import InputError

from .newton import factorise, jacobian, start_newton
from .order_conditions import solve_linear, states_at_infinity
from .runge_kutta import Field, chain_sum
from .transforms import carries_tangents, n_derivatives

# A stage is first guessed by extrapolating the slopes of this many earlier ones.
_N_PREDICTING = 3


@dataclass(frozen=True)
class EsdirkTableau:
    """Coefficients of an ESDIRK method, in the letters of Kvaerno (2004).

    Attributes:
        c: where in the step each of the `K` stages stands, from 0 to 1.
        a: row `i` weighs the slopes of stages `0..i`; row 0 is `(0.0,)`, the other rows end in the same `gamma`.
        b: weights of the slopes for the step itself, the last row of `a`: the method is stiffly accurate.
        order: the step's error is of size `dt**(order + 1)`.
        b_hat: weights of the embedded method, of one order less, whose distance from `b` is the error estimate.
        dense, dense_order: the interpolant, as in `ButcherTableau`.
        dense_c, dense_a: further stages of the interpolant; empty.
        source: where the coefficients are printed.

    Raises:
        InputError: coefficients that do not belong together.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int
    b_hat: tuple[float, ...]
    dense: tuple[tuple[float, ...], ...] | None = None
    dense_order: int = 3
    dense_c: tuple[float, ...] = ()
    dense_a: tuple[tuple[float, ...], ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        n = len(self.b)
        for name, part in (("c", self.c), ("a", self.a), ("b_hat", self.b_hat), ("dense", self.dense)):
            if part is not None and len(part) != n:
                raise InputError(f"{name} has {len(part)} entries but b {n}; give one for each stage")
        if n < 2 or self.c[0] != 0.0 or any(self.a[0]):
            raise InputError("the first of at least two stages is explicit: c[0] = 0 and a[0] = (0.0,)")
        for i, row in enumerate(self.a):
            if len(row) != i + 1 or (i > 0 and not row[i] == self.a[1][1] > 0):
                raise InputError(f"row {i} of a is {row!r}; give {i + 1} entries, the last the gamma > 0 of all rows")
        if self.c[-1] != 1.0 or self.a[-1] != self.b:
            raise InputError("the last stage is the step's end: c[-1] = 1 and a[-1] = b")

    @property
    def n_stages(self) -> int:
        """Number of stages `K`."""
        return len(self.b)

    @property
    def n_increments(self) -> int:
        """Number of increments that a step leaves."""
        return self.n_stages

    @property
    def is_fsal(self) -> bool:
        """Whether the last stage is the first of the next step: it is, since the method is stiffly accurate."""
        return True

    @property
    def gamma(self) -> float:
        """The diagonal entry of all implicit stages."""
        return self.a[1][1]

    @cached_property
    def error_weights(self) -> tuple[float, ...]:
        """`b - b_hat`, the weights of the error estimate."""
        return tuple(b - b_hat for b, b_hat in zip(self.b, self.b_hat, strict=True))

    @cached_property
    def predictors(self) -> tuple[tuple[float, ...], ...]:
        """Row `i` weighs the slopes of earlier stages for a guess at stage `i`: a polynomial through the nearest in time."""
        return ((), *(self._predictor(i, _N_PREDICTING, is_stiff=False) for i in range(1, self.n_stages)))

    @cached_property
    def stiff_predictors(self) -> tuple[tuple[float, ...], ...]:
        """The same for a sample that starts with a fast component in motion, whose slope says nothing of the other stages.

        One more stage is weighed so that in the state, as in `stiff_interpolant`, that slope cancels.
        """
        return ((), *(self._predictor(i, _N_PREDICTING + 1, is_stiff=True) for i in range(1, self.n_stages)))

    def _predictor(self, i: int, n_most: int, *, is_stiff: bool) -> tuple[float, ...]:
        # Of two stages at the same time the later is the better one.
        latest = {c: j for j, c in enumerate(self.c[:i])}
        near = sorted(latest.values(), key=lambda j: abs(self.c[j] - self.c[i]))[:n_most]
        moments = range(len(near) - is_stiff)
        rows = [[self.c[j] ** m for j in near] for m in moments]
        right = [[self.c[i] ** m] for m in moments]
        if is_stiff:
            s, _ = states_at_infinity(self.a)
            rows.append([self.gamma * s[j] for j in near])
            right.append([-sum(a * x for a, x in zip(self.a[i][:i], s, strict=False))])
        found = dict(zip(near, solve_linear(rows, right), strict=True))
        return tuple(found[j][0] if j in found else 0.0 for j in range(i))


class EsdirkStep(NamedTuple):
    """An implicit step that was tried. A sample for which Newton's method found no solution is back where it started.

    Attributes:
        y1, k1: state and slope at the end, `(B, D)`.
        increments: `dt * k` of the stages, `(K, B, D)`: what error estimate and interpolant are made of.
        is_converged: whether all stages were solved, `(B,)`.
        n_calls: calls of the field, `(B,)` int64: one per Newton iteration and `D` for the Jacobian. What the graph takes when
            gradients are recorded, `1 + D` per implicit stage, is not counted.
    """

    y1: Tensor
    k1: Tensor
    increments: Tensor
    is_converged: Tensor
    n_calls: Tensor


def esdirk_step(
    field: Field,
    t_stages: Sequence[Tensor],
    y0: Tensor,
    k0: Tensor,
    dt: Tensor,
    tableau: EsdirkTableau,
    *,
    scale: Tensor,
    max_iterations: int = 10,
    is_patient: bool = False,
) -> EsdirkStep:
    """Take one ESDIRK step; its first derivatives are exact, second ones are refused.

    Stage `i` solves `z = dt f(t_i, base_i + gamma z)`, `base_i = y0 + sum_(j<i) a_ij z_j`, for its increment `z`. With the
    increment rather than the slope or the state as unknown, nothing is multiplied by a large Jacobian or divided by a small
    `dt`. One synchronisation with the device per Newton iteration.

    Args:
        field: the vector field, each row from its own row of the state.
        t_stages: time of each stage, `K` tensors `(B,)`.
        y0: state at the start, `(B, D)`.
        k0: slope at the start, `(B, D)`.
        dt: signed step of each sample, `(B, 1)`, dtype of `y0`; a sample with 0 rests.
        tableau: the method.
        scale: error allowed in each state, `(B, D)`, positive.
        max_iterations: Newton iterations per stage.
        is_patient: search on where those find nothing. With an error estimate a shorter step is the better remedy.

    Raises:
        InputError: `field` has no derivative in `y`.
    """
    with torch.no_grad():
        newton = start_newton(field, t_stages[0], y0, dt, tableau.gamma, scale, max_iterations, is_patient=is_patient)
        newton.is_open = newton.is_open & (k0 * dt).isfinite().all(-1)
        solved = [torch.where(newton.is_open[:, None], k0 * dt, 0.0)]
        is_stiff = newton.is_damped(solved[0])[:, None]
        for i in range(1, tableau.n_stages):
            base = y0 + chain_sum(tableau.a[i][:i], solved)
            guess, stiff_guess = (chain_sum(rows[i], solved) for rows in (tableau.predictors, tableau.stiff_predictors))
            solved.append(newton.solve(field, t_stages[i], base, torch.where(is_stiff, stiff_guess, guess)))
        moves = newton.is_open[:, None]
        # Detached: forward-mode derivatives pass through `no_grad`, and Newton's iterations are none of their business.
        solved = [torch.where(moves, z, 0.0).detach() for z in solved]
    increments = solved
    if torch.is_grad_enabled() or carries_tangents():
        increments = _record(field, t_stages, y0, k0, dt, tableau, solved, moves)
    y1 = y0 + chain_sum(tableau.b, increments)
    # Not f(t1, y1): that would multiply what error Newton's method has left by the large Jacobian (Shampine 1980).
    k1 = torch.where(moves, increments[-1] / torch.where(moves, dt, 1.0), k0)
    is_converged = newton.is_open | (dt[:, 0] == 0)
    return EsdirkStep(y1, k1, torch.stack(increments), is_converged, newton.n_calls)


def _record(
    field: Field,
    t_stages: Sequence[Tensor],
    y0: Tensor,
    k0: Tensor,
    dt: Tensor,
    tableau: EsdirkTableau,
    solved: list[Tensor],
    moves: Tensor,
) -> list[Tensor]:
    """Give the increments `solved` with their gradients; who does not move `(B, 1)` stands at the start, where `f` is finite."""
    if n_derivatives() > 1:
        # The Jacobian is a constant to the first one: the second would lack its part.
        raise InputError("an implicit method has first derivatives only; take an explicit method for second ones")
    dt = torch.where(moves, dt, 0.0)
    increments = [torch.where(moves, k0 * dt, 0.0)]
    for i in range(1, tableau.n_stages):
        t = torch.where(moves[:, 0], t_stages[i], t_stages[0])
        y = y0 + chain_sum(tableau.a[i][:i], increments) + tableau.gamma * solved[i]
        image = dt * field(t, y)
        if not image.requires_grad and not carries_tangents():
            increments.append(solved[i])
            continue
        with torch.no_grad():
            factors, pivots = factorise(jacobian(field, t, y), tableau.gamma * dt)
        increments.append(_Solution.apply(image, solved[i], factors, pivots))
    return increments


class _Solution(torch.autograd.Function):
    """The solution `z` of `z = image(z)`: the gradient of `image` at a fixed `z`, times `(I - gamma dt J)^-T`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(image: Tensor, z: Tensor, factors: Tensor, pivots: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2], inputs[3])
        ctx.save_for_forward(inputs[2], inputs[3])

    @staticmethod
    @once_differentiable  # The Jacobian is a constant here: a second derivative would lack its part.
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        factors, pivots = ctx.saved_tensors
        solution = torch.linalg.lu_solve(factors, pivots, grads[0][..., None], adjoint=True)[..., 0]
        return solution, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        factors, pivots = ctx.saved_tensors
        assert tangents[0] is not None
        return torch.linalg.lu_solve(factors, pivots, tangents[0][..., None])[..., 0]
