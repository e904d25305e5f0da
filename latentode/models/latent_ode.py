"""The latent ODE: encode the history, carry the latent state to any time, decode it, on top of a blend that needs no network.

Rubanova, Chen and Duvenaud (2019) give the three parts; the residual base is this project's (see `README.md` of this folder).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.baselines.linear import base_features, collect, least_squares
from latentode.models.decoders import GaussianDecoder
from latentode.models.distributions import about, affine
from latentode.models.dynamics import MLPField
from latentode.models.encoders import AttentionEncoder
from latentode.models.history import pick
from latentode.models.interfaces import Decoder, Dynamics, Encoder, ForecastModel, Frame, Posterior
from latentode.models.objectives import elbo, kl_to_standard_normal, weighted_mean
from latentode.models.statics import StaticContext
from latentode.models.validation import choose_on_validation

MIN_UNIT = 0.02  # training deviations; a channel that its base forecasts exactly must not be divided by zero
OBJECTIVES = ("nll", "elbo")
BASES = ("blend", None)


class LatentODE(ForecastModel):
    """Forecasts `base + unit * residual`: the residual is read off a latent state that follows a differential equation.

    The base is a blend, per channel, of last value, history mean and training mean, fitted by least squares before training; the unit is
    the deviation of what it leaves. The untrained network's residual is 0, so an untrained model *is* its base, and validation decides
    per channel how much of the residual is kept.

    Args:
        encoder: reads the history; None: `AttentionEncoder()`.
        dynamics: carries the state; None: `MLPField()`.
        decoder: gives the distribution; None: `GaussianDecoder()`.
        latent_size: size of the state that moves.
        context_size: size of what does not move.
        base: "blend", or None for the latent path alone.
        objective: "nll" (predictive likelihood) or "elbo" (with a posterior draw and its divergence from the prior).
        beta: exponent of `objectives.beta_nll`: 1 trains the mean by squared error; 0, with a Gaussian, by the plain likelihood.
        kl_weight: weight of the divergence in the "elbo" objective.
    """

    base_weight: Tensor
    unit: Tensor
    residual_weight: Tensor
    std_factor: Tensor
    loss_weight: Tensor

    def __init__(
        self,
        encoder: Encoder | None = None,
        dynamics: Dynamics | None = None,
        decoder: Decoder | None = None,
        *,
        latent_size: int = 16,
        context_size: int = 64,
        base: str | None = "blend",
        objective: str = "nll",
        beta: float = 1.0,
        kl_weight: float = 1e-2,
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise InputError(f"objective is {objective!r}; choose one of {', '.join(OBJECTIVES)}.")
        if base not in BASES:
            raise InputError(f'base is {base!r}; choose "blend", or null (None) for the latent path alone.')
        self.encoder = encoder if encoder is not None else AttentionEncoder()
        self.dynamics = dynamics if dynamics is not None else MLPField()
        self.decoder = decoder if decoder is not None else GaussianDecoder()
        self.latent_size = latent_size
        self.context_size = context_size
        self.base = base
        self.objective = objective
        self.beta = beta
        self.kl_weight = kl_weight

    def setup(self, schema: Schema) -> None:
        """Make the parts' parameters and the buffers of the base."""
        for part in (self.encoder, self.dynamics, self.decoder):
            part.setup(schema, self.latent_size, self.context_size)
        n_channels = len(schema.channels)
        last_value = torch.tensor([1.0, 0.0]) if self.base else torch.zeros(2)
        self.register_buffer("base_weight", last_value.repeat(n_channels, 1))
        self.register_buffer("unit", torch.ones(n_channels))
        self.register_buffer("residual_weight", torch.ones(n_channels))
        self.register_buffer("std_factor", torch.ones(n_channels))
        self.register_buffer("loss_weight", torch.ones(n_channels))
        # Made last, and only where there are such columns: the weights of the parts are the same with and without.
        self.has_statics = bool(schema.static_columns)
        if self.has_statics:
            self.statics = StaticContext(schema, self.context_size)

    def prepare(self, training: Iterable[Batch]) -> None:
        """Fit the base by least squares on the training windows; take the deviation of what it leaves as the unit."""
        moments = collect(self.decoder.watch(training))
        known = moments.count > 0
        if self.base:
            self.base_weight.copy_(torch.where(known[:, None], least_squares(moments), self.base_weight.double()))
        left = moments.squared_error(self.base_weight.double()).sqrt().clamp(min=MIN_UNIT)
        self.unit.copy_(torch.where(known, left, 1.0))
        # Between counting every value and counting every channel the same: rare channels teach, but do not drown the rest.
        weight = moments.count.clamp(min=50).rsqrt()
        self.loss_weight.copy_(weight * moments.count.sum() / (weight * moments.count).sum().clamp(min=1e-9))

    def calibrate(self, validation: Iterable[Batch]) -> None:
        """Let validation decide, per channel, on the base, on the weight of the residual and on the width of the intervals."""
        choice = choose_on_validation(self, validation)
        self.base_weight.copy_(choice.base_weight)
        self.residual_weight.copy_(choice.residual_weight)
        self.std_factor.copy_(choice.std_factor)

    def forward(self, batch: Batch) -> Distribution:
        """Forecast every target `(B, M)`, in training deviations around the training mean."""
        posterior = self.encode(batch)
        residual = self.decode(posterior.mean, posterior, batch)
        channel = batch.target_channel
        # The weight is on the mean alone: the distribution about it keeps its shape.
        residual = about(residual, self.residual_weight[channel] * residual.mean, self.std_factor[channel])
        frame = self.frame(batch)
        return affine(residual, frame.base, frame.unit)

    def encode(self, batch: Batch) -> Posterior:
        """Encode every history; what is constant per series joins both contexts, whichever encoder reads the history."""
        posterior = self.encoder(batch)
        if not self.has_statics:
            return posterior
        context_BE = self.statics(batch)
        return replace(
            posterior,
            series_context=posterior.series_context + context_BE,
            channel_context=posterior.channel_context + context_BE[:, None],
        )

    def base_mean(self, batch: Batch) -> Tensor:
        """Give the base's forecast of every target `(B, M)`."""
        return (base_features(batch) * self.base_weight[batch.target_channel]).sum(-1)

    def frame(self, batch: Batch) -> Frame:
        """Give base and unit of every target."""
        return Frame(self.base_mean(batch), self.unit[batch.target_channel])

    def decode(self, z0_BD: Tensor, posterior: Posterior, batch: Batch) -> Distribution:
        """Carry a state at the origin to the query times and decode it: the residual in units of `unit`."""
        z_BQD = self.dynamics(z0_BD, torch.zeros_like(z0_BD[:, 0]), batch.query_time, posterior.series_context)
        z_BMD = pick(z_BQD, batch.target_row)
        return self.decoder(z_BMD, batch, posterior.channel_context, self.frame(batch))

    def loss(self, batch: Batch) -> Tensor:
        """Give the objective in units of what the base leaves."""
        posterior = self.encode(batch)
        channel = batch.target_channel
        target = self.frame(batch).residual(batch.target_value)
        weight = self.loss_weight[channel]
        if self.objective == "nll":
            residual = self.decode(posterior.mean, posterior, batch)
            score = self.decoder.score(residual, target, self.beta)
            return weighted_mean(score, weight, batch.target_observed)
        residual = self.decode(posterior.rsample(), posterior, batch)
        density = residual.log_prob(target) * weight
        log_likelihood = torch.where(batch.target_observed, density, 0.0).sum(-1)
        bound = elbo(log_likelihood, kl_to_standard_normal(posterior.mean, posterior.std), self.kl_weight)
        # Per target, so that the step size does not depend on how many values a window happens to hold.
        return -bound * len(batch) / batch.target_observed.sum().clamp(min=1)
