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
N_SUMMARY = 5


class Trunk(nn.Module):
    """Two hidden layers on all that is known of a target.

    Args:
        schema: of the data.
        latent_size: of the state.
        context_size: of the channel's context.
        hidden_size: width of the layers.
        dropout: share of hidden units dropped in training.
        reads_summary: whether it is told the figures of the target's channel, see `_summary`.
    """

    def __init__(
        self,
        schema: Schema,
        latent_size: int,
        context_size: int,
        *,
        hidden_size: int,
        dropout: float,
        reads_summary: bool = True,
    ) -> None:
        super().__init__()
        self.from_context = nn.Linear(context_size, hidden_size)
        # From one swing over many horizons to some six within one, in radians per horizon: a daily cycle seen in the history can be
        # drawn on without the solver having to follow every swing of it.
        self.frequency = nn.Parameter(torch.exp(torch.linspace(math.log(0.5), math.log(40.0), N_FREQUENCIES)))
        # State, swings and summary in one product: most of what a target costs is the number of operations on it.
        self.reads_summary = reads_summary
        n_summary = N_SUMMARY if reads_summary else 0
        self.from_features = nn.Linear(latent_size + 2 * N_FREQUENCIES + n_summary, hidden_size)
        self.layers = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_size, hidden_size), nn.ReLU())
        # Made last, and only where there are such columns: the weights of the others are the same with and without.
        self.has_known = bool(schema.n_known)
        if self.has_known:
            self.from_known = nn.Linear(3 * schema.n_known, hidden_size, bias=False)

    def forward(self, z_BMD: Tensor, batch: Batch, channel_context_BCE: Tensor) -> Tensor:
        """Give the hidden features of every target `(B, M, H)`."""
        hidden_channel = pick(self.from_context(channel_context_BCE), batch.target_channel)
        time_BM = batch.lead_time()
        angle = time_BM[..., None] * self.frequency
        swings = torch.cat([angle.sin(), angle.cos()], -1) / (1 + (self.frequency / 15).square()).repeat(2)
        summary = [_summary(batch, time_BM)] if self.reads_summary else []
        hidden = self.from_features(torch.cat([z_BMD, swings, *summary], -1)) + hidden_channel
        if self.has_known:
            hidden = hidden + self.from_known(known_features(batch).clamp(-5, 5))
        return self.layers(hidden)


class TrunkDecoder(Decoder):
    """A decoder whose distribution is made of a mean and a number of shape outputs; a member says which and what they mean.

    Args:
        hidden_size: width of the two hidden layers.
        dropout: share of hidden units dropped in training.
        reads_summary: whether it is told, beside the state, what the target's channel did last; without, all that it knows of the history
            has passed through state and context.
    """

    # Whether the shape has a trunk of its own, and state and context learn by the mean alone. In trials on discrete, copied, skewed and
    # periodic values, what a mixture's likelihood taught the shared layers cost the mean a sixth of its squared error.
    is_shape_apart: ClassVar[bool] = True

    def __init__(self, hidden_size: int, dropout: float, *, reads_summary: bool = True) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.reads_summary = reads_summary

    @abstractmethod
    def initial_shape(self) -> Tensor:
        """Give the shape outputs of the untrained decoder `(O,)`, whatever the input: they make a deviation of 1. None where `O` is 0."""

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers; the last ones start at mean 0 and `initial_shape`."""
        of_trunk = {"hidden_size": self.hidden_size, "dropout": self.dropout, "reads_summary": self.reads_summary}
        initial = self.initial_shape()
        self.trunk = Trunk(schema, latent_size, context_size, **of_trunk)
        self.output = _constant(self.hidden_size, torch.zeros(1))
        if self.is_shape_apart:
            self.shape_trunk = Trunk(schema, latent_size, context_size, **of_trunk)
        self.shape_output = _constant(self.hidden_size, initial) if len(initial) else None

    def outputs(self, z_BMD: Tensor, batch: Batch, channel_context_BCE: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean `(B, M)` and shape outputs `(B, M, O)` of every target."""
        hidden = self.trunk(z_BMD, batch, channel_context_BCE)
        mean = self.output(hidden)[..., 0]
        if self.is_shape_apart:
            hidden = self.shape_trunk(z_BMD.detach(), batch, channel_context_BCE.detach())
        shape = mean.new_empty((*mean.shape, 0)) if self.shape_output is None else self.shape_output(hidden)
        return mean, shape


def _constant(n_inputs: int, value: Tensor) -> nn.Linear:
    """Give a layer that starts at `value` whatever its input."""
    layer = nn.Linear(n_inputs, len(value))
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(value)
    return layer


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
