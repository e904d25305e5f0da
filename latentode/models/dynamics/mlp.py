"""The neural ordinary differential equation: the latent state follows a small network's field."""

from __future__ import annotations

from torch import Tensor

from latentode.data.schema import Schema
from latentode.models.dynamics.solved import SolvedField


class MLPField(SolvedField):
    """Solves `dz/dt = MLP(z, context)` with the in-house engine (Chen et al. 2018, equation 2).

    Args: as `SolvedField` states them.
    """

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the field's layers; an untrained state hardly moves."""
        self.make_layers(latent_size, context_size, latent_size)

    def field(self, t_B: Tensor, z_BD: Tensor, drive_BH: Tensor) -> Tensor:
        """Give the slope `(B, D)`."""
        return self.network(z_BD, drive_BH)
