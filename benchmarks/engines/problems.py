"""The initial value problems that every library solves, and what their exact solutions are.

Suffixes: `B` samples, `Q` query times, `D` state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MAX_EXACT = 256  # samples


class VanDerPol(nn.Module):
    """The oscillator whose stiffness `mu` `(B,)` differs from sample to sample, and with it the number of steps."""

    def forward(self, t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        """Give the slope."""
        x, v = y.unbind(-1)
        return torch.stack([v, mu * (1 - x * x) * v - x], -1)

    def in_jax(self) -> tuple[Callable[..., Any], Any]:
        """Give the same field of one sample in JAX and its parameters."""
        import jax.numpy as jnp

        return lambda t, y, params, mu: jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]), ()


class LotkaVolterra(nn.Module):
    """Prey `a` and predators `b`: `a' = a (1.5 - b)`, `b' = b (a - 3)`."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Give the slope."""
        a, b = y.unbind(-1)
        return torch.stack([a * (1.5 - b), b * (a - 3.0)], -1)

    def in_jax(self) -> tuple[Callable[..., Any], Any]:
        """Give the same field of one sample in JAX and its parameters."""
        import jax.numpy as jnp

        return lambda t, y, params: jnp.stack([y[0] * (1.5 - y[1]), y[1] * (y[0] - 3.0)]), ()


class Lorenz(nn.Module):
    """The chaotic system with its usual constants as parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.constants = nn.Parameter(torch.tensor([10.0, 28.0, 8 / 3]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Give the slope."""
        sigma, rho, beta = self.constants.unbind()
        a, b, c = y.unbind(-1)
        return torch.stack([sigma * (b - a), a * (rho - c) - b, a * b - beta * c], -1)


class TrainableVanDerPol(nn.Module):
    """The oscillator with one stiffness for all samples, a parameter."""

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(mu))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Give the slope."""
        x, v = y.unbind(-1)
        return torch.stack([v, self.mu * (1 - x * x) * v - x], -1)


class Network(nn.Module):
    """A network of one hidden layer, with PyTorch's initial weights times `gain`."""

    def __init__(self, n_dimensions: int, width: int, gain: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner, self.outer = nn.Linear(n_dimensions, width), nn.Linear(width, n_dimensions)
        with torch.no_grad():
            for p in self.parameters():
                p.mul_(gain)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Give the slope."""
        return self.outer(torch.tanh(self.inner(y)))

    def in_jax(self) -> tuple[Callable[..., Any], Any]:
        """Give the same field of one sample in JAX and its parameters."""
        import jax.numpy as jnp

        params = tuple(jnp.asarray(p.detach().cpu().numpy()) for p in self.parameters())
        return lambda t, y, p: p[2] @ jnp.tanh(p[0] @ y + p[1]) + p[3], params


@dataclass(frozen=True)
class Problem:
    """An initial value problem of a batch, float32.

    Attributes:
        about: what it is, for the report.
        field: module of `(t, y, *args)`.
        y0: `(B, D)`.
        t: query times, `(Q,)`, the first being the start.
        args: further arguments of the field, one row per sample.
    """

    about: str
    field: nn.Module
    y0: Tensor
    t: Tensor
    args: tuple[Tensor, ...] = ()

    def resized(self, n_samples: int, n_queries: int) -> Problem:
        """Give the same with fewer samples and another number of queries."""
        t = torch.linspace(float(self.t[0]), float(self.t[-1]), n_queries, device=self.t.device)
        return replace(self, y0=self.y0[:n_samples].clone(), t=t, args=tuple(a[:n_samples].clone() for a in self.args))

    def to(self, device: str) -> Problem:
        """Give the same on a device."""
        args = tuple(a.to(device) for a in self.args)
        field = copy.deepcopy(self.field).to(device)
        return replace(self, field=field, y0=self.y0.to(device), t=self.t.to(device), args=args)

    def in_float64(self) -> Problem:
        """Give the same numbers in double precision."""
        args = tuple(a.double() for a in self.args)
        return replace(
            self, field=copy.deepcopy(self.field).double(), y0=self.y0.double(), t=self.t.double(), args=args
        )


def make_problems() -> dict[str, Problem]:
    """Give the cases; E is of a size for a GPU."""
    two = torch.linspace(0.0, 10.0, 2)
    spread = torch.linspace(0.5, 3.0, 256)
    generator = torch.Generator().manual_seed(1)
    return {
        "A": Problem(
            "van der Pol, B = 256, mu 0.5..10, y0 = (2, 0), read at T = 10",
            VanDerPol(),
            torch.tensor([2.0, 0.0]).repeat(256, 1),
            two,
            (torch.linspace(0.5, 10.0, 256),),
        ),
        "B": Problem(
            "Lotka-Volterra (1.5, 1, 3, 1), B = 256, prey 0.5..3 with predators 3..0.5, read at T = 10",
            LotkaVolterra(),
            torch.stack([spread, spread.flip(0)], -1),
            two,
        ),
        "C": Problem(
            "MLP width 64, D = 16, B = 64, 50 output times in [0, 1]",
            Network(16, 64),
            torch.randn(64, 16, generator=generator),
            torch.linspace(0.0, 1.0, 50),
        ),
        "D": Problem(
            "MLP width 512, D = 128, B = 64, 5 output times in [0, 10]",
            Network(128, 512),
            torch.randn(64, 128, generator=generator),
            torch.linspace(0.0, 10.0, 5),
        ),
        "E": Problem(
            "MLP width 512, D = 128, B = 8192, 5 output times in [0, 10]",
            Network(128, 512),
            torch.randn(8192, 128, generator=generator),
            torch.linspace(0.0, 10.0, 5),
        ),
    }


def exact_states(problem: Problem) -> np.ndarray:
    """Solve in float64 to 1e-12 (SciPy's DOP853, all samples as one system), `(B, Q, D)`; of a large batch the first samples."""
    from scipy.integrate import solve_ivp

    exact = problem.in_float64()
    exact = replace(exact, y0=exact.y0[:MAX_EXACT], args=tuple(a[:MAX_EXACT] for a in exact.args))
    t, shape = exact.t.numpy(), exact.y0.shape

    def slope(_: float, y: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return exact.field(exact.t[:1], torch.from_numpy(y).view(shape), *exact.args).reshape(-1).numpy()

    # The norm is the mean over the whole batch: a tenth of the tolerance keeps its worst sample inside.
    found = solve_ivp(slope, t[[0, -1]], exact.y0.reshape(-1).numpy(), "DOP853", t, rtol=1e-13, atol=1e-13)
    return found.y.reshape(*shape, len(t)).transpose(0, 2, 1)


def sample_errors(states_BQD: np.ndarray, exact_BQD: np.ndarray) -> np.ndarray:
    """Give the largest absolute error of each sample whose solution is known over queries and components, `(B,)`."""
    return np.abs(states_BQD[: len(exact_BQD)].astype(np.float64) - exact_BQD).max((1, 2))
