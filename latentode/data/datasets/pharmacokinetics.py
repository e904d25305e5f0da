r"""Drug concentrations of a panel of patients after three oral doses: one compartment, first-order absorption; closed form.

A dose :math:`D` taken at time 0 gives :math:`C(t) = \frac{D}{V} \frac{k_a}{k_a - k_e} (e^{-k_e t} - e^{-k_a t})`; doses add up. Absorption
:math:`k_a`, elimination :math:`k_e` and volume :math:`V` are a patient's own, log-normal with a coefficient of variation of about 30 %
around 1.5 / h, 0.08 / h and 33 l. Doses of 320 mg are taken at 0, 24 and 48 h.

Columns: series_id; time (hours since the first dose, 0 to 72); concentration (mg / l).

Source: J. C. Pinheiro and D. M. Bates, Mixed-Effects Models in S and S-PLUS, 2000, section 8.1 (theophylline); simulated; no file is read,
no licence needed.
"""

from __future__ import annotations

import numpy as np

from latentode.data.simulation import Options, System, half_to_half
from latentode.data.trajectories import Truth

DOSE, DOSE_TIMES = 320.0, np.array([0.0, 24.0, 48.0])
_TYPICAL = np.array([1.5, 0.08, 33.0])  # k_a, k_e, V
_SPREAD = 0.3


def concentration(absorption: np.ndarray, elimination: np.ndarray, volume: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Give the concentration `(N,)` at `time` `(N,)` of patients with these constants, each `(N,)`; absorption is the faster."""
    since = time[:, None] - DOSE_TIMES
    # Before a dose both exponentials are 1 and it counts nothing.
    since = np.maximum(since, 0.0)
    remaining = np.exp(-elimination[:, None] * since) - np.exp(-absorption[:, None] * since)
    return DOSE / volume * absorption / (absorption - elimination) * remaining.sum(axis=1)


def _draw(rng: np.random.Generator, n_series: int) -> Truth:
    absorption, elimination, volume = (_TYPICAL * np.exp(_SPREAD * rng.standard_normal((n_series, 3)))).T
    # Were they equal the closed form would be another; absorption is the faster in every patient.
    absorption = np.maximum(absorption, 2 * elimination)
    return lambda series, time: concentration(absorption[series], elimination[series], volume[series], time)[:, None]


SYSTEM = System(
    "pharmacokinetics",
    ("concentration",),
    72.0,
    _draw,
    source="J. C. Pinheiro and D. M. Bates, Mixed-Effects Models in S and S-PLUS, 2000, section 8.1",
    options=Options(n_observations=24),
)
PROTOCOLS = {"half": half_to_half(SYSTEM)}
