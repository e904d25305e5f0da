"""Gradient routes beside torchdiffeq's: memory against steps, error against float64, and what happens where the backward solve is unstable.

    python benchmarks/gradients.py [--parts memory,accuracy,robustness] [--steps 10000] [--skip reversible] [--out FILE]

Float32, one thread. What is measured and how to read it: `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import report
from engines.libraries import Way, ours, torchdiffeq
from engines.problems import Lorenz, Network, Problem, TrainableVanDerPol, make_problems
from engines.report import Target
from engines.timing import machine

ROUTES: dict[str, tuple[Callable[..., Way], dict[str, Any]]] = {
    "torchdiffeq direct": (torchdiffeq, {}),
    "torchdiffeq adjoint": (torchdiffeq, {"adjoint": True}),
    "ours direct": (ours, {"adjoint": "direct"}),
    "ours checkpointed": (ours, {"adjoint": "checkpointed"}),
    "ours reversible": (ours, {"adjoint": "reversible"}),
    "ours backsolve": (ours, {"adjoint": "backsolve"}),
}
PARTS = ("memory", "accuracy", "robustness")
FEW_STEPS = 100
# A direct route is measured up to here and its growth per step taken to hold beyond.
MANY_STEPS_OF_DIRECT = 2_000
TOLERANCES = (1e-3, 1e-5)
SYSTEMS = ("van der Pol", "Lorenz")
EXACT = ("ours direct", "ours checkpointed", "ours reversible")

TARGETS = [
    Target("memory", "ours direct", "per_step_over_torchdiffeq", "<=", 1.0),
    Target("memory", "ours checkpointed", "growth_mib", "<=", 250.0),
    Target("memory", "ours reversible", "growth_mib", "<=", 10.0),
    Target("memory", "ours backsolve", "growth_mib", "<=", 10.0),
    *(Target(f"accuracy, rtol {tol:g}", "ours checkpointed", "off_direct", "<=", 1e-5) for tol in TOLERANCES),
    *(Target(f"accuracy, rtol {tol:g}", "ours checkpointed", "off_direct_float64", "<=", 1e-11) for tol in TOLERANCES),
    *(Target(f"accuracy, rtol {tol:g}", "ours reversible", "over_direct", "<=", 1.0) for tol in TOLERANCES),
    *(Target(f"accuracy, rtol {tol:g}", "ours backsolve", "over_their_adjoint", "<=", 1.0) for tol in TOLERANCES),
    *(Target(f"robustness, {system}", route, "error", "<=", 0.01) for system in SYSTEMS for route in EXACT),
    *(Target(f"robustness, {system}", "ours backsolve", "answers", ">=", 1) for system in SYSTEMS),
]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="gradient routes: memory, error, and where they fail")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas between")
    parser.add_argument("--steps", type=int, default=10_000, help="fixed steps up to which memory is followed")
    parser.add_argument("--repeats", type=int, default=5, help="networks whose gradient errors are averaged")
    parser.add_argument(
        "--limit", type=float, default=20.0, help="seconds after which a gradient counts as never found"
    )
    parser.add_argument("--skip", default="", help="leave out routes whose name holds a word of this list, with commas")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        print(json.dumps(work(**json.loads(options.worker))))
        return
    parts = options.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"there is no part {', '.join(unknown)}; give some of {', '.join(PARTS)}")
    words = [word for word in options.skip.split(",") if word]
    routes = [route for route in ROUTES if not any(word in route for word in words)]
    result: dict[str, Any] = {"machine": machine(), "cases": {}}
    if "memory" in parts:
        result["cases"]["memory"] = measure_memory(routes, options.steps)
    if "accuracy" in parts:
        for tol in TOLERANCES:
            result["cases"][f"accuracy, rtol {tol:g}"] = measure_accuracy(routes, tol, options.repeats)
    if "robustness" in parts:
        for system in SYSTEMS:
            result["cases"][f"robustness, {system}"] = measure_robustness(routes, system, options.limit)
    result["targets"] = report.print_targets(TARGETS, result["cases"])
    result["machine"]["load_at_the_end"] = os.getloadavg()
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def work(task: str, **details: Any) -> dict[str, Any]:
    """Do what a fresh process was started for."""
    return {"memory": peak_memory, "robustness": outcome}[task](**details)


def in_fresh_process(patience: float, **task: Any) -> dict[str, Any]:
    """Run `work(**task)` in a process of its own; `{"late": True}` where it takes longer than `patience` seconds."""
    command = [sys.executable, __file__, "--worker", json.dumps(task)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        return {"late": True}
    if done.returncode:
        return {"skipped": f"exit {done.returncode}: {(done.stderr.splitlines() or [''])[-1][:200]}"}
    return json.loads(done.stdout.splitlines()[-1])


def collect(routes: list[str], about: str, measure: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Measure route by route; what lacks a library or a feature is left out by name."""
    rows, skipped = {}, {}
    for route in routes:
        report.say(f"{about}: {route}")
        try:
            found = measure(route)
        except Exception as error:  # what one route lacks must not cost the figures of the others
            found = {"skipped": report.reason(error)}
        if "skipped" in found:
            skipped[route] = found["skipped"]
        else:
            rows[route] = found
    return {"about": about, "rows": rows, "skipped": skipped}


