"""How a batch of states moves to fixed points of its field: `Newton` along the flow, `Anderson` by mixing past iterates.

A search remembers what it learnt; `settle` owns the states. All tensors are detached. Suffixes: `B` samples, `D` flattened state,
`M` remembered differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .jacobian import RowField, slope_and_jacobian

SUCCESS, MAX_ITERATIONS, STALLED, NOT_FINITE, SINGULAR = range(5)


class Search(Protocol):
    """A way to look for fixed points."""

    def look(self, field: RowField, y: Tensor, f: Tensor) -> Tensor:
        """Learn what is needed about the states `y` with slopes `f`; returns which have settled, `(B,)`."""
        ...

    def propose(self, y: Tensor, f: Tensor, running: Tensor) -> Tensor | None:
        """Give the next states to try, or None where no sample is running: the one wait for the device."""
        ...

    def judge(self, y: Tensor, f: Tensor, y_new: Tensor, f_new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give state and slope to go on from, `(B, D)`, and whether a sample cannot go on, `(B,)`."""
        ...


@dataclass(frozen=True)
class Tolerance:
    """How near is near: `atol + rtol max|y|`, and never nearer than the rounding of `dtype`."""

    rtol: float
    atol: float
    dtype: torch.dtype

    @property
    def eps(self) -> float:
        """Relative rounding of what the field computes."""
        return torch.finfo(self.dtype).eps

    def of(self, y: Tensor) -> Tensor:
        """Give the tolerance of each sample, `(B, 1)`."""
        return self.atol + self.rtol * y.abs().amax(1, keepdim=True)


@dataclass
class Settled:
    """Where `settle` ended: `y`, `f` `(B, D)`; `status`, `n_iterations` `(B,)` int64."""

    y: Tensor
    f: Tensor
    status: Tensor
    n_iterations: Tensor


@torch.no_grad()
def settle(field: RowField, y: Tensor, search: Search, max_iterations: int) -> Settled:
    """Move each sample of `y` `(B, D)` until `search` finds that it has settled.

    A sample that has settled or failed rests. Others never depend on it: it stays in the batch, so that shapes, and with them
    rounding, remain the same. At the end, `search` has looked at all final states.
    """
    f = field(y)
    status = torch.where(f.isfinite().all(1), SUCCESS, NOT_FINITE)
    n_iterations = torch.zeros_like(status)
    running = status == SUCCESS
    for i in range(max_iterations + 1):
        running = running & ~search.look(field, y, f)
        proposed = search.propose(y, f, running) if i < max_iterations else None
        if proposed is None:
            break
        # A resting sample stays where f is known to be finite.
        y_new = torch.where(running[:, None], proposed, y)
        f_new = field(y_new)
        y_next, f_next, is_stuck = search.judge(y, f, y_new, f_new)
        y = torch.where(running[:, None], y_next, y)
        f = torch.where(running[:, None], f_next, f)
        n_iterations += running
        is_stuck = is_stuck & running
        # What holds a stuck sample back lies ahead of it, where the steps were refused.
        how = torch.where(f_new.isfinite().all(1), STALLED, NOT_FINITE)
        status = torch.where(is_stuck, how, status)
        running = running & ~is_stuck
    return Settled(y, f, torch.where(running, MAX_ITERATIONS, status), n_iterations)


# The flow of the linearised field is summed up as a Taylor series over a time in which it changes by at most this, then doubled.
_SHORT = 0.25
_TAYLOR_ORDER = 5


