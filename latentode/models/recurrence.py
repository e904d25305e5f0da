"""What recurrent models share: a history stamp by stamp, a gated update, and a hidden state that follows an ODE between two stamps.

Legend: `T` stamps, `F` inputs, `H` hidden state, `G` gates and state. What a loop over stamps costs is the number of operations, not of
numbers: all that does not depend on the hidden state is computed before it, for all stamps at once, and padding needs no operation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.history import CLAMP, pick
from latentode.models.interfaces import Posterior
from latentode.ode import TABLEAUS
from latentode.ode.runge_kutta import explicit_step

KEEP = 1e4  # input of an update gate that is open to the old state alone: its sigmoid is 1 to the last digit
DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Stamps:
    """The latest stamps of every history, ascending; padding stands behind them, at the origin.

    Attributes:
        time: `(B, T)`, 0 where padded.
        value: clamped, 0 where not observed, `(B, T, C)`.
        observed: 1 or 0, `(B, T, C)`.
        known: what known columns held and the calendar said, `(B, T, K)`.
        is_real: bool `(B, T)`; False is padding.
    """

    time: Tensor
    value: Tensor
    observed: Tensor
    known: Tensor
    is_real: Tensor

    def flipped(self) -> Stamps:
        """Give the same from the latest to the oldest; padding then stands before them."""
        return Stamps(*(getattr(self, name).flip(1) for name in ("time", "value", "observed", "known", "is_real")))


def latest_stamps(batch: Batch, n: int) -> Stamps:
    """Give the latest `n` stamps of every history."""
    rows = batch.derived("rows", Batch.rows)
    real = rows.row_observed
    n = min(real.shape[1], n)
    start = (real.sum(1, keepdim=True) - n).clamp(min=0)
    latest_BT = start + torch.arange(n, device=real.device)
    value, observed, known = (pick(x, latest_BT) for x in (rows.value, rows.observed.to(rows.value.dtype), rows.known))
    return Stamps(
        rows.time.gather(1, latest_BT),
        value.clamp(-CLAMP, CLAMP),
        observed,
        known.clamp(-CLAMP, CLAMP),
        real.gather(1, latest_BT),
    )


class GatedUpdate(nn.Module):
    r"""A gated recurrent unit (Cho et al. 2014, equations 5 to 8), its share of the inputs computed for all stamps at once.

    .. math::
        r = \sigma(W_r x + U_r h + b_r), \quad z = \sigma(W_z x + U_z h + b_z), \quad
        \tilde h = \tanh(W x + U (r \odot h) + b), \quad h' = z \odot h + (1 - z) \odot \tilde h

    Untrained, each number of the state has a pace of its own and forgets within one to `memory` stamps, as many within 1 to 4 as within 4
    to 16 (after Tallec and Ollivier 2018, section 2.3): with a bias of 0 nothing would be left of a value after ten stamps on which its
    channel was not seen, and no gradient would reach it.

    Args:
        n_inputs: `F`.
        hidden_size: `H`.
        memory: stamps that the longest memory of the untrained unit spans.
    """

    def __init__(self, n_inputs: int, hidden_size: int, *, memory: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.from_input = nn.Linear(n_inputs, 3 * hidden_size)
        with torch.no_grad():
            self.from_input.bias[hidden_size : 2 * hidden_size].uniform_(0, math.log(memory))
        self.gates_from_hidden = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.state_from_hidden = nn.Linear(hidden_size, hidden_size, bias=False)

    def drives(self, input_BTF: Tensor, is_real_BT: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Give what every stamp says to the gates `(B, 2 H)` and to the state `(B, H)`; to padding, that all stays as it is."""
        drive_TBG = self.from_input(input_BTF.transpose(0, 1))
        size = self.hidden_size
        gates, state = drive_TBG.split([2 * size, size], -1)
        keep = torch.where(is_real_BT.T, 0.0, KEEP).to(gates.dtype)
        gates = torch.cat([gates[..., :size], gates[..., size:] + keep[..., None]], -1)
        return list(zip(gates.unbind(0), state.unbind(0), strict=True))

    def forward(self, drive: tuple[Tensor, Tensor], hidden_BH: Tensor) -> Tensor:
        """Give the state after a stamp, `(B, H)`."""
        gates, state = drive
        reset, keep = torch.sigmoid(gates + self.gates_from_hidden(hidden_BH)).chunk(2, -1)
        new = torch.tanh(state + self.state_from_hidden(reset * hidden_BH))
        # Under autocast a layer gives a half whatever it was given; the state stays what it is.
        return torch.lerp(new.to(hidden_BH.dtype), hidden_BH, keep.to(hidden_BH.dtype))


