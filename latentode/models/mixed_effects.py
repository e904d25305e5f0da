r"""Shared numbers and those of each series, from curves that are nonlinear in them: nonlinear mixed effects.

.. math:: y_{ij} = h_{ij}(\theta, u_i) + \sigma_{c} \varepsilon_{ij}, \qquad u_i \sim N(\mu, \Omega)

`Levenberg` finds each series' :math:`u_i` by its own values and the population (the posterior mode). `fit_population` alternates it with a
linear mixed model of the curves about these modes (Lindstrom and Bates 1990, sections 3.1 and 3.2), whose variances are those of
restricted maximum likelihood, by expectation and maximisation (Laird and Ware 1982). Everything is over all series at once.

Legend as in `equations/curves.py`; `F` shared numbers, `U` numbers of each series, `P = F + U`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentode.models.equations.curves import Curves, Record

MIN_NOISE = 1e-3  # in training deviations of a channel: values that are told exactly would leave none
DAMPING = (1e-2, 1e-9, 1e9)  # of the first step, least and most
SETTLED = 1e-5  # a step that lowers the objective by less, in half squared deviations, is the last


@dataclass(frozen=True)
class Population:
    """What the series have in common.

    Attributes:
        centre: shared numbers and the mean of those of each series, `(P,)`.
        spread: covariance of the numbers of each series, `(U, U)`.
        noise: deviation of the values around their curve, per channel, `(C,)`.
        covariance: of `centre` as it was estimated, `(P, P)`.
    """

    centre: Tensor
    spread: Tensor
    noise: Tensor
    covariance: Tensor

    @property
    def n_own(self) -> int:
        """`U`."""
        return len(self.spread)

    @property
    def own(self) -> list[int]:
        """Where the numbers of each series stand."""
        return list(range(len(self.centre) - self.n_own, len(self.centre)))


@dataclass(frozen=True)
class Modes:
    """Where the numbers of each series are most probable.

    Attributes:
        free: all free numbers, `(R, P)`.
        cost: half squared deviations of values and numbers, `(R,)`; infinite where no curve was found.
        value, slope: of the curves there, `(R, N)` and `(R, N, G)` along the numbers that were moved.
    """

    free: Tensor
    cost: Tensor
    value: Tensor
    slope: Tensor

    def take(self, row: Tensor) -> Modes:
        """Give those of the series at these positions."""
        return Modes(self.free[row], self.cost[row], self.value[row], self.slope[row])

    def better(self, other: Modes) -> Modes:
        """Give of each series the mode with the lower objective, of equals this one."""
        row = (other.cost < self.cost).nonzero()[:, 0]
        return self.put(row, other.take(row))

    def put(self, row: Tensor, other: Modes) -> Modes:
        """Give these with the series at positions `row` replaced."""
        pairs = ((self.free, other.free), (self.cost, other.cost), (self.value, other.value), (self.slope, other.slope))
        return Modes(*(mine.index_copy(0, row, its) for mine, its in pairs))


@dataclass(frozen=True)
class Levenberg:
    """Damped Gauss-Newton steps for each series on its own (Levenberg 1944; Marquardt 1963).

    Attributes:
        curves: of the equation.
        moved: which of the free numbers are sought; the others stay where they start.
        mean: prior mean of these, `(G,)`.
        precision: inverse of their prior covariance, `(G, G)`.
        noise: deviation of the values, `(C,)`.
    """

    curves: Curves
    moved: Sequence[int]
    mean: Tensor
    precision: Tensor
    noise: Tensor

    def start(self, free: Tensor, record: Record) -> Modes:
        """Give the objective where the search starts."""
        value, slope = self.curves(free, record, self.moved)
        away = free[:, list(self.moved)] - self.mean
        misfit = torch.where(record.seen, (record.value - value) / self.noise[record.channel], 0.0)
        cost = 0.5 * misfit.square().sum(1) + 0.5 * torch.einsum("ri,ij,rj->r", away, self.precision, away)
        is_known = cost.isfinite() & slope.isfinite().flatten(1).all(1)
        return Modes(free, torch.where(is_known, cost, torch.inf), value.nan_to_num(), slope.nan_to_num())

    def search(self, modes: Modes, record: Record, n_steps: int) -> Modes:
        """Take up to so many steps; a series that has settled rests."""
        if not self.moved:
            return modes
        damping = torch.full_like(modes.cost, DAMPING[0])
        running = modes.cost.isfinite()
        for _ in range(n_steps):
            row = running.nonzero()[:, 0]
            if len(row) == 0:
                break
            now, here = modes.take(row), record.take(row)
            step, promised = self._step(now, here, damping[row])
            moved = now.free.clone()
            moved[:, list(self.moved)] += step
            tried = self.start(moved, here)
            gained = now.cost - tried.cost
            is_better = gained > 0
            modes = modes.put(row[is_better], tried.take(is_better.nonzero()[:, 0]))
            factor = torch.where(is_better, torch.where(gained > 0.5 * promised, 0.1, 0.5), 8.0)
            damping[row] = (damping[row] * factor).clamp(*DAMPING[1:])
            # What a damped step promises says nothing of the end unless it was hardly damped.
            is_settled = (promised < SETTLED) | (damping[row] >= DAMPING[2])
            running[row[is_settled]] = False
        return modes

    def _step(self, now: Modes, record: Record, damping: Tensor) -> tuple[Tensor, Tensor]:
        """Give the step `(R, G)`, and by how much the linear model lowers the objective."""
        weight = torch.where(record.seen, self.noise[record.channel] ** -2, 0.0)
        weighted = now.slope * weight[..., None]
        curvature = weighted.transpose(1, 2) @ now.slope + self.precision
        away = now.free[:, list(self.moved)] - self.mean
        downhill = (weighted * (record.value - now.value)[..., None]).sum(1) - away @ self.precision
        held = curvature + torch.diag_embed(damping[:, None] * curvature.diagonal(dim1=1, dim2=2))
        step = torch.linalg.solve(held, downhill)
        promised = (step * downhill).sum(1) - 0.5 * torch.einsum("ri,rij,rj->r", step, curvature, step)
        return step, promised


def first_of(record: Record, levenberg: Levenberg, starts: Tensor, shares: Sequence[float], n_steps: int) -> Modes:
    """Search from several points, on the first part of each curve before all of it, and keep the best of each series.

    A curve that turns many times has an objective with many valleys; of its first part the valley is wide.

    Args:
        record: of `R` series.
        levenberg: what is sought.
        starts: all free numbers to start from, `(K, R, P)`.
        shares: of the curves' time, ascending, the last one 1.
        n_steps: most steps on each share.
    """
    many = record.repeat(len(starts))
    free = starts.flatten(0, 1)
    for share in shares:
        part = many.until(share) if share < 1 else many
        modes = levenberg.search(levenberg.start(free, part), part, n_steps)
        free = modes.free
    best = modes.cost.view(len(starts), -1).argmin(0)
    return modes.take(best * len(record) + torch.arange(len(record), device=free.device))


@dataclass(frozen=True)
class Linear:
    """The sums that a linear mixed model of all series needs: of squares and products of slopes and working values, per channel.

    Attributes:
        xx: `(R, C, P, P)`.
        xw: `(R, C, P)`.
        ww: `(R, C)`.
        count: values, `(R, C)`.
    """

    xx: Tensor
    xw: Tensor
    ww: Tensor
    count: Tensor

    @classmethod
    def of(cls, record: Record, value: Tensor, slope: Tensor, free: Tensor, n_channels: int) -> Linear:
        """Take them from the curves' tangents at `free`: `y - h + X free` against `X`."""
        working = record.value - value + torch.einsum("rnp,rp->rn", slope, free)
        parts = []
        for channel in range(n_channels):
            inside = record.seen & (record.channel == channel)
            x = torch.where(inside[..., None], slope, 0.0)
            w = torch.where(inside, working, 0.0)
            parts.append((x.transpose(1, 2) @ x, (x * w[..., None]).sum(1), w.square().sum(1), inside.sum(1)))
        return cls(*(torch.stack(column, 1) for column in zip(*parts, strict=True)))

    def given(self, population: Population) -> Conditional:
        """Give what this says of the numbers of each series given the centre, and of the centre, under the population's variances."""
        weight = population.noise**-2
        information = torch.einsum("rcij,c->rij", self.xx, weight)
        pull = torch.einsum("rci,c->ri", self.xw, weight)
        first = len(population.centre) - population.n_own
        own = torch.linalg.inv(information[:, first:, first:] + torch.linalg.inv(population.spread))
        across = information[:, first:]
        left = information - across.transpose(1, 2) @ own @ across
        left_pull = pull - torch.einsum("rui,ruv,rv->ri", across, own, pull[:, first:])
        return Conditional(own, across, pull[:, first:], left.sum(0), left_pull.sum(0))


