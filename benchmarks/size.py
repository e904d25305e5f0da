"""Seconds and peak memory of reading, fitting and training on a large table, as multiples of the table's own bytes.

Each stage runs in a fresh process, so that its peak is its own. The bare import of what a fit imports is measured beside them: the
target is a peak below that footprint plus 3 times the table (times, values, starts and ids).

    python benchmarks/size.py [--rows 10000000] [--series 100000] [--format parquet] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

N_CHANNELS, SHARE_OBSERVED = 4, 0.7
AT_ONCE = 1_000_000
LIMIT = 3.0  # times the table's bytes, beside the import
STAGES = ("import", "read", "blend", "latent_ode", "streamed")


def main() -> None:
    """Measure every stage and print one line for each."""
    parser = argparse.ArgumentParser(description="seconds and peak memory of fits on a large table")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the table")
    parser.add_argument("--series", type=int, default=100_000, help="series of the table")
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet", help="of the file that is read")
    parser.add_argument("--windows", type=int, default=2048, help="windows per epoch")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to make the table (left out: a temporary folder)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(run_stage(options.stage, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        source = make_table(options)
        # Ids as the machine's integers: what Python objects take above that is part of what is measured.
        table_mb = (options.rows * 8 * (1 + N_CHANNELS) + options.series * 16) / 1e6
        print(
            f"{options.rows:,} rows, {options.series:,} series: table {table_mb:.0f} MB, file {size_mb(source):.0f} MB"
        )
        stages = [measure(stage, source, options) for stage in dict.fromkeys(["import", *options.stages.split(",")])]
    base = stages[0]["peak_mb"]
    for stage in stages:
        stage["times_table"] = round((stage["peak_mb"] - base) / table_mb, 2)
        print(
            "{stage:11} {seconds:8.1f} s {peak_mb:8.0f} MB peak, {times_table:.2f} x table above the import".format(
                **stage
            )
        )
    if options.out:
        report = {
            "machine": platform.platform(),
            "cores": os.cpu_count(),
            "rows": options.rows,
            "series": options.series,
            "format": options.format,
            "windows_per_epoch": options.windows,
            "table_mb": round(table_mb, 1),
            "limit_times_table": LIMIT,
            "stages": stages,
        }
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def make_table(options: argparse.Namespace) -> Path:
    """Write the table part by part: uneven stamps, slow waves with noise, gaps."""
    path = options.folder / f"table.{options.format}"
    if path.exists():
        return path
    writer: Any = None
    n_rows = options.rows // options.series
    at_once = max(AT_ONCE // n_rows, 1)
    rng = np.random.default_rng(0)
    for first in range(0, options.series, at_once):
        series = np.arange(first, min(first + at_once, options.series))
        time_SN = np.cumsum(rng.exponential(1.0, (len(series), n_rows)).round(3) + 0.001, axis=1)
        phase = rng.uniform(0, 6, (len(series), 1, N_CHANNELS))
        values = np.sin(time_SN[..., None] / 4 + phase) + 0.1 * rng.normal(size=(*time_SN.shape, N_CHANNELS))
        values[rng.random(values.shape) > SHARE_OBSERVED] = np.nan
        frame = pd.DataFrame({"series_id": np.repeat(series, n_rows), "time": time_SN.ravel()})
        frame[[f"x{c}" for c in range(N_CHANNELS)]] = values.reshape(-1, N_CHANNELS).round(4)
        part = pa.Table.from_pandas(frame, preserve_index=False)
        if writer is None:
            make: Any = pa_parquet.ParquetWriter if options.format == "parquet" else pa_csv.CSVWriter
            writer = make(path, part.schema)
        writer.write_table(part)
    writer.close()
    return path


def size_mb(path: Path) -> float:
    """Give the size of a file."""
    return path.stat().st_size / 1e6


def measure(stage: str, source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one stage in a fresh process."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(source), "--windows", str(options.windows)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{stage} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return {"stage": stage, **json.loads(done.stdout.splitlines()[-1])}


def run_stage(stage: str, options: argparse.Namespace) -> dict[str, Any]:
    """Do what the stage names, in this process."""
    import latentode.training.fitting  # noqa: F401  the footprint that every fit has
    from latentode import Forecaster, read_table

    start = time.perf_counter()
    keywords: dict[str, Any] = {
        "max_epochs": 1,
        "windows_per_epoch": options.windows,
        "device": "cpu",
        "show_progress": False,
    }
    if stage == "read":
        read_table(options.folder)
    elif stage in ("blend", "latent_ode"):
        Forecaster(stage, **keywords).fit(options.folder)
    elif stage == "streamed":
        Forecaster("latent_ode", streaming=True, **keywords).fit(options.folder)
    return {"seconds": round(time.perf_counter() - start, 2), "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Give the largest resident size that this process had."""
    # Not `getrusage`: on Linux its figure survives from the process that started this one.
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(lines["VmHWM"].split()[0]) * 1024 / 1e6, 1)


if __name__ == "__main__":
    main()
