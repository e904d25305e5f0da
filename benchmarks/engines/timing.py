"""Interleaved timing, and what is said of the machine beside it."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

# A single reading is at least so long: faster runs are repeated within it.
SECONDS_PER_READING = 0.005
PEERS = ("torch", "torchdiffeq", "torchode", "diffrax", "jax", "jaxlib")


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def interleave(
    runs: dict[str, Callable[[], Any]], n_repeats: int, max_seconds: float, clock: str = "wall"
) -> dict[str, Any]:
    """Time all in turn, round after round, each round in another order.

    Args:
        runs: what to time, by name; each has run once already.
        n_repeats: rounds.
        max_seconds: no new round starts after this, once there are five (or `n_repeats`, if fewer).
        clock: "wall", or "cpu": the processor time of this process, which leaves out what other processes take on a busy machine.

    Returns:
        `seconds`, by name one reading per round; `cpu_share`, the processor time of this process as a share of the time that passed: below
        0.95 it was kept waiting.
    """
    n_inner = {
        name: max(1, round(SECONDS_PER_READING / max(_time(run, 1, time.perf_counter), 1e-7)))
        for name, run in runs.items()
    }
    names, seconds = list(runs), {name: [] for name in runs}
    started, started_cpu = time.perf_counter(), time.process_time()
    for i_round in range(n_repeats):
        if i_round >= 5 and time.perf_counter() - started > max_seconds:
            break
        first = i_round % len(names)
        gc.collect()
        gc.disable()
        for name in names[first:] + names[:first]:
            seconds[name].append(_time(runs[name], n_inner[name], CLOCKS[clock]))
        gc.enable()
    passed = time.perf_counter() - started
    return {"seconds": seconds, "cpu_share": (time.process_time() - started_cpu) / passed}


def _time(run: Callable[[], Any], n: int, now: Callable[[], float]) -> float:
    start = now()
    for _ in range(n):
        run()
    return (now() - start) / n


def ratio(above: list[float], below: list[float]) -> float:
    """Give the median over the rounds of one time over another: what slows a whole round cancels."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def machine() -> dict[str, Any]:
    """Say where the figures come from."""
    versions = {}
    for name in PEERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {"platform": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg(), "versions": versions}


def describe_load(cpu_share: float) -> str:
    """Say how busy the machine was."""
    busy = " (a busy machine: trust ratios, not milliseconds, or take --clock cpu)" if cpu_share < 0.95 else ""
    return f"load {os.getloadavg()[0]:.1f}, processor had for {100 * cpu_share:.0f} % of the time{busy}"
