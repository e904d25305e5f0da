"""No dynamics: the state stays what it was at the origin, and only the decoder knows how far ahead a query lies."""

from __future__ import annotations

from torch import Tensor

from latentode.data.schema import Schema
from latentode.models.interfaces import Dynamics


class ConstantState(Dynamics):
    """Leaves the state as it is: what a model that carries one has to be better than."""

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make nothing: there is nothing to learn."""

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`."""
        return z0_BD[:, None].expand(-1, t_BQ.shape[1], -1)

    def carry(self, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Give the state of each query's sample, `(T, D)`."""
        return z0_BD.index_select(0, sample_T)
