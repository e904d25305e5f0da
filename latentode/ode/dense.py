"""Interpolants inside accepted steps: every output of a solve is read off them, so a query never shortens a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from .runge_kutta import as_vector, chain_sum
from .transforms import is_transformed


class HasInterpolant(Protocol):
    """What an interpolant is made from: a tableau, explicit or implicit."""

    @property
    def b(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def dense(self) -> tuple[tuple[float, ...], ...] | None: ...  # noqa: D102
    @property
    def n_stages(self) -> int: ...  # noqa: D102
    @property
    def is_fsal(self) -> bool: ...  # noqa: D102
    @property
    def n_increments(self) -> int: ...  # noqa: D102
    @property
    def dense_c(self) -> tuple[float, ...]: ...  # noqa: D102


def interpolation_weights(tableau: HasInterpolant) -> tuple[tuple[float, ...], ...]:
    """Give, for each increment of a step, the coefficients of its weight in `theta, theta**2, ...`.

    A method without an interpolant of its own gets the cubic Hermite one through `y0, y1` and the slopes there (HNW 1993,
    section II.6): with `y1 - y0 = sum_i b_i dk_i` its weights are those of the stages, too.
    """
    if tableau.dense is not None:
        return tableau.dense
    n = tableau.n_stages
    rows = [[0.0, 3 * b, -2 * b] for b in tableau.b] + ([] if tableau.is_fsal else [[0.0, 0.0, 0.0]])
    for i, slope in ((0, (1.0, -2.0, 1.0)), (n - 1 if tableau.is_fsal else n, (0.0, -1.0, 1.0))):
        rows[i] = [x + y for x, y in zip(rows[i], slope, strict=True)]
    return tuple(tuple(row) for row in rows)


@lru_cache(maxsize=256)
def power_weights(tableau: HasInterpolant, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Give the matrix `(J, K)` that turns increments into the coefficients of `theta, ..., theta**J`."""
    rows = _padded_rows(tableau)
    flat = tuple(row[j] for j in range(len(rows[0])) for row in rows)
    return as_vector(flat, dtype, device).view(len(rows[0]), len(rows))


def _padded_rows(tableau: HasInterpolant) -> list[tuple[float, ...]]:
    """Give a row of the same length for every increment; those that the interpolant does not name have no weight in it."""
    rows = interpolation_weights(tableau)
    rows = (*rows, *((),) * (tableau.n_increments + len(tableau.dense_c) - len(rows)))
    n_powers = max(map(len, rows))
    return [(*row, *(0.0,) * (n_powers - len(row))) for row in rows]


@dataclass
class Steps:
    """Consecutive steps of a batch, as the interpolants read them.

    Attributes:
        starts, ends: the clock before and after each step, `(B,)` each; equal where a sample rested or its step was rejected.
        states: the state before each step, `(B, D)` each.
        powers: coefficients of `theta, ..., theta**J` of each step, `(J, B, D)` each.
    """

    starts: list[Tensor]
    ends: list[Tensor]
    states: list[Tensor]
    powers: list[Tensor]

    @classmethod
    def none(cls) -> Steps:
        """Give an empty collection."""
        return cls([], [], [], [])

    def append(self, start: Tensor, end: Tensor, state: Tensor, powers: Tensor) -> None:
        """Keep a step."""
        self.starts.append(start)
        self.ends.append(end)
        self.states.append(state)
        self.powers.append(powers)

    def first(self, n: int) -> Steps:
        """Give the steps of the first `n` samples."""
        rows = ([part[:n] for part in parts] for parts in (self.starts, self.ends, self.states))
        return Steps(*rows, [powers[:, :n] for powers in self.powers])  # pyright: ignore[reportCallIssue]

    def clear(self) -> None:
        """Forget the steps."""
        for part in (self.starts, self.ends, self.states, self.powers):
            part.clear()

    def evaluate(self, tau_BQ: Tensor, place_P: Tensor | None = None, *, slopes: bool = False) -> Tensor:
        """Read states off the interpolants.

        Args:
            tau_BQ: clock times, `(B, Q)`, differentiable.
            place_P: which of them are meant, as indices into the flat `(B * Q,)`; None: all.
            slopes: give the slopes, per unit of the clock, instead.

        Returns:
            States, `(P, D)`.
        """
        starts_BS, ends_BS = torch.stack(self.starts, 1), torch.stack(self.ends, 1)
        n_samples = len(ends_BS)
        step_BQ = find_steps(ends_BS, tau_BQ.detach())
        start_BQ = starts_BS.gather(1, step_BQ)
        length_BQ = ends_BS.gather(1, step_BQ) - start_BQ
        theta_BQ = step_fraction(tau_BQ, start_BQ, length_BQ)
        at_BQ = step_BQ * n_samples + torch.arange(n_samples, device=step_BQ.device)[:, None]
        parts = (theta_BQ.reshape(-1), at_BQ.reshape(-1), length_BQ.reshape(-1))
        theta_P, at_P, length_P = parts if place_P is None else (part.index_select(0, place_P) for part in parts)
        coefficients = self._coefficients(at_P)
        if not slopes:
            return evaluate_polynomials(theta_P, coefficients)
        return evaluate_slopes(theta_P, coefficients, length_P)

    def evaluate_single(self, sample_P: Tensor, tau_P: Tensor) -> Tensor:
        """Read the state of one sample at one time for each pair of these, `(P, D)`: no sample is read more often than it is asked for."""
        ends_BS = torch.stack(self.ends, 1)
        step_P = find_steps(ends_BS.index_select(0, sample_P), tau_P.detach()[:, None])[:, 0]
        at_P = step_P * len(ends_BS) + sample_P
        start_P, end_P = (torch.cat(clock).index_select(0, at_P) for clock in (self.starts, self.ends))
        return evaluate_polynomials(step_fraction(tau_P, start_P, end_P - start_P), self._coefficients(at_P))

    def _coefficients(self, at_P: Tensor) -> list[Tensor]:
        # A power at a time: what is read stays small, and in one piece for each query.
        tables = (torch.cat(self.states), *torch.cat(self.powers, 1).unbind(0))
        return [table.index_select(0, at_P) for table in tables]


