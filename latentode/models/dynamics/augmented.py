"""A latent state with room beside it: what cannot pass in few dimensions passes in more."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.dynamics.mlp import MLPField
from latentode.models.interfaces import Dynamics


class AugmentedField(Dynamics):
    """Carries the state with `n_extra` numbers beside it, and hands on the state alone (Dupont, Doucet and Teh 2019).

    Paths of a field that does not see `t` cannot cross. In a wider space they pass each other, and their shadows in the narrow one cross:
    the map from state to state is no longer bound to be invertible, and an easier field does it. What was gathered beside the state
    stays behind, so that a decoder reads as many numbers as without.

    Args:
        n_extra: how many numbers.
        dynamics: what carries the wider state, any other; None: `MLPField()`.
        learned_start: whether the numbers start at a linear map of the context, which is 0 before training, instead of at 0.

    Raises:
        InputError: `n_extra` is less than 1.
    """

    def __init__(self, n_extra: int = 8, *, dynamics: Dynamics | None = None, learned_start: bool = False) -> None:
        super().__init__()
        if n_extra < 1:
            raise InputError(
                f"n_extra is {n_extra}; give the state at least one number more, or leave AugmentedField out."
            )
        self.n_extra = n_extra
        self.dynamics = dynamics or MLPField()
        self.learned_start = learned_start

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the parameters of the dynamics within, for the wider state, and the map that gives the start."""
        self.dynamics.setup(schema, latent_size + self.n_extra, context_size)
        if self.learned_start:
            self.to_start = nn.Linear(context_size, self.n_extra)
            nn.init.zeros_(self.to_start.weight)
            nn.init.zeros_(self.to_start.bias)

    def at_progress(self, fraction: float) -> None:
        """Tell the dynamics within."""
        self.dynamics.at_progress(fraction)

    def paths(self) -> Iterator[int]:
        """Go through the paths of the dynamics within."""
        return self.dynamics.paths()

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`, without what is beside them."""
        z_BQA = self.dynamics(self._widen(z0_BD, context_BE), t0_B, t_BQ, context_BE)
        return self._hand_on(z_BQA)

    def carry(self, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Give the state of one sample for each query, `(T, D)`, as the dynamics within does."""
        return self._hand_on(self.dynamics.carry(self._widen(z0_BD, context_BE), context_BE, sample_T, t_T))

    def carry_from(self, t0_B: Tensor, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Give the state of one sample for each query, `(T, D)`, from `t0_B`."""
        wide = self._widen(z0_BD, context_BE)
        return self._hand_on(self.dynamics.carry_from(t0_B, wide, context_BE, sample_T, t_T))

    def _widen(self, z0_BD: Tensor, context_BE: Tensor) -> Tensor:
        start_BX = self.to_start(context_BE) if self.learned_start else z0_BD.new_zeros(z0_BD.shape[0], self.n_extra)
        return torch.cat([z0_BD, start_BX.to(z0_BD.dtype)], -1)

    def _hand_on(self, z: Tensor) -> Tensor:
        within = self.dynamics
        self.nfe, self.penalty, self.divergence = within.nfe, within.penalty, within.divergence
        return z[..., : -self.n_extra]
