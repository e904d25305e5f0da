"""Neural CDE: a hidden state that is driven by the path of the observations (Kidger, Morrill, Foster and Lyons 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.history import CLAMP, pick
from latentode.models.interfaces import Encoder, Posterior
from latentode.models.recurrence import SeriesHead
from latentode.models.splines import CubicPath, fill_forward, fill_linear, hermite_path
from latentode.ode import TABLEAUS, FixedStep, solve

FILLS = ("forward", "linear")
COUNT_UNIT = 10.0  # observations that move the path of a channel's count by 1

# f(z) dX/dt of a state (B, H) and the slope of a path (B, X), shape of the state.
ControlledField = Callable[[Tensor, Tensor], Tensor]


class CDEEncoder(Encoder):
    r"""Solves :math:`dz = f(z)\,dX_t` from the first stamp read to the origin (Kidger et al. 2020, section 3).

    The control `X` of a series has, at its own stamps and at the origin, the time, the values of all channels, how often each was
    observed so far, and what the known columns held; between them it is a cubic Hermite spline with backward differences (Morrill et
    al. 2021), whose coefficients are made once per batch. Two things are chosen so that gaps of any length do no harm, and cost the
    solution nothing, since a CDE depends on where its control goes and not on how fast: the spline's parameter counts knots (of slopes
    taken over a minute, the path would overshoot for the hours that follow), and the time is told as the logarithm of 1 + age, in
    horizons.

    The matrix `f(z)` has a low rank, :math:`V\,\mathrm{diag}(\tanh g(z))\,U` with a network `g` of one hidden layer: a full one, of a state
    of 64 and 41 channels, would have 5,000 entries per evaluation.

    Args:
        hidden_size: width of the state `z`.
        field_size: width of the hidden layer of `g`.
        rank: of `f(z)`.
        method: an explicit one of `latentode.ode.SOLVERS`.
        n_steps: steps of it from one stamp to the next.
        fill: what a channel holds where it was not observed: "forward", its last value, so that what comes later changes no state before
            it; or "linear", between its last and its next one.
        max_rows: most time stamps read per series, the latest ones; counts and fills know of the earlier ones, too.

    Raises:
        InputError: a setting is out of its range.
    """

    def __init__(
        self,
        hidden_size: int = 64,
        *,
        field_size: int = 64,
        rank: int = 64,
        method: str = "midpoint",
        n_steps: int = 1,
        fill: str = "forward",
        max_rows: int = 128,
    ) -> None:
        super().__init__()
        if method not in TABLEAUS:
            raise InputError(f"method is {method!r}; choose an explicit one: {', '.join(TABLEAUS)}.")
        if fill not in FILLS:
            raise InputError(f"fill is {fill!r}; choose one of {', '.join(FILLS)}.")
        for name, number in (("rank", rank), ("n_steps", n_steps), ("max_rows", max_rows)):
            if number < 1:
                raise InputError(f"{name} is {number}; give a whole number from 1 on.")
        self.hidden_size = hidden_size
        self.field_size = field_size
        self.rank = rank
        self.method = method
        self.n_steps = n_steps
        self.fill = fill
        self.max_rows = max_rows

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers."""
        n_channels = len(schema.channels)
        n_control = 1 + 2 * n_channels + schema.n_known
        width = self.hidden_size
        self.start = nn.Linear(n_control, width)
        self.field = LowRankField(width, n_control, hidden_size=self.field_size, rank=self.rank)
        # How far a state has gone depends on how long its history is.
        self.norm = nn.LayerNorm(width)
        self.head = SeriesHead(schema, width, latent_size, context_size)

    def forward(self, batch: Batch) -> Posterior:
        """Encode every history of the batch."""
        # Members of one model read the same path.
        control = batch.derived(
            f"control {self.fill} {self.max_rows}", lambda b: read_control(b, self.fill, self.max_rows)
        )
        return self.head(self.norm(self.states(control, control.end[:, None])[:, 0]))

    def states(self, control: Control, knot_BQ: Tensor) -> Tensor:
        """Give the state at knots of each control, ascending, `(B, Q, H)`."""
        path = control.path
        z0_BH = torch.tanh(self.start(path.coefficients[:, 0, 0]))
        return drive(self.field, z0_BH, path, knot_BQ, method=self.method, step_size=1 / self.n_steps)


