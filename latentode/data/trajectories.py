r"""Trajectories that can be asked at any time: what synthetic data sets take as the truth.

`integrate` takes classical Runge-Kutta steps on a fine common grid, all series at once, and answers between grid points by the cubic
Hermite interpolant, whose slopes are the vector field's own. Both are of fourth order, and tests hold them against SciPy at 1e-10. The
engine of `latentode.ode` is not used: the data layer does not see it, and data to test it on should not come from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Truth = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Gives the noise-free channels `(N, C)` of series `(N,)` (positions) at times `(N,)`."""

Field = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""`f(t, y, p) -> dy/dt` for times `(N,)`, states `(N, D)` and constants `(N, P)`."""


@dataclass(frozen=True)
class GridTrajectories:
    """States on a common grid from 0 to `duration`, of `n` series.

    Attributes:
        states: `(G + 1, n, D)`.
        slopes: of time, state and series, `(N, D)`; None joins grid points by straight lines (a path of a noisy system has no slope).
        duration: time of the last grid point.
    """

    states: np.ndarray
    slopes: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None
    duration: float

    def __call__(self, series: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Give the states `(N, D)` of series `(N,)` at times `(N,)` in `[0, duration]`."""
        n_steps = len(self.states) - 1
        h = self.duration / n_steps
        left = np.clip(np.floor(time / h).astype(np.int64), 0, n_steps - 1)
        s = (time / h - left)[:, None]
        y0, y1 = self.states[left, series], self.states[left + 1, series]
        if self.slopes is None:
            return y0 + s * (y1 - y0)
        f0, f1 = (self.slopes(h * at, y, series) for at, y in ((left, y0), (left + 1, y1)))
        # Cubic Hermite interpolant, Hairer, Norsett and Wanner 1993, equation II.6.7.
        bend = (1 - 2 * s) * (y1 - y0) + (s - 1) * h * f0 + s * h * f1
        return (1 - s) * y0 + s * y1 + s * (s - 1) * bend


def integrate(f: Field, y0: np.ndarray, constants: np.ndarray, duration: float, n_steps: int) -> GridTrajectories:
    """Solve an initial value problem per series by classical Runge-Kutta steps of one size.

    Args:
        f: the vector field.
        y0: states at time 0, `(n, D)`.
        constants: of each series, `(n, P)`.
        duration: how far to solve.
        n_steps: steps, and grid intervals.
    """
    h = duration / n_steps
    states = np.empty((n_steps + 1, *y0.shape))
    states[0] = y0
    for i in range(n_steps):
        y, t = states[i], np.full(len(y0), i * h)
        k1 = f(t, y, constants)
        k2 = f(t + h / 2, y + h / 2 * k1, constants)
        k3 = f(t + h / 2, y + h / 2 * k2, constants)
        k4 = f(t + h, y + h * k3, constants)
        states[i + 1] = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return GridTrajectories(states, lambda t, y, series: f(t, y, constants[series]), duration)


def euler_maruyama(
    drift: Callable[[np.ndarray], np.ndarray],
    diffusion: float,
    y0: np.ndarray,
    duration: float,
    n_steps: int,
    rng: np.random.Generator,
) -> GridTrajectories:
    r"""Simulate :math:`dy = b(y)\,dt + \sigma\,dW` by Euler-Maruyama steps (Kloeden and Platen 1992, equation 10.2.4).

    Args:
        drift: `b`, of states `(n, D)`.
        diffusion: `sigma`.
        y0: states at time 0, `(n, D)`.
        duration: how far to simulate.
        n_steps: steps.
        rng: source of the noise.

    Returns:
        The simulated paths themselves, joined by straight lines.
    """
    h = duration / n_steps
    states = np.empty((n_steps + 1, *y0.shape))
    states[0] = y0
    for i in range(n_steps):
        kick = diffusion * np.sqrt(h) * rng.standard_normal(y0.shape)
        states[i + 1] = states[i] + h * drift(states[i]) + kick
    return GridTrajectories(states, None, duration)
