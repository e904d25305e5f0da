r"""Hunters and prey: :math:`\dot u = \alpha u - \beta u v,\ \dot v = \delta u v - \gamma v`, with constants of each series' own.

Columns: series_id; time (0 to 20); prey; predator.

Source: A. J. Lotka, Elements of Physical Biology, 1925; V. Volterra, 1926. Simulated; no file is read, no licence needed.
"""

from __future__ import annotations

import numpy as np

from latentode.data.simulation import System, half_to_half
from latentode.data.trajectories import Truth, integrate


def field(t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Give the rates of change of prey and predator; `p` holds alpha, beta, delta, gamma."""
    prey, predator = y.T
    alpha, beta, delta, gamma = p.T
    return np.stack([(alpha - beta * predator) * prey, (delta * prey - gamma) * predator], axis=1)


def _draw(rng: np.random.Generator, n_series: int) -> Truth:
    constants = np.array([1.0, 0.6, 0.4, 0.8]) * rng.uniform(0.8, 1.2, (n_series, 4))
    return integrate(field, rng.uniform(0.8, 3.0, (n_series, 2)), constants, SYSTEM.duration, 4000)


SYSTEM = System("lotka_volterra", ("prey", "predator"), 20.0, _draw, source="A. J. Lotka 1925; V. Volterra 1926")
PROTOCOLS = {"half": half_to_half(SYSTEM)}