class ODERNNCell(nn.Module):
    """Reads a history stamp by stamp: `dh/dt = f(h)` between two, `h' = GRU(h, x)` at each (Rubanova et al. 2019, algorithm 1).

    Every series has its own stamps: number `k` of each is one batched step, so that the cost follows the longest history of the batch and
    not the union of its stamps. Steps are explicit and in horizons, one or more between two stamps, whatever the error: training makes a
    field that they suit.

    Args:
        schema: of the data.
        hidden_size: width of the hidden state.
        field_size: width of the field's hidden layer.
        method: a name in `latentode.ode.TABLEAUS`.
        n_steps: steps between two stamps.
        max_rows: most stamps read per series, the latest ones.
        direction: "forward", from the oldest stamp to the origin, or "backward", from the origin to the oldest stamp.
    """

    def __init__(
        self,
        schema: Schema,
        hidden_size: int,
        *,
        field_size: int,
        method: str,
        n_steps: int,
        max_rows: int,
        direction: str = "forward",
    ) -> None:
        super().__init__()
        self.tableau = TABLEAUS[method]
        self.n_steps = n_steps
        self.max_rows = max_rows
        self.direction = direction
        self.update = GatedUpdate(2 * len(schema.channels) + 1 + schema.n_known, hidden_size, memory=max_rows)
        self.field = nn.Sequential(nn.Linear(hidden_size, field_size), nn.Tanh(), nn.Linear(field_size, hidden_size))

    def slope(self, t_B: Tensor, hidden_BH: Tensor) -> Tensor:
        """Give the slope of the hidden state, `(B, H)`, which depends on the state alone."""
        return self.field(hidden_BH)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Read every history.

        Returns:
            The hidden state `(B, H)` at the end of the way, and the time of that end `(B,)`: the origin or the oldest stamp read.
        """
        stamps = latest_stamps(batch, self.max_rows)
        oldest_B = stamps.time[:, 0]
        origin_B = torch.zeros_like(oldest_B)
        is_forward = self.direction == "forward"
        if not is_forward:
            stamps = stamps.flipped()
        start_B = oldest_B if is_forward else origin_B
        passed_BT = stamps.time.diff(dim=1, prepend=start_B[:, None])
        inputs = [stamps.value, stamps.observed, passed_BT.abs()[..., None], stamps.known]
        drives = self.update.drives(torch.cat(inputs, -1), stamps.is_real)
        hidden = stamps.value.new_zeros(len(batch), self.update.hidden_size)
        for passed_B1, drive in zip(passed_BT.T[..., None].unbind(0), drives, strict=True):
            hidden = self.update(drive, self.carry(hidden, passed_B1))
        if not is_forward:
            return hidden, oldest_B
        # No time is left where there was padding, which stands at the origin.
        return self.carry(hidden, -stamps.time[:, -1:]), origin_B

    def carry(self, hidden_BH: Tensor, passed_B1: Tensor) -> Tensor:
        """Carry the state over a signed time, `(B, H)`; where that is 0 it stays as it is."""
        dt = passed_B1 / self.n_steps if self.n_steps > 1 else passed_B1
        for _ in range(self.n_steps):
            # The field is of the state alone: any time will do.
            hidden_BH = explicit_step(self.slope, dt[:, 0], hidden_BH, dt, self.tableau)
        return hidden_BH


class SeriesContext(nn.Module):
    """Gives the context of a series, and that of its channels: the same, each number times and plus one that is learned of the channel.

    So every channel reads features of its own out of one state (Perez et al. 2018).

    Args:
        schema: of the data.
        hidden_size: width of what is read.
        context_size: `E`.
    """

    def __init__(self, schema: Schema, hidden_size: int, context_size: int) -> None:
        super().__init__()
        self.to_series = nn.Linear(hidden_size, context_size)
        self.scale = nn.Parameter(torch.randn(len(schema.channels), context_size))
        self.shift = nn.Parameter(torch.randn(len(schema.channels), context_size) * 0.1)

    def forward(self, hidden_BH: Tensor) -> tuple[Tensor, Tensor]:
        """Give the contexts `(B, E)` and `(B, C, E)`."""
        series_BE = self.to_series(hidden_BH)
        return series_BE, series_BE[:, None] * self.scale + self.shift


class SeriesHead(nn.Module):
    """Gives mean and deviation of the state by one hidden layer, and contexts of series and channels.

    Args:
        schema: of the data.
        hidden_size: width of what is read.
        latent_size, context_size: of the posterior.
    """

    def __init__(self, schema: Schema, hidden_size: int, latent_size: int, context_size: int) -> None:
        super().__init__()
        self.to_posterior = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 2 * latent_size)
        )
        self.to_context = SeriesContext(schema, hidden_size, context_size)

    def forward(self, hidden_BH: Tensor, t0_B: Tensor | None = None) -> Posterior:
        """Give the posterior of a state at `t0_B`; None: at the origin."""
        mean, width = self.to_posterior(hidden_BH).chunk(2, -1)
        series, channel = self.to_context(hidden_BH)
        return Posterior(
            mean=mean,
            std=nn.functional.softplus(width - 1.0) + 1e-3,
            series_context=series,
            channel_context=channel,
            t0=t0_B,
        )


def check_reading(method: str, n_steps: int, max_rows: int, direction: str = "forward") -> None:
    """Refuse settings of an `ODERNNCell` that are out of their range.

    Raises:
        InputError: no explicit method has that name, or a number is below 1, or there is no such direction.
    """
    if method not in TABLEAUS:
        raise InputError(f"method is {method!r}; choose an explicit one: {', '.join(TABLEAUS)}.")
    for name, value in (("n_steps", n_steps), ("max_rows", max_rows)):
        if value < 1:
            raise InputError(f"{name} is {value}; give a whole number from 1 on.")
    if direction not in DIRECTIONS:
        raise InputError(f"direction is {direction!r}; choose one of {', '.join(DIRECTIONS)}.")
