"""An explicit Runge-Kutta step as data (`ButcherTableau`) and as a pure function (`rk_step`).

Legend of suffixes in this package: `B` samples, `D` flattened state, `K` stages, `Q` query times, `P` (sample, query) pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from latentode.errors import InputError

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
        dense_order: the interpolant's error over one step is of size `dt**(dense_order + 1)`, as far as the step's end is that
            accurate itself.
        source: where the coefficients are printed.

    Raises:
        InputError: coefficients that do not belong together, or a row of zeros.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int
    b_hat: tuple[float, ...] | None = None
    dense: tuple[tuple[float, ...], ...] | None = None
    dense_order: int = 3
    source: str = ""

    def __post_init__(self) -> None:
        n = len(self.b)
        for name, part in (("c", self.c), ("a", self.a), ("b_hat", self.b_hat), ("dense", self.dense)):
            if part is not None and len(part) != n:
                raise InputError(f"{name} has {len(part)} entries but b {n}; give one for each stage")
        for i, row in enumerate(self.a):
            if len(row) > i or (i > 0 and not any(row)):
                raise InputError(
                    f"row {i} of a is {row!r}; in an explicit method it weighs the {i} stages before it, not all by 0"
                )
        if n == 0 or self.c[0] != 0.0 or not any(self.b):
            raise InputError("a step starts with the slope at c = 0, and b must weigh some slope")

    @property
    def n_stages(self) -> int:
        """Number of stages `K`."""
        return len(self.b)

    @cached_property
    def is_fsal(self) -> bool:
        """Whether the last stage is the first of the next step, so that a step costs one call less."""
        return self.n_stages > 1 and self.c[-1] == 1.0 and (*self.a[-1], 0.0) == self.b

    @property
    def calls_per_step(self) -> int:
        """Calls of the field per step, given the slope at its start: every step also knows the slope at its end."""
        return self.n_stages - 1 if self.is_fsal else self.n_stages

    @cached_property
    def error_weights(self) -> tuple[float, ...]:
        """`b - b_hat`, the weights of the error estimate; only a method with an embedded one has them."""
        assert self.b_hat is not None
        return tuple(b - b_hat for b, b_hat in zip(self.b, self.b_hat, strict=True))


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
