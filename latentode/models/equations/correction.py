r"""What an equation leaves out: a small network on the state, added to the slope.

:math:`\dot y = f(t, y, p) + \frac{s}{T} W_2 \tanh(W_1 \frac{y - m}{s} + b_1)`, `m` and `s` typical of the states, `T` a horizon: the
universal differential equation of Rackauckas et al. (2020, equation 2). Its weights are shared numbers like any other, normal around
where they start; :math:`W_2` starts at 0, so that an unfitted correction is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Correction:
    """The network's form.

    Attributes:
        n_states: `D`.
        hidden_size: `H`.
        centre, size: of the states, `(D,)`.
        horizon: in the equation's unit of time.
    """

    n_states: int
    hidden_size: int
    centre: Tensor
    size: Tensor
    horizon: float

    @property
    def n_weights(self) -> int:
        """Weights of both layers and the first one's offsets."""
        return self.hidden_size * (2 * self.n_states + 1)

    def start(self) -> Tensor:
        """Give the weights before fitting, float64: the first layer drawn under a constant seed, the second 0."""
        generator = torch.Generator().manual_seed(0)
        first = torch.randn(self.hidden_size * (self.n_states + 1), generator=generator, dtype=torch.float64)
        return torch.cat([first, torch.zeros(self.hidden_size * self.n_states, dtype=torch.float64)])

    def __call__(self, state: Tensor, weights: Tensor) -> Tensor:
        """Give what is added to the slopes, `(D, 1 + G, R)`, of states of that shape and weights `(n_weights, 1 + G)`.

        By the product rule, layer after layer: with the weights on an axis of their own, and not one copy for each series.
        """
        n_inner = self.hidden_size * self.n_states
        first = weights[:n_inner].view(self.hidden_size, self.n_states, -1)
        offset = weights[n_inner : n_inner + self.hidden_size]
        last = weights[n_inner + self.hidden_size :].view(self.n_states, self.hidden_size, -1)
        x = state / self.size[:, None, None]
        x = torch.cat([x[:, :1] - (self.centre / self.size)[:, None, None], x[:, 1:]], 1)
        before = _product(first, x)
        before = before + offset[..., None]
        value = before[:, :1].tanh()
        hidden = torch.cat([value, (1 - value.square()) * before[:, 1:]], 1)
        return _product(last, hidden) * (self.size / self.horizon)[:, None, None]


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """Give `(m, 1 + G, R)` of a matrix `(m, n, 1 + G)` and a vector `(n, 1 + G, R)` that both carry derivatives."""
    found = torch.einsum("mn,ngr->mgr", matrix[..., 0], x)
    along = found[:, 1:] + torch.einsum("mng,nr->mgr", matrix[..., 1:], x[:, 0])
    return torch.cat([found[:, :1], along], 1)
