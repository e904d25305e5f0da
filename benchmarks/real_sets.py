"""Our default model beside its three baselines on real tables, no setting touched: `python benchmarks/real_sets.py [FOLDER] [--out FILE]`.

FOLDER (left out: $LATENTODE_DATA, else ../shared/data) holds `epa_air.csv.gz`, `ilinet.csv.gz` and `repohealth.csv.gz`. Each is fitted
with several seeds; the figure is the macro MSE on the held-out test part in training deviations, its ratio to the best baseline, and the
seconds of a fit.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from latentode.data.settings import DataSettings
from latentode.models import LatentODE
from latentode.training import FitSettings, fit_network

NAMES = ("epa_air", "ilinet", "repohealth")


def measure(path: Path, n_seeds: int) -> dict[str, Any]:
    """Fit one table with each seed."""
    runs = []
    for seed in range(n_seeds):
        with tempfile.TemporaryDirectory() as folder:
            settings, fit = DataSettings(path=str(path)), FitSettings(seed=seed, device="cpu")
            runs.append(fit_network(LatentODE(), settings, fit, Path(folder), show_progress=False)[1])
    mse = [run["test"]["mse"] for run in runs]
    baselines = {name: row["mse"] for name, row in runs[0]["test"]["baselines"].items()}
    return {
        "horizon": runs[0]["horizon"],
        "n_windows": runs[0]["test"]["n_windows"],
        "mse": {"mean": float(np.mean(mse)), "sd": float(np.std(mse, ddof=1)) if n_seeds > 1 else 0.0, "seeds": mse},
        "baselines": baselines,
        "ratio_to_best_baseline": float(np.mean(mse)) / min(baselines.values()),
        "coverage_80": float(np.mean([run["test"]["coverage_80"] for run in runs])),
        "seconds": [run["seconds"] for run in runs],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=os.environ.get("LATENTODE_DATA", "../shared/data"))
    parser.add_argument("--n_seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not Path(options.folder).is_dir():
        print(f"there is no folder {options.folder} of real tables; name one to run this benchmark")
        return
    result = {}
    for name in NAMES:
        result[name] = measure(Path(options.folder) / f"{name}.csv.gz", options.n_seeds)
        print(json.dumps({name: result[name]}), flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
