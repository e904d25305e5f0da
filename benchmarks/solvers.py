"""Our engine beside torchdiffeq, torchode and diffrax: time, overhead over the bare field, calls and error, in one interleaved run.

    python benchmarks/solvers.py [--cases A,B,C,D,C-direct,C-bounded,equal-error] [--repeats 15] [--skip compiled] [--out FILE]
                                 [--device cuda]     (case E is for a GPU, and left out by default)

Float32, one thread, rtol = atol = 1e-6. What is measured and how to read it: `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import report
from engines.libraries import Way, bare_call, count_calls, diffrax, ours, torchdiffeq, torchode
from engines.problems import Problem, exact_states, make_problems, sample_errors
from engines.report import Target
from engines.timing import CLOCKS, describe_load, interleave, machine, ratio

TOL = 1e-6
# A row is a library and the settings it is called with.
Row = tuple[Callable[..., Way], dict[str, Any]]

FORWARD: dict[str, Row] = {
    "torchdiffeq dopri5": (torchdiffeq, {}),
    "torchode tsit5": (torchode, {}),
    "torchode tsit5, compiled": (torchode, {"compile": True}),
    "diffrax tsit5, jit": (diffrax, {}),
    "ours tsit5": (ours, {}),
    "ours tsit5, compiled": (ours, {"compile": True}),
    "ours dopri5": (ours, {"method": "dopri5"}),
    "ours dopri5, compiled": (ours, {"method": "dopri5", "compile": True}),
    "ours tsit5, joint": (ours, {"step_mode": "joint"}),
    "ours dopri5, joint": (ours, {"step_mode": "joint", "method": "dopri5"}),
}
DIRECT: dict[str, Row] = {
    name: FORWARD[name] for name in FORWARD if name not in ("torchode tsit5, compiled", "ours dopri5, joint")
}
BOUNDED: dict[str, Row] = {
    "torchdiffeq odeint_adjoint": (torchdiffeq, {"adjoint": True}),
    "torchode backsolve": (torchode, {"adjoint": True}),
    "diffrax checkpointed, jit": (diffrax, {}),
    "ours direct": (ours, {}),
    "ours checkpointed": (ours, {"adjoint": "checkpointed"}),
    "ours reversible": (ours, {"adjoint": "reversible"}),
    "ours backsolve": (ours, {"adjoint": "backsolve"}),
    "ours reversible, compiled": (ours, {"adjoint": "reversible", "compile": True}),
    "ours backsolve, compiled": (ours, {"adjoint": "backsolve", "compile": True}),
}


@dataclass(frozen=True)
class Case:
    """What is measured together: a problem, its rows, with or without the backward pass, and the row that others are compared with.

    `resized` is another number of samples and queries in the same power-of-two buckets: there a compiled solve is to compile nothing.
    """

    problem: str
    rows: dict[str, Row]
    base: str
    with_gradient: bool = False
    resized: tuple[int, int] | None = None


CASES = {
    "A": Case("A", FORWARD, "torchdiffeq dopri5", resized=(200, 2)),
    "B": Case("B", FORWARD, "torchdiffeq dopri5", resized=(200, 2)),
    "C": Case("C", FORWARD, "torchdiffeq dopri5", resized=(50, 60)),
    "D": Case("D", FORWARD, "torchdiffeq dopri5", resized=(40, 7)),
    "E": Case("E", FORWARD, "torchdiffeq dopri5"),
    "C-direct": Case("C", DIRECT, "torchdiffeq dopri5", with_gradient=True, resized=(50, 60)),
    "C-bounded": Case("C", BOUNDED, "torchdiffeq odeint_adjoint", with_gradient=True),
}
EQUAL_ERROR = "equal-error"

EAGER, COMPILED = "ours tsit5", "ours tsit5, compiled"
TARGETS = [
    Target("A", EAGER, "speedup", ">=", 4.0),
    Target("A", COMPILED, "speedup", ">=", 20.0),
    Target("A", COMPILED, "times_diffrax", "<=", 2.0, is_beyond=True),
    Target("B", EAGER, "speedup", ">=", 2.0),
    Target("B", COMPILED, "speedup", ">=", 8.0),
    Target("B", COMPILED, "times_diffrax", "<=", 2.0, is_beyond=True),
    Target("C", EAGER, "speedup", ">=", 2.5),
    Target("C", EAGER, "overhead", "<=", 3.5),
    Target("C", COMPILED, "speedup", ">=", 6.0),
    Target("C", COMPILED, "overhead", "<=", 1.6),
    Target("D", EAGER, "overhead", "<=", 1.4),
    Target("D", COMPILED, "overhead", "<=", 1.15),
    Target("C-direct", EAGER, "speedup", ">=", 1.5),
    Target("C-direct", EAGER, "overhead", "<=", 2.5),
    Target("C-direct", COMPILED, "speedup", ">=", 4.0),
    Target("C-bounded", "ours reversible", "speedup", ">=", 5.0),
    Target("C-bounded", "ours reversible", "times_direct", "<=", 2.5),
    Target("C-bounded", "ours backsolve", "overhead", "<=", 6.0),
    *(Target(name, COMPILED, "first_call_s", "<=", 15.0) for name, case in CASES.items() if case.resized),
    *(Target(name, COMPILED, "graphs_for_resized", "<=", 0.0) for name, case in CASES.items() if case.resized),
    Target(EQUAL_ERROR, "A", "nfe_over_torchode", "<=", 1.05),
    Target(EQUAL_ERROR, "B", "nfe_over_torchode", "<=", 1.05),
]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="our engine beside torchdiffeq, torchode and diffrax")
    known = [*CASES, EQUAL_ERROR]
    parser.add_argument("--out", type=Path, help="JSON file to write")
    default = ",".join(name for name in known if name != "E")
    parser.add_argument("--cases", default=default, help="which, with commas between; E is for a GPU")
    parser.add_argument("--repeats", type=int, default=15, help="rounds of interleaved readings")
    parser.add_argument("--seconds", type=float, default=15.0, help="no new round of a case starts after this")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu leaves out what other processes take")
    parser.add_argument("--device", default="cpu", help="where torch solves; targets are for the CPU")
    parser.add_argument(
        "--skip", default="", help="leave out rows whose name holds a word of this list, as in compiled,diffrax"
    )
    options = parser.parse_args()
    chosen = options.cases.split(",")
    if unknown := sorted(set(chosen) - set(known)):
        parser.error(f"there is no case {', '.join(unknown)}; give some of {', '.join(known)}")
    torch.set_num_threads(1)
    words = [word for word in options.skip.split(",") if word]
    result: dict[str, Any] = {"machine": machine(), "clock": options.clock, "tolerance": TOL, "cases": {}}
    problems = make_problems()
    with tempfile.TemporaryDirectory() as cache:
        for name in (name for name in chosen if name in CASES):
            rows = {row: make for row, make in CASES[name].rows.items() if not any(word in row for word in words)}
            case = measure(CASES[name], problems[CASES[name].problem], rows, options, cache)
            result["cases"][name] = case
            report.print_case(name, case)
    if EQUAL_ERROR in chosen:
        rows = {name: compare_at_equal_error(problems[name], options.clock) for name in ("A", "B")}
        result["cases"][EQUAL_ERROR] = {"rows": rows, "skipped": {}}
        report.print_equal_error(rows)
    if options.device == "cpu":
        result["targets"] = report.print_targets(TARGETS, result["cases"])
    result["machine"]["load_at_the_end"] = os.getloadavg()
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(
    case: Case, problem: Problem, rows: dict[str, Row], options: argparse.Namespace, cache: str
) -> dict[str, Any]:
    """Run one case: errors and calls of every row, then all of them in turn against the clock."""
    exact = exact_states(problem)
    exact_gradient = exact_gradients(problem) if case.with_gradient else None
    problem = problem.to(options.device)
    ways, found, skipped = {}, {}, {}
    for name, row in rows.items():
        report.say(f"{problem.about}: {name}")
        try:
            with cold_cache(cache) if row[0] is ours else kept_cache():
                ways[name], found[name] = examine(case, problem, row, exact, exact_gradient)
        except Exception as error:  # what one library lacks must not cost the figures of the others
            ways.pop(name, None)
            skipped[name] = report.reason(error)
    bare = {}
    for kind in sorted({way.bare for way in ways.values() if way.bare} | {"eager"}):
        bare[kind] = bare_call(problem, with_gradient=case.with_gradient, compile=kind == "compiled")
        bare[kind]()
    runs = {name: way.run for name, way in ways.items()} | {f"bare {kind}": call for kind, call in bare.items()}
    timed = interleave(runs, options.repeats, options.seconds, options.clock)
    for name, way in ways.items():
        found[name] |= compare(timed["seconds"], name, case.base, way.bare, found[name]["nfe"])
    return {
        "about": problem.about + (", forward and backward" if case.with_gradient else ""),
        "base": case.base,
        "rounds": len(timed["seconds"]["bare eager"]),
        "load": describe_load(timed["cpu_share"]),
        "bare_us": {kind: 1e6 * statistics.median(timed["seconds"][f"bare {kind}"]) for kind in bare},
        "rows": found,
        "skipped": skipped,
    }


def examine(
    case: Case, problem: Problem, row: Row, exact: np.ndarray, exact_gradient: np.ndarray | None
) -> tuple[Way, dict[str, Any]]:
    """Call one row for the first time, by the clock where that compiles; take its errors and its calls of the field."""
    library, settings = row
    way = library(problem, TOL, with_gradient=case.with_gradient, **settings)
    n_graphs = count_graphs()
    start = time.perf_counter()
    result = way.run()
    found: dict[str, Any] = {"first_call_s": time.perf_counter() - start} if way.is_compiled else {}
    error_B = sample_errors(way.states(result), exact)
    found |= {"worst_error": float(error_B.max()), "median_error": float(np.median(error_B))}
    if exact_gradient is not None:
        off = way.gradients(result) - exact_gradient
        found["gradient_error"] = float(np.linalg.norm(off) / np.linalg.norm(exact_gradient))
    # A backward pass calls the field too: what counts is the forward pass alone, the same for every route.
    found["nfe"] = way.nfe(result) if way.nfe else count_calls(problem, library(problem, TOL, **settings).run)
    if way.is_compiled and library is ours:
        found["graphs"] = count_graphs() - n_graphs
        if case.resized:
            again = library(problem.resized(*case.resized), TOL, with_gradient=case.with_gradient, **settings)
            n_graphs, start = count_graphs(), time.perf_counter()
            again.run()
            found["resized_first_call_s"] = time.perf_counter() - start
            found["graphs_for_resized"] = count_graphs() - n_graphs
    return way, found


def compare(seconds: dict[str, list[float]], name: str, base: str, bare: str | None, nfe: int) -> dict[str, float]:
    """Give a row's time, and its ratios to other rows and to bare calls, each the median over the rounds."""
    own = seconds[name]
    found = {"ms": 1e3 * statistics.median(own), "ms_fastest": 1e3 * min(own)}
    if base in seconds:
        found["speedup"] = ratio(seconds[base], own)
    for figure, other in (("times_diffrax", "diffrax tsit5, jit"), ("times_direct", "ours direct")):
        if other in seconds:
            found[figure] = ratio(own, seconds[other])
    if bare:
        found["overhead"] = ratio(own, seconds[f"bare {bare}"]) / nfe
        found["overhead_over_eager_calls"] = ratio(own, seconds["bare eager"]) / nfe
    return found


