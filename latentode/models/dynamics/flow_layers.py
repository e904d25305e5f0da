"""The layers of a neural flow: maps of the state that are the identity at time 0 and invertible at every time (Biloš et al. 2021).

Each is `layer(t, z, drive)`, with `t` `(..., 1)`, `z` `(..., D)` and what the context adds to its hidden units, `drive` `(..., n_drive)`.
Beside the state, `t` and the context may enter in any way: neither has to be got back from the result.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from latentode.models.dynamics.contraction import Contraction

NORM = 0.9  # largest Lipschitz constant of what is added to the state, less than 1
SLOWEST, FASTEST = 0.5, 4.0  # of the untrained onset, per horizon: `tanh(t / 2)` to `tanh(4 t)`
GATE, RESET = 2 / 5, 4 / 5  # alpha and beta of the paper's theorem 1


class Onset(nn.Module):
    """Gives `phi(t) = tanh(w t)`, `w > 0`, for each number of the state: 0 at time 0, between -1 and 1, at rest long after the horizon."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.linspace(math.log(SLOWEST), math.log(FASTEST), size))

    def forward(self, t: Tensor) -> Tensor:
        """Give `(..., D)` of `t` `(..., 1)`."""
        return torch.tanh(self.log_rate.exp() * t)


class FlowLayer(nn.Module, ABC):
    """A map of the state.

    Attributes:
        n_drive: how many numbers the context gives it.
    """

    n_drive: int

    @abstractmethod
    def forward(self, t: Tensor, z: Tensor, drive: Tensor) -> Tensor:
        """Carry `z` from time 0 to `t`."""

    @abstractmethod
    def inverse(self, t: Tensor, z: Tensor, drive: Tensor) -> Tensor:
        """Give the state at time 0 of what is `z` at `t`."""


class ResidualLayer(FlowLayer):
    """Adds `phi(t) g(t, z)`, with `g` contractive in `z` (the residual flow of Chen et al. 2019).

    `|phi| <= 1` and `Lip(g) < 1`: the sum is invertible, and its inverse is the fixed point of `z -> result - phi(t) g(t, z)`.
    """

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.n_drive = hidden_size
        self.onset = Onset(size)
        # `tanh` brings no two points further apart: the constants of the two maps multiply.
        self.from_state = Contraction(size, hidden_size, norm=NORM**0.5)
        self.from_time = nn.Linear(1, hidden_size, bias=False)
        self.to_change = Contraction(hidden_size, size, norm=NORM**0.5)
        _start_small(self.to_change.linear)

    def added(self, t: Tensor, z: Tensor, drive: Tensor) -> Tensor:
        """Give what is added to `z`."""
        hidden = torch.tanh(self.from_state(z) + self.from_time(t) + drive)
        return self.onset(t) * self.to_change(hidden)

    def forward(self, t: Tensor, z: Tensor, drive: Tensor) -> Tensor:
        """Carry `z` from time 0 to `t`."""
        return z + self.added(t, z, drive)

    def inverse(self, t: Tensor, z: Tensor, drive: Tensor) -> Tensor:
        """Give the state at time 0 of what is `z` at `t`."""
        return fixed_point(lambda start: z - self.added(t, start, drive), z)


