"""The Jacobian of a field whose rows are independent: one `(D, D)` matrix per sample instead of `(B D, B D)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import jvp, vmap

# Time is bound: slope_BD = field(y_BD).
RowField = Callable[[Tensor], Tensor]


def slope_and_jacobian(field: RowField, y: Tensor) -> tuple[Tensor, Tensor]:
    """Give `f(y)` and `J = df/dy` of each sample, both differentiable where gradients are on.

    Forward mode carries all unit vectors through one call. A field that has none (an own autograd function without `jvp`, a
    branch on values) falls back to one backward pass for each of the `D` slopes.

    Args:
        field: gives slopes `(B, D)` of states `(B, D)`, each row from its own row of the state.
        y: `(B, D)`.

    Returns:
        The slopes `(B, D)` and `J` `(B, D, D)`: `J[b, i, j]` is the derivative of slope `i` along state `j`.
    """
    try:
        units = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)[:, None].expand(-1, *y.shape)
        # The slope is the same for all units; under an outer `vmap` torch may not see that, so it gets an axis, too.
        slopes, columns = vmap(lambda unit: jvp(field, (y,), (unit,))[:2], out_dims=(0, 2))(units)
    except RuntimeError:  # An error of the field itself comes again below.
        units = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
        slope, rows = _backward_passes(field, y, [unit.expand_as(y) for unit in units])
        return slope, torch.stack(rows, 1)
    return slopes[0], columns


def slope_and_product(field: RowField, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Give `f(y)` and `v^T J v` of each sample, both differentiable where gradients are on.

    Args:
        field: gives slopes of the shape of `y`, each row from its own row of the state.
        y, v: `(B, D)`.

    Returns:
        The slopes `(B, D)` and the products `(B,)`. Costs about two calls of `field`.
    """
    try:
        slope, product = jvp(field, (y,), (v,))[:2]
    except RuntimeError:  # As above.
        slope, (product,) = _backward_passes(field, y, [v])
    return slope, (product * v).sum(1)


def _backward_passes(field: RowField, y: Tensor, vectors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Give `f(y)` and `v^T J` `(B, D)` for each of `vectors`."""
    is_on = torch.is_grad_enabled()
    with torch.enable_grad():
        # A view: what else of the field depends on y (its arguments, say) is no part of the partial derivative.
        own = y.view_as(y) if y.requires_grad else y.detach().requires_grad_()
        slope = field(own)
        if not slope.requires_grad:
            return slope, [torch.zeros_like(y) for _ in vectors]
        products = [
            torch.autograd.grad(slope, own, v, retain_graph=True, create_graph=is_on, materialize_grads=True)[0]
            for v in vectors
        ]
    return (slope if is_on else slope.detach()), products
