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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from latentode.data.batch import Batch
from latentode.data.scaling import Scaler
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.distributions import about
from latentode.models.objectives import Mean, beta_square

STEP = 0.01  # horizons, of the difference quotient that tells how fast a state moves


@dataclass(frozen=True)
class Posterior:
    """What the encoder knows of a series: a Gaussian over the latent state at one time, and what does not evolve.

    Attributes:
        mean: `(B, D)`, one state for all channels of a series, or `(B, C, D)`, one for each.
        std: the same shape, positive.
        series_context: `(B, E)`, read by the dynamics of one state.
        channel_context: `(B, C, E)`, read by the dynamics of a state per channel and by the decoder.
        t0: where the state stands, `(B,)`, at or before every target; None: at the origin, time 0.
    """

    mean: Tensor
    std: Tensor
    series_context: Tensor
    channel_context: Tensor
    t0: Tensor | None = None

    def rsample(self) -> Tensor:
        """Draw a state, shape of `mean`; gradients flow to `mean` and `std` (Kingma and Welling 2014, section 2.4)."""
        return Normal(self.mean, self.std, validate_args=False).rsample()


@dataclass(frozen=True)
class Frame:
    """What the residual of a target is counted from and in: `value = base + unit * residual`.

    A decoder gives residuals; by the frame it can put probability on values, such as the last one.

    Attributes:
        base: `(B, M)`.
        unit: `(B, M)`, positive.
    """

    base: Tensor
    unit: Tensor

    def residual(self, value: Tensor) -> Tensor:
        """Give values `(B, M)` or `(B, M, K)` as residuals."""
        base, unit = (x.view(*x.shape, *[1] * (value.ndim - x.ndim)) for x in (self.base, self.unit))
        return (value - base) / unit


