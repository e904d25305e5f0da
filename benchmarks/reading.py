"""How long reading and checking a table takes, as a multiple of pandas' fastest reader on the same file, and how much memory it takes.

`pandas.read_csv(engine="pyarrow")` and `pandas.read_parquet` parse and stop there. `read_table` also refuses ragged rows, NUL bytes,
doubled names and text in numbers, reads the times, sorts, and counts. The two take turns within one run, so that whatever else the
machine does meets both; the ratio of their medians is what to compare between machines. Memory is the growth of the largest resident
size in a process of its own, as a multiple of the table that is left (times and values); some 30 MB of it are alike for every table.

    python benchmarks/reading.py [--rows 1000000] [--data ../shared/data] [--repeats 5] [--out reading.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from latentode.data.tables import read_table

ROOT = Path(__file__).resolve().parents[1]
LINE = (
    "{file:24} {megabytes:7.1f} {pandas_seconds:9.3f} {ours_seconds:9.3f} {ratio:6.2f} "
    "{cpu_ratio:10.2f} {table_mb:9.0f} {memory_ratio:7.2f}"
)


def main() -> None:
    """Measure every file and print one line for each."""
    parser = argparse.ArgumentParser(description="time and memory of read_table beside those of pandas")
    default = Path(os.environ.get("LATENTODE_DATA") or ROOT.parent / "shared" / "data")
    parser.add_argument(
        "--data", type=Path, default=default, help="folder of real CSV files, left out where it is absent"
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the made tables")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each reader on each file")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(measure_memory(options.memory)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        files = made_files(Path(folder), options.rows)
        if options.data.is_dir():
            files += sorted(options.data.glob("*.csv.gz"))
        else:
            print(f"{options.data} is absent: real files are left out")
        print(
            f"{'file':24} {'MB':>7} {'pandas s':>9} {'ours s':>9} {'ratio':>6} {'ratio CPU':>10} {'table MB':>9} {'memory':>7}"
        )
        for path in files:
            results.append(measure(path, options.repeats))
            print(LINE.format(**results[-1]), flush=True)
    if options.out:
        report = {"machine": platform.platform(), "cores": os.cpu_count(), "repeats": options.repeats, "files": results}
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def made_files(folder: Path, n_rows: int) -> list[Path]:
    """Write tables that differ in what costs time: numbers as times, dates, dates with offsets, a column of text, any order, Parquet."""
    rng = np.random.default_rng(0)
    hours = np.arange(n_rows) % 100
    stamps = pd.Series(pd.Timestamp("2026-01-01") + pd.to_timedelta(hours, unit="h"))
    texts = stamps.astype(str)
    frame = pd.DataFrame({"series_id": np.arange(n_rows) // 100, "time": hours / 4})
    frame[list("abcd")] = np.where(rng.random((n_rows, 4)) < 0.3, np.nan, rng.normal(size=(n_rows, 4)).round(4))
    tables = {
        "numbers": frame,
        "dates": frame.assign(time=texts),
        "offsets": frame.assign(time=texts + "+02:00"),
        "text": frame.assign(site="north"),
        "shuffled": frame.sample(frac=1, random_state=0),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    typed = frame.assign(time=stamps, series_id="s" + frame["series_id"].astype(str))
    typed.to_parquet(folder / "file.parquet", row_group_size=100_000)
    (folder / "folder").mkdir()
    for i, start in enumerate(range(0, n_rows, max(n_rows // 10, 1))):
        typed.iloc[start : start + max(n_rows // 10, 1)].to_parquet(folder / "folder" / f"{i:02d}.parquet")
    return [*(folder / f"{name}.csv" for name in tables), folder / "file.parquet", folder / "folder"]


def measure(path: Path, repeats: int) -> dict[str, str | float]:
    """Read one file with both readers in turn, after one run of each that is not counted."""
    is_csv = ".csv" in path.suffixes
    readers: dict[str, Callable[[], object]] = {
        "pandas": lambda: pd.read_csv(path, engine="pyarrow") if is_csv else pd.read_parquet(path),
        "ours": lambda: read_table(path),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for _ in range(repeats + 1):
        for name, read in readers.items():
            start = time.perf_counter(), time.process_time()
            read()
            seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = (
        {name: statistics.median(run[i] for run in runs[1:]) for name, runs in seconds.items()} for i in (0, 1)
    )
    command = [sys.executable, __file__, "--memory", str(path)]
    memory = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    size = path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())
    return {
        "file": path.name,
        "megabytes": size / 1e6,
        "pandas_seconds": wall["pandas"],
        "ours_seconds": wall["ours"],
        "ratio": wall["ours"] / wall["pandas"],
        "cpu_ratio": cpu["ours"] / cpu["pandas"],
        "table_mb": memory["table"] / 1e6,
        "memory_ratio": memory["growth"] / memory["table"],
    }


def measure_memory(path: Path) -> dict[str, int]:
    """Read a table in this process; gives its bytes and by how many the largest resident size grew (Linux)."""
    read_table(pd.DataFrame({"time": [1.0, 2.0], "a": [1.0, 2.0]}))
    with tempfile.TemporaryDirectory() as folder:
        # So that what the first reading loads is not counted.
        for small in made_files(Path(folder), 20):
            read_table(small, duplicates="mean")
    before = _resident("VmRSS")
    table = read_table(path)
    return {"table": table.time.nbytes + table.values.nbytes, "growth": _resident("VmHWM") - before}


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+([0-9]+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
