"""Seconds, megabytes per second and peak memory of forecasting a large panel from a Parquet folder to a file.

Makes the panel, fits a latent ODE on some of its series, and runs `latentode forecast` as a process of its own, whose resident memory, with
that of all processes below it, is looked at ten times a second.

    python benchmarks/panel.py [--series 1000000] [--engine local] [--suffix .csv] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import torch

ROWS = 50  # of a series
PER_FILE, ROWS_PER_GROUP = 100_000, 250_000
FITTED = 400  # series that the model is fitted on
HORIZON, EVERY = 10.0, 5.0


def main() -> None:
    """Measure one engine and print what came out."""
    parser = argparse.ArgumentParser(description="throughput and peak memory of forecasting a large panel")
    parser.add_argument("--series", type=int, default=1_000_000, help="of the panel (%(default)s)")
    parser.add_argument("--model", default="latent_ode", help="short name, or a YAML file (%(default)s)")
    parser.add_argument("--engine", default="local", help="of the forecast (%(default)s)")
    parser.add_argument("--suffix", default=".csv", help="of the file that is written (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to make panel and run, which are kept (a temporary folder)")
    parser.add_argument("--out", type=Path, help="JSON file, to which the figures are added")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        panel, run = folder / f"panel-{options.series}", folder / f"run-{Path(options.model).stem}"
        if not panel.is_dir():
            make_panel(panel, options.series)
        if not run.is_dir():
            fit(panel, run, options.model)
        record = measure(panel, run, folder / f"forecast{options.suffix}", options.engine)
    record = {
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "model": Path(options.model).stem,
        "engine": options.engine,
        "series": options.series,
        "rows_per_series": ROWS,
        "queries_per_series": int(HORIZON / EVERY),
        "suffix": options.suffix,
        **record,
        "series_per_second": round(options.series / record["seconds"], 1),
        "history_mb_per_second": round(record["history_mb"] / record["seconds"], 3),
        "forecast_mb_per_second": round(record["forecast_mb"] / record["seconds"], 3),
    }
    print(json.dumps(record, indent=2))
    if options.out:
        held = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else []
        options.out.write_text(json.dumps([*held, record], indent=2) + "\n", encoding="utf-8")


def make_panel(folder: Path, n_series: int) -> None:
    """Write waves of uneven periods, seen at uneven times, with noise."""
    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, n_series, PER_FILE)):
        rng = np.random.default_rng([0, number])
        n = min(PER_FILE, n_series - first)
        time = (0.1 + rng.exponential(0.9, (n, ROWS))).cumsum(axis=1).round(3)
        period, phase, level = rng.uniform(8, 24, (n, 1)), rng.uniform(0, 2 * np.pi, (n, 1)), rng.normal(0, 2, (n, 1))
        value = level + np.sin(2 * np.pi * time / period + phase) + rng.normal(0, 0.2, (n, ROWS))
        columns = {
            "series_id": np.repeat(np.arange(first, first + n), ROWS),
            "time": time.reshape(-1),
            "value": value.astype(np.float32).reshape(-1),
        }
        pa_parquet.write_table(pa.table(columns), folder / f"part-{number:03d}.parquet", row_group_size=ROWS_PER_GROUP)


def fit(panel: Path, run: Path, model: str) -> None:
    """Fit on the first series of the panel, briefly: what is measured does not depend on how well."""
    from latentode import Forecaster

    file = pa_parquet.ParquetFile(min(panel.glob("*.parquet")))
    head = file.read_row_group(0).slice(0, FITTED * ROWS).to_pandas()
    forecaster = Forecaster(model, horizon=HORIZON, max_epochs=2, windows_per_epoch=512, max_history=64, seed=0)
    forecaster.fit(head).save(run)


def measure(panel: Path, run: Path, out: Path, engine: str) -> dict[str, Any]:
    """Run the forecast and give seconds, peak memory and sizes."""
    command = [
        sys.executable,
        "-m",
        "latentode.cli",
        "forecast",
        run,
        "--history",
        panel,
        "--every",
        str(EVERY),
        "--out",
        out,
    ]
    command += [] if engine == "local" else ["--engine", engine]
    start, peak, before = time.perf_counter(), 0, resource.getrusage(resource.RUSAGE_CHILDREN)
    process = psutil.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        peak = max(peak, resident(process))
        time.sleep(0.1)
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"the forecast ended with status {process.returncode}")
    return {
        "seconds": round(seconds, 1),
        # Of the processors, which does not grow where others use the machine, too.
        "cpu_seconds": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_mb": round(peak / 1e6),
        "history_mb": round(sum(file.stat().st_size for file in panel.glob("*.parquet")) / 1e6, 1),
        "forecast_mb": round(out.stat().st_size / 1e6, 1),
        "said": process.stdout.read().strip(),
    }


def resident(process: psutil.Process) -> int:
    """Give the bytes that a process and those below it hold in memory."""
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        pass
    return total


if __name__ == "__main__":
    main()
