"""Step size control: how long the next step is and whether the last one stands.

Inside the engine a sample's clock `tau` runs upwards from 0 at `t0`, whichever way its time runs; steps are positive. All of
this is constant to autograd: a gradient follows the steps that were taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentode.errors import InputError

from .runge_kutta import Field, as_scalar

# Inverse error ratios of the last two accepted steps.
Memory = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PIDController:
    """Choose steps so that the estimated local error stays below `atol + rtol * |y|` (Soderlind 2003; HNW section II.4).

    The factor on the step is `safety * e0**-k0 * e1**-k1 * e2**-k2`, with `e0, e1, e2` the error ratios of this step and of the
    two accepted before it, `k0 = (p + i + d) / q`, `k1 = -(p + 2 d) / q`, `k2 = d / q`, and `q` the order of the method.

    Attributes:
        rtol, atol: relative and absolute tolerance of the error per step, numbers or tensors that broadcast against the flat state.
        pcoeff, icoeff, dcoeff: proportional, integral and derivative coefficient; the defaults are the classical rule.
        dtmin: no step is shorter, except where it ends at a jump or the last query; if that is not short enough, the sample
            has failed. None: what the clock's rounding swallows.
        force_dtmin: let a step of length `dtmin` stand whatever its error.
        dtmax: no step is longer.
        safety: part of the step that the estimate allows.
        factor_min, factor_max: bounds of the change from one step to the next.
        norm: of the scaled error `(B, D)` to `(B,)`; None: the root mean square.
        jump_times: where `f` jumps in time: steps end there and the slope is taken anew, `(J,)` or `(B, J)`.
    """

    rtol: float | Tensor
    atol: float | Tensor
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    dtmin: float | None = None
    force_dtmin: bool = False
    dtmax: float | None = None
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0
    norm: Callable[[Tensor], Tensor] | None = None
    jump_times: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            is_valid = 0 <= value < float("inf") if not isinstance(value, Tensor) else _is_tolerance(value)
            if not is_valid:
                raise InputError(f"{name} is {getattr(self, name)!r}; a tolerance is a number from 0 up")
        both = (self.rtol == 0) & (self.atol == 0)  # pyright: ignore[reportOperatorIssue]
        if both if isinstance(both, bool) else bool(both.any()):
            raise InputError("rtol and atol are both 0, which no step can meet; raise one of them")
        if not 0 < self.safety <= 1:
            raise InputError(f"safety is {self.safety!r}; it is the part of the allowed step that is used, in (0, 1]")
        if not 0 < self.factor_min < 1 < self.factor_max:
            raise InputError(
                f"factor_min is {self.factor_min!r} and factor_max {self.factor_max!r}; "
                "they bound the change of a step, 0 < factor_min < 1 < factor_max"
            )
        for name in ("dtmin", "dtmax"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise InputError(f"{name} is {bound!r}; it bounds the length of a step, a number above 0")
        if self.force_dtmin and self.dtmin is None:
            raise InputError("force_dtmin lets steps of length dtmin stand; give dtmin")
        if self.dtmin is not None and self.dtmax is not None and self.dtmin > self.dtmax:
            raise InputError(f"dtmin {self.dtmin!r} is above dtmax {self.dtmax!r}; exchange them")

    def size(self, scaled_BD: Tensor) -> Tensor:
        """Give the norm of each sample's scaled state, `(B,)`."""
        if self.norm is not None:
            return self.norm(scaled_BD)
        return torch.linalg.vector_norm(scaled_BD, dim=-1) * max(scaled_BD.shape[-1], 1) ** -0.5

    def error_ratio(self, error: Tensor, y0: Tensor, y1: Tensor) -> Tensor:
        """Give the estimated error `(B, D)` of a step as a multiple of the tolerance, `(B,)`; above 1 is too much."""
        # The mean under the root goes into the tolerances, at no cost.
        root = 1.0 if self.norm is not None else max(error.shape[-1], 1) ** 0.5
        larger = torch.maximum(y0.abs(), y1.abs())
        # With atol = 0 a component that stays 0 would be 0 / 0.
        tiny = torch.finfo(y0.dtype).tiny
        if isinstance(self.rtol, Tensor) or isinstance(self.atol, Tensor):
            scale = (
                torch.as_tensor(self.atol).to(larger).clamp(min=tiny) + torch.as_tensor(self.rtol).to(larger) * larger
            ) * root
        else:
            scale = torch.add(as_scalar(max(self.atol, tiny) * root, y0), larger, alpha=self.rtol * root)
        scaled = error / scale
        return torch.linalg.vector_norm(scaled, dim=-1) if self.norm is None else self.norm(scaled)

    def next_step(
        self, dt: Tensor, ratio: Tensor, accepted: Tensor, memory: Memory | None, order: int
    ) -> tuple[Tensor, Memory | None]:
        """Propose the step that follows one of length `dt` `(B,)`, and what to remember for the one after."""
        k0 = (self.pcoeff + self.icoeff + self.dcoeff) / order
        # A step with NaN in it says nothing but "much shorter": of NaN and a number `fmin` takes the number.
        bounded = torch.fmin(ratio, as_scalar(1e30, ratio))
        factor = torch.mul(bounded ** (-k0), as_scalar(self.safety, ratio))
        if self.pcoeff or self.dcoeff:
            # A finite bottom keeps an exact step (ratio 0) from an infinite memory.
            inverse = bounded.clamp(min=1e-10).reciprocal()
            before, before_that = memory if memory is not None else (torch.ones_like(inverse),) * 2
            factor = factor * before ** (-(self.pcoeff + 2 * self.dcoeff) / order)
            factor = factor * before_that ** (self.dcoeff / order)
            memory = (torch.where(accepted, inverse, before), torch.where(accepted, before, before_that))
        factor = factor.clamp(self.factor_min, self.factor_max)
        if self.pcoeff or self.dcoeff or self.safety == 1.0:
            # What the classical rule gives after a rejected step is shorter by itself.
            factor = torch.where(accepted, factor, factor.clamp(max=min(self.safety, 0.99)))
        # Eight bits are plenty for a guess, and the last bit of a power depends on where in a batch the sample stands: without
        # this a row of a batch would not equal, bit for bit, the same row solved alone.
        proposed = dt * factor.to(torch.bfloat16).to(dt.dtype)
        if self.dtmin is not None or self.dtmax is not None:
            proposed = proposed.clamp(self.dtmin, self.dtmax)
        return proposed, memory


