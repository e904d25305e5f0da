r"""Bidirectional spirals of Chen et al. 2018: planar spirals, half of them clockwise, each seen from a random place on it; closed form.

With :math:`a = 0` and :math:`b = 0.3`, at angle :math:`\theta` between 0 and :math:`6 \pi`: counter-clockwise
:math:`r = a + b \theta`, centre (5, 0); clockwise the angle runs down from :math:`6 \pi + 1` and :math:`r = a + 50 b / \theta`, centre
(-5, 0). A series sees a fifth of the way, from a random start in the middle three fifths.

Columns: series_id (even: counter-clockwise, odd: clockwise); time (0 to 1.2 pi, the angle since the start); x, y.

Source: R. T. Q. Chen, Y. Rubanova, J. Bettencourt and D. Duvenaud, Neural Ordinary Differential Equations, NeurIPS 2018, section 5.1 and
appendix, with the numbers of the authors' example; 1000 spirals of 100 evenly spaced times. Simulated; no file is read, no licence
needed.
"""

from __future__ import annotations

import numpy as np

from latentode.data.simulation import Options, System, half_to_half
from latentode.data.trajectories import Truth

_STOP, _B, _CENTRE = 6 * np.pi, 0.3, 5.0


def _draw(rng: np.random.Generator, n_series: int) -> Truth:
    start = rng.uniform(0.2, 0.8, n_series) * _STOP
    is_clockwise = np.arange(n_series) % 2 == 1

    def truth(series: np.ndarray, time: np.ndarray) -> np.ndarray:
        along = start[series] + time
        clockwise = is_clockwise[series]
        angle = np.where(clockwise, _STOP + 1 - along, along)
        radius = _B * np.where(clockwise, 50 / angle, angle)
        x = radius * np.cos(angle) + np.where(clockwise, -_CENTRE, _CENTRE)
        return np.stack([x, radius * np.sin(angle)], axis=1)

    return truth


SYSTEM = System(
    "spirals",
    ("x", "y"),
    _STOP / 5,
    _draw,
    source="R. T. Q. Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018, section 5.1",
    options=Options(n_series=1000, n_observations=100, noise=0.06, sampling="uniform"),
)
PROTOCOLS = {"half": half_to_half(SYSTEM)}