@dataclass(frozen=True)
class Conditional:
    """A linear mixed model solved under given variances.

    Attributes:
        own: covariance of the numbers of each series given the centre, `(R, U, U)`.
        across: information that ties them to all numbers, `(R, U, P)`.
        pull: towards what their values say, `(R, U)`.
        information: of all series on the centre, `(P, P)`.
        total: towards what they say of it, `(P,)`.
    """

    own: Tensor
    across: Tensor
    pull: Tensor
    information: Tensor
    total: Tensor

    def departure(self, centre: Tensor) -> Tensor:
        """Give the expected departure of each series from the centre, `(R, U)`."""
        return torch.einsum("ruv,rv->ru", self.own, self.pull - self.across @ centre)

    def departure_covariance(self, covariance: Tensor) -> Tensor:
        """Give its covariance, `(R, U, U)`, where that of the centre is `(P, P)`."""
        ties = self.own @ self.across
        return self.own + ties @ covariance @ ties.transpose(1, 2)

    def uncertainty(self, covariance: Tensor) -> Tensor:
        """Give the covariance of all numbers of each series, `(R, P, P)`: its own, and what is left open of the centre."""
        n_own, n_all = self.across.shape[1:]
        moves = torch.eye(n_all, dtype=self.own.dtype, device=self.own.device).repeat(len(self.own), 1, 1)
        moves[:, n_all - n_own :] -= self.own @ self.across
        whole = moves @ covariance @ moves.transpose(1, 2)
        whole[:, n_all - n_own :, n_all - n_own :] += self.own
        return whole
