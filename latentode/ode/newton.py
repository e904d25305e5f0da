"""Simplified Newton iterations for the stages of an implicit step (Hairer and Wanner 1996, section IV.8).

Simplified: one Jacobian, from the start of the step, and one factorised matrix per sample serve all stages and iterations.
Suffixes as in `runge_kutta`; nothing here is seen by autograd.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentode.errors import InputError

from .jacobian import slope_and_jacobian
from .runge_kutta import Field

# Newton's error in a stage is at most this part of the tolerance (Hairer and Wanner recommend 0.1 to 0.01) ...
_KAPPA = 0.03
# ... but need not be below the rounding of a state, this many times the dtype's.
_ROUNDING = 10.0


@dataclass
class Newton:
    """What the stages of one step share.

    Attributes:
        dt, gamma: the step `(B, 1)` and the method's diagonal entry.
        max_iterations: at most this many per stage.
        factors, pivots: of `I - gamma dt J`.
        allowed: error of a state, `(B, D)`.
        is_open: who moves and has not failed, `(B,)`.
        n_calls: calls of the field so far, `(B,)`.
        trust: error after an iteration, as a multiple of that iteration's change, `(B,)`; kept from stage to stage.
    """

    dt: Tensor
    gamma: float
    max_iterations: int
    factors: Tensor
    pivots: Tensor
    allowed: Tensor
    is_open: Tensor
    n_calls: Tensor
    trust: Tensor

    def solve(self, field: Field, t: Tensor, base: Tensor, z: Tensor) -> Tensor:
        """Give the increment of one stage from a guess `z`, `(B, D)`; who finds none is no longer open, its `z` void."""
        eps = torch.finfo(z.dtype).eps
        allowed = torch.maximum(self.allowed, _ROUNDING * eps * base.abs())
        self.trust = self.trust.clamp(min=eps) ** 0.8
        running, size_before = self.is_open, None
        for i in range(self.max_iterations):
            residual = self.dt * field(t, base + self.gamma * z) - z
            change = self._solve_linear(residual)
            size = _norm(self.gamma * change / allowed)
            is_lost = ~(size < torch.inf)
            if size_before is not None:
                rate = size / size_before
                # The book's estimate of what is left, and the same for what would be left after the last iteration.
                trust = rate / (1 - rate)
                is_lost = is_lost | ~(rate < 1) | (trust * size * rate ** (self.max_iterations - 1 - i) > 1)
                self.trust = torch.where(running & (rate < 1), trust, self.trust)
            self.n_calls = self.n_calls + running
            is_done = ~is_lost & (self.trust * size <= 1)
            z = torch.where((running & ~is_lost)[:, None], z + change, z)
            self.is_open = self.is_open & ~(running & is_lost)
            running, size_before = running & ~is_lost & ~is_done, size
            if not bool(running.any()):
                break
        self.is_open = self.is_open & ~running
        return z

    def is_damped(self, z: Tensor) -> Tensor:
        """Tell who is stiff along `z`: what is left of the increment after a linearly implicit step is less than half, `(B,)`."""
        return _norm(self._solve_linear(z) / self.allowed) < 0.5 * _norm(z / self.allowed)

    def _solve_linear(self, right: Tensor) -> Tensor:
        return torch.linalg.lu_solve(self.factors, self.pivots, right[..., None])[..., 0]


def start_newton(
    field: Field, t: Tensor, y0: Tensor, dt: Tensor, gamma: float, scale: Tensor, max_iterations: int
) -> Newton:
    """Take the Jacobian at the start of the step and factorise."""
    at_start = jacobian(field, t, y0)
    is_open = (dt[:, 0] != 0) & at_start.isfinite().all(-1).all(-1)
    factors, pivots = factorise(at_start, torch.where(is_open[:, None], gamma * dt, 0.0))
    allowed = torch.maximum(_KAPPA * scale, _ROUNDING * torch.finfo(y0.dtype).eps * y0.abs())
    return Newton(
        dt=dt,
        gamma=gamma,
        max_iterations=max_iterations,
        factors=factors,
        pivots=pivots,
        allowed=allowed.clamp(min=torch.finfo(y0.dtype).tiny),
        is_open=is_open,
        n_calls=(dt[:, 0] != 0) * y0.shape[1],
        trust=torch.ones_like(dt[:, 0]),
    )


def jacobian(field: Field, t: Tensor, y: Tensor) -> Tensor:
    """Give `df/dy` of each sample, `(B, D, D)`.

    Raises:
        InputError: it has none.
    """
    try:
        return slope_and_jacobian(lambda y: field(t, y), y)[1]
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(
            f"an implicit method needs the derivative of f in y, which has none ({error}); make f differentiable, "
            "or take an explicit method"
        ) from error


def factorise(jacobian_BDD: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Factorise `I - step J`, `step` `(B, 1)`; where the step is 0 the Jacobian may be anything."""
    part = torch.where(step[..., None] != 0, step[..., None] * jacobian_BDD, 0.0)
    identity = torch.eye(part.shape[-1], dtype=part.dtype, device=part.device)
    factors, pivots, _ = torch.linalg.lu_factor_ex(identity - part)
    return factors, pivots


def _norm(scaled_BD: Tensor) -> Tensor:
    return torch.linalg.vector_norm(scaled_BD, dim=-1) * max(scaled_BD.shape[-1], 1) ** -0.5
