"""An explicit Runge-Kutta step as data (`ButcherTableau`) and as a pure function (`rk_step`).

Legend of suffixes in this package: `B` samples, `D` flattened state, `K` stages, `Q` query times, `P` (sample, query) pairs,
`S` steps, `J` powers of a polynomial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import torch
from torch import Tensor

from latentode.errors import InputError

from .transforms import carries_tangents, is_transformed

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
        dense_c, dense_a: places and rows of further stages that only the interpolant needs. A row weighs the `K` stages,
            then, unless the method is first-same-as-last, the slope at the end, then the further stages before it; `dense` has
            a row for each of these.
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
    dense_c: tuple[float, ...] = ()
    dense_a: tuple[tuple[float, ...], ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        n = len(self.b)
        for name, part in (("c", self.c), ("a", self.a), ("b_hat", self.b_hat)):
            if part is not None and len(part) != n:
                raise InputError(f"{name} has {len(part)} entries but b {n}; give one for each stage")
        for i, row in enumerate(self.a):
            if len(row) > i or (i > 0 and not any(row)):
                raise InputError(
                    f"row {i} of a is {row!r}; in an explicit method it weighs the {i} stages before it, not all by 0"
                )
        if n == 0 or self.c[0] != 0.0 or not any(self.b):
            raise InputError("a step starts with the slope at c = 0, and b must weigh some slope")
        n_dense = n + len(self.dense_c) + (0 if self.is_fsal or not self.dense_c else 1)
        if self.dense is not None and len(self.dense) not in (n_dense, n, self.n_increments):
            raise InputError(f"dense has {len(self.dense)} entries but there are {n_dense} stages; give one for each")
        if len(self.dense_a) != len(self.dense_c):
            raise InputError(
                f"dense_a has {len(self.dense_a)} rows but dense_c {len(self.dense_c)} places; give one each"
            )

    @property
    def n_stages(self) -> int:
        """Number of stages `K`."""
        return len(self.b)

    @cached_property
    def is_fsal(self) -> bool:
        """Whether the last stage is the first of the next step, so that a step costs one call less."""
        return self.n_stages > 1 and self.c[-1] == 1.0 and (*self.a[-1], 0.0) == self.b

    @property
    def n_increments(self) -> int:
        """Number of increments that a step leaves: its stages and, unless the last of them stands there, the slope at its end."""
        return self.n_stages + (0 if self.is_fsal else 1)

    @property
    def calls_per_step(self) -> int:
        """Calls of the field per step, given the slope at its start: every step also knows the slope at its end."""
        return self.n_increments - 1

    @cached_property
    def error_weights(self) -> tuple[float, ...]:
        """`b - b_hat`, the weights of the error estimate; only a method with an embedded one has them."""
        assert self.b_hat is not None
        return tuple(b - b_hat for b, b_hat in zip(self.b, self.b_hat, strict=True))


def rk_step(
    field: Field,
    t_stages: Sequence[Tensor],
    y0: Tensor,
    k0: Tensor,
    dt: Tensor,
    tableau: ButcherTableau,
    room: Room | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one explicit Runge-Kutta step.

    Args:
        field: the vector field.
        t_stages: time of each stage and last of the step's end, `K + 1` tensors `(B,)`.
        y0: state at the start, `(B, D)`.
        k0: `field` at the start, `(B, D)`.
        dt: signed step of each sample, `(B, 1)`, dtype of `y0`.
        tableau: the method.
        room: working memory for the increments; what it is given for is overwritten by the next step that is given it.

    Returns:
        The state at the end; `field` there; and the increments `dt * k` of the `K` stages, followed, where the method is
        not first-same-as-last, by the one at the end: what error estimate and interpolant are made of, `(K or K + 1, B, D)`.
    """
    sums = start_increments(tableau.n_increments, y0, k0, dt, room or Room())
    y1, k1 = y0, k0
    for i in range(1, tableau.n_stages):
        y1 = sums.add_to(y0, tableau.a[i])
        k1 = field(t_stages[i], y1)
        sums = sums.append(k1, dt)
    if not tableau.is_fsal:
        y1 = sums.add_to(y0, tableau.b)
        k1 = field(t_stages[-1], y1)
        sums = sums.append(k1, dt)
    return y1, k1, sums.stacked()


