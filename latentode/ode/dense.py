"""Interpolants inside accepted steps: every output of a solve is read off them, so a query never shortens a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .runge_kutta import ButcherTableau

# Up to here counting the steps that end before a query is cheaper than bisection.
_STEPS_TO_COUNT = 128


def interpolation_weights(tableau: ButcherTableau) -> tuple[tuple[float, ...], ...]:
    """Give, for each increment that `rk_step` returns, the coefficients of its weight in `theta, theta**2, ...`.

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


@dataclass
class Steps:
    """Consecutive steps of a batch, as the interpolants read them.

    Attributes:
        starts, ends: the clock before and after each step, `(B,)` each; equal where a sample rested or its step was rejected.
        states: the state before each step, `(B, D)` each.
        increments: what `rk_step` returned for each step.
    """

    starts: list[Tensor]
    ends: list[Tensor]
    states: list[Tensor]
    increments: list[list[Tensor]]

    def clear(self) -> None:
        """Forget the steps."""
        for part in (self.starts, self.ends, self.states, self.increments):
            part.clear()

    def evaluate(self, tau_P: Tensor, sample_P: Tensor, tableau: ButcherTableau) -> Tensor:
        """Read states off the interpolants.

        Args:
            tau_P: clock times inside the steps, `(P,)`, differentiable.
            sample_P: the sample that each belongs to, `(P,)` int64.
            tableau: the method that took the steps.

        Returns:
            States, `(P, D)`.
        """
        starts_BN, ends_BN = torch.stack(self.starts, 1), torch.stack(self.ends, 1)
        n_samples = len(ends_BN)
        step_P = _find_steps(starts_BN[:, 0], ends_BN, tau_P.detach(), sample_P)
        start_P = starts_BN[sample_P, step_P]
        length_P = ends_BN[sample_P, step_P] - start_P
        # A sample with nothing to solve rests at theta = 0. The bounds are for a failed sample: its later queries lie far beyond
        # its last step, and a power of that would be infinite, in the gradient of the others, too (0 times infinity is NaN).
        theta_P = ((tau_P - start_P) / torch.where(length_P > 0, length_P, 1.0)).clamp(0.0, 1.0)
        rows = [(i, row) for i, row in enumerate(interpolation_weights(tableau)) if any(row)]
        weight_PK = _polynomials(theta_P, [row for _, row in rows]).to(self.states[0].dtype)
        at_P = step_P * n_samples + sample_P
        y = torch.stack(self.states).flatten(0, 1).index_select(0, at_P)
        for column, (i, _) in enumerate(rows):
            dk = torch.stack([step[i] for step in self.increments]).flatten(0, 1).index_select(0, at_P)
            y = y + dk * weight_PK[:, column, None]
        return y


def _find_steps(first_B: Tensor, ends_BN: Tensor, tau_P: Tensor, sample_P: Tensor) -> Tensor:
    """Find the accepted step that each clock time falls into: the first that ends at or after it."""
    n_steps = ends_BN.shape[1]
    if n_steps <= _STEPS_TO_COUNT:
        step_P = (ends_BN[sample_P] < tau_P[:, None]).sum(1)
    else:
        # Bisection: the step sought lies in [low, high]. A call per halving, but no (P, N) table of comparisons.
        low_P, high_P = torch.zeros_like(sample_P), torch.full_like(sample_P, n_steps - 1)
        for _ in range(n_steps.bit_length()):
            middle_P = (low_P + high_P) // 2
            is_before = ends_BN[sample_P, middle_P] < tau_P
            low_P = torch.where(is_before, torch.minimum(middle_P + 1, high_P), low_P)
            high_P = torch.where(is_before, high_P, middle_P)
        step_P = low_P
    # A time at the very start must not fall into a rejected step, whose stages may be anything.
    accepted_from_B = (ends_BN <= first_B[:, None]).sum(1)
    return torch.maximum(step_P, accepted_from_B[sample_P]).clamp_(max=n_steps - 1)


def _polynomials(theta_P: Tensor, rows: list[tuple[float, ...]]) -> Tensor:
    """Evaluate `sum_j rows[i][j] theta**(j + 1)` for every row, `(P, K)`, by Horner's rule."""
    coefficients = theta_P.new_tensor(rows)
    theta = theta_P[:, None]
    total = coefficients[:, -1] * theta
    for j in range(coefficients.shape[1] - 2, -1, -1):
        total = (total + coefficients[:, j]) * theta
    return total
