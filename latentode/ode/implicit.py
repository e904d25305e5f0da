"""The gradient of a fixed point, from the implicit function theorem: it knows nothing of how the point was found.

`f(y*, p) = 0` for all `p` gives `dy*/dp = -J^-1 df/dp` with `J = df/dy`, so a gradient `g` of `y*` is one of `f` itself,
`-J^-T g` (Bai, Kolter and Koltun 2019, theorem 1).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentode.errors import SolveError

from .jacobian import RowField
from .settling import SUCCESS, Anderson, Newton, Tolerance, settle

# u = J^-T g, both (B, D).
TransposedSolve = Callable[[Tensor], Tensor]


class _FixedPoint(torch.autograd.Function):
    """The state `y`, whose gradient goes to its slope `f`."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, y: Tensor, solve_transposed: TransposedSolve) -> Tensor:
        ctx.solve_transposed = solve_transposed
        ctx.save_for_backward(f)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            grad = -ctx.solve_transposed(grads[0])
        if torch.is_grad_enabled():
            grad = _FirstOrder.apply(grad, *ctx.saved_tensors)
        return grad, None, None


class _FirstOrder(torch.autograd.Function):
    """A gradient that depends on all that `f` depends on, but not in a way that is known: the Jacobian was a constant to it.

    Without this, a second derivative would silently lack a part.
    """

    @staticmethod
    def forward(ctx: Any, grad: Tensor, f: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise SolveError(
            "the gradient of a steady state is of first order; for a second derivative, differentiate solve"
        )


def attach_by_jacobian(field: RowField, y: Tensor, search: Newton) -> tuple[Tensor, Tensor]:
    """Give `y` with its gradient by the factors of `J`, and which samples have none since it is singular, `(B,)`.

    Args:
        field: the field.
        y: fixed points `(B, D)`, detached.
        search: what has found and last looked at them.
    """
    f = field(y)
    factors, pivots, is_singular = search.factors, search.pivots, search.is_singular
    if not f.requires_grad:
        return y, torch.zeros_like(is_singular)

    def solve_transposed(grad: Tensor) -> Tensor:
        solution = torch.linalg.lu_solve(factors, pivots, grad[..., None], adjoint=True)[..., 0]
        return torch.where(is_singular[:, None], 0.0, solution)

    return _FixedPoint.apply(f, y, solve_transposed), is_singular


def attach_by_iteration(
    field: RowField,
    y: Tensor,
    beta: Tensor,
    *,
    history: int,
    tolerance: Tolerance,
    max_iterations: int,
    is_strict: bool,
) -> Tensor:
    """Give `y` with its gradient by iterating on products with `J^T`, where `J` is too large to be formed.

    `u = J^-T g` is where `du/ds = J^T u - g` settles, and it settles where the dynamics itself does: Anderson acceleration again.

    Args:
        field: the field.
        y: fixed points `(B, D)`, detached.
        beta: what the search ended with, `(B, 1)`.
        history, tolerance, max_iterations: of the iteration; `rtol` is relative to `g` as well.
        is_strict: whether a gradient that does not settle is an error; otherwise a warning.
    """
    if not field(y).requires_grad:
        return y
    # One graph for both: the products with J^T below, and the gradient that goes on to the parameters. It is made here, not
    # in the backward pass: a closure may by then hold another batch.
    y_own = y.detach().requires_grad_()
    f = field(y_own)

    def solve_transposed(grad: Tensor) -> Tensor:
        size = grad.abs().amax(1, keepdim=True)
        unit = grad / torch.where(size > 0, size, 1.0)

        def adjoint_field(u: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(f, y_own, u, retain_graph=True, materialize_grads=True)
            return product - unit

        search = Anderson(unit, history, beta, replace(tolerance, atol=tolerance.rtol))
        end = settle(adjoint_field, torch.zeros_like(unit), search, max_iterations)
        # A sample that has failed has no gradient to lose.
        is_lost = (end.status != SUCCESS) & (size > 0)[:, 0]
        if bool(is_lost.any()):
            message = (
                f"the gradient of {int(is_lost.sum())} of {len(y)} fixed points did not settle in {max_iterations} iterations; "
                'raise max_iterations or history, or use method="newton", which forms the Jacobian'
            )
            if is_strict:
                raise SolveError(message)
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        return end.y * size

    return _FixedPoint.apply(f, y, solve_transposed)
