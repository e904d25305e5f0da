"""Synthetic series with known truth: how many, how noisy, how sparse, and when they are observed.

A data set module gives a `System`: how trajectories are drawn. Everything else is common: when rows stand (`sampling.py`), noise, dropped
cells, and the protocol, in which whole series are held out and the second half of each is forecast from its first. Four independent
streams of random numbers serve trajectories, times, noise and dropped cells, so that one option can change without moving the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Literal

import numpy as np

from latentode.data.assembly import assemble, fixed_windows, split_series, table_of
from latentode.data.protocols import Average, Protocol, Task
from latentode.data.sampling import SAMPLINGS
from latentode.data.tables import Table
from latentode.data.trajectories import Truth
from latentode.errors import InputError, did_you_mean

Sampling = Literal["uniform", "poisson", "bursty", "informative"]


@dataclass(frozen=True)
class Options:
    """How a system is observed.

    Attributes:
        n_series: number of series.
        n_observations: rows per series before any cell is dropped; its mean where their number is random.
        noise: deviation of the Gaussian noise, in deviations of each channel over all rows.
        missing: share of cells dropped, each on its own.
        sampling: when rows stand: "uniform" (a regular grid), "poisson" (any time is as likely), "bursty" (clusters with long gaps),
            "informative" (more often where the first channel is high).
        seed: of everything that is drawn.

    Raises:
        InputError: an option outside what it allows.
    """

    n_series: int = 500
    n_observations: int = 60
    noise: float = 0.05
    missing: float = 0.0
    sampling: Sampling = "poisson"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n_series", 1), ("n_observations", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise InputError(f"{name} is {value!r}; give a whole number of at least {least}.")
        if not _is_number(self.noise) or not 0 <= self.noise < np.inf:
            raise InputError(f"noise is {self.noise!r}; give a number of at least 0, in deviations of each channel.")
        if not _is_number(self.missing) or not 0 <= self.missing < 1:
            raise InputError(f"missing is {self.missing!r}; give the share of cells to drop, at least 0 and below 1.")
        if not isinstance(self.sampling, str) or self.sampling not in SAMPLINGS:
            raise InputError(
                f"sampling is {self.sampling!r}; choose one of {', '.join(SAMPLINGS)}{did_you_mean(self.sampling, SAMPLINGS)}."
            )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class System:
    """A family of trajectories.

    Attributes:
        name: of the data set.
        channels: names of what `draw`'s truth gives.
        duration: series run from 0 to here.
        horizon: targets reach so far beyond the middle; None: to the end.
        draw: of a random generator and a number of series, gives their truth.
        source: where the equations stand.
        options: how it is observed where nothing else is said.
    """

    name: str
    channels: tuple[str, ...]
    duration: float
    draw: Callable[[np.random.Generator, int], Truth]
    source: str
    options: Options = Options()
    horizon: float | None = None


@dataclass(frozen=True)
class Simulation:
    """Observations of a system and what they are observations of.

    Attributes:
        table: one row per series and time.
        truth: gives the noise-free channels `(N, C)` of series `(N,)` (the `series_id`, counted from 0) at times `(N,)`.
        noise: deviation of the noise of each channel, in its unit, `(C,)`.
    """

    table: Table
    truth: Truth
    noise: np.ndarray


def simulate(system: System, options: Options | None = None) -> Simulation:
    """Draw trajectories and observe them.

    Returns:
        The observations, with `series_id` counted from 0 and times from 0 to `system.duration`, and the truth.
    """
    options = options or system.options
    of_truth, of_time, of_noise, of_missing = np.random.default_rng(options.seed).spawn(4)
    truth = system.draw(of_truth, options.n_series)
    series, time = SAMPLINGS[options.sampling](
        of_time, truth, system.duration, options.n_series, options.n_observations
    )
    values = truth(series, time)
    noise = options.noise * values.std(axis=0)
    values = values + noise * of_noise.standard_normal(values.shape)
    # Drawn per cell against the share, so that a larger share drops the same cells and more.
    values[of_missing.random(values.shape) < options.missing] = np.nan
    table = table_of(range(options.n_series), series, time, values, system.channels, source=system.name)
    return Simulation(table, truth, noise)


def half_to_half(
    system: System, options: Options | None = None, *, name: str = "half", average: Average = "macro"
) -> Protocol:
    """Give the protocol of a synthetic data set: its series are held out whole, and the second half of each is forecast.

    Args:
        system: what is simulated.
        options: how it is observed; left out, the system's own. Split `k` simulates with seed `options.seed + k`.
        name, average: of the protocol.

    Raises:
        InputError: there are too few series to hold any out.
    """
    options = options or system.options
    if options.n_series < 3:
        raise InputError(
            f"n_series is {options.n_series}; give at least 3, one each for training, validation and test."
        )
    return Protocol(
        name=name,
        source=system.source,
        rules=f"{options.n_series} series, {options.sampling} times ({options.n_observations} per series), noise {options.noise} "
        f"deviations, {options.missing:.0%} of cells dropped; series split 70/20/10; {_forecast(system)} of each is forecast from its "
        "first half; errors in deviations of the training rows. Every split is simulated anew.",
        average=average,
        splits=(0, 1, 2, 3, 4),
        build=partial(_build, system, options),
    )


def _forecast(system: System) -> str:
    return "the second half" if system.horizon is None else f"a span of {system.horizon:.4g} beyond the middle"


def _build(system: System, options: Options, data_dir: Path | None, split: int) -> Task:
    seed = options.seed + split
    simulation = simulate(system, replace(options, seed=seed))
    table, middle = simulation.table, system.duration / 2
    horizon = middle if system.horizon is None else system.horizon
    parts = split_series(
        table.n_series, {"test_size": 0.1, "random_state": seed}, {"test_size": 2 / 9, "random_state": seed}
    )
    task = assemble(table, [fixed_windows(table, part, middle, middle + horizon) for part in parts], time_scale=horizon)
    unit = task.scaler.std
    return replace(task, unit=unit, floor=(simulation.noise / unit) ** 2)
