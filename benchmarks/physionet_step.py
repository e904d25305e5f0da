"""Seconds per training iteration on intensive-care stays: `python benchmarks/physionet_step.py [FOLDER] [--out FILE]`.

FOLDER (left out: $LATENTODE_DATA, else ../shared/data) holds `physionet2012.csv.gz`, the tidy table of the PhysioNet Challenge 2012. Batch
of 50 stays, 24 hours ahead, forward, backward and optimiser step, with the encoder, dynamics and decoder of the defaults; the first five
iterations are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from latentode.data.batch import WindowReader
from latentode.data.scaling import Scaler
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from latentode.data.windows import Spans, make_split, training_windows
from latentode.models import AttentionEncoder, LatentODE, ODERNNEncoder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=os.environ.get("LATENTODE_DATA", "../shared/data"))
    parser.add_argument("--n_series", type=int, default=2_000)
    parser.add_argument("--n_iterations", type=int, default=40)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    path = Path(options.folder) / "physionet2012.csv.gz"
    if not path.is_file():
        print(f"there is no {path}; name its folder to run this benchmark")
        return
    frame = pd.read_csv(path)
    frame = frame[frame["series_id"].isin(frame["series_id"].drop_duplicates()[: options.n_series])]
    table = read_table(frame)
    settings = DataSettings(horizon=24.0, split="series", batch_size=50)
    split, spans = make_split(table, settings), Spans.of(table, settings)
    reader = WindowReader(table, Scaler.fit(table, split, spans.horizon), max_history=settings.max_history)
    windows = training_windows(table, split, spans, np.random.default_rng(0), 50 * options.n_iterations)
    result = {}
    for encoder in (AttentionEncoder(), ODERNNEncoder()):
        torch.manual_seed(0)
        model = LatentODE(encoder=encoder)
        model.setup(table.schema)
        model.prepare([reader.read(windows.take(np.arange(500)))])
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
        seconds = []
        for i in range(options.n_iterations):
            start = time.perf_counter()
            loss = model.loss(reader.read(windows.take(np.arange(50 * i, 50 * i + 50))))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seconds.append(time.perf_counter() - start)
        result[type(encoder).__name__] = {"median_s": float(np.median(seconds[5:])), "worst_s": float(max(seconds[5:]))}
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
