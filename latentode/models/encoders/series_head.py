"""From the hidden state of a recurrent encoder to the posterior of one latent state per series."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentode.data.schema import Schema
from latentode.models.interfaces import Posterior


class SeriesHead(nn.Module):
    """Gives mean and deviation of the state by one hidden layer, and contexts of series and channels.

    Args:
        schema: of the data.
        hidden_size: width of what is read.
        latent_size, context_size: of the posterior.
    """

    def __init__(self, schema: Schema, hidden_size: int, latent_size: int, context_size: int) -> None:
        super().__init__()
        self.to_posterior = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 2 * latent_size)
        )
        self.to_context = SeriesContext(schema, hidden_size, context_size)

    def forward(self, hidden_BH: Tensor, t0_B: Tensor | None = None) -> Posterior:
        """Give the posterior of a state at `t0_B`; None: at the origin."""
        mean, width = self.to_posterior(hidden_BH).chunk(2, -1)
        series, channel = self.to_context(hidden_BH)
        return Posterior(
            mean=mean,
            std=nn.functional.softplus(width - 1.0) + 1e-3,
            series_context=series,
            channel_context=channel,
            t0=t0_B,
        )


class SeriesContext(nn.Module):
    """Gives the context of a series, and that of its channels: the same, plus what is learned of each channel.

    Args:
        schema: of the data.
        hidden_size: width of what is read.
        context_size: `E`.
    """

    def __init__(self, schema: Schema, hidden_size: int, context_size: int) -> None:
        super().__init__()
        self.to_series = nn.Linear(hidden_size, context_size)
        self.channel = nn.Parameter(torch.randn(len(schema.channels), context_size) * 0.1)

    def forward(self, hidden_BH: Tensor) -> tuple[Tensor, Tensor]:
        """Give the contexts `(B, E)` and `(B, C, E)`."""
        series_BE = self.to_series(hidden_BH)
        return series_BE, series_BE[:, None] + self.channel
