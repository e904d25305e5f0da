"""Observations as tokens: pooled per channel by attention over time, then mixed across channels. Cost follows the observed values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.history import HistorySummary, summarise
from latentode.models.interfaces import Encoder, Posterior

CLAMP = 5.0  # training deviations: an outlier says "very large", not "a hundred times as large"
N_FREQUENCIES = 8


class AttentionEncoder(Encoder):
    """Reads every observed value once, without a grid and without a loop over time.

    A token is `(time, channel, value)` and what the known columns held at that time. Tokens of one channel are pooled by softmax weights
    over time (one scatter); the channels then attend to each other (Vaswani et al. 2017); their pooled states give the posterior and the
    contexts.

    Args:
        hidden_size: width of tokens and channels.
        n_heads: heads of the pooling and of the attention across channels.
        n_layers: attention layers across channels.
        dropout: share of hidden units dropped in training.
    """

    def __init__(self, hidden_size: int = 64, *, n_heads: int = 4, n_layers: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.n_heads = n_heads
        self.n_layers = n_layers
        self.dropout = dropout

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers."""
        width = self.hidden_size
        self.channel = nn.Embedding(len(schema.channels), width)
        # From slower than the longest useful history to a few swings per tenth of a horizon, in radians per horizon.
        self.frequency = nn.Parameter(torch.exp(torch.linspace(math.log(0.2), math.log(40.0), N_FREQUENCIES)))
        self.token = nn.Sequential(nn.Linear(2 + 2 * N_FREQUENCIES, width), nn.ReLU(), nn.Linear(width, width))
        self.value = nn.Linear(width, width)
        self.score = nn.Linear(width, self.n_heads)
        self.summary = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width))
        self.mix = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, self.n_heads, 2 * width, dropout=self.dropout, batch_first=True, norm_first=True
            )
            for _ in range(self.n_layers)
        )
        self.pool = nn.Linear(width, self.n_heads)
        self.to_posterior = nn.Linear(width, 2 * latent_size)
        self.to_series_context = nn.Linear(width, context_size)
        self.to_channel_context = nn.Linear(width, context_size)
        self.has_known = bool(schema.known_columns)
        if self.has_known:
            self.from_known = nn.Linear(len(schema.known_columns), width, bias=False)

    def forward(self, batch: Batch) -> Posterior:
        """Encode every history of the batch."""
        hidden_BCH = self._pool_tokens(batch) + self.channel.weight + self.summary(_features(summarise(batch)))
        for layer in self.mix:
            hidden_BCH = layer(hidden_BCH)
        weight_BCK = self.pool(hidden_BCH).softmax(1)
        heads_BCKH = hidden_BCH.unflatten(-1, (self.n_heads, -1))
        series_BH = (weight_BCK[..., None] * heads_BCKH).sum(1).flatten(1)
        mean, width = self.to_posterior(series_BH).chunk(2, -1)
        return Posterior(
            mean=mean,
            std=nn.functional.softplus(width - 1.0) + 1e-3,
            series_context=self.to_series_context(series_BH),
            channel_context=self.to_channel_context(hidden_BCH),
        )

    def _pool_tokens(self, batch: Batch) -> Tensor:
        """Pool the tokens of each channel, `(B, C, H)`; zero where a channel was not seen."""
        angle = batch.token_time[..., None] * self.frequency
        value = batch.token_value.clamp(-CLAMP, CLAMP)
        age = (-batch.token_time).clamp(min=0).log1p()
        features = torch.cat([value[..., None], age[..., None], angle.sin(), angle.cos()], -1)
        token_BNH = self.token(features) + self.channel(batch.token_channel)
        if self.has_known:
            token_BNH = token_BNH + self.from_known(batch.token_known.clamp(-CLAMP, CLAMP))
        token_BNH = torch.relu(token_BNH)
        seen = batch.token_observed
        score_BNK = self.score(token_BNH).masked_fill(~seen[..., None], -math.inf)
        # One maximum per series instead of one per channel: the softmax is the same, and exp cannot overflow.
        highest = score_BNK.amax(1, keepdim=True).detach().clamp(min=-1e4)
        weight_BNK = (score_BNK - highest).clamp(min=-30).exp() * seen[..., None]
        weighted = (self.value(token_BNH).unflatten(-1, (self.n_heads, -1)) * weight_BNK[..., None]).flatten(2)
        shape = (len(batch), batch.n_channels)
        total = _scatter(weighted, batch.token_channel, shape)
        mass = _scatter(weight_BNK, batch.token_channel, shape)
        return total / (mass.repeat_interleave(self.hidden_size // self.n_heads, -1) + 1e-9)


def _scatter(x_BNK: Tensor, channel_BN: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sum the tokens of each channel, `(B, C, K)`."""
    index = channel_BN[..., None].expand_as(x_BNK)
    return x_BNK.new_zeros(*shape, x_BNK.shape[-1]).scatter_add(1, index, x_BNK)


def _features(summary: HistorySummary) -> Tensor:
    """Give the summary as four inputs of a network, `(B, C, 4)`."""
    last, mean = summary.last.clamp(-CLAMP, CLAMP), summary.mean.clamp(-CLAMP, CLAMP)
    return torch.stack([last, mean, summary.age.log1p(), summary.count.log1p() / 4], -1)