class Part(nn.Module, ABC):
    """A module whose constructor arguments are stored under their own names, so that it can be written down and built again."""

    def __init__(self) -> None:
        # Without this a part that has no settings would show the open signature of nn.Module.
        super().__init__()

    def settings(self) -> dict[str, Any]:
        """Give the constructor's arguments as they were passed."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def see_scaling(self, scaler: Scaler) -> None:
        """Hear, once after `setup` and before anything is fitted, how values and times were scaled.

        Whom it concerns keeps it in buffers, and so in the run.
        """


class Encoder(Part):
    """Reads a history into a posterior over the state at the origin, or before what it has read of the history."""

    @property
    def reads_backward(self) -> bool:
        """Whether the state stands at the oldest stamp read, so that the history lies on its way (`Posterior.t0`)."""
        return False

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
        penalty: what the last call in training adds to the loss, per sample `(B,)`, with gradient: the loss takes its mean. None where
            nothing is added.
        divergence: of a stochastic equation, the divergence of the last path's law from the prior's, nats per sample `(B,)`, with gradient.
            None where the path is certain once its start is.
    """

    nfe: Tensor | None = None
    penalty: Tensor | None = None
    divergence: Tensor | None = None

    @abstractmethod
    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the parameters."""

    @abstractmethod
    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)` at `t_BQ`, monotone per sample, from `z0_BD` at `t0_B`.

        A sample is a series, or one channel of a series where every channel has a state of its own.
        """

    def carry(self, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Carry states from time 0 to where each is asked for, `(T, D)`: samples may have few or many queries.

        This brings them to one length by padding. A member for which that is waste overrides it.

        Args:
            z0_BD: at the origin.
            context_BE: what does not move.
            sample_T: which sample each query asks for, int64; every sample is asked for.
            t_T: when, above 0, ascending in each sample.
        """
        return self.carry_from(torch.zeros_like(z0_BD[:, 0]), z0_BD, context_BE, sample_T, t_T)

    def carry_from(self, t0_B: Tensor, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Carry states as `carry` does, from times of their own `(B,)`, at or before what is asked of each."""
        t_BQ, place_T = pad(sample_T, t_T, len(z0_BD))
        z_BQD = self(z0_BD, t0_B, t_BQ, context_BE)
        return z_BQD.flatten(0, 1).index_select(0, place_T)

    def paths(self) -> Iterator[int]:
        """Go through the paths that a forecast is made of: what is carried while one is in hand belongs to it.

        A certain path is one; of a stochastic equation a forecast takes several, and `distributions.mix` makes them one.
        """
        yield 0

    def velocity(self, z_BD: Tensor, context_BE: Tensor) -> Tensor:
        """Give how fast states move, `(B, D)` per horizon, at the origin.

        By a difference quotient of second order over a hundredth of a horizon, so that it holds for a solved field, a closed form and
        a flow alike.
        """
        start = torch.zeros_like(z_BD[:, 0])
        t_BQ = STEP * z_BD.new_tensor([0.5, 1.0]).expand(len(z_BD), -1)
        half, whole = self(z_BD, start, t_BQ, context_BE).unbind(1)
        return (4 * half - 3 * z_BD - whole) / STEP

    def at_progress(self, fraction: float) -> None:
        """Hear, before every epoch, which fraction of the planned training is behind; a field may be solved loosely at first."""


def pad(sample_T: Tensor, t_T: Tensor, n_samples: int) -> tuple[Tensor, Tensor]:
    """Bring times, ascending in each sample, to rows of one length, padded by repeating the last.

    Returns:
        The rows `(B, Q)`, and where each time stands in them, flat `(T,)`.
    """
    order = sample_T.argsort(stable=True)
    count = torch.bincount(sample_T, minlength=n_samples)
    first = count.cumsum(0) - count
    rank = torch.arange(len(order), device=order.device) - first.index_select(0, sample_T.index_select(0, order))
    width = int(count.max())
    place_T = torch.empty_like(order).scatter(0, order, rank) + sample_T * width
    t_BQ = t_T.new_full((n_samples * width,), -torch.inf).scatter(0, place_T, t_T).view(n_samples, width)
    return t_BQ.cummax(1).values, place_T


class Decoder(Part):
    """Turns the state at each target into a distribution of its residual, see `Frame`.

    Attributes:
        has_likelihood: whether the gradient of the log-density moves the mean, as a latent variable's evidence bound needs.
    """

    has_likelihood: ClassVar[bool] = True

    @abstractmethod
    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the parameters; the untrained mean is 0, so that an untrained model is its base, and the deviation 1."""

    def watch(self, training: Iterable[Batch]) -> Iterator[Batch]:
        """Pass training windows on, before training, and take from them what is not learned by gradients."""
        yield from training

    @abstractmethod
    def forward(self, z_BMD: Tensor, batch: Batch, channel_context_BCE: Tensor, frame: Frame) -> Distribution:
        """Give a distribution with batch shape `(B, M)`.

        Args:
            z_BMD: state at each target, not at each query: a model may have a state per channel.
            batch: with the targets.
            channel_context_BCE: what does not move.
            frame: in which the answer is given.
        """

    def score(self, forecast: Distribution, target_BM: Tensor, beta: float) -> Tensor:
        """Give what training lowers, element-wise `(B, M)`: half the squared error of the mean plus the score of the shape.

        The shape is scored about a mean that is held constant, so that the mean learns by the error that the forecast of one number
        is judged by, and only the shape by its own score.

        Args:
            forecast: of `forward`.
            target_BM: residuals.
            beta: as in `objectives.beta_nll`, whose weight the squared error has.
        """
        about_mean = about(forecast, forecast.mean.detach())
        return beta_square(forecast, target_BM, beta) + self.shape_score(about_mean, target_BM)

    def shape_score(self, forecast: Distribution, target_BM: Tensor) -> Tensor:
        """Give a proper score of the whole distribution, element-wise `(B, M)`: the negative log-likelihood."""
        return -self.log_likelihood(forecast, target_BM)

    def log_likelihood(self, forecast: Distribution, target_BM: Tensor) -> Tensor:
        """Give the log-density of all targets together as a sum over them, element-wise `(B, M)`: each one's own, where none are joined."""
        return forecast.log_prob(target_BM)


class Path(nn.Module, ABC):
    """One way from a history to the residual of a forecast: what a `ResidualModel` has one or more of."""

    @abstractmethod
    def setup(self, schema: Schema) -> None:
        """Make the parameters; the untrained mean is 0."""

    def watch(self, training: Iterable[Batch]) -> Iterator[Batch]:
        """Pass training windows on, before training, and take from them what is not learned by gradients."""
        yield from training

    @abstractmethod
    def forward(self, batch: Batch, frame: Frame) -> Distribution:
        """Forecast the residual of every target: a distribution with batch shape `(B, M)`."""

    def at_progress(self, fraction: float) -> None:
        """Hear, before every epoch, which fraction of the planned training is behind; its parts hear it by themselves."""

    @abstractmethod
    def loss_means(self, batch: Batch, frame: Frame, weight_BM: Tensor) -> list[Mean]:
        """Give the means whose sum training lowers: always as many, in the same order.

        Args:
            batch: of training windows, their seasons taken out.
            frame: of the targets.
            weight_BM: how much each target counts, 1 on average over the observed ones.
        """


@dataclass(frozen=True)
class LatentStates:
    """The latent states of a batch, and how states move.

    Attributes:
        state: at every target, `(B, M, D)`; where a series has one state for all channels, the targets of one time have the same.
        context: what does not move, of each series and channel, `(B, C, E)`.
        is_per_channel: whether every channel has a state of its own.
        velocity: gives how fast states `(G, D)` with contexts `(G, E)` move, per horizon, `(G, D)`.
        step_ends: where the solver's steps up to the last query of the series ended, in horizons, `(B, K, N)` with `K` the channels, or 1
            where they share a state; NaN behind the last. None where nothing is solved by steps.
    """

    state: Tensor
    context: Tensor
    is_per_channel: bool
    velocity: Callable[[Tensor, Tensor], Tensor]
    step_ends: Tensor | None = None


class Dependence(Protocol):
    """How normal scores of the targets of a window hang together."""

    def draw(self, batch: Batch, n_samples: int) -> Tensor:
        """Draw normal scores of every target, float64 `(S, B, M)`."""
        ...


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

    def loss_means(self, batch: Batch) -> list[Mean]:
        """Give the means whose sum `loss` is, always as many: processes that train together weigh them by what each has counted.

        A model that only says its loss is taken to average over the windows of the batch.
        """
        n_windows = batch.target_value.new_tensor(float(len(batch)))
        return [Mean(self.loss(batch) * n_windows, n_windows)]

    def smooth(self, batch: Batch) -> Distribution:
        """Give every target of a batch whose queries lie among its tokens, `(B, M)`, from the values on either side.

        Raises:
            InputError: the model cannot, or validation did not tell it how.
        """
        raise InputError(
            f"{type(self).__name__} forecasts only: it cannot say what lies inside a history; ask for times after the origin, or fit a "
            "model that adds to a base, such as latent_ode."
        )

    def latent(self, batch: Batch) -> LatentStates:
        """Give the latent state at every target.

        Raises:
            InputError: the model has none.
        """
        raise InputError(
            f"{type(self).__name__} has no latent state that moves in time; fit a model that has one, such as latent_ode."
        )

    def dependence(self, *, is_smoothed: bool = False) -> Dependence | None:
        """Give how what is said of the targets of one series hangs together; None where nobody knows.

        Args:
            is_smoothed: of values inside a history, or of forecasts.
        """
        return None

    def error_unit(self) -> Tensor | None:
        """Give the error that a forecast without this model's own part leaves, per channel `(C,)`, in training deviations; None: 1.

        Known after `prepare`. Validation is judged in it, so that a channel nobody can forecast does not drown the others.
        """
        return None

    def prepare(self, training: Iterable[Batch], validation: Sequence[Batch] = ()) -> None:
        """Fit, before training, what is not learned by gradients.

        Args:
            training: windows.
            validation: windows on which the base of a residual may be chosen; a model that has no such base leaves them alone.
        """

    def calibrate(self, validation: Iterable[Batch]) -> None:
        """Choose, after training, what validation decides."""

    def remarks(self) -> list[str]:
        """Say, after `calibrate`, what a user has to know of how this model forecasts: sentences, none where all is as its name says."""
        return []
