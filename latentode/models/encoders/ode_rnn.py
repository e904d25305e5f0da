"""ODE-RNN: a hidden state that follows an ODE between observations and jumps at each (Rubanova, Chen and Duvenaud 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.history import CLAMP, pick
from latentode.models.interfaces import Encoder, Posterior
from latentode.ode import FixedStep, solve


class ODERNNEncoder(Encoder):
    """Reads a history from its oldest stamp to the origin, one time stamp after another (the paper's algorithm 1).

    The paper runs backward, since it wants the state at the first stamp; here the state is wanted at the origin, the last one. Each
    series has its own time stamps: stamp `k` of every series is one batched solve, so the cost follows the longest history of the
    batch, not the union of its time stamps. It is a loop over stamps all the same; `AttentionEncoder` has none.

    Args:
        hidden_size: width of the hidden state.
        field_size: width of the field's hidden layer.
        method: a name in `latentode.ode.SOLVERS`; one step leads from one stamp to the next.
        max_rows: most time stamps read per series, the latest ones.
    """

    def __init__(
        self, hidden_size: int = 64, *, field_size: int = 64, method: str = "euler", max_rows: int = 128
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.field_size = field_size
        self.method = method
        self.max_rows = max_rows

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers."""
        n_channels = len(schema.channels)
        self.field = nn.Sequential(
            nn.Linear(self.hidden_size, self.field_size), nn.Tanh(), nn.Linear(self.field_size, self.hidden_size)
        )
        self.update = nn.GRUCell(2 * n_channels + 1 + schema.n_known, self.hidden_size)
        self.to_posterior = nn.Sequential(
            nn.Linear(self.hidden_size, self.hidden_size), nn.Tanh(), nn.Linear(self.hidden_size, 2 * latent_size)
        )
        self.to_series_context = nn.Linear(self.hidden_size, context_size)
        self.channel = nn.Parameter(torch.randn(n_channels, context_size) * 0.1)

    def forward(self, batch: Batch) -> Posterior:
        """Encode every history of the batch; the oldest stamp is read first, the origin is where the state arrives."""
        rows = batch.rows()
        latest_BT = _latest(rows.row_observed, self.max_rows)
        time_BT, real_BT = rows.time.gather(1, latest_BT), rows.row_observed.gather(1, latest_BT)
        index_BTC = latest_BT[..., None].expand(-1, -1, batch.n_channels)
        value, observed = rows.value.gather(1, index_BTC), rows.observed.gather(1, index_BTC)
        value = value.clamp(-CLAMP, CLAMP)
        known = pick(rows.known, latest_BT).clamp(-CLAMP, CLAMP)
        hidden = value.new_zeros(len(batch), self.hidden_size)
        now = time_BT[:, 0]
        for i in range(time_BT.shape[1]):
            # A padded stamp rests: no time passes and nothing is read.
            then = torch.where(real_BT[:, i], time_BT[:, i], now)
            hidden = self._carry(hidden, now, then)
            seen = observed[:, i].to(value.dtype)
            features = torch.cat([value[:, i], seen, (then - now)[:, None], known[:, i]], -1)
            hidden = torch.where(real_BT[:, i, None], self.update(features, hidden), hidden)
            now = then
        hidden = self._carry(hidden, now, torch.zeros_like(now))
        return self._posterior(hidden)

    def _carry(self, hidden_BH: Tensor, t0_B: Tensor, t1_B: Tensor) -> Tensor:
        """Carry the state from `t0_B` to `t1_B` by one step of the solver."""
        ends = torch.stack([t0_B, t1_B], 1)
        solution = solve(self._slope, hidden_BH, ends, method=self.method, controller=FixedStep(grid=t1_B[:, None]))
        return solution.ys[:, -1]

    def _slope(self, t_B: Tensor, hidden_BH: Tensor) -> Tensor:
        return self.field(hidden_BH)

    def _posterior(self, hidden_BH: Tensor) -> Posterior:
        mean, width = self.to_posterior(hidden_BH).chunk(2, -1)
        series = self.to_series_context(hidden_BH)
        return Posterior(
            mean=mean,
            std=nn.functional.softplus(width - 1.0) + 1e-3,
            series_context=series,
            channel_context=series[:, None] + self.channel,
        )


def _latest(real_BT: Tensor, n: int) -> Tensor:
    """Give the positions of the latest `n` stamps of each series, ascending, `(B, min(T, n))`."""
    n = min(real_BT.shape[1], n)
    start = (real_BT.sum(1, keepdim=True) - n).clamp(min=0)
    return start + torch.arange(n, device=real_BT.device)
