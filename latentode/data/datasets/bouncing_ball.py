r"""A ball that falls and bounces: smooth flight, jumps of velocity, and an infinity of bounces in finite time; closed form.

From height :math:`h` at rest the ball lands at :math:`t_0 = \sqrt{2 h / g}` with speed :math:`v_0 = g t_0`. It leaves bounce :math:`k`
with :math:`e^{k+1} v_0` (restitution :math:`e`) and flies for :math:`2 e^{k+1} v_0 / g`, so bounce :math:`k` is at
:math:`t_k = t_0 + 2 (v_0 / g)(e - e^{k+1}) / (1 - e)`, which has a limit: from there on the ball lies still.

Columns: series_id; time (seconds, 0 to 5); height (metres); velocity (metres per second).

Source: simulated (A. van der Schaft and H. Schumacher, An Introduction to Hybrid Dynamical Systems, 2000, section 2.2.3); no file is read,
no licence needed.
"""

from __future__ import annotations

import numpy as np

from latentode.data.simulation import System, half_to_half
from latentode.data.trajectories import Truth

GRAVITY = 9.81


def flight(height: np.ndarray, restitution: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Give height and velocity `(N, 2)` of balls let go at `height` `(N,)`, at `time` `(N,)`."""
    landing = np.sqrt(2 * height / GRAVITY)
    speed = GRAVITY * landing
    # Solved for k: e^(k+1) = e - (t - t0) (1 - e) / (2 t0); nothing is left of it once the ball lies still.
    left = restitution - (time - landing) * (1 - restitution) / (2 * landing)
    is_bouncing, is_falling = left > 0, time < landing
    k = np.floor(np.log(np.where(is_bouncing, left, 1.0)) / np.log(restitution)) - 1
    k = np.maximum(k, 0)
    up = restitution ** (k + 1)
    since = time - landing - 2 * landing * (restitution - up) / (1 - restitution)
    falling = np.stack([height - GRAVITY / 2 * time**2, -GRAVITY * time], axis=1)
    flying = np.stack([up * speed * since - GRAVITY / 2 * since**2, up * speed - GRAVITY * since], axis=1)
    # Rounding may put a landing a hair below the floor.
    flying[:, 0] = np.maximum(flying[:, 0], 0.0)
    still = np.zeros_like(flying)
    return np.where(is_falling[:, None], falling, np.where(is_bouncing[:, None], flying, still))


def _draw(rng: np.random.Generator, n_series: int) -> Truth:
    height, restitution = rng.uniform(1.0, 5.0, n_series), rng.uniform(0.6, 0.9, n_series)
    return lambda series, time: flight(height[series], restitution[series], time)


SYSTEM = System(
    "bouncing_ball",
    ("height", "velocity"),
    5.0,
    _draw,
    source="A. van der Schaft and H. Schumacher 2000, section 2.2.3",
)
PROTOCOLS = {"half": half_to_half(SYSTEM)}
