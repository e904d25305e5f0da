r"""Paths through observations: values that are missing filled in, and cubic Hermite splines with backward differences.

Every sample has knots of its own. Tensors in, tensors out; gradients flow to the values. Legend: `B` samples, `T` knots, `C` channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def fill_forward(value_BTC: Tensor, observed_BTC: Tensor, start: float = 0.0) -> Tensor:
    """Hold every channel at its last observed value; before the first one it is `start`. What comes later changes nothing before it."""
    before = _last_seen(observed_BTC)
    held = value_BTC.gather(1, before.clamp(min=0))
    return torch.where(before >= 0, held, start)


def fill_linear(t_BT: Tensor, value_BTC: Tensor, observed_BTC: Tensor, start: float = 0.0) -> Tensor:
    """Interpolate every channel linearly between its own observed values; outside them it is constant.

    Args:
        t_BT: knots, ascending per sample.
        value_BTC: values, of which only the observed ones are read.
        observed_BTC: bool.
        start: what a channel holds that was never observed.
    """
    n = t_BT.shape[1]
    before = _last_seen(observed_BTC)
    after = n - 1 - _last_seen(observed_BTC.flip(1)).flip(1)
    # Outside, the only neighbour stands for both; where there is none, neither is read.
    left = torch.where(before >= 0, before, after).clamp(max=n - 1)
    right = torch.where(after < n, after, before).clamp(min=0)
    t_BTC = t_BT[..., None].expand_as(value_BTC)
    t_left, t_right = t_BTC.gather(1, left), t_BTC.gather(1, right)
    part = (t_BTC - t_left) / torch.where(t_right > t_left, t_right - t_left, 1.0)
    filled = torch.lerp(value_BTC.gather(1, left), value_BTC.gather(1, right), part)
    return torch.where((before >= 0) | (after < n), filled, start)


def _last_seen(observed_BTC: Tensor) -> Tensor:
    """Give the position of the last observed value up to each knot, int64; -1 where there is none."""
    position = torch.arange(observed_BTC.shape[1], device=observed_BTC.device)[:, None]
    return torch.where(observed_BTC, position, -1).cummax(1).values


@dataclass(frozen=True)
class CubicPath:
    r"""A piecewise cubic path, :math:`X(t) = a + b s + c s^2 + d s^3` with :math:`s = t - t_i` between knots `i` and `i + 1`.

    Attributes:
        t: knots, ascending per sample, `(B, T)`, at least two.
        coefficients: `a, b, c, d` of each piece, `(B, T - 1, 4, C)`.
    """

    t: Tensor
    coefficients: Tensor

    def value(self, t_B: Tensor) -> Tensor:
        """Give where each sample's path is, `(B, C)`; outside the knots the first or the last piece goes on."""
        s, (a, b, c, d) = self._piece(t_B)
        return a + s * (b + s * (c + s * d))

    def slope(self, t_B: Tensor) -> Tensor:
        """Give the derivative of each sample's path, `(B, C)`."""
        s, (_, b, c, d) = self._piece(t_B)
        return b + s * (2 * c + s * (3 * d))

    def _piece(self, t_B: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        n_pieces = self.coefficients.shape[1]
        piece = (torch.searchsorted(self.t, t_B[:, None].contiguous(), right=True)[:, 0] - 1).clamp(0, n_pieces - 1)
        row = torch.arange(len(piece), device=piece.device)
        s = t_B - self.t[row, piece]
        return s[:, None], self.coefficients[row, piece].unbind(1)


def hermite_path(t_BT: Tensor, x_BTC: Tensor) -> CubicPath:
    r"""Give the cubic Hermite spline whose slope at each knot is the backward difference (Morrill et al. 2021).

    .. math::
        X'(t_i) = \frac{x_i - x_{i-1}}{t_i - t_{i-1}}, \qquad X'(t_0) = \frac{x_1 - x_0}{t_1 - t_0}

    The path is once continuously differentiable, and up to `t_i` it depends on nothing after `t_{i+1}`. A piece between two equal knots, as
    padding makes them, is constant.

    Args:
        t_BT: knots, ascending per sample, at least two.
        x_BTC: values there.
    """
    dt = t_BT.diff(dim=1)[..., None]
    is_piece = dt > 0
    dt = torch.where(is_piece, dt, 1.0)
    mean_slope = torch.where(is_piece, x_BTC.diff(dim=1) / dt, 0.0)
    begin = torch.where(is_piece, torch.cat([mean_slope[:, :1], mean_slope[:, :-1]], 1), 0.0)
    # The end's slope is `mean_slope`, which leaves these of the four conditions of a piece.
    bend = 2 * (mean_slope - begin) / dt
    twist = (begin - mean_slope) / dt.square()
    return CubicPath(t_BT.contiguous(), torch.stack([x_BTC[:, :-1], begin, bend, twist], 2))
