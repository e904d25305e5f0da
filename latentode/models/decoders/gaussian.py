"""A Gaussian per target, its mean and deviation read off the latent state and the channel's own context."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from latentode.data.batch import Batch
from latentode.errors import InputError
from latentode.models.interfaces import Frame
from latentode.models.objectives import beta_nll

from .trunk import TrunkDecoder, softplus_inverse


class GaussianDecoder(TrunkDecoder):
    """Decodes a state into `Normal(mean, std)` per target.

    Args:
        hidden_size: width of the two hidden layers.
        dropout: share of hidden units dropped in training.
        min_std: least deviation, in the unit of the output.
        reads_summary: whether it is told, beside the state, what the target's channel did last; without, all that it knows of the history
            has passed through state and context.
        std: deviation of every target, in the unit of the output, held as it is; None: learned, of each target its own.
    """

    # `beta_nll` weighs the two against each other already.
    is_shape_apart = False

    def __init__(
        self,
        hidden_size: int = 64,
        *,
        dropout: float = 0.0,
        min_std: float = 0.02,
        reads_summary: bool = True,
        std: float | None = None,
    ) -> None:
        super().__init__(hidden_size, dropout, reads_summary=reads_summary)
        if std is not None and std <= 0:
            raise InputError(f"std is {std}; give a deviation above 0, or null to learn it.")
        self.min_std = min_std
        self.std = std

    def initial_shape(self) -> Tensor:
        """Give the width of the untrained decoder; nothing where it is not learned."""
        return torch.tensor([softplus_inverse(1 - self.min_std)] if self.std is None else [])

    def forward(self, z_BMD: Tensor, batch: Batch, channel_context_BCE: Tensor, frame: Frame) -> Normal:
        """Give the distribution of every target `(B, M)`."""
        mean, width = self.outputs(z_BMD, batch, channel_context_BCE)
        if self.std is not None:
            return Normal(mean, torch.full_like(mean, self.std), validate_args=False)
        return Normal(mean, nn.functional.softplus(width[..., 0]) + self.min_std, validate_args=False)

    def score(self, forecast: Distribution, target_BM: Tensor, beta: float) -> Tensor:
        """Give `objectives.beta_nll`, in which mean and width have their scores already."""
        return beta_nll(forecast.mean, forecast.stddev, target_BM, beta)
