r"""Damped harmonic oscillators, each with its own frequency, damping, amplitude and phase; closed form.

:math:`\ddot x + 2 \gamma \dot x + (\omega^2 + \gamma^2) x = 0`, so :math:`x(t) = A e^{-\gamma t} \cos(\omega t + \varphi)`.

Columns: series_id; time (0 to 10); position; velocity.

Source: simulated; no file is read, no licence needed.
"""

from __future__ import annotations

import numpy as np

from latentode.data.simulation import System, half_to_half
from latentode.data.trajectories import Truth


def _draw(rng: np.random.Generator, n_series: int) -> Truth:
    omega, gamma = rng.uniform(1.0, 4.0, n_series), rng.uniform(0.02, 0.2, n_series)
    amplitude, phase = rng.uniform(0.5, 2.0, n_series), rng.uniform(0, 2 * np.pi, n_series)

    def truth(series: np.ndarray, time: np.ndarray) -> np.ndarray:
        w, g = omega[series], gamma[series]
        envelope, angle = amplitude[series] * np.exp(-g * time), w * time + phase[series]
        position = envelope * np.cos(angle)
        return np.stack([position, -g * position - w * envelope * np.sin(angle)], axis=1)

    return truth


SYSTEM = System(
    "damped_oscillators", ("position", "velocity"), 10.0, _draw, source="the solution in any text on mechanics"
)
PROTOCOLS = {"half": half_to_half(SYSTEM)}