class LowRankField(nn.Module):
    r"""Gives :math:`f(z)\,dX = V\,(\tanh(g(z)) \odot U\,dX)`; bounded factors keep a state from running away.

    Args:
        state_size: of `z`.
        n_control: of `X`.
        hidden_size: width of the hidden layer of `g`.
        rank: of the matrix `f(z)`.
    """

    def __init__(self, state_size: int, n_control: int, *, hidden_size: int, rank: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(state_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, rank), nn.Tanh()
        )
        self.from_control = nn.Linear(n_control, rank, bias=False)
        self.to_slope = nn.Linear(rank, state_size, bias=False)

    def forward(self, z_BH: Tensor, slope_BX: Tensor) -> Tensor:
        """Give the state's slope `(B, H)` for that of the control."""
        return self.to_slope(self.gate(z_BH) * self.from_control(slope_BX))


def drive(
    field: ControlledField, z0_BH: Tensor, path: CubicPath, t_BQ: Tensor, *, method: str, step_size: float
) -> Tensor:
    """Solve `dz = field(z) dX` along a path from its first knot, in steps of one length (Kidger et al. 2020, section 3).

    Args:
        field: gives `f(z) dX/dt`.
        z0_BH: state at the first knot.
        path: the control.
        t_BQ: where the state is asked for, ascending per sample.
        method: a name in `latentode.ode.SOLVERS`.
        step_size: in the parameter of the path.

    Returns:
        The states, `(B, Q, H)`.
    """
    solution = solve(
        lambda t_B, z_BH: field(z_BH, path.slope(t_B)),
        z0_BH,
        t_BQ,
        t0=path.t[:, 0],
        method=method,
        controller=FixedStep(step_size),
        # Coefficients are of the whole batch.
        compact=False,
    )
    return solution.ys


@dataclass(frozen=True)
class Control:
    """The control of every history of a batch.

    Attributes:
        path: `(B, 1 + 2 C + K)`, over the number of the knot.
        end: the knot that is the origin, `(B,)`; what comes behind it is padding.
    """

    path: CubicPath
    end: Tensor


def read_control(batch: Batch, fill: str, max_rows: int) -> Control:
    """Make the control of every history: time, values, counts, known columns, at its latest stamps and at the origin."""
    rows = batch.rows()

    def with_origin(x: Tensor) -> Tensor:
        """Put an empty row behind the last; padding stands at the origin, too, so that one of both is the origin's knot."""
        return torch.cat([x, torch.zeros_like(x[:, :1])], 1)

    time_BT, observed = with_origin(rows.time), with_origin(rows.observed)
    is_real = with_origin(rows.row_observed)
    fill_in = fill_forward if fill == "forward" else lambda x, seen: fill_linear(time_BT, x, seen)
    value = fill_in(with_origin(rows.value).clamp(-CLAMP, CLAMP), observed)
    known = with_origin(rows.known).clamp(-CLAMP, CLAMP)
    known = fill_forward(known, is_real[..., None].expand_as(known))
    count = observed.to(value.dtype).cumsum(1) / COUNT_UNIT
    age = (-time_BT).clamp(min=0)
    x_BTX = torch.cat([-age.log1p()[..., None], value, count, known], -1)
    n_real = is_real.sum(1)
    # Where the last stamp is at the origin, it is the origin's knot.
    last = age.gather(1, (n_real - 1).clamp(min=0)[:, None])[:, 0]
    n_knots = torch.where((n_real > 0) & (last == 0), n_real, n_real + 1)
    width = min(x_BTX.shape[1], max_rows + 1)
    first = (n_knots - width).clamp(min=0)
    kept = pick(x_BTX, first[:, None] + torch.arange(width, device=first.device))
    knot_BT = torch.arange(width, dtype=value.dtype, device=value.device).expand(len(batch), -1).contiguous()
    return Control(hermite_path(knot_BT, kept), (n_knots - 1 - first).to(value.dtype))
