"""What all decoders share: the state, the channel's context, the time and the history of its channel, read into plain outputs."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.history import at_targets, known_features, pick, summarise
from latentode.models.interfaces import Decoder

N_FREQUENCIES = 8


class TrunkDecoder(Decoder):
    """A decoder whose distribution is made of a number of outputs per target; a member says which and what they mean.

    Args:
        hidden_size: width of the two hidden layers.
        dropout: share of hidden units dropped in training.
    """

    shape_gradient: ClassVar[float] = 1.0

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.dropout = dropout

    @abstractmethod
    def initial_outputs(self) -> Tensor:
        """Give the outputs of the untrained decoder `(O,)`, whatever the input: mean 0 and deviation 1."""

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers; the last one starts at `initial_outputs`."""
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
        initial = self.initial_outputs()
        self.output = nn.Linear(self.hidden_size, len(initial))
        nn.init.zeros_(self.output.weight)
        with torch.no_grad():
            self.output.bias.copy_(initial)
        # Made last, and only where there are such columns: the weights of the others are the same with and without.
        self.has_known = bool(schema.n_known)
        if self.has_known:
            self.from_known = nn.Linear(3 * schema.n_known, self.hidden_size, bias=False)

    def outputs(self, z_BMD: Tensor, batch: Batch, channel_context_BCE: Tensor) -> Tensor:
        """Give the outputs of every target `(B, M, O)`."""
        hidden_channel = pick(self.from_context(channel_context_BCE), batch.target_channel)
        time_BM = batch.query_time.gather(1, batch.target_row)
        angle = time_BM[..., None] * self.frequency
        hidden = self.from_state(z_BMD) + hidden_channel + self.from_summary(_summary(batch, time_BM))
        swings = torch.cat([angle.sin(), angle.cos()], -1) / (1 + (self.frequency / 15).square()).repeat(2)
        hidden = hidden + self.from_swings(swings)
        if self.has_known:
            hidden = hidden + self.from_known(known_features(batch).clamp(-5, 5))
        hidden = self.layers(hidden)
        if self.shape_gradient == 1:
            return self.output(hidden)
        damped = torch.lerp(hidden.detach(), hidden, self.shape_gradient)
        weight, bias = self.output.weight, self.output.bias
        mean = nn.functional.linear(hidden, weight[:1], bias[:1])
        return torch.cat([mean, nn.functional.linear(damped, weight[1:], bias[1:])], -1)


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


def softplus_inverse(x: float) -> float:
    """Give the output of which `softplus` makes `x > 0`."""
    return x + math.log(-math.expm1(-x))