def _is_tolerance(values: Tensor) -> bool:
    return bool(((values >= 0) & (values < torch.inf)).all())


@dataclass(frozen=True)
class FixedStep:
    """Take steps of a given length, or along a given grid, without looking at the error.

    Attributes:
        dt: length of every step; the last one is cut (or, by less than 1/10,000, stretched) to end at the last query.
        grid: times at which steps end, `(G,)` or `(B, G)`, monotone in the direction of the solve; beyond its end one step
            leads to the last query. Times outside the solve are passed over.
        jump_times: where `f` jumps in time, as in `PIDController`.
    """

    dt: float | None = None
    grid: Tensor | None = None
    jump_times: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.dt is None) == (self.grid is None):
            raise InputError("FixedStep takes either dt or grid: FixedStep(dt=0.1) or FixedStep(grid=t)")
        if self.dt is not None and not 0 < self.dt < float("inf"):
            raise InputError(
                f"FixedStep(dt={self.dt!r}): a step is a number above 0; the direction follows from t_eval"
            )

    def first_step(self, ends: Tensor | None, span: Tensor) -> Tensor:
        """Give the length of step 0, `(B,)`."""
        return self.step_after(0, torch.zeros_like(span), ends, span)

    def step_after(self, i_step: int, tau: Tensor, ends: Tensor | None, span: Tensor) -> Tensor:
        """Give the length of step `i_step`, which starts at `tau`.

        Args:
            i_step: number of steps taken.
            tau: the clock, `(B,)`.
            ends: the grid on the clock, ascending, `(B, G)`; None for equal steps.
            span: the clock's last value, `(B,)`.
        """
        if ends is None:
            assert self.dt is not None
            # The product, not a running sum: the sum's rounding would leave a sliver of a step at the end.
            dt = (i_step + 1) * self.dt - tau
            return torch.where(span - tau - dt < 1e-4 * self.dt, torch.inf, dt)
        if i_step >= ends.shape[1]:
            return torch.full_like(tau, torch.inf)
        # Where the grid ends with the solve, the step leads there to the last bit.
        return torch.where(ends[:, i_step] >= span, torch.inf, ends[:, i_step] - tau)


Controller = PIDController | FixedStep


def initial_step(
    field: Field,
    t0: Tensor,
    y0: Tensor,
    k0: Tensor,
    span: Tensor,
    direction: Tensor,
    order: int,
    control: PIDController,
) -> Tensor:
    """Guess the first step (Hairer, Norsett and Wanner 1993, section II.4), at the cost of one call of `field`.

    The book's fallback for a state or slope near zero is a step of 1e-6; here it is 1e-4 of the span, which knows the unit of
    time.

    Args:
        field: the vector field.
        t0: start of each sample, `(B,)`, dtype of the clock.
        y0, k0: state and slope there, `(B, D)`.
        span: length of the solve, `(B,)`, dtype of the clock.
        direction: +1 or -1, `(B,)`.
        order: order of the method.
        control: tolerances and norm of the solve.

    Returns:
        Positive step per sample, `(B,)`, dtype of `span`.
    """
    scale = control.atol + control.rtol * y0.abs()
    if not _is_positive(control.atol):
        # Where atol is 0 and a component too, its scale is no yardstick: leave it out.
        scale = torch.where(scale > 0, scale, torch.inf)
    d0, d1 = control.size(y0 / scale).to(span), control.size(k0 / scale).to(span)
    is_small = torch.minimum(d0, d1 * span) < 1e-5
    h0 = torch.where(is_small, 1e-4 * span, 0.01 * d0 / d1)
    h0 = _coarsen(torch.minimum(h0, span))
    signed = h0 * direction
    k1 = field((t0 + signed).to(y0.dtype), torch.addcmul(y0, signed.to(y0.dtype)[:, None], k0))
    d2 = control.size((k1 - k0) / scale).to(span) / h0
    # The tolerance bounds the error of a step, of size d2 h**(q+1) in the book's units. Where nothing changes the bound is 100 h0.
    h1 = (torch.maximum(d1, d2) * 100.0) ** (-1 / (order + 1))
    # A NaN here is met by the loop.
    return _coarsen(torch.nan_to_num(torch.minimum(100 * h0, h1), nan=0.0, posinf=0.0))


def _is_positive(tolerance: float | Tensor) -> bool:
    return not isinstance(tolerance, Tensor) and tolerance > 0


def _coarsen(step: Tensor) -> Tensor:
    """Drop all but eight bits of a guess, for the reason told in `PIDController.next_step`."""
    return step.to(torch.bfloat16).to(step.dtype)
