"""Second-order dynamics: the latent state is position and velocity, and a network gives the acceleration."""

from __future__ import annotations

import torch
from torch import Tensor

from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.dynamics.solved import SolvedField


class SecondOrderField(SolvedField):
    """Solves `d2x/dt2 = MLP(x, dx/dt, context)` with the in-house engine (Norcliffe et al. 2020, "On second order behaviour").

    The state is `(x, dx/dt)`, half and half: what swings, coasts or answers late needs one smooth field of forces, and its positions may
    cross. The paper takes the first velocity from the first position by a network; here the encoder, which has seen the history,
    gives both, and the decoder reads both.

    Args: as `SolvedField` states them.
    """

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the field's layers; an untrained state coasts.

        Raises:
            InputError: `latent_size` is odd.
        """
        if latent_size % 2:
            raise InputError(f"latent_size is {latent_size}; a state of positions and velocities has an even size.")
        self.make_layers(latent_size, context_size, latent_size // 2)

    def field(self, t_B: Tensor, z_BD: Tensor, drive_BH: Tensor) -> Tensor:
        """Give velocity and acceleration, `(B, D)`."""
        velocity = z_BD[:, z_BD.shape[1] // 2 :]
        return torch.cat([velocity, self.network(z_BD, drive_BH)], -1)