def exact_gradients(problem: Problem) -> np.ndarray:
    """Give the gradient in float64 at 1e-11, of `y0` and the parameters in one vector: by torchdiffeq's dopri8, else by our tsit5."""
    exact = problem.in_float64()
    try:
        way = torchdiffeq(exact, 1e-11, with_gradient=True, method="dopri8")
    except ImportError:
        way = ours(exact, 1e-11, with_gradient=True)
    return way.gradients(way.run())


def count_graphs() -> int:
    """Give how many graphs torch.compile has compiled in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@contextmanager
def cold_cache(folder: str) -> Iterator[None]:
    """Let the compiler find nothing on disk that an earlier run has left, so that a first call is a cold one."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = folder
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name)
        else:
            os.environ[name] = before


@contextmanager
def kept_cache() -> Iterator[None]:
    """Leave the compiler its cache: of the peers' compilation time we claim nothing."""
    yield


def compare_at_equal_error(problem: Problem, clock: str) -> dict[str, Any]:
    """Give calls and milliseconds of three libraries where the error of the worst sample is the same.

    Each solves at tolerances from 1e-4 to 1e-8, in float64 so that rounding is no part of the error; between these, log(calls) and log(ms)
    are read off as straight lines of log(error), at five errors that both per-sample libraries reach.
    """
    exact, problem = exact_states(problem), problem.in_float64()
    curves: dict[str, dict[str, list[float]]] = {}
    for name, library in (("torchdiffeq", torchdiffeq), ("torchode", torchode), ("ours", ours)):
        report.say(f"at equal error, {problem.about}: {name}")
        try:
            curves[name] = sweep(library, problem, exact, clock)
        except Exception as error:  # as above
            print(f"  equal error: {name} left out: {report.reason(error)}")
    found: dict[str, Any] = {"about": problem.about + ", float64", "curves": curves}
    if "ours" not in curves or "torchode" not in curves:
        return found
    per_sample = [curves["ours"]["error"], curves["torchode"]["error"]]
    levels = np.geomspace(max(map(min, per_sample)), min(map(max, per_sample)), 5)
    at = {
        name: {figure: read_curve(curve, figure, levels) for figure in ("nfe", "ms")} for name, curve in curves.items()
    }
    found["error"] = levels.tolist()
    found["at_equal_error"] = at
    for name in ("torchode", "torchdiffeq"):
        for figure in ("nfe", "ms") if name in at else ():
            logs = np.log(np.asarray(at["ours"][figure]) / np.asarray(at[name][figure]))
            found[f"{figure}_over_{name}"] = float(np.exp(np.nanmean(logs)))
    return found


def sweep(library: Callable[..., Way], problem: Problem, exact: np.ndarray, clock: str) -> dict[str, list[float]]:
    """Solve at five tolerances; give error of the worst sample, calls of the field, and the median milliseconds of three."""
    curve: dict[str, list[float]] = {"tolerance": [], "error": [], "nfe": [], "ms": []}
    for tol in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
        way = library(problem, tol)
        error_B = sample_errors(way.states(way.run()), exact)
        nfe, timed = count_calls(problem, way.run), interleave({"it": way.run}, 3, 0.0, clock)["seconds"]["it"]
        for values, figure in zip(
            curve.values(), (tol, error_B.max(), nfe, 1e3 * statistics.median(timed)), strict=True
        ):
            values.append(float(figure))
    return curve


def read_curve(curve: dict[str, list[float]], figure: str, levels: np.ndarray) -> list[float]:
    """Read a figure off its curve at the given errors; NaN beyond its ends."""
    order = np.argsort(curve["error"])
    error, value = np.log(np.asarray(curve["error"])[order]), np.log(np.asarray(curve[figure])[order])
    return np.exp(np.interp(np.log(levels), error, value, left=np.nan, right=np.nan)).tolist()


if __name__ == "__main__":
    main()
