"""The way of a latent ODE from a history to a forecast: encoder, dynamics, decoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.history import pick
from latentode.models.interfaces import Decoder, Dynamics, Encoder, Frame, Path, Posterior
from latentode.models.objectives import annealing, elbo, kl_to_standard_normal, weighted_mean
from latentode.models.statics import StaticContext


class LatentPath(Path):
    """Encodes the history, carries the latent state to the targets and decodes it there: a residual in the units of a `Frame`.

    Args:
        encoder, dynamics, decoder: without parameters yet.
        latent_size, context_size, objective, beta, kl_weight, kl_warmup: see `LatentODE`.
    """

    encoder: Encoder
    dynamics: Dynamics
    decoder: Decoder
    statics: StaticContext | None

    def __init__(
        self,
        encoder: Encoder,
        dynamics: Dynamics,
        decoder: Decoder,
        *,
        latent_size: int,
        context_size: int,
        objective: str,
        beta: float,
        kl_weight: float,
        kl_warmup: float,
    ) -> None:
        super().__init__()
        self.encoder, self.dynamics, self.decoder = encoder, dynamics, decoder
        self.latent_size = latent_size
        self.context_size = context_size
        self.objective = objective
        self.beta = beta
        self.kl_weight = kl_weight
        self.kl_warmup = kl_warmup
        # Whoever trains without saying how far it is gets the whole divergence.
        self._annealed = 1.0

    def setup(self, schema: Schema) -> None:
        """Make the parameters."""
        for part in (self.encoder, self.dynamics, self.decoder):
            part.setup(schema, self.latent_size, self.context_size)
        # Made last, and only where there are such columns: the weights of the parts are the same with and without.
        self.statics = StaticContext(schema, self.context_size) if schema.static_columns else None

    def encode(self, batch: Batch) -> Posterior:
        """Encode every history; what is constant per series joins both contexts, whichever encoder reads the history."""
        posterior = self.encoder(batch)
        if self.statics is None:
            return posterior
        context_BE = self.statics(batch)
        return replace(
            posterior,
            series_context=posterior.series_context + context_BE,
            channel_context=posterior.channel_context + context_BE[:, None],
        )

    def carry(self, z0: Tensor, posterior: Posterior, batch: Batch) -> Tensor:
        """Carry states `(B, D)`, or one per channel `(B, C, D)`, from where the posterior has them to the targets, `(B, M, D)`."""
        if z0.ndim == 2:
            t0_B = torch.zeros_like(z0[:, 0]) if posterior.t0 is None else posterior.t0
            z_BQD = self.dynamics(z0, t0_B, batch.query_time, posterior.series_context)
            return pick(z_BQD, batch.target_row)
        queries = batch.channel_queries()
        z_BMD = z0.new_zeros(batch.target_row.numel(), z0.shape[-1])
        if len(queries.place):
            pair = queries.series * batch.n_channels + queries.channel
            z0_PD, context_PE = (x.flatten(0, 1).index_select(0, pair) for x in (z0, posterior.channel_context))
            what = (z0_PD, context_PE, queries.pair, queries.time)
            if posterior.t0 is None:
                z_TD = self.dynamics.carry(*what)
            else:
                z_TD = self.dynamics.carry_from(posterior.t0.index_select(0, queries.series), *what)
            z_BMD = z_BMD.to(z_TD.dtype).index_copy(0, queries.place, z_TD)
        return z_BMD.view(*batch.target_row.shape, -1)

    def decode(self, z0: Tensor, posterior: Posterior, batch: Batch, frame: Frame) -> Distribution:
        """Carry states to the targets and decode them."""
        return self.decoder(self.carry(z0, posterior, batch), batch, posterior.channel_context, frame)

    def forward(self, batch: Batch, frame: Frame) -> Distribution:
        """Forecast the residual of every target `(B, M)` from the mean of the posterior."""
        posterior = self.encode(batch)
        return self.decode(posterior.mean, posterior, batch, frame)

    def watch(self, training: Iterable[Batch]) -> Iterator[Batch]:
        """Let the decoder see training windows pass."""
        return self.decoder.watch(training)

    def at_progress(self, fraction: float) -> None:
        """Raise the weight of the divergence."""
        self._annealed = annealing(self.kl_warmup, fraction)

    def loss(self, batch: Batch, frame: Frame, weight_BM: Tensor) -> Tensor:
        """Give the objective, with what the dynamics adds to it."""
        of_targets = self._negative_bound if self.objective == "elbo" else self._score
        loss, penalty = of_targets(batch, frame, weight_BM), self.dynamics.penalty
        return loss if penalty is None else loss + penalty.mean()

    def _score(self, batch: Batch, frame: Frame, weight_BM: Tensor) -> Tensor:
        score = self.decoder.score(self(batch, frame), frame.residual(batch.target_value), self.beta)
        return weighted_mean(score, weight_BM, batch.target_observed) + _per_target(self._divergence(batch), batch)

    def _negative_bound(self, batch: Batch, frame: Frame, weight_BM: Tensor) -> Tensor:
        """Give the evidence lower bound of one draw, with its sign turned."""
        posterior = self.encode(batch)
        residual = self.decode(posterior.rsample(), posterior, batch, frame)
        density = self.decoder.log_likelihood(residual, frame.residual(batch.target_value)) * weight_BM
        log_likelihood = torch.where(batch.target_observed, density, 0.0).sum(-1)
        kl = kl_to_standard_normal(posterior.mean.flatten(1), posterior.std.flatten(1))
        bound = elbo(log_likelihood, kl, self._annealed * self.kl_weight)
        return _per_target(self._divergence(batch) - bound * len(batch), batch)

    def _divergence(self, batch: Batch) -> Tensor:
        """Give the weighted divergence of the last path from the prior, summed over the batch."""
        divergence = self.dynamics.divergence
        return (
            batch.target_value.new_zeros(())
            if divergence is None
            else self._annealed * self.kl_weight * divergence.sum()
        )


def _per_target(total: Tensor, batch: Batch) -> Tensor:
    # So that the step size does not depend on how many values a window happens to hold.
    return total / batch.target_observed.sum().clamp(min=1)
