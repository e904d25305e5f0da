r"""Relaxation oscillations: :math:`\ddot x - \mu (1 - x^2) \dot x + x = 0`, with :math:`\mu` of each series' own between 0.5 and 4.

Columns: series_id; time (0 to 20); x; its velocity v.

Source: B. van der Pol, Philosophical Magazine 2(11):978-992, 1926. Simulated; no file is read, no licence needed.
"""

from __future__ import annotations

import numpy as np

from latentode.data.simulation import System, half_to_half
from latentode.data.trajectories import Truth, integrate


def field(t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Give velocity and acceleration; `p` holds mu."""
    x, v = y.T
    return np.stack([v, p[:, 0] * (1 - x**2) * v - x], axis=1)


def _draw(rng: np.random.Generator, n_series: int) -> Truth:
    mu = rng.uniform(0.5, 4.0, (n_series, 1))
    return integrate(field, rng.uniform(-2.0, 2.0, (n_series, 2)), mu, SYSTEM.duration, 8000)


SYSTEM = System("van_der_pol", ("x", "v"), 20.0, _draw, source="B. van der Pol, Philosophical Magazine 2(11), 1926")
PROTOCOLS = {"half": half_to_half(SYSTEM)}
