"""Single against multiple shooting: an equation's numbers from one long noisy series and a poor guess, `python benchmarks/shooting.py`.

Van der Pol's oscillator (a damping and a frequency) and the equations of Lotka and Volterra on logarithms (four rates), over `--span` units
of time, seen five times per unit with noise of deviation .1. Both ways have the same equation, solver steps, optimiser and number of
iterations, and differ by the number of segments alone. An error is the mean absolute one of the logarithms of the numbers; the path's is
the deviation from the true one, over the deviation of that. Seconds are per iteration, the fits after one another.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentode.data.schema import Schema
from latentode.models import MultipleShooting
from latentode.models.interfaces import Dynamics

STEP = 0.2  # of the classical Runge-Kutta method, in units of time; every fifth part of a unit is seen, and segments are whole units
NOISE = 0.1


def van_der_pol(numbers: Tensor, y: Tensor) -> Tensor:
    """Give the slope of place and velocity; the numbers are damping and frequency."""
    x, v = y.unbind(-1)
    return torch.stack([v, numbers[0] * (1 - x**2) * v - numbers[1] ** 2 * x], -1)


def lotka_volterra(numbers: Tensor, y: Tensor) -> Tensor:
    """Give the slope of the logarithms of prey and predator; the numbers are alpha, beta, delta, gamma."""
    prey, predator = y.exp().unbind(-1)
    return torch.stack([numbers[0] - numbers[1] * predator, numbers[2] * prey - numbers[3]], -1)


@dataclass(frozen=True)
class Case:
    """An equation, its true numbers and start, and a guess to set out from."""

    field: Callable[[Tensor, Tensor], Tensor]
    truth: tuple[float, ...]
    start: tuple[float, ...]
    guess: tuple[float, ...]


CASES = {
    "van_der_pol": Case(van_der_pol, (1.5, 1.0), (1.0, 0.0), (0.5, 1.5)),
    "lotka_volterra": Case(lotka_volterra, (1.0, 0.6, 0.4, 0.8), (0.0, 0.0), (1.6, 1.0, 0.3, 1.3)),
}


class OwnEquation(Dynamics):
    """An equation whose numbers are positive and unknown; time is in spans."""

    def __init__(self, case: Case, span: float) -> None:
        super().__init__()
        self.case, self.span = case, span

    def setup(self, schema: Schema | None, latent_size: int, context_size: int) -> None:
        """Make the logarithms of the numbers."""
        self.log = nn.Parameter(torch.tensor(self.case.guess, dtype=torch.float64).log())

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`: every query lies at the end of a step."""
        place_BQ = ((t_BQ - t0_B[:, None]) * self.span / STEP).round().long()
        ys = [z0_BD]
        for _ in range(int(place_BQ.max())):
            ys.append(runge_kutta(lambda y: self.case.field(self.log.exp(), y), ys[-1]))
        return torch.stack(ys, 1).gather(1, place_BQ[..., None].expand(-1, -1, z0_BD.shape[-1]))


def runge_kutta(slope: Callable[[Tensor], Tensor], y: Tensor, step: float = STEP) -> Tensor:
    """Take one classical step, without the bookkeeping of a solver, which would outweigh two numbers per sample."""
    k1 = slope(y)
    k2 = slope(y + step / 2 * k1)
    k3 = slope(y + step / 2 * k2)
    k4 = slope(y + step * k3)
    return y + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def observe(case: Case, span: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give times in spans `(1, N)`, true states and noisy ones `(1, N, D)`."""
    numbers, start = (torch.tensor(x, dtype=torch.float64) for x in (case.truth, case.start))
    t = torch.linspace(0, 1, round(5 * span) + 1, dtype=torch.float64)[None]
    ys = [start[None]]
    for _ in range(t.shape[1] - 1):
        y = ys[-1]
        for _ in range(10):
            y = runge_kutta(lambda y: case.field(numbers, y), y, STEP / 10)
        ys.append(y)
    truth = torch.stack(ys, 1)
    generator = torch.Generator().manual_seed(seed)
    return t, truth, truth + NOISE * torch.randn(truth.shape, generator=generator, dtype=torch.float64)


def fit(case: Case, n_segments: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit the numbers and the start; give errors and time."""
    t, truth, seen = observe(case, options.span, options.seed)
    torch.manual_seed(options.seed)
    equation = OwnEquation(case, options.span)
    dynamics = MultipleShooting(equation, n_segments)
    dynamics.setup(None, len(case.start), 1)  # pyright: ignore[reportArgumentType]
    dynamics.double()
    start, zero, context = nn.Parameter(seen[:, 0].clone()), t.new_zeros(1), t.new_zeros(1, 1)
    network = [p for name, p in dynamics.named_parameters() if not name.startswith("dynamics.")]
    groups = [{"params": [*equation.parameters(), start], "lr": 2e-2}, {"params": network, "lr": 1e-2}]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.n_iterations)
    began = time.perf_counter()
    for i in range(options.n_iterations):
        dynamics.train().at_progress(i / options.n_iterations)
        loss = 0.5 * (dynamics(start, zero, t, context) - seen).square().mean()
        if dynamics.penalty is not None:
            loss = loss + dynamics.penalty.mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(dynamics.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    seconds = (time.perf_counter() - began) / options.n_iterations
    with torch.no_grad():
        path = dynamics.eval()(start, zero, t, context)
        error = (equation.log - torch.tensor(case.truth, dtype=torch.float64).log()).abs().mean()
    return {
        "n_segments": n_segments,
        "numbers": [round(x, 4) for x in equation.log.detach().exp().tolist()],
        "error": round(float(error), 5),
        "path_error": round(float((path - truth).std() / truth.std()), 4),
        "seconds_per_iteration": round(seconds, 4),
    }


def main() -> None:
    """Fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--n_segments", type=int, nargs="+", default=[1, 15])
    parser.add_argument("--n_iterations", type=int, default=300)
    parser.add_argument("--span", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"n_iterations": options.n_iterations, "span": options.span, "seed": options.seed}
    for name in options.cases:
        case, result[name] = CASES[name], []
        for n_segments in options.n_segments:
            found = fit(case, n_segments, options)
            print(json.dumps({"case": name, "truth": case.truth, **found}), flush=True)
            result[name].append(found)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
