"""When synthetic series are observed: one function per way, and the table of them.

Each takes a random generator, the truth, the duration, the number of series and of observations per series, and gives the series `(N,)` and
the time `(N,)` of every row, in no particular order inside a series.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latentode.data.trajectories import Truth

Stamps = tuple[np.ndarray, np.ndarray]

_PER_BURST = 6  # observations in a cluster, on average
_BURST_WIDTH = 0.01  # deviation of a cluster, as a share of the duration


def uniform(rng: np.random.Generator, truth: Truth, duration: float, n_series: int, n_observations: int) -> Stamps:
    """Give the same regular grid, both ends included, for every series."""
    grid = np.linspace(0, duration, n_observations)
    return np.repeat(np.arange(n_series), n_observations), np.tile(grid, n_series)


def poisson(rng: np.random.Generator, truth: Truth, duration: float, n_series: int, n_observations: int) -> Stamps:
    """Give a Poisson process: its points are, given their number, independent and uniform."""
    series = _counts(rng, n_series, n_observations)
    return series, rng.uniform(0, duration, len(series))


def bursty(rng: np.random.Generator, truth: Truth, duration: float, n_series: int, n_observations: int) -> Stamps:
    """Give Poisson clusters (Neyman and Scott 1958): few centres, and around each of them several observations."""
    n_bursts = max(round(n_observations / _PER_BURST), 1)
    centre = rng.uniform(0, duration, (n_series, n_bursts))
    series = _counts(rng, n_series, n_observations)
    time = centre[series, rng.integers(n_bursts, size=len(series))]
    time = time + rng.normal(0, _BURST_WIDTH * duration, len(series))
    # What falls outside is reflected back inside.
    return series, np.abs(duration - np.abs(duration - time))


def informative(rng: np.random.Generator, truth: Truth, duration: float, n_series: int, n_observations: int) -> Stamps:
    """Give a Poisson process thinned by the state: where the first channel is high, rows stand up to ten times as dense."""
    series, time = poisson(rng, truth, duration, n_series, 8 * n_observations)
    first = truth(series, time)[:, 0]
    z = (first - first.mean()) / max(float(first.std()), np.finfo(np.float64).tiny)
    rate = 0.1 + 0.9 / (1 + np.exp(-2 * z))
    share = np.minimum(rate * n_observations * n_series / rate.sum(), 1.0)
    kept = rng.random(len(series)) < share
    return series[kept], time[kept]


def _counts(rng: np.random.Generator, n_series: int, n_observations: int) -> np.ndarray:
    # Two at least: one to read and one to forecast.
    return np.repeat(np.arange(n_series), np.maximum(rng.poisson(n_observations, n_series), 2))


SAMPLINGS: dict[str, Callable[[np.random.Generator, Truth, float, int, int], Stamps]] = {
    "uniform": uniform,
    "poisson": poisson,
    "bursty": bursty,
    "informative": informative,
}