def step_fraction(tau_P: Tensor, start_P: Tensor, length_P: Tensor) -> Tensor:
    """Give `theta`, where in its step each time lies, `(P,)` in [0, 1].

    A sample with nothing to solve rests at 0. The bounds are for a failed sample: its later queries lie far beyond its last step,
    and a power of that would be infinite, in the gradient of the others, too (0 times infinity is NaN).
    """
    return ((tau_P - start_P) / torch.where(length_P > 0, length_P, 1.0)).clamp(0.0, 1.0)


def to_powers(increments: Tensor, tableau: HasInterpolant) -> Tensor:
    """Turn a step's increments `(K, B, D)` into the coefficients of `theta, ..., theta**J`, `(J, B, D)`."""
    if torch.compiler.is_compiling():
        columns = zip(*_padded_rows(tableau), strict=True)
        return torch.stack([chain_sum(column, increments.unbind(0)) for column in columns])
    dtype, shape = increments.dtype, increments.shape[1:]
    if tableau.dense_c:
        # Large coefficients that nearly cancel, as an interpolant of high order has them, would cost float32 three digits.
        increments = increments.double()
    rows = increments.reshape(len(increments), -1).t()
    # A product with a vector each: in one with a matrix the order of a sum depends on how many rows there are.
    powers = [torch.mv(rows, weights) for weights in _weights_of_powers(tableau, increments.dtype, increments.device)]
    return torch.stack(powers).view(len(powers), *shape).to(dtype)


@lru_cache(maxsize=256)
def _weights_of_powers(tableau: HasInterpolant, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return power_weights(tableau, dtype, device).unbind(0)


def evaluate_polynomials(theta_P: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
    """Evaluate `sum_j coefficients[j] theta**j` by Horner's rule, `(P, D)` each."""
    total = coefficients[-1]
    theta = theta_P.to(total.dtype)[:, None].expand_as(total).contiguous()
    for coefficient in reversed(coefficients[:-1]):
        total = torch.addcmul(coefficient, total, theta)
    return total


def evaluate_slopes(theta_P: Tensor, coefficients: Sequence[Tensor], length_P: Tensor) -> Tensor:
    """Evaluate the slopes of polynomials in `theta` over steps of some length, `(P,)`, per unit of the clock, `(P, D)`; 0 over none."""
    slope = evaluate_polynomials(theta_P, [j * c for j, c in enumerate(coefficients)][1:])
    return slope / torch.where(length_P > 0, length_P, torch.inf).to(slope.dtype)[:, None]


def find_steps(ends_BS: Tensor, tau_BQ: Tensor) -> Tensor:
    """Find the accepted step that each clock time falls into: the first that ends at or after it, `(B, Q)` int64."""
    # A time at the very start must not fall into a rejected step, of length 0, whose stages may be anything.
    tau_BQ = tau_BQ.clamp(min=torch.finfo(tau_BQ.dtype).tiny)
    if is_transformed():
        # vmap's copies do not lie in memory as a binary search wants them.
        step_BQ = (ends_BS[:, None] < tau_BQ[..., None]).sum(-1)
    else:
        step_BQ = torch.searchsorted(ends_BS, tau_BQ)
    return step_BQ.clamp(max=ends_BS.shape[1] - 1)
