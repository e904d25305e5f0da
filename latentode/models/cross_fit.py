r"""A baseline beneath another model: what that model trains on must be what the baseline leaves of values that it has not seen.

A baseline that was fitted on the training windows forecasts them better than any others; a network that learns what it leaves there
learns too small a residual. So the baseline is fitted once on all training windows, for validation, test and forecasts, and
:math:`k` times without one part of them, for the training targets of that part: cross-fitting, as Wolpert (1992) does for stacking. Which
part a window belongs to is told by the window itself, so that nothing has to be stored, and windows that are drawn anew every epoch
have their answer too: its series modulo :math:`k`, or, of fewer series than parts, the stretch of time in which its origin lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError, did_you_mean
from latentode.models.baselines import BASELINE_MODELS
from latentode.models.conformal import CalibratedModel
from latentode.models.interfaces import ForecastModel

N_FOLDS = 3

Base = str | ForecastModel | None


def check_base(base: Base) -> Base:
    """Give `base` back.

    Raises:
        InputError: it is no baseline.
    """
    if isinstance(base, str) and base not in BASELINE_MODELS:
        raise InputError(
            f"base is {base!r}{did_you_mean(base, BASELINE_MODELS)}; choose one of {', '.join(BASELINE_MODELS)}, "
            "or null (None) for the latent path alone."
        )
    if base is not None and not isinstance(base, (str, *BASELINE_MODELS.values())):
        raise InputError(f"base is a {type(base).__name__}; choose a baseline: {', '.join(BASELINE_MODELS)}.")
    return base


class CrossFitted(nn.Module):
    """A baseline that was fitted on all training windows, and its twins that were each fitted without a part of them.

    Args:
        base: a baseline, or its short name.
    """

    whole: CalibratedModel
    is_by_series: Tensor
    edges: Tensor

    def __init__(self, base: str | ForecastModel) -> None:
        super().__init__()
        baseline = BASELINE_MODELS[base]() if isinstance(base, str) else deepcopy(base)
        assert isinstance(baseline, CalibratedModel)
        self.whole = baseline
        self.folds = nn.ModuleList(deepcopy(baseline) for _ in range(N_FOLDS))
        self.register_buffer("is_by_series", torch.ones(1, dtype=torch.int64))
        # Origins at which one part ends and the next begins, in table time.
        self.register_buffer("edges", torch.zeros(N_FOLDS - 1, dtype=torch.float64))

    def _twins(self) -> list[CalibratedModel]:
        return [fold for fold in self.folds if isinstance(fold, CalibratedModel)]

    def setup(self, schema: Schema) -> None:
        """Make the buffers of the baselines."""
        for model in (self.whole, *self._twins()):
            model.setup(schema)

    @torch.no_grad()
    def prepare(self, training: Sequence[Batch], validation: Sequence[Batch]) -> None:
        """Fit all of them on their training windows, and let validation choose what it chooses of a baseline.

        Validation is in no training window, so what it chooses does not tell a twin of the part that it must not see.
        """
        series = torch.cat([batch.series for batch in training]).unique()
        self.is_by_series.fill_(int(len(series) >= N_FOLDS))
        if len(series) < N_FOLDS:
            origin = torch.cat([batch.origin for batch in training]).double()
            level = torch.arange(1, N_FOLDS, dtype=torch.float64, device=origin.device) / N_FOLDS
            self.edges.copy_(origin.quantile(level, interpolation="lower"))
        _fit(self.whole, training, validation)
        for i, twin in enumerate(self._twins()):
            parts = [(batch, self._may_see(batch, i)) for batch in training]
            _fit(twin, [batch.take(seen) for batch, seen in parts if bool(seen.any())], validation)

    def choose(self, validation: Sequence[Batch]) -> None:
        """Choose anew, for forecasts, what validation chooses of a baseline."""
        self.whole.choose(validation)

    def fold_of(self, batch: Batch) -> Tensor:
        """Give the part that each window belongs to, int64 `(B,)`."""
        by_time = torch.bucketize(batch.origin.double(), self.edges)
        return torch.where(self.is_by_series > 0, batch.series % N_FOLDS, by_time)

    def _may_see(self, batch: Batch, fold: int) -> Tensor:
        """Say which windows the twin of a part may be fitted on, bool `(B,)`: no other part's whose targets lie among its own."""
        if int(self.is_by_series):
            return self.fold_of(batch) != fold
        first = self.edges[fold - 1] if fold > 0 else -torch.inf
        last = self.edges[fold] if fold < N_FOLDS - 1 else torch.inf
        origin, horizon = batch.origin.double(), batch.time_scale
        return (origin <= first - horizon) | (origin > last + horizon)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        """Forecast every target `(B, M)` by the baseline that was fitted on all training windows."""
        return self.whole.raw(batch).mean

    @torch.no_grad()
    def out_of_fold(self, batch: Batch) -> Tensor:
        """Forecast every target `(B, M)` by the twin that was fitted without the window's part."""
        fold_B = self.fold_of(batch)
        mean_BM = torch.zeros_like(batch.target_value)
        for i, twin in enumerate(self._twins()):
            row = (fold_B == i).nonzero()[:, 0]
            if len(row):
                mean_BM = mean_BM.index_copy(0, row, twin.raw(batch.take(row)).mean.to(mean_BM.dtype))
        return mean_BM


def _fit(model: CalibratedModel, training: Sequence[Batch], validation: Sequence[Batch]) -> None:
    # Of a single short series a part may leave nothing to fit on; the baseline then says what it says before it has seen data.
    if training:
        model.prepare(training)
    if validation:
        model.choose(validation)
