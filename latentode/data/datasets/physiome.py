r"""Seven models of cells, tissues and epidemics, each simulated 2,000 times with perturbed constants and initial states.

In the manner of Physiome-ODE (its 50 sets come from other models, so figures do not compare): every constant and initial state is drawn
evenly within 10 % and 30 % of its published value, 100 evenly spaced times are observed with noise of .05 deviations, 80 % of the cells
are dropped, and the second half is forecast from the first. One protocol per model:

    fitzhugh_nagumo: excitable membrane, 2 states (R. FitzHugh, Biophysical Journal 1:445-466, 1961).
    selkov: glycolysis, 2 states (E. E. Sel'kov, European Journal of Biochemistry 4:79-86, 1968).
    brusselator: autocatalysis, 2 states (I. Prigogine and R. Lefever, Journal of Chemical Physics 48:1695-1700, 1968).
    goodwin: a gene that its own product shuts off, 3 states (B. C. Goodwin, Advances in Enzyme Regulation 3:425-438, 1965).
    repressilator: three genes in a ring, 6 states (M. B. Elowitz and S. Leibler, Nature 403:335-338, 2000).
    calcium: two pools of calcium, 2 states (A. Goldbeter, G. Dupont and M. J. Berridge, PNAS 87:1461-1465, 1990).
    seir: an epidemic in shares of the population, 4 states (R. M. Anderson and R. M. May, Infectious Diseases of Humans, 1991).

Columns: series_id; time; the states by name.

Source: C. Klötergens et al., Physiome-ODE, ICLR 2025, https://github.com/kloetergensc/Physiome-ODE, for the recipe; the papers named above
for the equations. Simulated; no file is read, no licence needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from latentode.data.simulation import Options, System, half_to_half
from latentode.data.trajectories import Field, Truth, integrate

SPREAD_OF_CONSTANTS, SPREAD_OF_STATES = 0.1, 0.3
_OPTIONS = Options(n_series=2000, n_observations=100, noise=0.05, missing=0.8, sampling="uniform")


@dataclass(frozen=True)
class Model:
    """Equations with their published constants and initial states.

    Attributes:
        field: the vector field.
        constants: `P` of them.
        states: initial state of each name.
        duration: how far is simulated.
        n_steps: Runge-Kutta steps, so many that the error is below 1e-5 of each state's deviation.
    """

    field: Field
    constants: tuple[float, ...]
    states: dict[str, float]
    duration: float
    n_steps: int


def _fitzhugh_nagumo(t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    v, w = y.T
    current, a, b, rate = p.T
    return np.stack([v - v**3 / 3 - w + current, rate * (v + a - b * w)], axis=1)


def _selkov(t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    adp, f6p = y.T
    a, b = p.T
    reaction = (a + adp**2) * f6p
    return np.stack([reaction - adp, b - reaction], axis=1)


def _brusselator(t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    u, v = y.T
    a, b = p.T
    return np.stack([a + u**2 * v - (b + 1) * u, b * u - u**2 * v], axis=1)


def _goodwin(t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    mrna, protein, repressor = y.T
    k1, k2, k3, k4, k5, k6, n = p.T
    # A hair below 0, where a step may land, has no power.
    made = k1 / (1 + np.maximum(repressor, 0.0) ** n)
    return np.stack([made - k2 * mrna, k3 * mrna - k4 * protein, k5 * protein - k6 * repressor], axis=1)


def _repressilator(t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    mrna, protein = y[:, :3], y[:, 3:]
    alpha, leak, n, beta = (p[:, [i]] for i in range(4))
    repressor = np.maximum(np.roll(protein, 1, axis=1), 0.0)
    return np.concatenate([alpha / (1 + repressor**n) + leak - mrna, beta * (mrna - protein)], axis=1)


def _calcium(t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    cytosol, store = y.T
    influx, stimulated, uptake, release, k2, kr, ka, leak, efflux = p.T
    z, s = cytosol**2, store**2
    pumped = uptake * z / (k2**2 + z)
    freed = release * s / (kr**2 + s) * z**2 / (ka**4 + z**2) + leak * store
    return np.stack([influx + stimulated - pumped + freed - efflux * cytosol, pumped - freed], axis=1)


def _seir(t: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    susceptible, exposed, infectious, _ = y.T
    contact, onset, recovery = p.T
    infected = contact * susceptible * infectious
    flows = (-infected, infected - onset * exposed, onset * exposed - recovery * infectious, recovery * infectious)
    return np.stack(flows, axis=1)


MODELS: dict[str, Model] = {
    "fitzhugh_nagumo": Model(_fitzhugh_nagumo, (0.5, 0.7, 0.8, 0.08), {"v": -1.0, "w": 1.0}, 80.0, 2000),
    "selkov": Model(_selkov, (0.08, 0.6), {"adp": 1.0, "f6p": 1.0}, 40.0, 2000),
    "brusselator": Model(_brusselator, (1.0, 3.0), {"u": 1.0, "v": 1.0}, 20.0, 3000),
    "goodwin": Model(
        _goodwin,
        (1.0, 0.1, 0.1, 0.1, 0.1, 0.1, 10.0),
        {"mrna": 0.1, "protein": 0.2, "repressor": 2.5},
        150.0,
        2000,
    ),
    "repressilator": Model(
        _repressilator,
        (216.0, 0.2, 2.0, 0.2),
        {"lacI": 10.0, "tetR": 5.0, "cI": 20.0, "LacI": 5.0, "TetR": 10.0, "CI": 15.0},
        60.0,
        2000,
    ),
    "calcium": Model(
        _calcium, (1.0, 2.2, 65.0, 500.0, 1.0, 2.0, 0.9, 1.0, 10.0), {"cytosol": 0.3, "store": 1.5}, 4.0, 8000
    ),
    "seir": Model(
        _seir,
        (0.6, 0.2, 0.15),
        {"susceptible": 0.98, "exposed": 0.01, "infectious": 0.005, "recovered": 0.005},
        100.0,
        1000,
    ),
}


def perturb(rng: np.random.Generator, typical: np.ndarray, spread: float, n_series: int) -> np.ndarray:
    """Draw every number evenly within `spread` of its typical value, `(n, K)`."""
    return typical * rng.uniform(1 - spread, 1 + spread, (n_series, len(typical)))


def _draw(model: Model, rng: np.random.Generator, n_series: int) -> Truth:
    states = perturb(rng, np.array(list(model.states.values())), SPREAD_OF_STATES, n_series)
    constants = perturb(rng, np.array(model.constants), SPREAD_OF_CONSTANTS, n_series)
    return integrate(model.field, states, constants, model.duration, model.n_steps)


SYSTEMS = {
    name: System(
        f"physiome_{name}",
        tuple(model.states),
        model.duration,
        partial(_draw, model),
        source="C. Klötergens et al., Physiome-ODE, ICLR 2025 (the recipe, not the sets)",
        options=_OPTIONS,
    )
    for name, model in MODELS.items()
}
PROTOCOLS = {name: half_to_half(system, name=name, average="pooled") for name, system in SYSTEMS.items()}
