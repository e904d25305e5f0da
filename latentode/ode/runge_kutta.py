"""An explicit Runge-Kutta step as data (`ButcherTableau`) and as a pure function (`rk_step`).

Legend of suffixes in this package: `B` samples, `D` flattened state, `K` stages, `Q` query times, `P` (sample, query) pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

# dy/dt = field(t_B, y_BD), of the shape and dtype of y_BD.
Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ButcherTableau:
    """Coefficients of an explicit Runge-Kutta method, in the letters of Hairer, Norsett and Wanner (1993), section II.1.

    Attributes:
        c: where in the step each of the `K` stages stands.
        a: row `i` weighs the slopes of stages `0..i-1` for stage `i`; row 0 is empty.
        b: weights of the slopes for the step itself.
        order: the step's error is of size `dt**(order + 1)`.
        b_hat: weights of the embedded method, of one order less, whose distance from `b` is the error estimate.
        dense: row `i` holds the coefficients of `theta, theta**2, ...` in the weight of stage `i` at `t + theta dt`. A
            method without its own interpolant (None) gets the cubic Hermite one.
        dense_order: order of a solve read off between step ends.
        source: where the coefficients are printed.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int
    b_hat: tuple[float, ...] | None = None
    dense: tuple[tuple[float, ...], ...] | None = None
    dense_order: int = 3
    source: str = ""

    @property
    def n_stages(self) -> int:
        """Number of stages `K`."""
        return len(self.b)

    @property
    def is_fsal(self) -> bool:
        """Whether the last stage is the first of the next step, so that a step costs one call less."""
        return self.n_stages > 1 and self.c[-1] == 1.0 and (*self.a[-1], 0.0) == self.b

    @property
    def calls_per_step(self) -> int:
        """Calls of the field per step, given the slope at its start: every step also knows the slope at its end."""
        return self.n_stages - 1 if self.is_fsal else self.n_stages


def rk_step(
    field: Field, t_stages: Sequence[Tensor], y0: Tensor, k0: Tensor, dt: Tensor, tableau: ButcherTableau
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Take one explicit Runge-Kutta step.

    Args:
        field: the vector field.
        t_stages: time of each stage and last of the step's end, `K + 1` tensors `(B,)`.
        y0: state at the start, `(B, D)`.
        k0: `field` at the start, `(B, D)`.
        dt: signed step of each sample, `(B, 1)`, dtype of `y0`.
        tableau: the method.

    Returns:
        The state at the end; `field` there; and the increments `dt * k` of the `K` stages, followed, where the method is
        not first-same-as-last, by the one at the end: what error estimate and interpolant are made of.
    """
    increments = [k0 * dt]
    k1 = k0
    for i in range(1, tableau.n_stages):
        y1 = y0 + combine(tableau.a[i], increments)
        k1 = field(t_stages[i], y1)
        increments.append(k1 * dt)
    if tableau.is_fsal:
        return y1, k1, increments
    y1 = y0 + combine(tableau.b, increments)
    k1 = field(t_stages[-1], y1)
    increments.append(k1 * dt)
    return y1, k1, increments


def combine(weights: Sequence[float], increments: Sequence[Tensor]) -> Tensor:
    """Sum `increments` with `weights`, element by element.

    A matrix product would need fewer calls, but its rounding depends on the size of the batch: a row of a batch would no
    longer equal the same row solved alone.
    """
    total = None
    for weight, increment in zip(weights, increments, strict=False):
        if weight == 0.0:
            continue
        # In place on a tensor that no one else holds; autograd needs no operand of a scaled sum.
        total = increment * weight if total is None else total.add_(increment, alpha=weight)
    assert total is not None, "a row of zeros in a tableau"
    return total


def error_weights(tableau: ButcherTableau) -> tuple[float, ...]:
    """Give `b - b_hat`, the weights of the error estimate; raises on a method without an embedded one."""
    assert tableau.b_hat is not None
    return tuple(b - b_hat for b, b_hat in zip(tableau.b, tableau.b_hat, strict=True))
