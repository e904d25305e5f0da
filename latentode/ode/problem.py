"""An initial value problem on the clock: what stands behind the door of `solve`, all samples in one flat state.

A sample's clock `tau` runs from 0 at `t0` up to its `span`, in float64 (float32 where the device has no float64), whatever the
state's dtype and whichever way its time runs: `t = t0 + direction * tau`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .runge_kutta import Field


@dataclass(frozen=True)
class Problem:
    """An initial value problem on the clock.

    Attributes:
        field: `field(t_B, y_BD) -> (B, D)`, with `t` in the state's dtype.
        y0: `(B, D)`.
        t0: `(B,)`, detached, in the clock's dtype.
        direction: +1 or -1, `(B,)`.
        span: length of the solve, `(B,)`.
        tau_eval: clock times of the queries, `(B, Q)`, ascending; differentiable.
        is_forward: whether time runs upwards in all samples.
        has_inner_queries: whether a query lies neither at the start nor at the end of its sample's solve.
        has_repeats: whether a sample has several queries at its end (padding).
        t_carrier: zero with the gradient of `t0`, `(B,)`, or None: steps are constants, so `t0` reaches `f` through it alone.
        jumps: clock times where the field jumps, from 0 on, padded with infinity, `(B, J)`, or None.
        grid: clock times of a fixed grid, ascending, `(B, G)`, or None.
        sources: the user's field and its arguments, where the tensors are that gradients go to.
        with_args: makes the field with each of its arguments changed by a function; None: it has no arguments.
        narrow: makes the field of some of the samples, chosen by index `(B',)`; None: they cannot be told apart.
    """

    field: Field
    y0: Tensor
    t0: Tensor
    direction: Tensor
    span: Tensor
    tau_eval: Tensor
    is_forward: bool = False
    has_inner_queries: bool = True
    has_repeats: bool = True
    t_carrier: Tensor | None = None
    jumps: Tensor | None = None
    grid: Tensor | None = None
    sources: tuple[Any, Sequence[Any]] = (None, ())
    with_args: Callable[[Callable[[Any], Any]], Field] | None = None
    narrow: Callable[[Tensor], Field] | None = None

    def times(self, tau: Tensor) -> Tensor:
        """Turn clock times `(..., B)` into the field's times."""
        t = torch.addcmul(self.t0, self.direction, tau).to(self.y0.dtype)
        return t if self.t_carrier is None else t + self.t_carrier

    def time_at_start(self) -> Tensor:
        """Give the field's time at the start, on the far side of a jump there, `(B,)`."""
        return self.times_after(torch.zeros_like(self.span))

    def times_after(self, tau: Tensor) -> Tensor:
        """Turn clock times `(B,)` into the field's, on the far side of a jump there."""
        t = self.times(tau)
        return t if self.jumps is None else torch.where(self.is_at_jump(tau), self.beyond(t), t)

    def is_at_jump(self, tau: Tensor) -> Tensor:
        """Tell which clock times `(B,)` are those of a jump with something left to solve."""
        assert self.jumps is not None
        return ((self.jumps - tau[:, None]).abs() <= 1e-14 * self.span[:, None]).any(1) & (tau < self.span)

    def beyond(self, t: Tensor) -> Tensor:
        """Give the next time that floating point knows, in the direction of the solve, `(B,)`."""
        return t + (torch.nextafter(t.detach(), self.direction.to(t) * torch.inf) - t.detach())

    def rows(self, chosen: Tensor, field: Field) -> Problem:
        """Give the problem of some of the samples, chosen by index `(B',)`, with their `field`."""
        narrow = self.narrow

        def pick(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.index_select(0, chosen)

        parts = ("y0", "t0", "direction", "span", "tau_eval", "t_carrier", "jumps", "grid")
        further = None if narrow is None else lambda those: narrow(chosen.index_select(0, those))
        return replace(self, field=field, narrow=further, **{name: pick(getattr(self, name)) for name in parts})
