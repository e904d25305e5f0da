"""A ridge regression and a seasonal profile stacked: what forecasts in place of a latent path that had too few windows to learn from.

Of a few hundred windows a network does not learn what a penalised straight line says of them, nor what a mean by the phase of a period
says. The two fail in different ways, so that a weighted mean of them is often better than either (Wolpert 1992); weights that are not
negative and sum to 1 keep it from leaving what both say (Breiman 1996).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.distributions import Normal

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.baselines import Ridge, Seasonal
from latentode.models.baselines.linear import MIN_STD, moments_of
from latentode.models.baselines.shrunk import choose_share, sum_moments
from latentode.models.conformal import Calibration, UntrainedModel
from latentode.models.lead import lead_bin
from latentode.models.season import Season


class Stack(UntrainedModel):
    r"""Forecasts :math:`s f + (1 - s) g` with a ridge regression :math:`f`, a seasonal profile :math:`g` and a share per channel.

    The regression reads the series without what the calendar explains (`Season`); the profile finds its own periods. Validation chooses
    in each what it chooses of a baseline, and then the share, drawn towards that of all channels together.

    Attributes:
        share: of the regression, per channel `(C,)`, in [0, 1].
    """

    share: Tensor

    def setup(self, schema: Schema) -> None:
        """Make the buffers of both, the share and the calibration."""
        n_channels = len(schema.channels)
        self.season = Season(schema.calendar, n_channels)
        self.ridge, self.seasonal = Ridge(), Seasonal()
        self.ridge.setup(schema)
        self.seasonal.setup(schema)
        self.register_buffer("share", torch.full((n_channels,), 0.5))
        self.calibration = Calibration(n_channels)

    def prepare(self, training: Iterable[Batch], validation: Sequence[Batch] = ()) -> None:
        """Fit both."""
        batches = list(training)
        self.ridge.prepare(self.season.fit(batches))
        self.seasonal.prepare(batches)

    def choose(self, validation: Sequence[Batch]) -> None:
        """Choose what either has to choose, then the share of least squared error, and the widths."""
        self.seasonal.choose(validation)
        self.ridge.choose([self.season.adjust(batch)[0] for batch in validation])
        pairs = [(batch, torch.stack(self._both(batch), -1)) for batch in validation]
        moments = sum_moments(moments_of(both, batch) for batch, both in pairs)
        # Counted from the profile, which has weight 1 where the regression has none.
        self.share.copy_(choose_share(moments, torch.ones_like(moments.xy[:, :1])))
        parts = zip(*(self._errors(batch, both) for batch, both in pairs), strict=True)
        self.calibration.fit_width(*(torch.cat(column) for column in parts))

    def _errors(self, batch: Batch, both_BM2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the error of every known target, its channel and its bin of lead time."""
        seen = batch.target_observed
        error = (batch.target_value - self._mean(both_BM2, batch))[seen].double()
        return error, batch.target_channel[seen], lead_bin(batch)[seen]

    def _both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give what profile and regression say of every target `(B, M)`."""
        adjusted, season = self.season.adjust(batch)
        return self.seasonal.raw(batch).mean, self.ridge.raw(adjusted).mean + season

    def _mean(self, both_BM2: Tensor, batch: Batch) -> Tensor:
        seasonal, ridge = both_BM2.unbind(-1)
        return seasonal + self.share[batch.target_channel] * (ridge - seasonal)

    def raw(self, batch: Batch) -> Normal:
        """Forecast every target `(B, M)`."""
        mean = self._mean(torch.stack(self._both(batch), -1), batch)
        return Normal(mean, self.calibration.width_at(batch).clamp(min=MIN_STD), validate_args=False)