class Newton:
    """Newton's method that keeps to the flow: each step solves the linearised field over a time `dt`, which grows.

    `y(dt) = y + dt phi1(dt J) f`, `phi1(z) = (e^z - 1) / z`, the exponential Rosenbrock-Euler step (Pope 1963; Hochbruck,
    Ostermann and Schweitzer 2009). Along directions in which `J` is stable it becomes Newton's step `-J^-1 f` as `dt` grows;
    along unstable ones it leaves, as the flow does. So it finds the point to which the dynamics settles, where Newton's method,
    and pseudo-transient continuation by implicit Euler steps, `y + (I / dt - J)^-1 f` (Kelley and Keyes 1998), once `dt` is long,
    find any.

    A step is judged by Deuflhard's natural test (2011, section 3.3) with `R f` for Newton's step: with `d` the part of `f` at its
    end that the linearised field did not foresee, `|R d|` estimates the step's error, and must not be above half of `|R f|`.
    A sample has settled when, after such a step of at least the fastest time, Newton's estimate of the way that is left,
    `|J^-1 f|`, is within the tolerance: that estimate alone is also small where `f` ends with an infinite slope.

    Attributes:
        jacobian, factors, pivots: `J` of the states last looked at, `(B, D, D)`, and its LU factors.
        is_singular: where these cannot be used, `(B,)`.
    """

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.dt: Tensor | None = None

    def look(self, field: RowField, y: Tensor, f: Tensor) -> Tensor:
        """Take the Jacobian and estimate the way that is left."""
        self.jacobian = slope_and_jacobian(field, y)[1]
        self.rate = self.jacobian.abs().sum(2).amax(1)
        self.factors, self.pivots, _ = torch.linalg.lu_factor_ex(self.jacobian)
        pivot = self.factors.diagonal(dim1=1, dim2=2).abs().amin(1)
        self.is_singular = ~(pivot > y.shape[1] * torch.finfo(y.dtype).eps * self.rate)
        # f is rounded as a sum of J_ij y_j is. An infinite derivative is no excuse for a slope that is not small.
        rounding = (4 * self.tolerance.eps * _apply(self.jacobian.abs(), y.abs())).nan_to_num(0.0, posinf=0.0)
        is_settled = (f.abs() <= rounding).all(1)
        if self.dt is None:
            # About the fastest time of the linearised field, or what it takes to move by one or by itself.
            self.dt = 1 / torch.maximum(self.rate, f.abs().amax(1) / (1 + y.abs().amax(1)))
            return is_settled
        way = torch.linalg.lu_solve(self.factors, self.pivots, f[..., None])[..., 0]
        is_near = self._is_within(way, y)
        # Where a sum of states is conserved, J is singular everywhere: the longest of steps must not lead anywhere.
        return is_settled | self.is_foreseen & self.is_long & (
            is_near | self.is_longest & self._is_within(self.step, y)
        )

    def propose(self, y: Tensor, f: Tensor, running: Tensor) -> Tensor | None:
        """Go along the linearised flow for the time `dt` of each sample."""
        assert self.dt is not None
        # Beyond this time doubling would blow up the rounding of directions in which nothing moves.
        longest = 0.01 / (torch.finfo(y.dtype).eps * self.rate)
        self.is_longest = self.dt >= longest
        self.dt = torch.minimum(self.dt, longest)
        self.is_long = self.dt * self.rate >= 1 - 1e-3
        n_doublings = (self.dt * self.rate / _SHORT).log2().ceil().nan_to_num(0.0).clamp(0, 64)
        n_most = int(torch.where(running, n_doublings, -1.0).amax()) if len(y) else -1
        if n_most < 0:
            return None
        self.response = _linear_response(self.jacobian, self.dt, n_doublings, n_most)
        self.step = _apply(self.response, f)
        return y + self.step

    def judge(self, y: Tensor, f: Tensor, y_new: Tensor, f_new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Accept steps of which the linearised field foresaw the end; choose the next `dt`."""
        assert self.dt is not None
        unforeseen = f_new - f - _apply(self.jacobian, self.step)
        error = _norm(_apply(self.response, unforeseen)) / _norm(self.step)
        self.is_foreseen = (error <= 0.5) & f_new.isfinite().all(1)
        # The error falls with dt^2 while dt is short.
        longer = (0.25 / error).sqrt().clamp(max=10.0)
        shorter = (0.2 / error).sqrt().clamp(0.1, 0.5).nan_to_num(0.1)
        self.dt = self.dt * torch.where(self.is_foreseen, longer, shorter)
        is_stuck = ~self.is_foreseen & (_norm(self.step) <= self.tolerance.eps * _norm(y))
        is_stuck = is_stuck | ~self.jacobian.isfinite().all((1, 2))
        is_good = self.is_foreseen[:, None]
        return torch.where(is_good, y_new, y), torch.where(is_good, f_new, f), is_stuck

    def _is_within(self, way: Tensor, y: Tensor) -> Tensor:
        return (way.abs() <= self.tolerance.of(y)).all(1)


def _linear_response(jacobian: Tensor, dt: Tensor, n_doublings: Tensor, n_most: int) -> Tensor:
    """Give `dt phi1(dt J)`, `(B, D, D)`: where the flow of `dy/dt = J y + f` has moved by `dt`, per unit of `f`."""
    short = (dt * torch.exp2(-n_doublings))[:, None, None]
    identity = torch.eye(jacobian.shape[1], dtype=jacobian.dtype, device=jacobian.device)
    z = short * jacobian
    series = identity = identity.expand_as(z)
    for k in range(_TAYLOR_ORDER, 0, -1):
        series = torch.baddbmm(identity, z, series, alpha=1 / (k + 1))
    response, flow = short * series, torch.baddbmm(identity, z, series)
    for i in range(n_most):
        is_short = (i < n_doublings)[:, None, None]
        response = torch.where(is_short, torch.baddbmm(response, flow, response), response)
        flow = torch.where(is_short, flow @ flow, flow)
    return response


class Anderson:
    """Anderson acceleration (Anderson 1965; Walker and Ni 2011) of `y <- y + beta f(y)`, without a Jacobian.

    The next state is the mix of the last iterates whose slopes cancel best, moved along what is left of the slope. A sample whose
    slope grows fourfold above its least goes back to where that was and forgets. Where it had not come nearer since it last forgot,
    it also takes for `beta` the time of change that the refused step met, half of the old one at most. A sample has settled when
    its slope is within the tolerance.

    Attributes:
        beta: the factor of each sample, `(B, 1)`.
    """

    def __init__(self, y: Tensor, history: int, beta: Tensor, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.beta = self.first_beta = beta
        self.y_steps = y.new_zeros(*y.shape, history)
        self.f_steps = y.new_zeros(*y.shape, history)
        self.i_next = 0
        self.best: tuple[Tensor, Tensor] | None = None
        self.has_come_nearer = torch.zeros_like(beta, dtype=torch.bool)

    def look(self, field: RowField, y: Tensor, f: Tensor) -> Tensor:
        """Compare the slope with the tolerance, or with the least change of `y` over the time `beta`."""
        rounding = 4 * self.tolerance.eps * y.abs().amax(1, keepdim=True) / self.first_beta
        return (f.abs() <= torch.maximum(self.tolerance.of(y), rounding)).all(1)

    def propose(self, y: Tensor, f: Tensor, running: Tensor) -> Tensor | None:
        """Mix: `y + beta f - (Y + beta F) gamma` with the `gamma` of least `|f - F gamma|`."""
        if not bool(running.any()):
            return None
        # Columns of unit length: differences shrink by orders of magnitude from one iteration to the next.
        length = self.f_steps.norm(dim=1, keepdim=True)
        length = torch.where(length > 0, length, 1.0)
        f_units, y_units = self.f_steps / length, self.y_steps / length
        gram = f_units.mT @ f_units
        regular = torch.eye(gram.shape[1], dtype=y.dtype, device=y.device) * (10 * torch.finfo(y.dtype).eps)
        # A row that is not finite fails by itself.
        gamma = torch.linalg.solve_ex(gram + regular + _empty_slots(gram), f_units.mT @ f[..., None])[0]
        return y + self.beta * f - ((y_units + self.beta[..., None] * f_units) @ gamma)[..., 0]

    def judge(self, y: Tensor, f: Tensor, y_new: Tensor, f_new: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Remember the step, or go back to the best state and forget."""
        y_best, f_best = (y, f) if self.best is None else self.best
        is_good = (_norm(f_new) <= 4 * _norm(f_best))[:, None]  # False for NaN
        slot = self.i_next % self.f_steps.shape[2]
        self.y_steps[..., slot], self.f_steps[..., slot] = y_new - y, f_new - f
        # Not a product: a refused step may be infinite.
        self.y_steps = torch.where(is_good[..., None], self.y_steps, 0.0)
        self.f_steps = torch.where(is_good[..., None], self.f_steps, 0.0)
        self.i_next += 1
        met = (_norm(y_new - y) / _norm(f_new - f))[:, None].nan_to_num(torch.inf)
        shorter = met.clamp(self.beta / 1e4, self.beta / 2)
        self.beta = torch.where(is_good | self.has_come_nearer, self.beta, shorter)
        is_better = is_good & (_norm(f_new) < _norm(f_best))[:, None]
        self.has_come_nearer = is_better | self.has_come_nearer & is_good
        self.best = torch.where(is_better, y_new, y_best), torch.where(is_better, f_new, f_best)
        y_next, f_next = torch.where(is_good, y_new, y_best), torch.where(is_good, f_new, f_best)
        return y_next, f_next, (self.beta < 1e-9 * self.first_beta)[:, 0]


def _empty_slots(gram: Tensor) -> Tensor:
    """One on the diagonal where nothing is remembered yet."""
    return torch.diag_embed((gram.diagonal(dim1=1, dim2=2) == 0).to(gram.dtype))


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _norm(vector: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vector, dim=1)
