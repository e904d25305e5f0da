r"""GRU-D: a gated recurrent unit whose inputs and state decay while nothing is seen (Che, Purushotham, Cho, Sontag and Liu 2018).

Legend: `T` stamps, `C` channels, `H` hidden state; :math:`x` values, :math:`m` 1 where a value was seen and else 0, :math:`\delta` the time
since the channel's last value before the stamp.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.interfaces import Encoder, Posterior
from latentode.models.recurrence import GatedUpdate, SeriesHead, Stamps, latest_stamps


class GRUEncoder(Encoder):
    r"""Reads a history from its oldest stamp to the origin into one latent state for all channels, by the GRU-D of Che et al. (2018).

    At stamp :math:`t`, with the paper's letters (its section "GRU-D: model with trainable decays"),

    .. math::
        \gamma_t = \exp(-\max(0, W_\gamma \delta_t + b_\gamma)), \quad
        \hat x_t^d = m_t^d x_t^d + (1 - m_t^d) (\gamma_{x_t}^d x_{t'}^d + (1 - \gamma_{x_t}^d) \tilde x^d), \quad
        \hat h_{t-1} = \gamma_{h_t} \odot h_{t-1}

    where :math:`x_{t'}` is the last value before, :math:`W_{\gamma_x}` is diagonal and the mean :math:`\tilde x` is that of training,
    0 in the scaled units; then :math:`h_t` is the gated update of :math:`\hat h_{t-1}` by :math:`\hat x_t` and :math:`m_t`. Before the
    first value of a channel its mean stands for it, and :math:`\delta` counts from the first stamp. From the last stamp to the origin the
    state decays once more. Times are in horizons. The paper's update gate is 1 less the one of `GatedUpdate`: the same function.

    Args:
        hidden_size: width of the hidden state.
        max_rows: most time stamps read per series, the latest ones.

    Raises:
        InputError: `max_rows` is below 1.
    """

    def __init__(self, hidden_size: int = 64, *, max_rows: int = 128) -> None:
        super().__init__()
        if max_rows < 1:
            raise InputError(f"max_rows is {max_rows}; give a whole number from 1 on.")
        self.hidden_size = hidden_size
        self.max_rows = max_rows

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers."""
        n_channels = len(schema.channels)
        # Untrained, a value is worth 1/e of itself after a horizon, and the state after one in which nothing was seen. Rates start above
        # 0: below it nothing decays, and no gradient would ever say so.
        self.input_rate = nn.Parameter(torch.ones(n_channels))
        self.input_start = nn.Parameter(torch.zeros(n_channels))
        self.hidden_rate = nn.Linear(n_channels, self.hidden_size)
        nn.init.uniform_(self.hidden_rate.weight, 0.0, 2 / n_channels)
        nn.init.zeros_(self.hidden_rate.bias)
        self.update = GatedUpdate(2 * n_channels + schema.n_known, self.hidden_size, memory=self.max_rows)
        self.head = SeriesHead(schema, self.hidden_size, latent_size, context_size)

    def forward(self, batch: Batch) -> Posterior:
        """Encode every history of the batch."""
        return self.head(self.read(latest_stamps(batch, self.max_rows)))

    def read(self, stamps: Stamps) -> Tensor:
        """Give the hidden state at the origin, `(B, H)`."""
        last_BTC, since_BTC = since_last(stamps)
        seen = stamps.observed
        share = torch.exp(-torch.relu(self.input_rate * since_BTC[:, :-1] + self.input_start))
        held = seen * stamps.value + (1 - seen) * share * last_BTC[:, :-1]
        drives = self.update.drives(torch.cat([held, seen, stamps.known], -1), stamps.is_real)
        decay_BTH = torch.exp(-torch.relu(self.hidden_rate(since_BTC)))
        # A padded stamp rests; the last one of all is the origin.
        rests = torch.cat([~stamps.is_real, torch.zeros_like(stamps.is_real[:, :1])], 1)
        *decays, to_origin = torch.where(rests[..., None], 1.0, decay_BTH).unbind(1)
        hidden = decay_BTH.new_zeros(len(stamps.time), self.hidden_size)
        for decay, drive in zip(decays, drives, strict=True):
            hidden = self.update(drive, decay * hidden)
        return to_origin * hidden


def since_last(stamps: Stamps) -> tuple[Tensor, Tensor]:
    """Give every channel's last value before each stamp, 0 where there is none, and the time since then, or else since the first stamp.

    Behind the stamps the origin stands as one more: both are `(B, T + 1, C)`.
    """
    n_batch, n_stamps, n_channels = stamps.value.shape
    place = torch.arange(n_stamps, device=stamps.time.device)[:, None]
    latest = torch.where(stamps.observed > 0, place, -1).cummax(1).values
    before = torch.cat([latest.new_full((n_batch, 1, n_channels), -1), latest], 1)
    at = before.clamp(min=0)
    last = torch.where(before >= 0, stamps.value.gather(1, at), 0.0)
    now = torch.cat([stamps.time, torch.zeros_like(stamps.time[:, :1])], 1)
    # Where there was none before, `at` is the first stamp.
    return last, now[..., None] - stamps.time[..., None].expand_as(stamps.value).gather(1, at)
