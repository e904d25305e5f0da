"""Newton iterations for the stages of an implicit step.

Simplified ones (Hairer and Wanner 1996, section IV.8): one Jacobian, from the start of the step, and one factorised matrix per sample
serve all stages and iterations. Where they do not converge a shorter step is the better remedy; if the step may not be
shortened, the stage is found as the state that a dynamics settles to (pseudo-transient continuation, Kelley and Keyes 1998).
Suffixes as in `runge_kutta`; nothing here is seen by autograd.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentode.errors import InputError

from .jacobian import slope_and_jacobian
from .runge_kutta import Field
from .transforms import is_any

# Newton's error in a stage is at most this part of the tolerance (Hairer and Wanner recommend 0.1 to 0.01) ...
_KAPPA = 0.03
# ... but need not be below the rounding of a state, this many times the dtype's.
_ROUNDING = 10.0
# A state that settles and gets no nearer is at rounding if it has come as near as this power of the dtype's eps.
_STAGNATION = 0.5
# Tries to settle, the length of a step from where on it is as good as Newton's, and the longest.
_PATIENCE, _LONG, _LONGEST = 100, 100.0, 1e8


@dataclass
class Newton:
    """What the stages of one step share.

    Attributes:
        y0: state at the start, `(B, D)`.
        dt, gamma: the step `(B, 1)` and the method's diagonal entry.
        max_iterations: at most this many per stage.
        is_patient: whether to go on by `_settle` where the iterations find nothing.
        factors, pivots: of `I - gamma dt J`.
        allowed: error of a state, `(B, D)`.
        is_open: who moves and has not failed, `(B,)`.
        n_calls: calls of the field so far, `(B,)`.
        trust: error after an iteration, as a multiple of that iteration's change, `(B,)`; kept from stage to stage.
    """

    y0: Tensor
    dt: Tensor
    gamma: float
    max_iterations: int
    is_patient: bool
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
        was_open = self.is_open
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
            if not is_any(running):
                break
        self.is_open = self.is_open & ~running
        is_lost = was_open & ~self.is_open
        if self.is_patient and is_any(is_lost):
            z = torch.where(is_lost[:, None], self._settle(field, t, base, allowed, is_lost), z)
        return z

    def _settle(self, field: Field, t: Tensor, base: Tensor, allowed: Tensor, running: Tensor) -> Tensor:
        """Give the increments at which `dz/ds = dt f(base + gamma z) - z` settles, and open again who is found.

        It sets out from the state at the start of the step. Of several solutions this is the one that the dynamics itself goes to. A
        step of length `s` is linearly implicit, so that a long one is Newton's; it stands if what it leaves over is what the linear
        equation says, but for half of the change.
        """
        coarse = torch.finfo(base.dtype).eps ** _STAGNATION * (1 + base.abs())
        z = (self.y0 - base) / self.gamma
        residual = self.dt * field(t, self.y0) - z
        at_z = torch.where(running[:, None, None], jacobian(field, t, self.y0), 0.0)
        s = torch.ones_like(base[:, :1])
        running = running & residual.isfinite().all(-1) & at_z.isfinite().all(-1).all(-1)
        self.n_calls = self.n_calls + running * (1 + base.shape[1])
        for _ in range(_PATIENCE):
            part = s / (1 + s)
            factors = factorise(at_z, part * self.gamma * self.dt)
            change = part * _solve(factors, residual)
            after = self.dt * field(t, base + self.gamma * (z + change)) - (z + change)
            bend = part * _solve(factors, after - change / s)
            size = _norm(self.gamma * change / allowed)
            stands = running & (_norm(self.gamma * bend / allowed) <= torch.clamp(size / 2, min=0.5))
            is_newton = s[:, 0] >= _LONG
            # What gets no nearer although it is near is at rounding, which a large Jacobian magnifies.
            is_at_rounding = ~stands & (_norm(self.gamma * change / coarse) <= 1)
            is_done = running & is_newton & (is_at_rounding | (stands & (size <= 1)))
            self.n_calls = self.n_calls + running
            z = torch.where(stands[:, None], z + change, z)
            residual = torch.where(stands[:, None], after, residual)
            self.is_open = self.is_open | is_done
            running = running & ~is_done & (s[:, 0] > 1 / _LONGEST)
            if not is_any(running):
                break
            s = torch.where(stands[:, None], (s * 8).clamp(max=_LONGEST), s / 8)
            at_z = torch.where(stands[:, None, None], jacobian(field, t, base + self.gamma * z), at_z)
            self.n_calls = self.n_calls + (running & stands) * base.shape[1]
        return z

    def is_damped(self, z: Tensor) -> Tensor:
        """Tell who is stiff along `z`: what is left of the increment after a linearly implicit step is less than half, `(B,)`."""
        return _norm(self._solve_linear(z) / self.allowed) < 0.5 * _norm(z / self.allowed)

    def _solve_linear(self, right: Tensor) -> Tensor:
        return _solve((self.factors, self.pivots), right)


def start_newton(
    field: Field,
    t: Tensor,
    y0: Tensor,
    dt: Tensor,
    gamma: float,
    scale: Tensor,
    max_iterations: int,
    *,
    is_patient: bool,
) -> Newton:
    """Take the Jacobian at the start of the step and factorise."""
    at_start = jacobian(field, t, y0)
    is_open = (dt[:, 0] != 0) & at_start.isfinite().all(-1).all(-1)
    factors, pivots = factorise(at_start, torch.where(is_open[:, None], gamma * dt, 0.0))
    allowed = torch.maximum(_KAPPA * scale, _ROUNDING * torch.finfo(y0.dtype).eps * y0.abs())
    return Newton(
        y0=y0,
        dt=dt,
        gamma=gamma,
        max_iterations=max_iterations,
        is_patient=is_patient,
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


def _solve(factors: tuple[Tensor, Tensor], right: Tensor) -> Tensor:
    return torch.linalg.lu_solve(*factors, right[..., None])[..., 0]


def _norm(scaled_BD: Tensor) -> Tensor:
    return torch.linalg.vector_norm(scaled_BD, dim=-1) * max(scaled_BD.shape[-1], 1) ** -0.5
