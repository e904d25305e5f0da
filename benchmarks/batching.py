"""Windows per second through `WindowReader.read`, one core: `python benchmarks/batching.py [--out FILE]`.

The yardstick is a plain NumPy copy of the same bytes, interleaved in the same run, so that the ratio holds on another machine.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd

from latentode.data.batch import Batch, WindowReader
from latentode.data.scaling import Scaler
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from latentode.data.windows import Spans, make_split, training_windows


def make_frame(n_series: int, n_rows: int, seed: int = 0) -> pd.DataFrame:
    """Give series with uneven stamps and two channels, half of the cells observed."""
    rng = np.random.default_rng(seed)
    time_SN = np.cumsum(rng.exponential(1.0, (n_series, n_rows)), axis=1)
    values = rng.normal(size=(n_series * n_rows, 2))
    values[rng.random(values.shape) < 0.5] = np.nan
    frame = pd.DataFrame({"series_id": np.repeat(np.arange(n_series), n_rows), "time": time_SN.ravel()})
    return frame.assign(a=values[:, 0], b=values[:, 1])


def n_bytes(batch: Batch) -> int:
    """Give the size of a batch."""
    return sum(x.nbytes for x in vars(batch).values() if hasattr(x, "nbytes"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = read_table(make_frame(2_000, 200))
    # A history of some 70 rows of two half-observed channels: 50 observed values per window, beside those to forecast.
    settings = DataSettings(horizon=5.0, history=70.0)
    split, spans = make_split(table, settings), Spans.of(table, settings)
    reader = WindowReader(table, Scaler.fit(table, split, spans.horizon), max_history=512)
    windows = training_windows(table, split, spans, np.random.default_rng(0), 20_000)
    parts = np.array_split(np.arange(len(windows)), len(windows) // 64)
    tokens = float(np.mean(reader.count_tokens(windows)))
    read_s, copy_s = [], []
    for _ in range(5):
        start = time.perf_counter()
        sizes = [n_bytes(reader.read(windows.take(part))) for part in parts]
        read_s.append(time.perf_counter() - start)
        source = [np.zeros(size, np.uint8) for size in sizes]
        start = time.perf_counter()
        for array in source:
            array.copy()
        copy_s.append(time.perf_counter() - start)
    result = {
        "windows_per_second": len(windows) / min(read_s),
        "target_windows_per_second": 50_000,
        "tokens_per_window": tokens,
        "ratio_to_copying_the_bytes": min(read_s) / min(copy_s),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
