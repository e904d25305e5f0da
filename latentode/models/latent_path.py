"""The way of a latent ODE from a history to a forecast: encoder, dynamics, decoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.distributions import mix
from latentode.models.dynamics.solved import SolvedField
from latentode.models.history import pick
from latentode.models.interfaces import Decoder, Dynamics, Encoder, Frame, LatentStates, Path, Posterior
from latentode.models.objectives import Mean, annealing, elbo, kl_to_standard_normal
from latentode.models.residual import ResidualModel
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
        """Carry states `(B, D)`, or one per channel `(B, C, D)`, from where the posterior has them to the targets, `(B, M, D)`.

        What is asked for before a state stands is answered with its start.
        """
        if z0.ndim == 2:
            t0_B = torch.zeros_like(z0[:, 0]) if posterior.t0 is None else posterior.t0
            t_BQ = torch.maximum(batch.query_time, t0_B[:, None])
            z_BQD = self.dynamics(z0, t0_B, t_BQ, posterior.series_context)
            return pick(z_BQD, batch.target_row)
        queries = batch.channel_queries()
        z_BMD = z0.new_zeros(batch.target_row.numel(), z0.shape[-1])
        if queries.place.shape[0] > 0:
            pair = queries.series * batch.n_channels + queries.channel
            z0_PD, context_PE = (x.flatten(0, 1).index_select(0, pair) for x in (z0, posterior.channel_context))
            if posterior.t0 is None:
                z_TD = self.dynamics.carry(z0_PD, context_PE, queries.pair, queries.time)
            else:
                t0_P = posterior.t0.index_select(0, queries.series)
                t_T = torch.maximum(queries.time, t0_P.index_select(0, queries.pair))
                z_TD = self.dynamics.carry_from(t0_P, z0_PD, context_PE, queries.pair, t_T)
            z_BMD = z_BMD.to(z_TD.dtype).index_copy(0, queries.place, z_TD)
        return z_BMD.view(*batch.target_row.shape, -1)

    def decode(self, z0: Tensor, posterior: Posterior, batch: Batch, frame: Frame) -> Distribution:
        """Carry states to the targets, by one path or several, and decode them."""
        said = [
            self.decoder(self.carry(z0, posterior, batch), batch, posterior.channel_context, frame)
            for _ in self.dynamics.paths()
        ]
        return mix(said)

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

    def loss_means(self, batch: Batch, frame: Frame, weight_BM: Tensor) -> list[Mean]:
        """Give the objective, with what the dynamics adds to it, per target and per sample."""
        of_targets = self._negative_bound if self.objective == "elbo" else self._score
        # A batch without a target carries no state: what the last one's path cost must not be charged to it.
        self.dynamics.penalty = self.dynamics.divergence = None
        means, penalty = of_targets(batch, frame, weight_BM), self.dynamics.penalty
        return [*means, Mean.of(batch.target_value.new_zeros(0) if penalty is None else penalty)]

    def _score(self, batch: Batch, frame: Frame, weight_BM: Tensor) -> list[Mean]:
        posterior = self.encode(batch)
        forecast = self.decode(posterior.mean, posterior, batch, frame)
        score = self.decoder.score(forecast, frame.residual(batch.target_value), self.beta)
        of_score = Mean.weighted(score, weight_BM, _reached(posterior, batch))
        return [of_score, _per_target(self._divergence(batch), batch)]

    def _negative_bound(self, batch: Batch, frame: Frame, weight_BM: Tensor) -> list[Mean]:
        """Give the evidence lower bound of one draw, with its sign turned."""
        posterior = self.encode(batch)
        residual = self.decode(posterior.rsample(), posterior, batch, frame)
        density = self.decoder.log_likelihood(residual, frame.residual(batch.target_value)) * weight_BM
        log_likelihood = torch.where(_reached(posterior, batch), density, 0.0).sum(-1)
        kl = kl_to_standard_normal(posterior.mean.flatten(1), posterior.std.flatten(1))
        bound = elbo(log_likelihood, kl, self._annealed * self.kl_weight)
        return [_per_target(self._divergence(batch) - bound * len(batch), batch)]

    def _divergence(self, batch: Batch) -> Tensor:
        """Give the weighted divergence of the last path from the prior, summed over the batch."""
        divergence = self.dynamics.divergence
        return (
            batch.target_value.new_zeros(())
            if divergence is None
            else self._annealed * self.kl_weight * divergence.sum()
        )


class LatentModel(ResidualModel):
    """A residual model of latent paths; its parts are those of the first member, which has the very ones that were given."""

    @property
    def path(self) -> LatentPath:
        """The latent path of the first member."""
        first = self.paths[0]
        assert isinstance(first, LatentPath)
        return first

    @property
    def encoder(self) -> Encoder:
        """The encoder of the first member."""
        return self.path.encoder

    @property
    def dynamics(self) -> Dynamics:
        """The dynamics of the first member."""
        return self.path.dynamics

    @property
    def decoder(self) -> Decoder:
        """The decoder of the first member."""
        return self.path.decoder

    @torch.no_grad()
    def latent(self, batch: Batch) -> LatentStates:
        """Give the latent state of the first member at every target, from the mean of the posterior."""
        adjusted = self.season.adjust(batch)[0]
        posterior = self.path.encode(adjusted)
        is_per_channel = posterior.mean.ndim == 3
        context = posterior.channel_context
        if not is_per_channel:
            context = posterior.series_context[:, None].expand(-1, batch.n_channels, -1)
        state = self.path.carry(posterior.mean, posterior, adjusted)
        return LatentStates(
            state, context, is_per_channel, self.dynamics.velocity, self._step_ends(posterior, adjusted)
        )

    def _step_ends(self, posterior: Posterior, batch: Batch) -> Tensor | None:
        """Solve every state up to the last query of its series, and give where the steps ended, `(B, K, N)`."""
        if not isinstance(self.dynamics, SolvedField):
            return None
        z0, context = posterior.mean, posterior.channel_context
        if z0.ndim == 2:
            z0, context = z0[:, None], posterior.series_context[:, None]
        last = torch.where(batch.query_observed, batch.query_time, 0.0).amax(1).clamp(min=0.0)
        start = torch.zeros_like(last) if posterior.t0 is None else posterior.t0
        start, last = (x[:, None].expand(z0.shape[:2]).flatten() for x in (start, last))
        ends = self.dynamics.step_ends(z0.flatten(0, 1), start, last, context.flatten(0, 1))
        return ends.view(*z0.shape[:2], -1)


def history_as_targets(batch: Batch) -> Batch:
    """Give the batch with the values of its history among its targets, before the others."""
    n_tokens = batch.token_time.shape[1]
    stands = torch.arange(n_tokens, device=batch.target_row.device).expand_as(batch.token_channel)
    # Ascending still: padded tokens have the time of the origin.
    return replace(
        batch,
        query_time=torch.cat([batch.token_time, batch.query_time], 1),
        query_observed=torch.cat([batch.token_observed, batch.query_observed], 1),
        known=torch.cat([batch.token_known, batch.known], 1),
        target_row=torch.cat([stands, batch.target_row + n_tokens], 1),
        target_channel=torch.cat([batch.token_channel, batch.target_channel], 1),
        target_value=torch.cat([batch.token_value, batch.target_value], 1),
        target_observed=torch.cat([batch.token_observed, batch.target_observed], 1),
        target_error_units=None,
    )


def _reached(posterior: Posterior, batch: Batch) -> Tensor:
    """Say which targets `(B, M)` are known and do not lie before the state stands: those do of stamps that no encoder has read."""
    if posterior.t0 is None:
        return batch.target_observed
    return batch.target_observed & (batch.lead_time() >= posterior.t0[:, None])


def _per_target(total: Tensor, batch: Batch) -> Mean:
    # So that the step size does not depend on how many values a window happens to hold.
    return Mean(total, batch.target_observed.sum().to(total.dtype))
