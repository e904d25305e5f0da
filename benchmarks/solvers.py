"""Overhead of `solve` over the bare vector field, and its time beside torchdiffeq's: `python benchmarks/solvers.py [--out FILE]`.

Both solve the same problems at the same tolerances with dopri5, interleaved in one run. torchdiffeq takes one step for the whole batch; the
overhead is the time of a solve over the time of as many bare calls of the field.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from latentode.ode import PIDController, solve

RTOL, ATOL = 1e-4, 1e-6


def make_field(n_dimensions: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Give a small random network as a vector field."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(n_dimensions, 64), nn.Tanh(), nn.Linear(64, n_dimensions))
    return lambda t, y: network(y)


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    """Give the slope of the oscillator with damping 5."""
    x, v = y.unbind(-1)
    return torch.stack([v, 5.0 * (1 - x**2) * v - x], -1)


def measure(field: Callable[[Tensor, Tensor], Tensor], y0: Tensor, t: Tensor, n_repeats: int = 7) -> dict[str, float]:
    """Time the three, interleaved, and give the best of each."""
    controller = PIDController(rtol=RTOL, atol=ATOL)
    ours, theirs, bare = [], [], []
    with torch.no_grad():
        nfe = int(solve(field, y0, t, method="dopri5", controller=controller).stats["nfe"].max())
        for _ in range(n_repeats):
            start = time.perf_counter()
            solve(field, y0, t, method="dopri5", controller=controller)
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            odeint(field, y0, t, method="dopri5", rtol=RTOL, atol=ATOL)
            theirs.append(time.perf_counter() - start)
            start = time.perf_counter()
            for _ in range(nfe):
                field(t[0], y0)
            bare.append(time.perf_counter() - start)
    return {
        "nfe": nfe,
        "seconds": min(ours),
        "ratio_to_torchdiffeq": min(ours) / min(theirs),
        "ratio_to_bare_calls": min(ours) / min(bare),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.manual_seed(1)
    t = torch.linspace(0, 1, 50)
    result = {
        "network, batch 64, 16 dimensions": measure(make_field(16), torch.randn(64, 16), t),
        "network, batch 1024, 16 dimensions": measure(make_field(16), torch.randn(1024, 16), t),
        "van der Pol, batch 256": measure(van_der_pol, 2 * torch.randn(256, 2), 10 * t),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