def print_part(name: str, part: dict[str, Any], columns: dict[str, tuple[str, str]]) -> None:
    """Print a part as a table."""
    print(f"\n{name}: {part['about']}")
    report.print_table(part["rows"], columns)
    for route, why in part["skipped"].items():
        print(f"   left out: {route}: {why}")


# --- memory ---


def measure_memory(routes: list[str], n_steps: int) -> dict[str, Any]:
    """Give how the peak memory of a forward and backward pass grows from 100 to `n_steps` fixed RK4 steps."""

    def measure(route: str) -> dict[str, Any]:
        many = min(n_steps, MANY_STEPS_OF_DIRECT) if route.endswith("direct") else n_steps
        few_found, found = (in_fresh_process(1_800.0, task="memory", route=route, n_steps=n) for n in (FEW_STEPS, many))
        for run in (few_found, found):
            if "late" in run:
                return {"skipped": "no answer in half an hour"}
            if "skipped" in run:
                return run
        per_step = (found["peak_mib"] - few_found["peak_mib"]) / (many - FEW_STEPS)
        return {
            "steps_measured": many,
            "peak_mib": found["peak_mib"],
            "mib_per_step": per_step,
            "growth_mib": per_step * (n_steps - FEW_STEPS),
            "ms_per_step": 1e3 * found["seconds"] / many,
        }

    about = f"D (MLP width 512, D = 128, B = 64), growth of the peak from {FEW_STEPS} to {n_steps} RK4 steps"
    part = collect(routes, about, measure)
    theirs = part["rows"].get("torchdiffeq direct")
    for row in part["rows"].values() if theirs else ():
        row["per_step_over_torchdiffeq"] = row["mib_per_step"] / theirs["mib_per_step"]
    columns = {
        "steps_measured": ("steps measured", "{:d}"),
        "peak_mib": ("peak MiB", "{:.0f}"),
        "mib_per_step": ("MiB per step", "{:.4f}"),
        "growth_mib": ("growth MiB", "{:.1f}"),
        "ms_per_step": ("ms per step", "{:.2f}"),
    }
    print_part("memory", part, columns)
    return part


def peak_memory(route: str, n_steps: int) -> dict[str, Any]:
    """Give the largest resident size of this process over one forward and backward pass of `n_steps`."""
    library, settings = ROUTES[route]
    problem = make_problems()["D"].resized(64, 2)
    try:
        # What the first call loads and keeps is no part of the growth.
        library(problem, 1.0, with_gradient=True, method="rk4", dt=1.0, **settings).run()
        way = library(problem, 1.0, with_gradient=True, method="rk4", dt=10.0 / n_steps, **settings)
        start = time.perf_counter()
        way.run()
    except (ImportError, ValueError) as error:
        return {"skipped": report.reason(error)}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    return {"peak_mib": peak, "seconds": time.perf_counter() - start}


# --- accuracy ---


def measure_accuracy(routes: list[str], tol: float, n_networks: int) -> dict[str, Any]:
    """Give the relative error of the gradient (`y0` and parameters as one vector) where the loss is on y(T) alone."""
    problems = [make_problem(seed) for seed in range(n_networks)]
    exact = [float64_gradient(problem) for problem in problems]
    direct, direct_64 = (
        [gradient(ours, p, tol, adjoint="direct") for p in chosen]
        for chosen in (problems, [p.in_float64() for p in problems])
    )

    def measure(route: str) -> dict[str, Any]:
        library, settings = ROUTES[route]
        found = [gradient(library, problem, tol, **settings) for problem in problems]
        row = {"error": typical(found, exact), "errors": [relative(f, e) for f, e in zip(found, exact, strict=True)]}
        if route == "ours checkpointed":
            found_64 = [gradient(library, problem.in_float64(), tol, **settings) for problem in problems]
            row["off_direct"] = max(map(relative, found, direct))
            row["off_direct_float64"] = max(map(relative, found_64, direct_64))
        return row

    about = (
        f"MLP width 64, weights x 2.5, D = 16, B = 64, T = 10, rtol = atol = {tol:g}; mean over {n_networks} networks"
    )
    part = collect(routes, about, measure)
    for figure, other in (("over_direct", "ours direct"), ("over_their_adjoint", "torchdiffeq adjoint")):
        for row in part["rows"].values() if other in part["rows"] else ():
            row[figure] = row["error"] / part["rows"][other]["error"]
    columns = {
        "error": ("relative error", "{:.1e}"),
        "over_direct": ("over our direct", "{:.2f}"),
        "over_their_adjoint": ("over their adjoint", "{:.2f}"),
        "off_direct": ("off direct, float32", "{:.1e}"),
        "off_direct_float64": ("float64", "{:.1e}"),
    }
    print_part(f"accuracy, rtol {tol:g}", part, columns)
    return part


