r"""Lorenz' ring of 40 weather sites: :math:`\dot x_i = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F`, indices modulo 40, :math:`F = 8`; chaotic.

Series differ in their initial state alone, which lies on the attractor (a time of 5 is run off before). Half of the cells are dropped, so
that neighbours have to tell of each other.

Columns: series_id; time (0 to 2; 1 is about five days of weather); x0 to x39.

Source: E. N. Lorenz, Predictability: a problem partly solved, ECMWF seminar, 1996. Simulated; no file is read, no licence needed.
"""

from __future__ import annotations

import numpy as np

from latentode.data.simulation import Options, System, half_to_half
from latentode.data.trajectories import Truth, integrate

_N_SITES, _FORCING = 40, 8.0


def field(t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Give the rates of change at all sites; there are no constants in `p`."""
    ahead, behind, before = np.roll(y, -1, axis=1), np.roll(y, 1, axis=1), np.roll(y, 2, axis=1)
    return (ahead - before) * behind - y + _FORCING


def _draw(rng: np.random.Generator, n_series: int) -> Truth:
    none = np.empty((n_series, 0))
    start = _FORCING + rng.normal(0.0, 1.0, (n_series, _N_SITES))
    settled = integrate(field, start, none, 5.0, 500).states[-1]
    return integrate(field, settled, none, SYSTEM.duration, 1000)


SYSTEM = System(
    "lorenz96",
    tuple(f"x{i}" for i in range(_N_SITES)),
    2.0,
    _draw,
    source="E. N. Lorenz, Predictability: a problem partly solved, ECMWF seminar, 1996",
    options=Options(n_series=200, missing=0.5),
)
PROTOCOLS = {"half": half_to_half(SYSTEM)}
