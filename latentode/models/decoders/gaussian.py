"""A Gaussian per target, its mean and deviation read off the latent state and the channel's own context."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.history import at_targets, known_features, pick, summarise
from latentode.models.interfaces import Decoder

N_FREQUENCIES = 8


class GaussianDecoder(Decoder):
    """Decodes a state into `Normal(mean, std)` per target.

    Args:
        hidden_size: width of the two hidden layers.
        dropout: share of hidden units dropped in training.
        min_std: least deviation, in the unit of the output.
    """

    def __init__(self, hidden_size: int = 64, *, dropout: float = 0.0, min_std: float = 0.02) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.min_std = min_std

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers; the last one starts at zero: mean 0 and deviation 1 whatever the input."""
        self.from_state = nn.Linear(latent_size, self.hidden_size)
        self.from_context = nn.Linear(context_size, self.hidden_size)
        # From one swing over many horizons to some six within one, in radians per horizon: a daily cycle seen in the history can be
        # drawn on without the solver having to follow every swing of it.
        self.frequency = nn.Parameter(torch.exp(torch.linspace(math.log(0.5), math.log(40.0), N_FREQUENCIES)))
        self.from_swings = nn.Linear(2 * N_FREQUENCIES, self.hidden_size, bias=False)
        self.from_summary = nn.Linear(5, self.hidden_size, bias=False)
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(self.hidden_size, self.hidden_size), nn.ReLU()
        )
        self.output = nn.Linear(self.hidden_size, 2)
        nn.init.zeros_(self.output.weight)
        with torch.no_grad():
            # softplus(0.5413) = 1: the untrained deviation is one residual deviation.
            self.output.bias.copy_(torch.tensor([0.0, 0.5413 - self.min_std]))
        # Made last, and only where there are such columns: the weights of the others are the same with and without.
        self.has_known = bool(schema.known_columns)
        if self.has_known:
            self.from_known = nn.Linear(3 * len(schema.known_columns), self.hidden_size, bias=False)

    def forward(self, z_BMD: Tensor, batch: Batch, channel_context_BCE: Tensor) -> Normal:
        """Give the distribution of every target `(B, M)`."""
        hidden_state = self.from_state(z_BMD)
        hidden_channel = pick(self.from_context(channel_context_BCE), batch.target_channel)
        time_BM = batch.query_time.gather(1, batch.target_row)
        angle = time_BM[..., None] * self.frequency
        hidden = hidden_state + hidden_channel + self.from_summary(_summary(batch, time_BM))
        swings = torch.cat([angle.sin(), angle.cos()], -1) / (1 + (self.frequency / 15).square()).repeat(2)
        hidden = hidden + self.from_swings(swings)
        if self.has_known:
            hidden = hidden + self.from_known(known_features(batch).clamp(-5, 5))
        mean, width = self.output(self.layers(hidden)).unbind(-1)
        return Normal(mean, nn.functional.softplus(width) + self.min_std, validate_args=False)


def _summary(batch: Batch, time_BM: Tensor) -> Tensor:
    """Give what a target's channel did last, as five inputs of a network, `(B, M, 5)`."""
    summary = summarise(batch)
    features = [
        at_targets(summary.last, batch).clamp(-5, 5),
        at_targets(summary.mean, batch).clamp(-5, 5),
        at_targets(summary.age, batch).log1p(),
        at_targets(summary.count, batch).log1p() / 4,
        time_BM,
    ]
    return torch.stack(features, -1)
