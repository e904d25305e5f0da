r"""Lorenz' convection model: :math:`\dot x = \sigma (y - x),\ \dot y = x (\rho - z) - y,\ \dot z = x y - \beta z`; chaotic.

:math:`\sigma = 10, \rho = 28, \beta = 8/3`; series differ in their initial state alone, which lies on the attractor (a time of 10 is run
off before). Errors grow by e in a Lyapunov time, 1.10, so the far end of the second half cannot be forecast: the protocol "lyapunov" ends
after one.

Columns: series_id; time (0 to 4); x; y; z.

Source: E. N. Lorenz, Journal of the Atmospheric Sciences 20:130-141, 1963; the Lyapunov exponent: J. C. Sprott, Chaos and Time-Series
Analysis, 2003, appendix A. Simulated; no file is read, no licence needed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from latentode.data.simulation import System, half_to_half
from latentode.data.trajectories import Truth, integrate

LYAPUNOV_TIME = 1 / 0.9056  # the inverse of the largest exponent


def field(t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Give the rates of change of the three states; there are no constants in `p`."""
    x, y_, z = y.T
    return np.stack([10.0 * (y_ - x), x * (28.0 - z) - y_, x * y_ - 8.0 / 3.0 * z], axis=1)


def _draw(rng: np.random.Generator, n_series: int) -> Truth:
    none = np.empty((n_series, 0))
    start = rng.normal([0.0, 0.0, 25.0], 5.0, (n_series, 3))
    # What is run off need not be exact: it ends on the attractor either way.
    settled = integrate(field, start, none, 10.0, 2000).states[-1]
    return integrate(field, settled, none, SYSTEM.duration, 4000)


SYSTEM = System("lorenz63", ("x", "y", "z"), 4.0, _draw, source="E. N. Lorenz, J. Atmos. Sci. 20:130-141, 1963")
SYSTEMS = {"half": SYSTEM, "lyapunov": replace(SYSTEM, horizon=LYAPUNOV_TIME)}
PROTOCOLS = {name: half_to_half(system, name=name) for name, system in SYSTEMS.items()}