def explicit_step(field: Field, t0: Tensor, y0: Tensor, dt: Tensor, tableau: ButcherTableau) -> Tensor:
    """Give the end of one explicit Runge-Kutta step and nothing beside it: what a recurrent network takes between two observations.

    No slope at the end, no error estimate, nothing in place: a step costs a call of the field per stage that the end depends on, and
    one operation per weight.

    Args:
        field: the vector field.
        t0: start of each sample's step, `(B,)`.
        y0: state at the start, `(B, D)`.
        dt: signed step of each sample, `(B, 1)`; where it is 0 the state stays as it is.
        tableau: the method.

    Returns:
        The state at the end, `(B, D)`.
    """
    slopes: list[Tensor] = []
    for c, row in zip(tableau.c, tableau.a, strict=True):
        if len(slopes) == len(tableau.b) - 1 and tableau.b[-1] == 0.0:
            break  # of a method that is first-same-as-last the last stage is the slope at the end
        t = t0 if c == 0.0 else t0 + c * dt[:, 0]
        slopes.append(field(t, _add_slopes(y0, row, slopes, dt)))
    return _add_slopes(y0, tableau.b, slopes, dt)


def _add_slopes(y0: Tensor, weights: tuple[float, ...], slopes: Sequence[Tensor], dt: Tensor) -> Tensor:
    y = y0
    for weight, slope in zip(weights, slopes, strict=False):
        if weight != 0.0:
            y = torch.addcmul(y, slope, dt, value=weight)
    return y


def start_increments(n: int, y0: Tensor, k0: Tensor, dt: Tensor, room: Room) -> Increments:
    """Begin the collection of a step's `n` increments with `dt * k0`, in the form that suits who watches."""
    if torch.compiler.is_compiling():
        return TracedIncrements([k0 * dt])
    is_recorded = torch.is_grad_enabled() and (y0.requires_grad or k0.requires_grad or dt.requires_grad)
    # Tangents of forward mode are lost on what is written in place, without a word of `requires_grad`.
    if is_recorded or is_transformed() or carries_tangents():
        return RecordedIncrements([k0 * dt])
    return room.take(n, y0).append(k0, dt)


class Increments(Protocol):
    """The increments `dt * k` of a step so far, and weighted sums of them.

    A sum over stages is one matrix-vector product with the elements of the state as rows: the order in which a row is summed does
    not depend on how many rows there are, so a sample of a batch equals the sample alone.
    """

    def append(self, k: Tensor, dt: Tensor) -> Increments:
        """Take `dt * k` in."""
        ...

    def add_to(self, y0: Tensor, weights: tuple[float, ...]) -> Tensor:
        """Give `y0` plus the weighted sum of as many increments as there are weights, `(B, D)`."""
        ...

    def stacked(self) -> Tensor:
        """Give all increments, `(K, B, D)`."""
        ...


