"""How long reading and checking a table takes, as a multiple of pandas' fastest reader on the same file.

`pandas.read_csv(engine="pyarrow")` parses the text and stops there. `read_table` also decompresses, refuses ragged rows, NUL bytes, doubled
names and text in numbers, reads the times, sorts, and counts. The two take turns within one run, so that whatever else the machine does
meets both; the ratio of their medians is what to compare between machines.

    python benchmarks/reading.py [--data ../shared/data] [--repeats 5] [--out reading.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from latentode.data.tables import read_table

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure every file and print one line for each."""
    parser = argparse.ArgumentParser(
        description="time of read_table as a multiple of pandas.read_csv(engine='pyarrow')"
    )
    default = Path(os.environ.get("LATENTODE_DATA") or ROOT.parent / "shared" / "data")
    parser.add_argument(
        "--data", type=Path, default=default, help="folder of real CSV files, left out where it is absent"
    )
    parser.add_argument("--rows", type=int, default=500_000, help="rows of the made tables")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each reader on each file")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        files = made_files(Path(folder), options.rows)
        if options.data.is_dir():
            files += sorted(options.data.glob("*.csv.gz"))
        else:
            print(f"{options.data} is absent: real files are left out")
        print(f"{'file':24} {'MB':>7} {'pandas s':>9} {'ours s':>9} {'ratio':>7}")
        for path in files:
            results.append(measure(path, options.repeats))
            print(
                "{file:24} {megabytes:7.1f} {pandas_seconds:9.3f} {ours_seconds:9.3f} {ratio:7.2f}".format(
                    **results[-1]
                )
            )
    if options.out:
        report = {"machine": platform.platform(), "cores": os.cpu_count(), "repeats": options.repeats, "files": results}
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def made_files(folder: Path, n_rows: int) -> list[Path]:
    """Write tables that differ in what costs time: numbers as times, dates, dates with offsets, and a column of text."""
    rng = np.random.default_rng(0)
    hours = np.arange(n_rows) % 1000
    stamps = pd.Series(pd.Timestamp("2026-01-01") + pd.to_timedelta(hours, unit="h")).astype(str)
    frame = pd.DataFrame({"series_id": np.arange(n_rows) // 1000, "time": hours})
    frame[["a", "b", "c"]] = np.where(rng.random((n_rows, 3)) < 0.3, np.nan, rng.normal(size=(n_rows, 3)).round(4))
    tables = {
        "numbers": frame,
        "dates": frame.assign(time=stamps),
        "offsets": frame.assign(time=stamps + "+02:00"),
        "text": frame.assign(site="north"),
        "shuffled": frame.sample(frac=1, random_state=0),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return [folder / f"{name}.csv" for name in tables]


def measure(path: Path, repeats: int) -> dict[str, str | float]:
    """Read one file with both readers in turn, after one run of each that is not counted."""
    readers: dict[str, Callable[[], object]] = {
        "pandas": lambda: pd.read_csv(path, engine="pyarrow"),
        "ours": lambda: read_table(path),
    }
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(repeats + 1):
        for name, read in readers.items():
            start = time.perf_counter()
            read()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(runs[1:]) for name, runs in seconds.items()}
    return {
        "file": path.name,
        "megabytes": path.stat().st_size / 1e6,
        "pandas_seconds": median["pandas"],
        "ours_seconds": median["ours"],
        "ratio": median["ours"] / median["pandas"],
    }


if __name__ == "__main__":
    main()
