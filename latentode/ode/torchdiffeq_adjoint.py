"""The gradient of `odeint_adjoint`: a second solve, backwards in time, of the adjoint equation (Chen et al. 2018).

Its state is the tuple of `dL/dt`, the parts of `y`, those of `dL/dy`, and `dL/dp` for every parameter: what callbacks and norms of the
second solve see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .torchdiffeq_options import Sample, State, largest_root_mean_square, root_mean_square

Func = Callable[[Tensor, State], State]


@dataclass(frozen=True)
class AdjointSolve:
    """The two solves and what they share.

    Attributes:
        func: the field, of states in their own shape.
        sample: how a state lies in a flat one.
        forward: makes the first solve: the time of the event, or the last time, and the flat states `(T, D)`.
        backward: makes the second one: of a field, a state and times, like `odeint`.
    """

    func: Func
    sample: Sample
    forward: Callable[[], tuple[Tensor, Tensor]]
    backward: Callable[[Func, State, Tensor], State]

    def field(self, t: Tensor, y_D: Tensor) -> Tensor:
        """Give the slope of a flat state, `(D,)`."""
        return self.sample.flatten(self.func(t, self.sample.unflatten(y_D)))[0]

    def dynamics(self, params: tuple[Tensor, ...], needs_t: bool) -> Func:
        """Give the field of the second solve."""
        n = len(self.sample.shapes)

        def field(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            # Parameters of a wider dtype than the state's widen the tuple, but not what `func` sees.
            y_D, a_D = (join(part).to(self.sample.dtype) for part in (state[1 : n + 1], state[n + 1 : 2 * n + 1]))
            with torch.enable_grad():
                t, y_D = t.detach().to(y_D.real.dtype).requires_grad_(needs_t), y_D.detach().requires_grad_()
                slope_D = self.field(t, y_D)
                wanted = (y_D, *((t,) if needs_t else ()), *params)
                # The zero keeps a slope in the graph that depends on nothing. A parameter may reach `func` through a tensor that was
                # computed outside, whose graph every call goes through.
                pulled = torch.autograd.grad(
                    slope_D + 0 * y_D, wanted, -a_D, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            by_t = pulled[1] if needs_t else torch.zeros_like(state[0])
            by_params = pulled[2:] if needs_t else pulled[1:]
            return (by_t, *self.parts(slope_D.detach()), *self.parts(pulled[0]), *by_params)

        return field

    def parts(self, flat_D: Tensor) -> tuple[Tensor, ...]:
        """Give the parts of a flat state, one for a tensor."""
        state = self.sample.unflatten(flat_D)
        return state if self.sample.is_tuple else (state,)

    def pull_back(
        self, t: Tensor, ys: Tensor, by_ys: Tensor, params: tuple[Tensor, ...], needs_t: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Turn the gradient of the states `(T, D)` into those of the times, the first state and the parameters."""
        n, dynamics = len(self.sample.shapes), self.dynamics(params, needs_t)
        by_t, by_start = torch.zeros_like(t), ys.real.new_zeros(())
        a_D, by_params = by_ys[-1], tuple(torch.zeros_like(p) for p in params)
        for i in range(len(t) - 1, 0, -1):
            if needs_t:
                by_end = (self.field(t[i].to(by_start), ys[i]) * by_ys[i].conj()).real.sum()
                by_t[i], by_start = by_end, by_start - by_end
            state = (by_start, *self.parts(ys[i]), *self.parts(a_D), *by_params)
            start = [part[-1] for part in self.backward(dynamics, state, t[i - 1 : i + 1].flip(0))]
            by_start, by_params = _as(by_start, start[0]), tuple(map(_as, params, start[2 * n + 1 :]))
            # The second solve goes on from the state that the first one found.
            a_D = join(start[n + 1 : 2 * n + 1]) + by_ys[i - 1]
        by_t[0] = by_start
        return by_t, a_D, by_params


class Adjoint(torch.autograd.Function):
    """Solves without recording, and asks the second solve for the gradient."""

    @staticmethod
    def forward(
        ctx: Any, both: AdjointSolve, is_event: bool, t: Tensor, y0: Tensor, *params: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Solve from `y0` `(1, D)`: the time of the event, or the last, and the states `(T, D)`."""
        end, ys = both.forward()
        ctx.both, ctx.is_event = both, is_event
        ctx.save_for_backward(t, end, ys, *params)
        return end, ys

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_end: Tensor, by_ys: Tensor) -> tuple[Tensor | None, ...]:
        """Make the second solve; the time of an event is a constant to it."""
        t, end, ys, *params = ctx.saved_tensors
        times = torch.stack([t[0], end]) if ctx.is_event else t
        by_t, by_y0, by_params = ctx.both.pull_back(times, ys, by_ys, tuple(params), ctx.needs_input_grad[2])
        if ctx.is_event:
            by_t = torch.cat([by_t[:1], torch.zeros_like(t[1:])])
        return None, None, by_t, by_y0[None], *by_params


def adjoint_norm(
    sample: Sample, of_state: Callable[[State], Tensor] | None, is_semi: bool
) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """Give the largest of the norms of the second solve's parts; without the parameters' where it is the semi-norm."""
    n = len(sample.shapes)
    if of_state is None:
        of_state = largest_root_mean_square if sample.is_tuple else root_mean_square

    def largest(parts: tuple[Tensor, ...]) -> Tensor:
        states = (parts[1 : n + 1], parts[n + 1 : 2 * n + 1])
        sizes = [of_state(state if sample.is_tuple else state[0]).abs() for state in states]  # pyright: ignore[reportArgumentType]
        params = () if is_semi else parts[2 * n + 1 :]
        return torch.stack([parts[0].abs(), *sizes, *map(root_mean_square, params)]).amax()

    return largest


def join(parts: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """Lay parts out flat, `(D,)`."""
    return torch.cat([part.reshape(-1) for part in parts])


def _as(like: Tensor, x: Tensor) -> Tensor:
    """Give `x` in the dtype of `like`: beside a complex state a real parameter became complex, too."""
    return (x.real if x.is_complex() and not like.is_complex() else x).to(like.dtype)
