"""The reversible gradient: a pair of states that can be stepped back exactly, so that no state has to be kept.

McCallum and Foster (2024), Efficient, accurate and stable gradients for neural ODEs, arXiv 2410.11648, equations 4 and 5: from any
explicit one-step increment `Psi_h(t, y)` and a coupling `lambda` in (0, 1] the pair `(y, z)` is stepped by

    y1 = lambda y0 + (1 - lambda) z0 + Psi_h(t0, z0),        z1 = z0 - Psi_{-h}(t1, y1),

which is of the order of `Psi` and is undone by

    z0 = z1 + Psi_{-h}(t1, y1),        y0 = (y1 - (1 - lambda) z0 - Psi_h(t0, z0)) / lambda.

The two states drift apart. For `y' = -m y` and an exact `Psi` their drift `d = y - z` obeys

    d1 = lambda exp(m h) d0,

to which each step adds its own error: a field that contracts drives the pair apart, and the estimate of the error, which sees `d`, asks
for shorter and shorter steps. A sample's pair is therefore renewed to `z' = y` where `|d|` has left the tolerance of the controller.
Fixed steps have no tolerance; there it is where `d` grows by more than a multiple of what the steps have added to it. The pair from before
is kept. On the way back it stands in for what the steps back have found, and since `z'` is a copy of `y`, its gradient joins that of `y`:

    g_y + g_z' -> g_y,        0 -> g_z.

That is the gradient of the scheme with its renewals, whose places are constants like the step sizes, so it stays exact.

Its price is a pair of states per renewal. With fixed steps that resolve the field there are next to none; under a controller one in 3 to
50 steps of a sample, the fewer the tighter its tolerance; in the stiff limit one in every step, which is then a plain step of the method:
the memory grows with the number of steps, by two states each.

Each step back multiplies the rounding of `y` by `1 / lambda`, and by what the field contracts or expands. All pairs are therefore kept
and renewed every so many steps: `lambda ** -256` is 1.3 for the default of 0.999.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from latentode.errors import InputError

from .adjoints import Cotangents, Sums, Way, gradients, hide
from .control import Controller, FixedStep, PIDController
from .dense import find_steps, power_weights, step_fraction, to_powers
from .loop import Options, Trajectory, integrate, next_stop
from .problem import Problem
from .record import Mark, Record, Segment
from .runge_kutta import ButcherTableau, Field, Increments, Room, start_increments
from .steppers import ExplicitStepper, Step, Stepper, stage_times, weigh

# Growth of rounding on the way back beyond which a gradient in float64 has no digit left that is worth having.
_MOST_GROWTH = 1e6
# A drift of fewer roundings than this is noise.
_ROUNDINGS = 30.0
# With fixed steps: how many times as fast as at its slowest the drift may grow. A sum of errors of one size grows at one pace.
_MOST_PACE = 2.0


@dataclass(frozen=True)
class Reversible:
    """Exact for its own steps, in memory that does not grow with the states along the way, but for those where the pair is renewed.

    Attributes:
        coupling: `lambda`; nearer to 1 is more accurate on the way back, smaller holds the pair together for longer.
        store_every: steps after which all pairs are kept and renewed, whatever their drift.
    """

    coupling: float = 0.999
    store_every: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.coupling <= 1:
            raise InputError(f"coupling is {self.coupling!r}; it weighs the state against its twin, in (0, 1]")
        if self.store_every < 1:
            raise InputError(f"store_every is {self.store_every!r}; give a number of steps, 1 or more")
        if self.coupling**-self.store_every > _MOST_GROWTH:
            raise InputError(
                f"coupling {self.coupling!r} multiplies rounding by {self.coupling**-self.store_every:.1e} over {self.store_every} steps "
                f"between two states that are kept; keep it below {_MOST_GROWTH:.0e} by a smaller store_every"
            )

    def integrate(self, problem: Problem, options: Options) -> Trajectory:
        """Solve `problem` by the reversible form of its method."""
        if not isinstance(options.stepper, ExplicitStepper):
            raise InputError(
                "adjoint='reversible' is built on explicit methods; choose adjoint='checkpointed' for this one"
            )
        stepper = ReversibleStepper.of(options.stepper, self.coupling)
        return hide(problem, replace(options, stepper=stepper, compacts=False), "reversible", self._solve)

    def _solve(self, problem: Problem, options: Options, captured: list[Tensor]) -> tuple[Trajectory, Way]:
        assert isinstance(options.stepper, ReversibleStepper)
        stepper = options.stepper
        record = Record(self.store_every, None, Drift.under(options.controller, problem.y0))
        trajectory = integrate(problem, replace(options, record=record))
        end = Mark(trajectory.n_tried, trajectory.tau, trajectory.y1)

        def way(cotangents: Cotangents, sums: Sums) -> Tensor:
            g_y, g_z = cotangents.end, torch.zeros_like(cotangents.end)
            for segment in record.segments_backward(end.i_step, end.tau, end.y):
                g_y, g_z = _pull_back(problem, stepper, segment, g_y, g_z, cotangents, sums, captured)
                # All pairs begin a segment as copies.
                g_y, g_z = g_y + g_z, torch.zeros_like(g_z)
            return g_y + cotangents.start

        return trajectory, way


@dataclass(frozen=True)
class ReversibleStepper(Stepper):
    """The pair's step; the loop's state is `y` and `z` side by side, `(B, 2 D)`.

    Attributes:
        tableau: of `Psi`, and of the interpolant and error estimate, which take the slope at `y1` for that at the step's end.
        core: the stages that `Psi` needs.
        coupling: `lambda`.
        reads, estimates: as in `ExplicitStepper`.
        room: working memory.
    """

    tableau: ButcherTableau
    core: ButcherTableau
    coupling: float
    reads: bool
    estimates: bool
    room: Room = field(default_factory=Room)

    @classmethod
    def of(cls, explicit: ExplicitStepper, coupling: float) -> ReversibleStepper:
        """Make a method reversible."""
        tableau = explicit.tableau
        if tableau.dense_c:
            # Further stages would belong to neither of the two states.
            tableau = replace(tableau, dense=None, dense_order=3, dense_c=(), dense_a=())
        core = tableau
        if tableau.is_fsal:
            core = ButcherTableau(tableau.c[:-1], tableau.a[:-1], tableau.b[:-1], tableau.order)
        return cls(tableau, core, coupling, explicit.reads, explicit.estimates)

    @property
    def order(self) -> int:
        """Order of the step."""
        return self.tableau.order

    @property
    def sees_last_slope(self) -> bool:
        """Whether the slope at the end is in the estimate."""
        return self.tableau.is_fsal

    @property
    def calls_per_step(self) -> int:
        """Calls of the field that every step takes."""
        return 2 * self.core.n_stages

    def start(self, y0: Tensor) -> Tensor:
        """Begin with `z = y`."""
        return torch.cat([y0, y0], 1)

    def end(self, y: Tensor) -> Tensor:
        """Give `y` of the pair."""
        return y[:, : y.shape[1] // 2]

    def slope(self, problem: Problem, t: Tensor, y: Tensor) -> Tensor:
        """Give the slope of `y`; only the guess of the first step reads it."""
        return problem.field(t, self.end(y))

    def step(self, problem: Problem, tau: Tensor, h: Tensor, y: Tensor, k: Tensor, stop: Tensor | None) -> Step:
        """Take a step."""
        there, back, dt = self.times(problem, tau, h, stop)
        y0, z0 = y.chunk(2, 1)
        sums = increments(problem.field, there, z0, dt, self.core, self.room)
        total = sums.add_to(z0, self.core.b)
        moving = (h > 0)[:, None]
        # z0 + Psi + lambda (y0 - z0), and nothing where the sample rests.
        y1 = torch.where(moving, torch.add(total, y0 - z0, alpha=self.coupling), y0)
        k1 = problem.field(back[0], y1)
        error = powers = None
        if self.estimates or self.reads:
            all_increments = torch.cat([sums.stacked(), (k1 * dt)[None]])
            if self.estimates:
                error = weigh(self.tableau.error_weights, all_increments)
            if self.reads:
                powers = to_powers(all_increments, self.tableau)  # pyright: ignore[reportArgumentType]
                powers[0] += (z0 - y0) * (1.0 - self.coupling)
        negative = -dt
        returning = increments(problem.field, back, y1, negative, self.core, self.room, k1)
        z1 = torch.where(moving, z0 - (returning.add_to(y1, self.core.b) - y1), z0)
        return Step(torch.cat([y1, z1], 1), k1, y0, powers, error, y0, y1)

    def times(
        self, problem: Problem, tau: Tensor, h: Tensor, stop: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Give the times of the stages there and back, and the signed step `(B, 1)`."""
        n = self.core.n_stages
        times, dt = stage_times(problem, tau, h, (*self.core.c, *(1.0 - c for c in self.core.c)), stop)
        if problem.jumps is not None:
            first = problem.times_after(tau)
            times = (first, *times[1:])
        return times[:n], times[n:], dt


