r"""Sums of three sinusoids of unrelated periods in three channels; closed form.

:math:`x_c(t) = \sum_k a_{ck} \sin(2 \pi t / T_k + \varphi_{ck})`: the periods :math:`T_k` are a series' own and shared by its channels.

Columns: series_id; time (0 to 10); x0, x1, x2.

Source: simulated; no file is read, no licence needed.
"""

from __future__ import annotations

import numpy as np

from latentode.data.simulation import System, half_to_half
from latentode.data.trajectories import Truth

_N_TERMS = 3
CHANNELS = ("x0", "x1", "x2")


def _draw(rng: np.random.Generator, n_series: int) -> Truth:
    shape = (n_series, len(CHANNELS), _N_TERMS)
    # Between 1 and 5, evenly in their logarithm: short and long periods are as frequent.
    period = np.exp(rng.uniform(np.log(1.0), np.log(5.0), (n_series, _N_TERMS)))
    amplitude, phase = rng.uniform(0.3, 1.0, shape), rng.uniform(0, 2 * np.pi, shape)

    def truth(series: np.ndarray, time: np.ndarray) -> np.ndarray:
        angle = 2 * np.pi * time[:, None] / period[series]
        return (amplitude[series] * np.sin(angle[:, None] + phase[series])).sum(axis=2)

    return truth


SYSTEM = System("periodic_mixtures", CHANNELS, 10.0, _draw, source="sums of sinusoids")
PROTOCOLS = {"half": half_to_half(SYSTEM)}
