"""What the parts of a model promise each other.

Shapes: `B` series, `N` observation tokens, `Q` query times, `M` targets, `C` channels, `D` latent state, `E` context.
Values are as the scaler lets models see them (by default training deviations around the training mean; `units.py` brings forecasts to the
user's units and to those of errors), times in units of the horizon, 0 at the forecast origin.

A part is built in two moves: its constructor only stores settings, `setup` makes the parameters once the data has told how many
channels there are. So a part can be written in YAML, stored as plain values and built again from them.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from latentode.data.batch import Batch
from latentode.data.schema import Schema


@dataclass(frozen=True)
class Posterior:
    """What the encoder knows at the origin: a Gaussian over the latent state and what does not evolve.

    Attributes:
        mean: `(B, D)`.
        std: `(B, D)`, positive.
        series_context: `(B, E)`, read by the dynamics.
        channel_context: `(B, C, E)`, read by the decoder.
    """

    mean: Tensor
    std: Tensor
    series_context: Tensor
    channel_context: Tensor

    def rsample(self) -> Tensor:
        """Draw a state `(B, D)`; gradients flow to `mean` and `std` (Kingma and Welling 2014, section 2.4)."""
        return Normal(self.mean, self.std, validate_args=False).rsample()


class Part(nn.Module, ABC):
    """A module whose constructor arguments are stored under their own names, so that it can be written down and built again."""

    def __init__(self) -> None:
        # Without this a part that has no settings would show the open signature of nn.Module.
        super().__init__()

    def settings(self) -> dict[str, Any]:
        """Give the constructor's arguments as they were passed."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}


class Encoder(Part):
    """Reads a history into a posterior over the state at the origin."""

    @abstractmethod
    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the parameters."""

    @abstractmethod
    def forward(self, batch: Batch) -> Posterior:
        """Encode every history of the batch."""


class Dynamics(Part):
    """Carries the latent state to any time: a solved field, a closed form and a stochastic equation alike.

    Attributes:
        nfe: evaluations of the field that the last call cost each sample, `(B,)` or 0-d, detached and on the device, so that nobody waits
            for it; None where nothing is solved.
    """

    nfe: Tensor | None = None

    @abstractmethod
    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the parameters."""

    @abstractmethod
    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)` at `t_BQ`, monotone per sample, from `z0_BD` at `t0_B`."""

    def at_progress(self, fraction: float) -> None:
        """Hear, before every epoch, which fraction of the planned training is behind; a field may be solved loosely at first."""


class Decoder(Part):
    """Turns states at the query times into a distribution per target."""

    @abstractmethod
    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the parameters; the untrained mean is zero, so that an untrained model is its base."""

    @abstractmethod
    def forward(self, z_BQD: Tensor, batch: Batch, channel_context_BCE: Tensor) -> Distribution:
        """Give a distribution with batch shape `(B, M)`."""


class ForecastModel(Part):
    """A whole model: what `Forecaster`, the command line and the benchmarks train and ask.

    Attributes:
        is_trained: whether gradients train it, from weights that the seed draws; False for what is fitted without chance.
    """

    is_trained: ClassVar[bool] = True

    @abstractmethod
    def setup(self, schema: Schema) -> None:
        """Make the parameters for the channels of `schema`."""

    @abstractmethod
    def forward(self, batch: Batch) -> Distribution:
        """Forecast every target of the batch: a distribution with batch shape `(B, M)`, in the units of `Batch.target_value`."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Give the scalar that training lowers."""

    def prepare(self, training: Iterable[Batch]) -> None:
        """Fit, before training, what is not learned by gradients."""

    def calibrate(self, validation: Iterable[Batch]) -> None:
        """Choose, after training, what validation decides."""