class GRULayer(FlowLayer):
    """Moves the state towards a candidate as far as a gate lets it: `z + phi(t) u (c - z)` (the flow of a GRU, theorem 1).

    `u = 2/5 sigmoid(f_u(t, z))`, `r = 4/5 sigmoid(f_r(t, z))`, `c = tanh(f_c(t, r z))`, with `f` contractive in the state: by theorem 1 the
    sum is then invertible for states in [-1, 1], and from these it does not lead out of it after time 0. A state of an encoder lies
    anywhere; where the paper multiplies by `z`, it is held in [-1, 1] here, so that the theorem's bounds hold for all states.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.n_drive = 3 * size
        self.onset = Onset(size)
        self.to_gate, self.to_reset, self.to_candidate = (Contraction(size, size, norm=NORM) for _ in range(3))
        self.from_time = nn.Linear(1, 3 * size, bias=False)

    def added(self, t: Tensor, z: Tensor, drive: Tensor) -> Tensor:
        """Give what is added to `z`."""
        held = z.clamp(-1, 1)
        gate_drive, reset_drive, candidate_drive = (drive + self.from_time(t)).chunk(3, -1)
        reset = RESET * torch.sigmoid(self.to_reset(held) + reset_drive)
        gate = GATE * torch.sigmoid(self.to_gate(held) + gate_drive)
        candidate = torch.tanh(self.to_candidate(reset * held) + candidate_drive)
        return self.onset(t) * gate * (candidate - held)

    def forward(self, t: Tensor, z: Tensor, drive: Tensor) -> Tensor:
        """Carry `z` from time 0 to `t`."""
        return z + self.added(t, z, drive)

    def inverse(self, t: Tensor, z: Tensor, drive: Tensor) -> Tensor:
        """Give the state at time 0 of what is `z` at `t`."""
        return fixed_point(lambda start: z - self.added(t, start, drive), z)


class CouplingLayer(FlowLayer):
    """Stretches and moves one part of the state by what the other part says: `z_1 exp(s(t, z_2) phi_s(t)) + v(t, z_2) phi_v(t)`.

    As in Dinh et al. (2017). The other part stays, so that the inverse is a formula. `s` is between -1 and 1: far states stay finite.

    Args:
        size: of the state, at least 2.
        hidden_size: width of the layer between.
        moves_first: which part moves: the first half, which is the longer one of an odd size, or the second.
    """

    def __init__(self, size: int, hidden_size: int, *, moves_first: bool) -> None:
        super().__init__()
        self.n_drive = hidden_size
        self.n_first, self.moves_first = (size + 1) // 2, moves_first
        n_moved = self.n_first if moves_first else size - self.n_first
        self.onset = Onset(2 * n_moved)
        self.from_state = nn.Linear(size - n_moved, hidden_size)
        self.from_time = nn.Linear(1, hidden_size, bias=False)
        self.to_change = nn.Linear(hidden_size, 2 * n_moved)
        _start_small(self.to_change)

    def forward(self, t: Tensor, z: Tensor, drive: Tensor) -> Tensor:
        """Carry `z` from time 0 to `t`."""
        moved, other = self._split(z)
        log_stretch, shift = self._change(t, other, drive)
        return self._join(moved * log_stretch.exp() + shift, other)

    def inverse(self, t: Tensor, z: Tensor, drive: Tensor) -> Tensor:
        """Give the state at time 0 of what is `z` at `t`."""
        moved, other = self._split(z)
        log_stretch, shift = self._change(t, other, drive)
        return self._join((moved - shift) * (-log_stretch).exp(), other)

    def _change(self, t: Tensor, other: Tensor, drive: Tensor) -> tuple[Tensor, Tensor]:
        """Give logarithm of the stretch and shift of the part that moves."""
        hidden = torch.tanh(self.from_state(other) + self.from_time(t) + drive)
        stretch, shift = self.to_change(hidden).chunk(2, -1)
        stretch_onset, shift_onset = self.onset(t).chunk(2, -1)
        return torch.tanh(stretch) * stretch_onset, shift * shift_onset

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        first, second = z.tensor_split((self.n_first,), -1)
        return (first, second) if self.moves_first else (second, first)

    def _join(self, moved: Tensor, other: Tensor) -> Tensor:
        return torch.cat([moved, other] if self.moves_first else [other, moved], -1)


def fixed_point(step: Callable[[Tensor], Tensor], start: Tensor, max_iterations: int = 2_000) -> Tensor:
    """Iterate a contraction until nothing moves by more than rounding (Banach); a Lipschitz constant of .9 takes 22 steps per digit."""
    z = start
    for _ in range(max_iterations):
        moved = step(z)
        is_there = bool(((moved - z).abs() <= torch.finfo(z.dtype).eps * (1 + moved.abs())).all())
        z = moved
        if is_there:
            break
    return z


def _start_small(layer: nn.Linear) -> None:
    """Let an untrained state hardly move."""
    nn.init.normal_(layer.weight, std=0.1 / layer.in_features**0.5)
    nn.init.zeros_(layer.bias)
