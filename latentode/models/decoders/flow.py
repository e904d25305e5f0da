"""A continuous normalizing flow per target, and one law for all channels that are asked at one time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.distributions import Rows, ScalarField, ScalarFlow
from latentode.models.interfaces import Frame

from .trunk import TrunkDecoder, softplus_inverse

MAX_BEND = 6.0  # together: the flow stretches and squeezes by e^6 at most
FIRST_BEND = (
    0.4  # together, on either side: heavier tails than a normal's, and every figure of the field has a gradient
)
# An optimiser such as Adam moves an output by its learning rate in a step; a shape has to change by factors.
BEND_GAIN = 3.0
MAX_SHARPNESS = 3.0  # a bend is no narrower than a third of the base's deviation, so that a few nodes give its moments
MAX_SHARED = 0.95  # of a score's variance: the correlation of a row stays regular
FIRST_LOADING = 0.1  # at 0 the correlation would have no gradient


class FlowDecoder(TrunkDecoder):
    """Decodes a state into a `ScalarFlow` per target: any smooth shape, skewed or with several peaks, with exact density and quantiles.

    A base normal follows a small field that the state, the channel and the time determine (Grathwohl et al. 2019, FFJORD, for one number
    and with a field whose flow has a closed form, so that its trace is exact and no step is taken). The channels of one query time are
    joined by the base's correlations, of `n_factors` factors, so that draws hang together and `ScalarFlow.joint_log_prob` is the density of
    any subset of channels. The flows learn by the likelihood of each value, the correlations by that of the rows with the flows held
    constant (inference functions for margins, Joe 2005).

    Args:
        n_units: bends of each field, one after another.
        n_factors: of the correlation; 0: values are not joined.
        hidden_size: width of the two hidden layers.
        dropout: share of hidden units dropped in training.
        min_std: least deviation, in the unit of the output.

    Raises:
        InputError: there is no bend, or a negative number of factors.
    """

    def __init__(
        self,
        n_units: int = 6,
        n_factors: int = 4,
        *,
        hidden_size: int = 64,
        dropout: float = 0.0,
        min_std: float = 0.02,
    ) -> None:
        super().__init__(hidden_size, dropout)
        if n_units < 1 or n_factors < 0:
            raise InputError(f"n_units is {n_units} and n_factors {n_factors}; give at least one unit and 0 factors.")
        self.n_units = n_units
        self.n_factors = n_factors
        self.min_std = min_std

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers; the untrained flow has tails somewhat heavier than a normal's, and the correlations are small."""
        super().setup(schema, latent_size, context_size)
        if self.n_factors:
            self.channel_loading = nn.Parameter(FIRST_LOADING * torch.randn(len(schema.channels), self.n_factors))

    def initial_shape(self) -> Tensor:
        """Give the outputs of the untrained decoder: width, bends away from the middle, sharpness 1, places side by side, loadings 0."""
        n = self.n_units
        sharpness = torch.full((n,), -math.log(MAX_SHARPNESS - 1))
        place = torch.linspace(-1.5, 1.5, n) if n > 1 else torch.zeros(1)
        width = torch.tensor([softplus_inverse(1 - self.min_std)])
        bend = place.sign() * FIRST_BEND / max(n // 2, 1) / BEND_GAIN
        return torch.cat([width, bend, sharpness, place, torch.zeros(self.n_factors)])

    def forward(self, z_BMD: Tensor, batch: Batch, channel_context_BCE: Tensor, frame: Frame) -> ScalarFlow:
        """Give the distribution of every target `(B, M)`."""
        mean, shape = self.outputs(z_BMD, batch, channel_context_BCE)
        n = self.n_units
        width, bend, sharpness, place, loading = shape.split([1, n, n, n, self.n_factors], -1)
        bend = BEND_GAIN * bend
        field = ScalarField(
            bend=MAX_BEND * bend / (MAX_BEND + bend.abs().sum(-1, keepdim=True)),
            sharpness=MAX_SHARPNESS * sharpness.sigmoid(),
            place=place,
        )
        scale = nn.functional.softplus(width[..., 0]) + self.min_std
        return ScalarFlow(mean, scale, field, self._rows(loading, batch))

    def _rows(self, loading: Tensor, batch: Batch) -> Rows | None:
        if not self.n_factors:
            return None
        loading = loading + self.channel_loading[batch.target_channel]
        shared = math.sqrt(MAX_SHARED) * loading / (1 + loading.square().sum(-1, keepdim=True)).sqrt()
        return Rows(batch.target_row, batch.target_observed, shared)

    def log_likelihood(self, forecast: Distribution, target_BM: Tensor) -> Tensor:
        """Give each value's own log-density, and its share of what its row's correlation adds."""
        assert isinstance(forecast, ScalarFlow)
        score, log_prob = forecast.score_and_log_prob(target_BM)
        if forecast.rows is None:
            return log_prob
        rows = forecast.rows
        return log_prob + rows.of_values(rows.log_copula(score.detach()))