class FilledIncrements:
    """Written in place into one tensor: the fewest operations, where autograd does not watch.

    Args:
        n: how many there will be.
        like: a state, `(B, D)`.
    """

    def __init__(self, n: int, like: Tensor) -> None:
        self.all = like.new_empty(n, *like.shape)
        self.places = self.all.unbind(0)
        columns = self.all.view(n, -1).t()
        self.columns = [columns[:, :i] for i in range(n + 1)]
        self.base = like.reshape(-1)
        self.n = 0

    def start(self, y0: Tensor) -> FilledIncrements:
        """Begin anew, with sums that are added to `y0`."""
        self.base = y0.reshape(-1)
        self.n = 0
        return self

    def append(self, k: Tensor, dt: Tensor) -> Increments:
        """Take `dt * k` in."""
        if k.requires_grad and torch.is_grad_enabled():
            # The field came upon a parameter only now: from here on there is something to record.
            return RecordedIncrements([*self.all[: self.n].clone(), k * dt])
        torch.mul(k, dt, out=self.places[self.n])
        self.n += 1
        return self

    def add_to(self, y0: Tensor, weights: tuple[float, ...]) -> Tensor:
        """Give `y0` plus the weighted sum."""
        row = as_vector(weights, y0.dtype, y0.device)
        return torch.addmv(self.base, self.columns[len(weights)], row).view(y0.shape)

    def stacked(self) -> Tensor:
        """Give all increments."""
        return self.all


class Room:
    """Working memory that one step after the other uses."""

    def __init__(self) -> None:
        self.filled: FilledIncrements | None = None

    def take(self, n: int, y0: Tensor) -> FilledIncrements:
        """Give room for `n` increments of a state like `y0`."""
        filled = self.filled
        if filled is None or filled.all.shape[1:] != y0.shape or len(filled.all) != n:
            filled = self.filled = FilledIncrements(n, y0)
        return filled.start(y0)


@dataclass
class RecordedIncrements:
    """A list, since what autograd has recorded may not be written over."""

    all: list[Tensor]

    def append(self, k: Tensor, dt: Tensor) -> Increments:
        """Take `dt * k` in."""
        self.all.append(k * dt)
        return self

    def add_to(self, y0: Tensor, weights: tuple[float, ...]) -> Tensor:
        """Give `y0` plus the weighted sum."""
        return add_weighted(y0, weights, torch.stack(self.all[: len(weights)]))

    def stacked(self) -> Tensor:
        """Give all increments."""
        return torch.stack(self.all)


@dataclass
class TracedIncrements:
    """For the compiler, which fuses a chain of sums into one loop but would call a library for a product."""

    all: list[Tensor]

    def append(self, k: Tensor, dt: Tensor) -> Increments:
        """Take `dt * k` in."""
        self.all.append(k * dt)
        return self

    def add_to(self, y0: Tensor, weights: tuple[float, ...]) -> Tensor:
        """Give `y0` plus the weighted sum."""
        return y0 + chain_sum(weights, self.all)

    def stacked(self) -> Tensor:
        """Give all increments."""
        return torch.stack(self.all)


def chain_sum(weights: tuple[float, ...], terms: Sequence[Tensor]) -> Tensor:
    """Sum `terms` with `weights`, leaving zeros out, one after the other."""
    total = None
    for weight, term in zip(weights, terms, strict=False):
        if weight != 0.0:
            total = term * weight if total is None else total + term * weight
    return torch.zeros_like(terms[0]) if total is None else total


def add_weighted(y0: Tensor, weights: tuple[float, ...], increments: Tensor) -> Tensor:
    """Give `y0` `(B, D)` plus the sum of `increments` `(K, B, D)` with `weights`."""
    row = as_vector(weights, y0.dtype, y0.device)
    return torch.addmv(y0.reshape(-1), increments.view(len(row), -1).t(), row).view(y0.shape)


@lru_cache(maxsize=1024)
def as_vector(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give `weights` as a tensor, made once."""
    with torch.inference_mode(False):
        return torch.tensor(weights, dtype=dtype, device=device)


def as_scalar(value: float, like: Tensor) -> Tensor:
    """Give a number as a tensor of the dtype and device of `like`: binary operations are quicker with one than with a number."""
    if torch.compiler.is_compiling():
        return torch.full((), value, dtype=like.dtype, device=like.device)
    return as_vector((value,), like.dtype, like.device)


@lru_cache(maxsize=256)
def as_column(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give `weights` as a column `(K, 1)`, made once."""
    return as_vector(weights, dtype, device).unsqueeze(1)
