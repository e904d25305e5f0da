"""A user's own dynamics, in a module of its own."""

from __future__ import annotations

from torch import nn

from latentode.models import Dynamics


class Standstill(Dynamics):
    """Leaves the state where it is."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def setup(self, schema, latent_size, context_size):
        self.gain = nn.Linear(latent_size, latent_size)

    def forward(self, z0_BD, t0_B, t_BQ, context_BE):
        return self.gain(z0_BD)[:, None].expand(-1, t_BQ.shape[1], -1)
