r"""Ridge regression, per channel, on summaries of the history of all channels, on the query time, and on static and known columns.

It learns what the blend leaves, so that a heavy penalty means the blend. With `X` the features of a channel's training targets and `r`
what the blend leaves of them, the weights are :math:`(X^T X + \lambda n I)^{-1} X^T r` (Hoerl and Kennard 1970, equation 2.1), from sums
that one pass over the data adds up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Normal

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.baselines.linear import Moments
from latentode.models.baselines.shrunk import ShrunkBaseline, own_std, sum_moments
from latentode.models.history import at_targets, known_features, most_seen, summarise
from latentode.models.statics import count_features, static_features

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)  # per training target, features being of order one
MAX_INPUTS = 48  # channels whose summaries every channel reads: those seen most in training
N_SHARED, N_PER_INPUT, N_OWN = 1, 4, 6  # features: of any window, of each channel read, of each target
FAR = 4.0  # training deviations; a straight line must not follow an outlier


class Ridge(ShrunkBaseline):
    """Forecasts the blend plus a linear function of the history's summaries; the penalty is chosen per channel on validation."""

    inputs: Tensor
    candidates: Tensor
    weight: Tensor

    def setup(self, schema: Schema) -> None:
        """Make the buffers: the channels read `(J,)`, weights per penalty `(P, C, K)`, weights in use `(C, K)`."""
        super().setup(schema)
        n_channels = len(schema.channels)
        n_inputs = min(n_channels, MAX_INPUTS)
        self.schema = schema
        n_features = N_SHARED + N_PER_INPUT * n_inputs + N_OWN + count_features(schema) + 3 * schema.n_known
        self.register_buffer("inputs", torch.arange(n_inputs))
        self.register_buffer("candidates", torch.zeros(len(PENALTIES), n_channels, n_features))
        self.register_buffer("weight", torch.zeros(n_channels, n_features))

    def fit(self, training: Sequence[Batch]) -> None:
        """Solve for the weights of every penalty."""
        self.inputs.copy_(most_seen(training, len(self.inputs)))
        moments = self._moments(training)
        scale = moments.count.clamp(min=1)[:, None, None] * torch.eye(self.weight.shape[1]).to(moments.xx)
        for i, penalty in enumerate(PENALTIES):
            self.candidates[i] = torch.linalg.solve(moments.xx + penalty * scale, moments.xy)
        self.weight.copy_(self.candidates[PENALTIES.index(0.1)])

    def tune(self, validation: Sequence[Batch]) -> None:
        """Choose the penalty of each channel."""
        error = self._moments(validation).squared_error(self.candidates.double())
        self.weight.copy_(self.candidates[error.argmin(0), torch.arange(len(self.weight))])

    def own(self, batch: Batch) -> Normal:
        """Forecast every target `(B, M)`."""
        shared, own = self._features(batch)
        # What is shared by all targets of a window is summed once per channel and window, not once per target.
        n_shared = shared.shape[-1]
        said = at_targets(shared @ self.weight[:, :n_shared].T, batch)
        said = said + (own * self.weight[batch.target_channel, n_shared:]).sum(-1)
        return own_std(self.trained_blend(batch) + said)

    def _features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give what all targets of a window read, `(B, F)`, and what only each target reads, `(B, M, G)`."""
        summary = summarise(batch)
        last, mean = summary.last.clamp(-FAR, FAR), summary.mean.clamp(-FAR, FAR)
        recency, count = torch.exp(-summary.age), summary.count.log1p() / 4
        parts = [x[:, self.inputs] for x in (last, mean, recency, count)]
        shared = torch.cat([torch.ones_like(last[:, :1]), *parts, static_features(batch, self.schema)], -1)
        time = (batch.lead_time() / (1 + batch.lead_time())) * 2 - 1
        own_last, own_mean = at_targets(last, batch), at_targets(mean, batch)
        own_recency = at_targets(recency, batch)
        columns = [
            time,
            time.square(),
            time * own_last,
            time * own_mean,
            own_recency * own_last,
            own_recency * own_mean,
        ]
        return shared, torch.cat([torch.stack(columns, -1), known_features(batch).clamp(-FAR, FAR)], -1)

    def _moments(self, batches: Sequence[Batch]) -> Moments:
        """Sum the products of features and of what the blend leaves."""
        return sum_moments(self._moments_of(batch) for batch in batches)

    def _moments_of(self, batch: Batch) -> Moments:
        shared, own = self._features(batch)
        seen, n_channels = batch.target_observed, batch.n_channels
        window, channel = seen.nonzero()[:, 0], batch.target_channel[seen]
        y = (batch.target_value - self.trained_blend(batch))[seen].double()
        order = channel.argsort(stable=True)
        n_features = self.weight.shape[1]
        xx, xy = y.new_zeros(n_channels, n_features, n_features), y.new_zeros(n_channels, n_features)
        present, count = channel[order].unique_consecutive(return_counts=True)
        # Channel by channel, as products of matrices: an outer product per target would be a hundred times the memory.
        for i, place in zip(present.tolist(), order.split(count.tolist()), strict=True):
            x = torch.cat([shared[window[place]], own[seen][place]], -1).double()
            xx[i], xy[i] = x.T @ x, x.T @ y[place]
        empty = y.new_zeros(n_channels)
        return Moments(xx, xy, empty.index_add(0, channel, y * y), empty.index_add(0, channel, torch.ones_like(y)))
