"""Finds what series have in common: `fit_population`; the method is told in `mixed_effects.py`, whose legend holds here too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from latentode.models.equations.curves import Curves, Record
from latentode.models.mixed_effects import (
    MIN_NOISE,
    Conditional,
    Levenberg,
    Linear,
    Modes,
    Population,
    first_of,
)

N_SCOUTS, N_STARTS = 32, 6  # series on which a first guess is sought, and points it is sought from
N_RETRIES = 4  # points from which a series is sought whose first guess is known
SHARES = (0.15, 0.4, 1.0)  # of a curve's time
ROUGH_NOISE = 0.3  # of a channel, before anything is known: a smooth objective
N_SECOND_LOOKS = 3  # rounds in which series that are met badly are sought anew
SHORTER = (1.0, 0.5, 0.2, 0.05)  # of a proposed step
N_ROUNDS, N_EM = 30, 50  # of linear models, and of their variances
MIN_WEIGHT, MAX_WEIGHT = 1e-3, 1.0  # of a correction's last layer, where the prior's deviation is found
MIN_SPREAD = 1e-4  # least deviation between series
FULL_FROM = 5  # series per number of each from which on their correlations are estimated


@dataclass(frozen=True)
class Guess:
    """What is known before any data were seen.

    Attributes:
        start: all free numbers, `(P,)`.
        reach: how far each may well be off, `(P,)`: from where the search looks.
        prior: deviation of the normal prior of each, `(P,)`, that keeps finite what no value tells.
        n_own: how many of them, the last ones, each series has its own.
        is_named: which are numbers of the equation, bool `(P,)`; the others are weights of its correction.
        is_sized: of which weights the prior's deviation is found from data, bool `(P,)`.
    """

    start: Tensor
    reach: Tensor
    prior: Tensor
    n_own: int
    is_named: Tensor
    is_sized: Tensor

    def population(self, n_channels: int) -> Population:
        """Give the population that these guesses say."""
        noise = self.start.new_full((n_channels,), ROUGH_NOISE)
        spread = torch.diag(self.reach[len(self.reach) - self.n_own :].square())
        return Population(self.start, spread, noise, torch.diag(self.reach.square()))


def fit_population(curves: Curves, record: Record, guess: Guess, n_channels: int) -> tuple[Population, Modes]:
    """Estimate the population of a record's series.

    Args:
        curves: of the equation.
        record: of `R` series.
        guess: where to begin.
        n_channels: `C`.

    Returns:
        The population, and the modes of all series under it, with slopes along all numbers.
    """
    population = _scout(curves, record, guess, n_channels)
    modes = find_modes(curves, record, population)
    everything = list(range(len(guess.start)))
    prior = guess.prior**-2
    for i in range(N_ROUNDS):
        value, slope = curves(modes.free, record, everything)
        held = replace(record, seen=record.seen & modes.cost.isfinite()[:, None])
        linear = Linear.of(held, value.nan_to_num(), slope.nan_to_num(), modes.free, n_channels)
        before = population
        population, solved, prior = _estimate(linear, population, guess, prior)
        penalty = partial(_penalty, start=guess.start, prior=prior)
        population, modes = _move(
            curves, record, before, population, modes, solved.departure(population.centre), penalty
        )
        if i < N_SECOND_LOOKS and guess.n_own:
            modes = _retry(curves, record, population, modes)
        if _has_settled(before, population):
            break
    value, slope = curves(modes.free, record, everything)
    return population, replace(modes, value=value.nan_to_num(), slope=slope.nan_to_num())


def find_modes(curves: Curves, record: Record, population: Population) -> Modes:
    """Give the modes of series of which nothing is known but the population."""
    levenberg = _levenberg(curves.rough(), population)
    centre = population.centre.repeat(N_RETRIES, len(record), 1)
    if population.n_own:
        draws = _draws(N_RETRIES, population.n_own).to(centre)
        factor = torch.linalg.cholesky(population.spread)
        centre[..., population.own] += (draws @ factor.T)[:, None]
    else:
        centre = centre[:1]
    found = first_of(record, levenberg, centre, SHARES[1:], 12)
    exact = _levenberg(curves, population)
    return exact.search(exact.start(found.free, record), record, 8)


def _levenberg(curves: Curves, population: Population) -> Levenberg:
    own = population.own
    return Levenberg(curves, own, population.centre[own], torch.linalg.inv(population.spread), population.noise)


def _draws(n: int, size: int) -> Tensor:
    """Give `n` standard normal draws, the first at 0, always the same: what is found must not depend on chance."""
    draws = torch.randn(n, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws[0] = 0.0
    return draws


def _scout(curves: Curves, record: Record, guess: Guess, n_channels: int) -> Population:
    """Take some series, each with all numbers its own, and give their median, how they differ, and what they leave."""
    row = torch.linspace(0, len(record) - 1, min(N_SCOUTS, len(record)), device=guess.start.device).long()
    record = record.take(row)
    moved = guess.is_named.nonzero()[:, 0].tolist()
    mean, reach = guess.start[moved], guess.reach[moved]
    population = guess.population(n_channels)
    levenberg = Levenberg(curves.rough(), moved, mean, torch.diag(reach**-2), population.noise)
    starts = guess.start.repeat(N_STARTS, len(record), 1)
    starts[..., moved] += (_draws(N_STARTS, len(moved)).to(mean) * reach)[:, None]
    modes = first_of(record, levenberg, starts, SHARES, 12)
    # Twice: what is left tells the noise, under which the search ends nearer.
    for _ in range(2):
        is_good = _fits(record, modes)
        noise = _noise_of(record, modes, is_good, n_channels)
        levenberg = replace(levenberg, noise=noise)
        modes = levenberg.search(levenberg.start(modes.free, record), record, 12)
    good = modes.free[_fits(record, modes)]
    centre = good.median(0).values
    away = 1.4826 * (good - centre).abs().median(0).values
    spread = away[len(away) - guess.n_own :] if guess.n_own else away[:0]
    most = guess.reach[len(away) - guess.n_own :] if guess.n_own else away[:0]
    # Of a handful of series the deviations say little: as far as was guessed.
    spread = torch.minimum(spread.clamp(min=0.05), most) if len(good) >= FULL_FROM else most
    return Population(centre, torch.diag(spread.square()), noise, torch.diag(guess.reach.square()))


def _fits(record: Record, modes: Modes) -> Tensor:
    """Tell the series that are met about as well as most."""
    misfit = modes.cost / record.seen.sum(1).clamp(min=1)
    return misfit <= 4 * misfit.median()


def _noise_of(record: Record, modes: Modes, is_good: Tensor, n_channels: int) -> Tensor:
    error = (record.value - modes.value).square()
    seen = record.seen & is_good[:, None]
    noise = [
        error[seen & (record.channel == channel)].mean().sqrt()
        if bool((seen & (record.channel == channel)).any())
        else error.new_tensor(MIN_NOISE)
        for channel in range(n_channels)
    ]
    return torch.stack(noise).clamp(min=MIN_NOISE)


def _estimate(
    linear: Linear, population: Population, guess: Guess, prior: Tensor
) -> tuple[Population, Conditional, Tensor]:
    """Estimate the linear mixed model: the centre in closed form, the variances by expectation and maximisation.

    Args:
        linear: the model.
        population: where to begin.
        guess: what was known before.
        prior: its precision, `(P,)`.

    Returns:
        The population, what the model says under it, and the precision as it was found of weights.
    """
    n_series, count = len(linear.xx), linear.count.sum(0)
    for _ in range(N_EM):
        population, solved = _centred(linear, population, guess, prior)
        departure = solved.departure(population.centre)
        spread = population.spread
        if population.n_own:
            open_ = solved.departure_covariance(population.covariance)
            spread = (departure[:, :, None] * departure[:, None, :] + open_).mean(0)
            if n_series < FULL_FROM * population.n_own:
                spread = torch.diag(spread.diagonal())
            spread = spread + MIN_SPREAD**2 * torch.eye(len(spread), dtype=spread.dtype, device=spread.device)
        free = population.centre.repeat(n_series, 1)
        free[:, population.own] += departure
        left = linear.ww - 2 * torch.einsum("rcp,rp->rc", linear.xw, free)
        left = left + torch.einsum("rp,rcpq,rq->rc", free, linear.xx, free)
        left = left + torch.einsum("rcpq,rqp->rc", linear.xx, solved.uncertainty(population.covariance))
        noise = (left.sum(0) / count.clamp(min=1)).clamp(min=MIN_NOISE**2).sqrt()
        if bool(guess.is_sized.any()):
            # The evidence of a normal prior of the weights (MacKay 1992, equation 3.16).
            size = (population.centre - guess.start).square() + population.covariance.diagonal()
            size = size[guess.is_sized].mean().clamp(MIN_WEIGHT**2, MAX_WEIGHT**2)
            prior = torch.where(guess.is_sized, 1 / size, prior)
        population = replace(population, spread=spread, noise=torch.where(count > 0, noise, population.noise))
    return *_centred(linear, population, guess, prior), prior


def _centred(linear: Linear, population: Population, guess: Guess, prior: Tensor) -> tuple[Population, Conditional]:
    """Estimate the centre under the population's variances: generalised least squares with the guess as a prior."""
    solved = linear.given(population)
    covariance = torch.linalg.inv(solved.information + torch.diag(prior))
    centre = covariance @ (solved.total + prior * guess.start)
    return replace(population, centre=centre, covariance=covariance), solved


