"""Observations as tokens: pooled per channel by attention over time, then mixed across channels. Cost follows the observed values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.history import CLAMP, HistorySummary, smooth, sum_by_channel, summarise
from latentode.models.interfaces import Encoder, Posterior

N_FREQUENCIES = 8
N_SUMMARY = 8
SCORE_BOUND = 12.0
STATES = ("channel", "series")


class AttentionEncoder(Encoder):
    """Reads every observed value once, without a grid and without a loop over time.

    A token is `(time, channel, value)` and what the known columns held at that time. Tokens of one channel are pooled by softmax weights
    over time (one scatter); the channels then attend to each other (Vaswani et al. 2017); each gives the posterior of a latent state of
    its own, or all together that of one.

    Args:
        hidden_size: width of tokens and channels.
        n_heads: heads of the pooling and of the attention across channels.
        n_layers: attention layers across channels; 0: no channel reads another.
        dropout: share of hidden units dropped in training.
        states: "channel", a latent state for every channel of a series, or "series", one that all of them share.
        reads_summary: whether each channel is also told its last value, mean, extremes, count and age.
        n_lags: each channel is also told its smoothed values at so many lags over the last horizon (`history.smooth`), for few series that
            are measured often and with little noise; 0: at none.

    Raises:
        InputError: `states` is neither, or `n_lags` is negative.
    """

    def __init__(
        self,
        hidden_size: int = 64,
        *,
        n_heads: int = 4,
        n_layers: int = 2,
        dropout: float = 0.2,
        states: str = "channel",
        reads_summary: bool = True,
        n_lags: int = 0,
    ) -> None:
        super().__init__()
        if states not in STATES:
            raise InputError(f"states is {states!r}; choose one of {', '.join(STATES)}.")
        if n_lags < 0:
            raise InputError(f"n_lags is {n_lags}; give a number of lags, 0 for none.")
        self.hidden_size = hidden_size
        self.n_heads = n_heads
        self.n_layers = n_layers
        self.dropout = dropout
        self.states = states
        self.reads_summary = reads_summary
        self.n_lags = n_lags

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers."""
        width = self.hidden_size
        self.channel = nn.Embedding(len(schema.channels), width)
        # From slower than the longest useful history to a few swings per tenth of a horizon, in radians per horizon.
        self.frequency = nn.Parameter(torch.exp(torch.linspace(math.log(0.2), math.log(40.0), N_FREQUENCIES)))
        self.token = nn.Linear(2 + 2 * N_FREQUENCIES, width)
        self.channel_of_token = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.score = nn.Linear(width, self.n_heads)
        self.n_figures = (N_SUMMARY if self.reads_summary else 0) + 2 * self.n_lags
        if self.n_figures:
            self.summary = nn.Sequential(nn.Linear(self.n_figures, width), nn.ReLU(), nn.Linear(width, width))
        self.mix = nn.ModuleList(Mixing(width, self.n_heads, self.dropout) for _ in range(self.n_layers))
        if self.states == "series":
            self.pool = nn.Linear(width, self.n_heads)
            self.to_series_context = nn.Linear(width, context_size)
        self.to_posterior = nn.Linear(width, 2 * latent_size)
        self.to_context = nn.Linear(width, context_size)
        self.has_known = bool(schema.n_known)
        if self.has_known:
            self.from_known = nn.Linear(schema.n_known, width, bias=False)

    def forward(self, batch: Batch) -> Posterior:
        """Encode every history of the batch."""
        hidden_BCH = self._pool_tokens(batch) + self.channel.weight
        if self.n_figures:
            hidden_BCH = hidden_BCH + self.summary(self._figures(batch))
        for layer in self.mix:
            hidden_BCH = layer(hidden_BCH)
        context_BCE = self.to_context(hidden_BCH)
        if self.states == "channel":
            return self._posterior(hidden_BCH, context_BCE, context_BCE.mean(1))
        weight_BCK = self.pool(hidden_BCH).softmax(1)
        heads_BCKH = hidden_BCH.unflatten(-1, (self.n_heads, -1))
        series_BH = (weight_BCK[..., None] * heads_BCKH).sum(1).flatten(1)
        return self._posterior(series_BH, context_BCE, self.to_series_context(series_BH))

    def _figures(self, batch: Batch) -> Tensor:
        """Give what each channel is told beside its tokens, `(B, C, n_figures)`."""
        summary = [_features(summarise(batch))] if self.reads_summary else []
        # Members of one model read the same.
        course = [batch.derived(f"smooth {self.n_lags}", lambda b: smooth(b, self.n_lags))] if self.n_lags else []
        return torch.cat([*summary, *course], -1)

    def _posterior(self, hidden: Tensor, context_BCE: Tensor, series_context_BE: Tensor) -> Posterior:
        mean, width = self.to_posterior(hidden).chunk(2, -1)
        std = nn.functional.softplus(width - 1.0) + 1e-3
        return Posterior(mean=mean, std=std, series_context=series_context_BE, channel_context=context_BCE)

    def _pool_tokens(self, batch: Batch) -> Tensor:
        """Pool the tokens of each channel, `(B, C, H)`; zero where a channel was not seen."""
        angle = batch.token_time[..., None] * self.frequency
        value = batch.token_value.clamp(-CLAMP, CLAMP)
        age = (-batch.token_time).clamp(min=0).log1p()
        features = torch.cat([value[..., None], age[..., None], angle.sin(), angle.cos()], -1)
        by_channel = self.channel_of_token(self.channel.weight)
        token_BNH = self.token(features) + nn.functional.embedding(batch.token_channel, by_channel)
        if self.has_known:
            token_BNH = token_BNH + self.from_known(batch.token_known.clamp(-CLAMP, CLAMP))
        token_BNH = torch.relu(token_BNH)
        score_BNK = self.score(token_BNH)
        # Bounded, so that exp cannot overflow and no maximum has to be looked for.
        weight_BNK = (SCORE_BOUND * torch.tanh(score_BNK / SCORE_BOUND)).exp() * batch.token_observed[..., None]
        weighted = (self.value(token_BNH).unflatten(-1, (self.n_heads, -1)) * weight_BNK[..., None]).flatten(2)
        sums = sum_by_channel(torch.cat([weighted, weight_BNK], -1), batch)
        total, mass = sums.split([self.hidden_size, self.n_heads], -1)
        return total / (mass.repeat_interleave(self.hidden_size // self.n_heads, -1) + 1e-9)


class Mixing(nn.Module):
    """Lets the channels of a series attend to each other (Vaswani et al. 2017; normalised first, Xiong et al. 2020).

    Units are dropped where a branch joins the sum and nowhere else: drawing them for every pair of channels would take longer than the
    attention itself.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention, self.norm_hidden = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BCH: Tensor) -> Tensor:
        """Give the channels' states with what they read of each other, `(B, C, H)`."""
        qkv = self.to_qkv(self.norm_attention(x_BCH)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        read = nn.functional.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2)
        x_BCH = x_BCH + self.dropout(self.from_heads(read))
        return x_BCH + self.dropout(self.hidden(self.norm_hidden(x_BCH)))


def _features(summary: HistorySummary) -> Tensor:
    """Give the summary as eight inputs of a network, `(B, C, 8)`."""
    values = (summary.last, summary.mean, summary.lowest, summary.highest, summary.recent)
    held = torch.stack(values, -1).clamp(-CLAMP, CLAMP)
    count = summary.count
    other = torch.stack([summary.age.log1p(), count.log1p() / 4, (count > 0).to(count.dtype)], -1)
    return torch.cat([held, other], -1)
