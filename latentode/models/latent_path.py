"""One way from a history to a forecast: encoder, dynamics, decoder."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.history import pick
from latentode.models.interfaces import Decoder, Dynamics, Encoder, Frame, Posterior
from latentode.models.statics import StaticContext


class LatentPath(nn.Module):
    """Encodes the history, carries the latent state to the targets and decodes it there: a residual in the units of a `Frame`."""

    encoder: Encoder
    dynamics: Dynamics
    decoder: Decoder
    statics: StaticContext | None

    def __init__(self, encoder: Encoder, dynamics: Dynamics, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.dynamics, self.decoder = encoder, dynamics, decoder

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the parameters."""
        for part in (self.encoder, self.dynamics, self.decoder):
            part.setup(schema, latent_size, context_size)
        # Made last, and only where there are such columns: the weights of the parts are the same with and without.
        self.statics = StaticContext(schema, context_size) if schema.static_columns else None

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
        """Carry states at the origin, `(B, D)` or one per channel `(B, C, D)`, to the targets, `(B, M, D)`."""
        if z0.ndim == 2:
            z_BQD = self.dynamics(z0, torch.zeros_like(z0[:, 0]), batch.query_time, posterior.series_context)
            return pick(z_BQD, batch.target_row)
        queries = batch.channel_queries()
        z_BMD = z0.new_zeros(batch.target_row.numel(), z0.shape[-1])
        if len(queries.place):
            pair = queries.series * batch.n_channels + queries.channel
            z0_PD, context_PE = (x.flatten(0, 1).index_select(0, pair) for x in (z0, posterior.channel_context))
            z_TD = self.dynamics.carry(z0_PD, context_PE, queries.pair, queries.time)
            z_BMD = z_BMD.to(z_TD.dtype).index_copy(0, queries.place, z_TD)
        return z_BMD.view(*batch.target_row.shape, -1)

    def decode(self, z0: Tensor, posterior: Posterior, batch: Batch, frame: Frame) -> Distribution:
        """Carry states at the origin to the targets and decode them."""
        return self.decoder(self.carry(z0, posterior, batch), batch, posterior.channel_context, frame)

    def forward(self, batch: Batch, frame: Frame) -> Distribution:
        """Forecast the residual of every target `(B, M)` from the mean of the posterior."""
        posterior = self.encode(batch)
        return self.decode(posterior.mean, posterior, batch, frame)
