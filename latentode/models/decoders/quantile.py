"""Quantiles per target that cannot cross: a mean for squared error and a median for absolute error from one distribution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.metrics import crps
from latentode.models.distributions import QuantileFunction
from latentode.models.interfaces import Frame

from .trunk import TrunkDecoder, softplus_inverse

LEVELS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975)
MIN_SHARE = 1e-3  # of the untrained gap, which a gap keeps: the density stays bounded


class QuantileDecoder(TrunkDecoder):
    """Decodes a state into a `QuantileFunction` per target: a mean and the gaps between quantiles.

    The mean learns by squared error, the gaps and tails by the CRPS, which is twice the pinball loss averaged over *all* levels
    (Gneiting and Ranjan 2011): so the tails beyond the outermost level learn, too.

    Args:
        levels: of the quantiles, ascending in (0, 1), at least two; the median is among the defaults.
        hidden_size: width of the two hidden layers.
        dropout: share of hidden units dropped in training.
        min_scale: least scale of the whole shape, in the unit of the output.

    Raises:
        InputError: the levels do not ascend inside (0, 1), or are fewer than two.
    """

    # The CRPS grows no faster than the error: on PhysioNet the mean forecasts better where the shared layers learn by both.
    is_shape_apart = False
    # Between two quantiles the density is constant.
    has_likelihood = False

    level: Tensor
    start: Tensor

    def __init__(
        self,
        levels: Sequence[float] = LEVELS,
        *,
        hidden_size: int = 64,
        dropout: float = 0.0,
        min_scale: float = 0.02,
    ) -> None:
        super().__init__(hidden_size, dropout)
        if len(levels) < 2 or any(a >= b for a, b in pairwise((0.0, *levels, 1.0))):
            raise InputError(f"levels are {list(levels)}; give at least two, ascending between 0 and 1.")
        self.levels = levels
        self.min_scale = min_scale

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers; the untrained shape has the gaps and tails of a normal."""
        super().setup(schema, latent_size, context_size)
        self.register_buffer("level", torch.tensor(self.levels))
        self.register_buffer("start", _normal_shape(self.levels))

    def initial_shape(self) -> Tensor:
        """Give scale and one output per gap and tail of the untrained decoder."""
        n_pieces = len(self.levels) + 1
        pieces = [softplus_inverse(1 - MIN_SHARE)] * n_pieces
        return torch.tensor([softplus_inverse(1 - self.min_scale), *pieces])

    def forward(self, z_BMD: Tensor, batch: Batch, channel_context_BCE: Tensor, frame: Frame) -> QuantileFunction:
        """Give the distribution of every target `(B, M)`."""
        mean, shape = self.outputs(z_BMD, batch, channel_context_BCE)
        scale = nn.functional.softplus(shape[..., :1]) + self.min_scale
        pieces = scale * self.start * (nn.functional.softplus(shape[..., 1:]) + MIN_SHARE)
        return QuantileFunction(self.level, mean, pieces[..., :-2], pieces[..., -2:])

    def shape_score(self, forecast: Distribution, target_BM: Tensor) -> Tensor:
        """Give the CRPS."""
        return crps(forecast, target_BM)


def _normal_shape(levels: Sequence[float]) -> Tensor:
    """Give the gaps and the two tails `(L + 1,)` of a normal's quantiles, brought to deviation 1; a tail starts at the normal's density."""
    level = torch.tensor(levels, dtype=torch.float64)
    place = torch.special.ndtri(level)
    density = torch.distributions.Normal(0.0, 1.0).log_prob(place[[0, -1]]).exp()
    tails = torch.stack([level[0], 1 - level[-1]]) / density
    gaps = place.diff()
    std = QuantileFunction(level, torch.zeros((), dtype=torch.float64), gaps, tails).variance.sqrt()
    return (torch.cat([gaps, tails]) / std).float()