def _penalty(centre: Tensor, *, start: Tensor, prior: Tensor) -> Tensor:
    """Give half the squared deviations of a centre from what was guessed."""
    return 0.5 * (prior * (centre - start).square()).sum()


def _move(
    curves: Curves,
    record: Record,
    before: Population,
    after: Population,
    modes: Modes,
    departure: Tensor,
    penalty: Callable[[Tensor], Tensor],
) -> tuple[Population, Modes]:
    """Go to what a linear model proposes, or part of the way where the curves bend too much.

    Args:
        curves, record: whose modes are sought.
        before, after: the population that `modes` were found under, and the proposed one.
        modes: to go from.
        departure: proposed departure of each series from the centre, `(R, U)`.
        penalty: half squared deviations of a centre from what was guessed.
    """
    n_shared = len(after.centre) - after.n_own
    # Of two proposed variances a linear model may make too little; those before tell whether the curves came nearer.
    judged = replace(before, noise=torch.maximum(before.noise, after.noise))
    now = _levenberg(curves, judged).start(modes.free, record)
    most = now.cost.sum() + penalty(before.centre)
    for share in SHORTER:
        centre = torch.lerp(before.centre, after.centre, share)
        levenberg = _levenberg(curves, replace(judged, centre=centre))
        kept = modes.free.clone()
        kept[:, :n_shared] = centre[:n_shared]
        moved = kept.clone()
        moved[:, n_shared:] += share * (after.centre[n_shared:] + departure - kept[:, n_shared:])
        tried = levenberg.start(moved, record)
        if after.n_own:
            # A series whose own curve bends too much stays where it was.
            tried = tried.better(levenberg.start(kept, record))
        # Without shared numbers there is nothing that one series could spoil for the others.
        if n_shared == 0 or bool(tried.cost.sum() + penalty(centre) <= most):
            break
    else:
        centre, tried = before.centre, now
    is_good = tried.cost.isfinite()
    left = _noise_of(record, tried, is_good, len(after.noise))
    population = replace(after, centre=centre, noise=torch.maximum(after.noise, left))
    levenberg = _levenberg(curves, population)
    return population, levenberg.search(levenberg.start(tried.free, record), record, 4)


def _retry(curves: Curves, record: Record, population: Population, modes: Modes) -> Modes:
    """Seek those series anew that are met much worse than the noise says."""
    row = (modes.cost > record.seen.sum(1)).nonzero()[:, 0]
    if len(row) == 0:
        return modes
    return modes.put(row, modes.take(row).better(find_modes(curves, record.take(row), population)))


def _has_settled(before: Population, after: Population) -> bool:
    error = after.covariance.diagonal().sqrt()
    moved = ((after.centre - before.centre).abs() / error).max()
    noise = (after.noise / before.noise - 1).abs().max()
    spread = (after.spread.diagonal() / before.spread.diagonal() - 1).abs().max() if after.n_own else noise
    return bool((moved < 0.05) & (noise < 0.01) & (spread < 0.02))