@dataclass
class Drift:
    """Watches the drift `y - z` of each pair, and renews those where it is too large.

    Attributes:
        controller: whose tolerance the drift is to meet; None where steps are fixed.
        n: with fixed steps, how many since the pair was renewed, `(B,)`.
        pace: the least drift over `n` since then, `(B,)`.
    """

    controller: PIDController | None
    n: Tensor
    pace: Tensor

    @classmethod
    def under(cls, controller: Controller, y0: Tensor) -> Drift:
        """Begin to watch a solve under `controller`."""
        zeros = y0.new_zeros(len(y0))
        if isinstance(controller, FixedStep):
            return cls(None, zeros, zeros)
        rounding, rtol = _ROUNDINGS * torch.finfo(y0.dtype).eps, controller.rtol
        rtol = rtol.clamp(min=rounding) if isinstance(rtol, Tensor) else max(rtol, rounding)
        return cls(replace(controller, rtol=rtol), zeros, zeros)

    def renew_all(self, pair: Tensor) -> Tensor:
        """Renew every pair."""
        self.n, self.pace = torch.zeros_like(self.n), torch.full_like(self.pace, torch.inf)
        y = pair.chunk(2, 1)[0]
        return torch.cat([y, y], 1)

    def renew_some(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Renew the pairs whose drift is too large; tells which, `(B,)`."""
        y, z = pair.chunk(2, 1)
        if self.controller is None:
            is_lost = self._outgrows_its_pace(y, y - z)
        else:
            is_lost = self.controller.error_ratio(y - z, y, y) > 1.0
        return torch.cat([y, torch.where(is_lost[:, None], y, z)], 1), is_lost

    def _outgrows_its_pace(self, y: Tensor, drift: Tensor) -> Tensor:
        length, size = torch.linalg.vector_norm(drift, dim=1), torch.linalg.vector_norm(y, dim=1)
        self.n = self.n + 1.0
        self.pace = torch.minimum(self.pace, length / self.n)
        rounding = _ROUNDINGS * torch.finfo(y.dtype).eps * size
        is_lost = (length > _MOST_PACE * self.n * self.pace) & (length > rounding)
        self.n, self.pace = torch.where(is_lost, 0.0, self.n), torch.where(is_lost, torch.inf, self.pace)
        return is_lost


def increments(
    slope: Field,
    times: tuple[Tensor, ...],
    y: Tensor,
    dt: Tensor,
    core: ButcherTableau,
    room: Room,
    k0: Tensor | None = None,
) -> Increments:
    """Give the increments of all stages of `Psi` from `y`."""
    k = slope(times[0], y) if k0 is None else k0
    sums = start_increments(core.n_stages, y, k, dt, room)
    for i in range(1, core.n_stages):
        sums = sums.append(slope(times[i], sums.add_to(y, core.a[i])), dt)
    return sums


def _pull_back(
    problem: Problem,
    stepper: ReversibleStepper,
    segment: Segment,
    g_y: Tensor,
    g_z: Tensor,
    cotangents: Cotangents,
    sums: Sums,
    captured: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """Step the pair back through a segment, and its gradients with it."""
    y1, z1 = segment.end.y.chunk(2, 1)
    carrier = None if sums.t0 is None else torch.zeros_like(sums.t0).requires_grad_()
    moved = replace(problem, t_carrier=carrier)
    core, coupling = stepper.core, stepper.coupling
    queries = _SortedQueries.of(problem, stepper, segment, cotangents)
    for j in reversed(range(len(segment.h))):
        if segment.renewed and len(segment.renewed[j + 1][0]):
            sample, pair = segment.renewed[j + 1]
            y, z = pair.chunk(2, 1)
            y1, z1 = y1.index_copy(0, sample, y), z1.index_copy(0, sample, z)
            # After this step z became a copy of y.
            g_y, g_z = g_y.index_add(0, sample, g_z[sample]), g_z.index_fill(0, sample, 0.0)
        tau, h = segment.tau[j], segment.h[j]
        moving = (h > 0)[:, None]
        stop = None if problem.jumps is None else next_stop(problem.jumps, tau, problem.span)
        # What the queries inside this step add: to y0, to z0, to each increment there, and to the slope at y1.
        read = queries.of_step(j)
        with torch.enable_grad():
            there, back, dt = stepper.times(moved, tau, h, stop)
            y1_leaf = y1.detach().requires_grad_()
            returning = increments(problem.field, back, y1_leaf, -dt, core, stepper.room)
            psi_back = returning.add_to(torch.zeros_like(y1), core.b)
            z0 = torch.where(moving, z1 + psi_back.detach(), z1)
            z0_leaf = z0.requires_grad_()
            going = increments(problem.field, there, z0_leaf, dt, core, stepper.room)
            psi = going.add_to(torch.zeros_like(y1), core.b)
            if read is not None:
                first_returning, all_going = returning.stacked()[0], going.stacked()
        y0 = torch.where(moving, (y1 - (1.0 - coupling) * z0.detach() - psi.detach()) / coupling, y1)
        back_outputs, back_g = [psi_back], [-g_z]
        there_outputs, there_g = [psi], []
        if read is not None:
            back_outputs.append(first_returning)
            back_g.append(-read.g_increments[-1])
            there_outputs.append(all_going)
            there_g.append(read.g_increments[: len(core.b)])
        # The times of the stages there and back come of one graph.
        found = gradients(back_outputs, back_g, y1_leaf, carrier, captured, keep=carrier is not None)
        g_y1 = g_y if found[0] is None else g_y + found[0]
        sums.add(*found[1:])
        found = gradients(there_outputs, [g_y1, *there_g], z0_leaf, carrier, captured)
        sums.add(*found[1:])
        g_z0 = torch.add(g_z, g_y1, alpha=1.0 - coupling)
        g_z0 = g_z0 if found[0] is None else g_z0 + found[0]
        g_y0 = coupling * g_y1
        if read is not None:
            g_y0, g_z0 = g_y0 + read.g_y0, g_z0 + read.g_z0
        g_y, g_z = torch.where(moving, g_y0, g_y), torch.where(moving, g_z0, g_z)
        y1, z1 = y0.detach(), z0.detach()
    return g_y, g_z


@dataclass
class _Read:
    """Gradients that the queries inside one step send to what they were read off."""

    g_y0: Tensor
    g_z0: Tensor
    g_increments: Tensor


@dataclass
class _SortedQueries:
    """The queries inside a segment, sorted by the step that they fall into.

    Attributes:
        sample, theta, g: of each query, `(P,)`, `(P,)`, `(P, D)`.
        bounds: where each step's queries begin.
        stepper: whose interpolant was read.
        like: a state, `(B, D)`.
    """

    sample: Tensor
    theta: Tensor
    g: Tensor
    bounds: list[int]
    stepper: ReversibleStepper
    like: Tensor

    @classmethod
    def of(
        cls, problem: Problem, stepper: ReversibleStepper, segment: Segment, cotangents: Cotangents
    ) -> _SortedQueries:
        tau, n_steps = cotangents.tau, len(segment.h)
        place = cotangents.places_between(segment.start.tau, segment.end.tau)
        sample = torch.div(place, tau.shape[1], rounding_mode="floor")
        tau_P = tau.flatten().index_select(0, place)
        ends_BS = (segment.tau + segment.h).t().contiguous()
        if n_steps and len(place):
            step_P = find_steps(ends_BS, tau).flatten().index_select(0, place)
            order = torch.sort(step_P, stable=True).indices
            step_P, sample, tau_P, place = step_P[order], sample[order], tau_P[order], place[order]
            theta = step_fraction(tau_P, segment.tau[step_P, sample], segment.h[step_P, sample])
            counts = torch.bincount(step_P, minlength=n_steps).cumsum(0).tolist()
        else:
            theta, counts = tau_P, [0] * n_steps
        g = cotangents.each.flatten(0, 1).index_select(0, place)
        return cls(sample, theta.to(g.dtype), g, [0, *counts], stepper, cotangents.end)

    def of_step(self, j: int) -> _Read | None:
        """Give what the queries of step `j` send back, None if there are none."""
        chosen = slice(self.bounds[j], self.bounds[j + 1])
        if chosen.start == chosen.stop:
            return None
        sample, theta, g = self.sample[chosen], self.theta[chosen, None], self.g[chosen]
        weights_JK = power_weights(self.stepper.tableau, g.dtype, g.device)
        exponents = torch.arange(1, len(weights_JK) + 1, device=g.device, dtype=g.dtype)
        weights_PK = (theta**exponents) @ weights_JK
        n = weights_PK.shape[1]
        g_increments = g.new_zeros(len(self.like), n, g.shape[1])
        g_increments.index_add_(0, sample, weights_PK[..., None] * g[:, None])
        to_z0 = theta * (1.0 - self.stepper.coupling)
        zeros = torch.zeros_like(self.like)
        return _Read(
            g_y0=zeros.index_add(0, sample, (1.0 - to_z0) * g),
            g_z0=zeros.index_add(0, sample, to_z0 * g),
            g_increments=g_increments.transpose(0, 1),
        )
