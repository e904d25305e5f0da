"""A Gaussian per target, its mean and deviation read off the latent state and the channel's own context."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from latentode.data.batch import Batch
from latentode.models.interfaces import Frame
from latentode.models.objectives import beta_nll

from .trunk import TrunkDecoder, softplus_inverse


class GaussianDecoder(TrunkDecoder):
    """Decodes a state into `Normal(mean, std)` per target.

    Args:
        hidden_size: width of the two hidden layers.
        dropout: share of hidden units dropped in training.
        min_std: least deviation, in the unit of the output.
    """

    # `beta_nll` weighs the two against each other already.
    is_shape_apart = False

    def __init__(self, hidden_size: int = 64, *, dropout: float = 0.0, min_std: float = 0.02) -> None:
        super().__init__(hidden_size, dropout)
        self.min_std = min_std

    def initial_shape(self) -> Tensor:
        """Give the width of the untrained decoder."""
        return torch.tensor([softplus_inverse(1 - self.min_std)])

    def forward(self, z_BMD: Tensor, batch: Batch, channel_context_BCE: Tensor, frame: Frame) -> Normal:
        """Give the distribution of every target `(B, M)`."""
        mean, width = self.outputs(z_BMD, batch, channel_context_BCE)
        return Normal(mean, nn.functional.softplus(width[..., 0]) + self.min_std, validate_args=False)

    def score(self, forecast: Distribution, target_BM: Tensor, beta: float) -> Tensor:
        """Give `objectives.beta_nll`, in which mean and width have their scores already."""
        return beta_nll(forecast.mean, forecast.stddev, target_BM, beta)
