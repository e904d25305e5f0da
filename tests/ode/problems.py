"""Systems with a known solution, in float64."""

from __future__ import annotations

import math

import numpy as np
import torch

from latentode.ode import PIDController


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def tolerance(size):
    return PIDController(rtol=size, atol=size)


def lotka_volterra(t, y):
    prey, predator = y.unbind(-1)
    return torch.stack([1.5 * prey - prey * predator, prey * predator - 3.0 * predator], -1)


def van_der_pol(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, 2.0 * (1 - x**2) * v - x], -1)


def van_der_pol_of(t, y, mu):
    """With a stiffness per sample, `(B, 1)`."""
    x, v = y.chunk(2, 1)
    return torch.cat([v, mu * (1 - x**2) * v - x], 1)


LORENZ = times(10.0, 28.0, 8 / 3)


def lorenz(t, y, p=LORENZ):
    a, b, c = y.unbind(1)
    return torch.stack([p[0] * (b - a), a * (p[1] - c) - b, a * b - p[2] * c], 1)


LINEAR = torch.tensor([[-0.3, 2.0], [-2.0, -0.1]], dtype=torch.float64)


def linear(t, y):
    return y @ LINEAR.T


def linear_solution(y0, t):
    """Closed form: `exp(A t) y0` for `y0` `(B, 2)` and `t` `(B, Q)`."""
    return torch.einsum("bqij,bj->bqi", torch.linalg.matrix_exp(LINEAR * t[..., None, None]), y0)


def as_numpy(field):
    """The field for SciPy: one sample, no batch."""

    def f(t, y):
        with torch.no_grad():
            return field(torch.tensor([t]), torch.from_numpy(np.asarray(y))[None])[0].numpy()

    return f


def forced(t, y):
    """Depends on time and is not linear."""
    return torch.cos(t)[:, None] * y**2


def forced_solution(y0, t0, t1):
    """Closed form: `1 / (1 / y0 - (sin t1 - sin t0))`."""
    return 1 / (1 / y0 - (math.sin(t1) - math.sin(t0)))
