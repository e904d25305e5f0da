r"""A particle kicked between two wells: :math:`dx = (x - x^3)\,dt + \sigma\,dW` with :math:`\sigma = 0.6`.

It rests near -1 or 1 for some ten units of time and then jumps, so an honest forecast has two peaks. The stationary density is
proportional to :math:`\exp((x^2 - x^4 / 2) / \sigma^2)`. Simulated by Euler-Maruyama steps of 0.002, from a state drawn near a well.

Columns: series_id; time (0 to 20); x.

Source: C. W. Gardiner, Stochastic Methods, 4th edition, section 5.1.2; simulated; no file is read, no licence needed.
"""

from __future__ import annotations

import numpy as np

from latentode.data.simulation import System, half_to_half
from latentode.data.trajectories import Truth, euler_maruyama

DIFFUSION = 0.6


def _draw(rng: np.random.Generator, n_series: int) -> Truth:
    start = rng.choice([-1.0, 1.0], (n_series, 1)) + 0.3 * rng.standard_normal((n_series, 1))
    return euler_maruyama(lambda x: x - x**3, DIFFUSION, start, SYSTEM.duration, 10_000, rng)


SYSTEM = System("double_well", ("x",), 20.0, _draw, source="C. W. Gardiner, Stochastic Methods, section 5.1.2")
PROTOCOLS = {"half": half_to_half(SYSTEM)}