def make_problem(seed: int) -> Problem:
    """Give a network whose dynamics spreads its states enough for gradients to be hard."""
    y0 = torch.randn(64, 16, generator=torch.Generator().manual_seed(seed))
    return Problem("", Network(16, 64, gain=2.5, seed=seed), y0, torch.tensor([0.0, 10.0]))


def gradient(library: Callable[..., Way], problem: Problem, tol: float, **settings: Any) -> np.ndarray:
    """Give the gradient of one solve as one vector."""
    with warnings.catch_warnings():
        # A warning of drift is looked at under robustness.
        warnings.simplefilter("ignore")
        way = library(problem, tol, with_gradient=True, **settings)
        return way.gradients(way.run()).astype(np.float64)


def float64_gradient(problem: Problem) -> np.ndarray:
    """Give the gradient in float64 at 1e-11, through every operation: by torchdiffeq's dopri8, else by our dopri5."""
    try:
        return gradient(torchdiffeq, problem.in_float64(), 1e-11, method="dopri8")
    except ImportError:
        return gradient(ours, problem.in_float64(), 1e-11, method="dopri5")


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """Give the l2 distance over the length of `exact`."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def typical(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """Give the geometric mean of the relative errors."""
    return statistics.geometric_mean(relative(f, e) for f, e in zip(found, exact, strict=True))


# --- robustness ---


def measure_robustness(routes: list[str], system: str, limit: float) -> dict[str, Any]:
    """Tell what each route makes of a system whose backward solve is unstable."""

    def measure(route: str) -> dict[str, Any]:
        # Starting the process, its imports and the reference take time too; the worker reads its own clock.
        found = in_fresh_process(limit + 30.0, task="robustness", route=route, system=system, limit=limit)
        late = {"outcome": f"no answer in {limit:g} s", "answers": 0, "error": math.inf}
        return late if "late" in found else found

    part = collect(routes, make_system(system).about + ", rtol = atol = 1e-6", measure)
    columns = {"error": ("error", "{:.1e}"), "seconds": ("s", "{:.1f}"), "outcome": ("outcome", "{:.100}")}
    print_part(f"robustness, {system}", part, columns)
    return part


def make_system(name: str) -> Problem:
    """Give a system by its name."""
    if name == "van der Pol":
        y0 = torch.tensor([2.0, 0.0]) + 0.1 * torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
        return Problem(
            "mu = 10, a parameter, B = 16, loss on y(10)", TrainableVanDerPol(10.0), y0, torch.tensor([0.0, 10.0])
        )
    y0 = torch.ones(16, 3) + 0.1 * torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    return Problem("constants are parameters, B = 16, loss on y(3)", Lorenz(), y0, torch.tensor([0.0, 3.0]))


def outcome(route: str, system: str, limit: float) -> dict[str, Any]:
    """Find a gradient and say in words how that ended."""
    library, settings = ROUTES[route]
    problem = make_system(system)
    try:
        way = library(problem, 1e-6, with_gradient=True, **settings)
    except ImportError as error:
        return {"skipped": report.reason(error)}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        start = time.perf_counter()
        try:
            result = way.run()
        except Exception as error:  # how it ends is the figure
            if type(error).__name__ == "InputError":
                return {"skipped": report.reason(error)}
            seconds = time.perf_counter() - start
            return {"outcome": report.reason(error), "answers": 1, "seconds": seconds, "error": math.inf}
        seconds = time.perf_counter() - start
    if seconds > limit:
        return {"outcome": f"no answer in {limit:g} s", "answers": 0, "seconds": seconds, "error": math.inf}
    error = relative(way.gradients(result), float64_gradient(problem))
    words = "gradient" if np.isfinite(error) else "a gradient that is not finite"
    messages = [f"warned: {str(w.message).splitlines()[0]}" for w in told if issubclass(w.category, UserWarning)]
    return {"outcome": "; ".join([words, *messages[:1]]), "answers": 1, "seconds": seconds, "error": error}


if __name__ == "__main__":
    main()
