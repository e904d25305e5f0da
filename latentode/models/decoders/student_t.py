"""A Student t per target: a Gaussian whose tails are as heavy as the data's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.models.distributions import FiniteStudentT
from latentode.models.interfaces import Frame

from .trunk import TrunkDecoder, softplus_inverse

MIN_DF = 2.1  # the variance exists above 2, and is at most 21 squared scales here
INITIAL_DF = 8.0


class StudentTDecoder(TrunkDecoder):
    """Decodes a state into a Student t per target; location, scale and degrees of freedom are learned.

    The degrees of freedom stay above 2.1, so that every forecast has a variance. One outlier then costs a logarithm of its distance
    and not its square (Lange, Little and Taylor 1989).

    Args:
        hidden_size: width of the two hidden layers.
        dropout: share of hidden units dropped in training.
        min_scale: least scale, in the unit of the output.
    """

    def __init__(self, hidden_size: int = 64, *, dropout: float = 0.0, min_scale: float = 0.02) -> None:
        super().__init__(hidden_size, dropout)
        self.min_scale = min_scale

    def initial_shape(self) -> Tensor:
        """Give width and tail of the untrained decoder."""
        scale = math.sqrt((INITIAL_DF - 2) / INITIAL_DF)
        return torch.tensor([softplus_inverse(scale - self.min_scale), softplus_inverse(INITIAL_DF - MIN_DF)])

    def forward(self, z_BMD: Tensor, batch: Batch, channel_context_BCE: Tensor, frame: Frame) -> FiniteStudentT:
        """Give the distribution of every target `(B, M)`."""
        mean, shape = self.outputs(z_BMD, batch, channel_context_BCE)
        width, tail = shape.unbind(-1)
        scale = nn.functional.softplus(width) + self.min_scale
        return FiniteStudentT(nn.functional.softplus(tail) + MIN_DF, mean, scale, validate_args=False)
