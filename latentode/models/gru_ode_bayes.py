r"""GRU-ODE-Bayes: a gated state that decays on its own and jumps at each observation (De Brouwer, Simm, Arany and Moreau 2019).

Legend: `B` series, `T` stamps, `C` channels, `H` hidden state, `Q` query times, `M` targets. All series take their own stamp number `k`
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.cross_fit import Base
from latentode.models.decoders import GaussianDecoder
from latentode.models.history import CLAMP, pick
from latentode.models.interfaces import Decoder, Frame, Path
from latentode.models.objectives import Mean, gaussian_kl, gaussian_nll, gaussian_product
from latentode.models.recurrence import GatedUpdate, SeriesContext, Stamps, latest_stamps
from latentode.models.residual import ResidualModel
from latentode.models.statics import StaticContext
from latentode.ode import TABLEAUS, FixedStep, solve
from latentode.ode.runge_kutta import explicit_step

N_FIGURES = 4  # of an observed value: itself, the mean and deviation that were expected, and the error in deviations
MIN_STD = 0.02  # training deviations
# Of a gap that takes more steps the rest is passed over: by then the state has come to rest, as near as makes no difference.
MAX_STEPS = 16


class GRUODEBayes(ResidualModel):
    r"""Forecasts `base + unit * residual`; the residual is read off a state that follows a GRU-ODE and is corrected by every observation.

    Between observations :math:`dh/dt = (1 - z) \odot (g - h)`; at each, the state says what it expected of every channel, a normal law
    `f_obs(h)`, and a gated unit reads by how much it was wrong. After the origin the ODE goes on, and a decoder reads the forecasts off it.
    Training lowers the decoder's score of the targets and, weighted, the paper's loss on the history.

    Args:
        decoder: gives the distribution of targets; None: `GaussianDecoder()`.
        hidden_size: of the state.
        context_size: size of what a decoder is told beside the state.
        prep_size: numbers that a channel's observation and error are prepared into.
        pace: units of the ODE's own time in a horizon: within one such unit the state can go most of the way to where it rests.
        method: a name in `latentode.ode.TABLEAUS`.
        step_size: longest step, in the ODE's own time. By Euler steps of at most 1 the state provably stays in [-1, 1].
        max_rows: most time stamps read per series, the latest ones.
        history_weight: of the loss on the history; 0: the targets alone teach.
        update_weight: in it, of the divergence after the jumps (the paper's lambda).
        obs_std: deviation of the noise of an observation, in training deviations.
        beta: exponent of `objectives.beta_nll`.
        base, balance, thinning, n_members, has_companion: see `ResidualModel`.

    Raises:
        InputError: a setting is out of its range.
    """

    def __init__(
        self,
        decoder: Decoder | None = None,
        *,
        hidden_size: int = 64,
        context_size: int = 64,
        prep_size: int = 8,
        pace: float = 4.0,
        method: str = "euler",
        step_size: float = 0.5,
        max_rows: int = 128,
        history_weight: float = 0.1,
        update_weight: float = 0.1,
        obs_std: float = 0.1,
        base: Base = "blend",
        beta: float = 1.0,
        balance: float = 0.5,
        thinning: float = 0.0,
        n_members: int = 1,
        has_companion: bool = True,
    ) -> None:
        if method not in TABLEAUS:
            raise InputError(f"method is {method!r}; choose an explicit one: {', '.join(TABLEAUS)}.")
        positive = {"pace": pace, "step_size": step_size, "obs_std": obs_std, "max_rows": max_rows}
        for name, number in positive.items():
            if not number > 0:
                raise InputError(f"{name} is {number}; give a number above 0.")
        for name, number in (("history_weight", history_weight), ("update_weight", update_weight)):
            if number < 0:
                raise InputError(f"{name} is {number}; give a weight from 0 up.")
        path = GRUODEBayesPath(
            decoder or GaussianDecoder(),
            hidden_size=hidden_size,
            context_size=context_size,
            prep_size=prep_size,
            clock=Clock(pace, method, step_size),
            max_rows=max_rows,
            history_weight=history_weight,
            update_weight=update_weight,
            obs_std=obs_std,
            beta=beta,
        )
        super().__init__(
            path, base=base, balance=balance, thinning=thinning, n_members=n_members, has_companion=has_companion
        )
        self.hidden_size = hidden_size
        self.context_size = context_size
        self.prep_size = prep_size
        self.pace = pace
        self.method = method
        self.step_size = step_size
        self.max_rows = max_rows
        self.history_weight = history_weight
        self.update_weight = update_weight
        self.obs_std = obs_std
        self.beta = beta

    @property
    def path(self) -> GRUODEBayesPath:
        """The path of the first member."""
        first = self.paths[0]
        assert isinstance(first, GRUODEBayesPath)
        return first

    @property
    def decoder(self) -> Decoder:
        """The decoder of the first member."""
        return self.path.decoder


@dataclass(frozen=True)
class Clock:
    """How the ODE is stepped.

    Attributes:
        pace: units of its own time in a horizon.
        method: a name in `TABLEAUS`.
        step_size: longest step, in its own time.
    """

    pace: float
    method: str
    step_size: float

    def steps(self, gap_BT: Tensor) -> tuple[Tensor, list[int]]:
        """Cut gaps, in horizons, into steps of one length each.

        A series takes the steps of its own gap, whatever gaps others have: what it lacks to the most is steps of no length.

        Returns:
            The lengths, of each gap one after the other, `(sum of counts, B, 1)`, and the count of steps of each gap, `T` numbers: what
            leaves the device.
        """
        own = gap_BT * self.pace
        # A rounding error above a whole number of steps is not one step more: the unit of time would decide.
        n_BT = (own / self.step_size - 1e-3).ceil().clamp(0, MAX_STEPS)
        length_BT = own.clamp(max=MAX_STEPS * self.step_size) / n_BT.clamp(min=1)
        counts = [int(n) for n in n_BT.amax(0).clamp(min=1).tolist()]
        lengths = [
            torch.where(n_BT[:, i] > j, length_BT[:, i], 0.0) if n > 1 else length_BT[:, i]
            for i, n in enumerate(counts)
            for j in range(n)
        ]
        return torch.stack(lengths)[..., None], counts


class GRUField(nn.Module):
    r"""The autonomous GRU-ODE (De Brouwer et al. 2019, equation 3).

    .. math::
        \frac{dh}{dt} = (1 - z) \odot (g - h), \quad r = \sigma(U_r h + b_r), \quad z = \sigma(U_z h + b_z), \quad
        g = \tanh(U_h (r \odot h) + b_h)

    A state that starts in [-1, 1] stays there, since `g` pulls it inwards at the edge, and no part of it moves faster
    than 2. An Euler step of length 1 is one step of the gated recurrent unit.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gates = nn.Linear(hidden_size, 2 * hidden_size)
        self.aim = nn.Linear(hidden_size, hidden_size)

    def forward(self, t_B: Tensor, h_BH: Tensor) -> Tensor:
        """Give the slope `(B, H)`, in the ODE's own time."""
        reset, rest = torch.sigmoid(self.gates(h_BH)).chunk(2, -1)
        return (1 - rest) * (torch.tanh(self.aim(reset * h_BH)) - h_BH)


class ObservationModel(nn.Module):
    """The law of every channel's next value, `f_obs`: normal, mean and deviation by one hidden layer from the state."""

    def __init__(self, hidden_size: int, n_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 2 * n_channels)
        )

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean and deviation, `(..., C)` each, of states `(..., H)`."""
        mean, width = self.layers(h).chunk(2, -1)
        return mean, nn.functional.softplus(width) + MIN_STD


class BayesJump(nn.Module):
    r"""What an observation does to the state, GRU-Bayes: :math:`h_+ = GRU(h_-, f_{prep}(y, m, h_-))` (De Brouwer et al. 2019).

    Of each observed channel, value, expected mean and deviation and the error in deviations pass through a layer of the channel's own;
    of the others nothing is read, and a series of which no channel was observed keeps its state.

    Args:
        n_channels: `C`.
        n_known: known columns, read beside the observations.
        hidden_size: `H`.
        prep_size: numbers per channel.
        memory: see `GatedUpdate`.
    """

    def __init__(self, n_channels: int, n_known: int, hidden_size: int, *, prep_size: int, memory: int) -> None:
        super().__init__()
        scale = (2 / (N_FIGURES + prep_size)) ** 0.5
        self.weight = nn.Parameter(scale * torch.randn(n_channels, N_FIGURES, prep_size))
        self.bias = nn.Parameter(torch.full((n_channels, prep_size), 0.1))
        self.update = GatedUpdate(n_channels * prep_size + n_known, hidden_size, memory=memory)

    def prepare(self, value_BC: Tensor, observed_BC: Tensor, mean_BC: Tensor, std_BC: Tensor) -> Tensor:
        """Give what the unit reads of the observations, `(B, C * prep_size)`."""
        error = ((value_BC - mean_BC) / std_BC).clamp(-CLAMP, CLAMP)
        figures_CBF = torch.stack([value_BC, mean_BC, std_BC, error], -1).transpose(0, 1)
        prepared_CBP = torch.baddbmm(self.bias[:, None], figures_CBF, self.weight).relu()
        return (prepared_CBP.transpose(0, 1) * observed_BC[..., None]).flatten(1)

    def forward(self, h_BH: Tensor, prepared_BF: Tensor, known_BK: Tensor, is_seen_B1: Tensor) -> Tensor:
        """Give the state after a stamp, `(B, H)`."""
        drive = self.update.from_input(torch.cat([prepared_BF, known_BK], -1))
        size = self.update.hidden_size
        gates, state = drive.split([2 * size, size], -1)
        return torch.where(is_seen_B1, self.update((gates, state), h_BH), h_BH)


@dataclass(frozen=True)
class Filtered:
    """A history, read.

    Attributes:
        h0: state at the origin, `(B, H)`.
        stamps: what was read.
        before: mean and deviation that were expected at each stamp, `(B, T, C)` each.
        after: state after each stamp, `(B, T, H)`.
    """

    h0: Tensor
    stamps: Stamps
    before: tuple[Tensor, Tensor]
    after: Tensor


class GRUODEBayesPath(Path):
    """Filters the history, carries the state on to the targets, and decodes it there.

    Args:
        decoder: without parameters yet.
        clock: how the ODE is stepped.
        hidden_size, context_size, prep_size, max_rows, history_weight, update_weight, obs_std, beta: see `GRUODEBayes`.
    """

    decoder: Decoder
    statics: StaticContext | None

    def __init__(
        self,
        decoder: Decoder,
        *,
        hidden_size: int,
        context_size: int,
        prep_size: int,
        clock: Clock,
        max_rows: int,
        history_weight: float,
        update_weight: float,
        obs_std: float,
        beta: float,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.hidden_size = hidden_size
        self.context_size = context_size
        self.prep_size = prep_size
        self.clock = clock
        self.max_rows = max_rows
        self.history_weight = history_weight
        self.update_weight = update_weight
        self.obs_std = obs_std
        self.beta = beta

    def setup(self, schema: Schema) -> None:
        """Make the parameters."""
        n_channels, width = len(schema.channels), self.hidden_size
        self.start = nn.Parameter(0.1 * torch.randn(width))
        self.field = GRUField(width)
        self.observe = ObservationModel(width, n_channels)
        self.jump = BayesJump(n_channels, schema.n_known, width, prep_size=self.prep_size, memory=self.max_rows)
        self.to_context = SeriesContext(schema, width, self.context_size)
        self.decoder.setup(schema, width, self.context_size)
        self.statics = None
        if schema.static_columns:
            self.statics = StaticContext(schema, self.context_size)
            self.start_from_statics = nn.Linear(self.context_size, width, bias=False)

    def watch(self, training: Iterable[Batch]) -> Iterator[Batch]:
        """Let the decoder see training windows pass."""
        return self.decoder.watch(training)

    def forward(self, batch: Batch, frame: Frame) -> Distribution:
        """Forecast the residual of every target `(B, M)`."""
        static_BE = self._static_context(batch)
        return self._decode(self.filter(batch, static_BE).h0, static_BE, batch, frame)

    def loss_means(self, batch: Batch, frame: Frame, weight_BM: Tensor) -> list[Mean]:
        """Give the decoder's score of the targets plus the weighted loss on the history."""
        static_BE = self._static_context(batch)
        filtered = self.filter(batch, static_BE)
        forecast = self._decode(filtered.h0, static_BE, batch, frame)
        score = self.decoder.score(forecast, frame.residual(batch.target_value), self.beta)
        means = [Mean.weighted(score, weight_BM, batch.target_observed)]
        if self.history_weight:
            history = self.history_loss(filtered)
            means.append(Mean(self.history_weight * history.total, history.count))
        return means

    def history_loss(self, filtered: Filtered) -> Mean:
        r"""Give the paper's objective, its losses before and after each jump, per observed value in nats (De Brouwer et al. 2019).

        .. math::
            -\log p_{pre}(y) + \lambda\, KL(p_{Bayes} \,\|\, p_{post}), \qquad p_{Bayes} \propto p_{pre}(y)\, N(y, \sigma_{obs}^2)

        with `p_pre`, `p_post` what is expected before and after the jump. What Bayes' rule says is held constant: the jump learns from
        it, and it does not move towards the jump.
        """
        value, observed = filtered.stamps.value, filtered.stamps.observed
        mean, std = filtered.before
        is_observed = observed > 0
        surprise = gaussian_nll(mean, std, value)
        aim = gaussian_product(mean.detach(), std.detach(), value, self.obs_std)
        correction = gaussian_kl(*aim, *self.observe(filtered.after))
        return Mean.weighted(surprise + self.update_weight * correction, observed, is_observed)

    def filter(self, batch: Batch, static_BE: Tensor | None = None) -> Filtered:
        """Read every history up to the origin."""
        stamps = latest_stamps(batch, self.max_rows)
        origin = torch.zeros_like(stamps.time[:, :1])
        # Padding stands at the origin: it takes the last of the way, and nothing is left behind it.
        gap_BT = torch.cat([stamps.time, origin], 1).diff(dim=1, prepend=stamps.time[:, :1])
        lengths, counts = self.clock.steps(gap_BT)
        steps = iter(lengths.unbind(0))
        h = self._start(stamps.time, static_BE)
        expected, after = [], []
        seen_TB1 = (stamps.observed.sum(-1, keepdim=True) > 0).unbind(1)
        columns = (stamps.value.unbind(1), stamps.observed.unbind(1), stamps.known.unbind(1), seen_TB1)
        for n, value, observed, known, is_seen in zip(counts, *columns, strict=False):
            h = self._carry(h, steps, n)
            mean, std = self.observe(h)
            h = self.jump(h, self.jump.prepare(value, observed, mean, std), known, is_seen)
            expected.append((mean, std))
            after.append(h)
        h = self._carry(h, steps, counts[-1])
        before = (torch.stack([m for m, _ in expected], 1), torch.stack([s for _, s in expected], 1))
        return Filtered(h, stamps, before, torch.stack(after, 1))

    def carry_on(self, h0_BH: Tensor, t_BQ: Tensor) -> Tensor:
        """Carry states at the origin to times after it, in horizons, `(B, Q, H)`."""
        solution = solve(
            self.field,
            h0_BH,
            t_BQ * self.clock.pace,
            t0=0.0,
            method=self.clock.method,
            controller=FixedStep(self.clock.step_size),
        )
        return solution.ys

    def _start(self, like: Tensor, static_BE: Tensor | None) -> Tensor:
        start = self.start.to(like.dtype)
        if static_BE is None:
            return torch.tanh(start).expand(len(like), -1)
        return torch.tanh(start + self.start_from_statics(static_BE))

    def _carry(self, h_BH: Tensor, steps: Iterator[Tensor], n: int) -> Tensor:
        for _ in range(n):
            dt = next(steps)
            # The field is of the state alone: any time will do.
            h_BH = explicit_step(self.field, dt[:, 0], h_BH, dt, TABLEAUS[self.clock.method])
        return h_BH

    def _static_context(self, batch: Batch) -> Tensor | None:
        return None if self.statics is None else self.statics(batch)

    def _decode(self, h0_BH: Tensor, static_BE: Tensor | None, batch: Batch, frame: Frame) -> Distribution:
        _, context_BCE = self.to_context(h0_BH)
        if static_BE is not None:
            context_BCE = context_BCE + static_BE[:, None]
        h_BMH = pick(self.carry_on(h0_BH, batch.query_time), batch.target_row)
        return self.decoder(h_BMH, batch, context_BCE, frame)
