"""Seconds per training iteration and forecasts per second on PhysioNet 2012: `python benchmarks/training.py [FOLDER] [--out FILE]`.

FOLDER (left out: $LATENTODE_DATA, else ../shared/data) holds `physionet2012.csv.gz`. Windows are those of t-PatchGNN's rules, batches of 64
as training makes them. The models take turns on the same batches, round after round, so that whatever slows a round slows all of them;
a time is the median over the rounds, with threads as `--threads` says. An iteration is loss, gradient, clipping and optimiser step.

- `union`: one state per series and solver steps that end at every time stamp that any series of the batch is asked for, which is how
  public latent ODE code batches; the same field and decoder, so the difference is the grid alone.
- `peak_mb`: largest resident size of a process of its own that trains that model alone, the table included.
- forecasts: 2,048 series, 50 query times each in the last day, from histories of all channels in memory to quantiles; of one channel
  (`HR`), and of every channel that is forecast.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentode.data.batch import Batch, WindowReader
from latentode.data.datasets import protocols_of
from latentode.data.settings import DataSettings
from latentode.forecasting.benchmark import MIB, peak_memory
from latentode.forecasting.forecast import QUANTILES
from latentode.forecasting.predict import MAX_QUERIES_CPU, chunks
from latentode.metrics.quantiles import quantile
from latentode.models import (
    ODERNN,
    AttentionEncoder,
    AugmentedField,
    FlowDecoder,
    GaussianDecoder,
    GRUEncoder,
    GRUODEBayes,
    LatentODE,
    LinearField,
    MixtureDecoder,
    MLPField,
    NeuralCDE,
    NeuralFlow,
    ODERNNEncoder,
    SecondOrderField,
)
from latentode.models.recipe import Recipe
from latentode.models.residual import ResidualModel
from latentode.ode import FixedStep, solve
from latentode.training import Examples
from latentode.training.datamodule import ForecastingDataModule


class UnionField(MLPField):
    """Steps through all times that any series of the batch is asked for, with every series."""

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`."""
        union_U, place_BQ = torch.unique(t_BQ, return_inverse=True)
        solution = solve(
            self.field,
            z0_BD,
            union_U,
            t0=t0_B,
            args=(self.from_context(context_BE),),
            method="euler",
            controller=FixedStep(grid=union_U),
        )
        return solution.ys.gather(1, place_BQ[..., None].expand(-1, -1, z0_BD.shape[-1]))


def read_network(name: str) -> ResidualModel:
    """Build the network of a file in `configs/models/`."""
    model = Recipe.read(str(Path(__file__).parents[1] / "configs" / "models" / f"{name}.yaml")).build()
    assert isinstance(model, ResidualModel)
    return model


MODELS: dict[str, Callable[[], ResidualModel]] = {
    "default": LatentODE,
    "rk4": lambda: LatentODE(dynamics=MLPField(method="rk4", step_size=0.5)),
    "linear": lambda: LatentODE(dynamics=LinearField()),
    "linear, narrow": lambda: LatentODE(encoder=AttentionEncoder(32, n_layers=1), dynamics=LinearField()),
    "neural flow": lambda: LatentODE(dynamics=NeuralFlow()),
    "augmented": lambda: LatentODE(dynamics=AugmentedField()),
    "second order": lambda: LatentODE(dynamics=SecondOrderField()),
    "regularised": lambda: LatentODE(dynamics=MLPField(kinetic_energy=0.01, jacobian_norm=0.01)),
    "gaussian": lambda: LatentODE(decoder=GaussianDecoder()),
    "mixture": lambda: LatentODE(decoder=MixtureDecoder()),
    "flow": lambda: LatentODE(decoder=FlowDecoder()),
    "shared state": lambda: LatentODE(encoder=AttentionEncoder(states="series")),
    "odernn encoder": lambda: LatentODE(encoder=ODERNNEncoder()),
    "gru encoder": lambda: LatentODE(encoder=GRUEncoder()),
    "ode_rnn": ODERNN,
    "neural_cde": NeuralCDE,
    "gru_ode_bayes": GRUODEBayes,
    "rubanova": lambda: read_network("rubanova"),
    "shared state, union": lambda: LatentODE(encoder=AttentionEncoder(states="series"), dynamics=UnionField()),
}


def make(name: str, module: ForecastingDataModule, batches: list[Batch]) -> tuple[ResidualModel, torch.optim.Optimizer]:
    """Set a model up as a fit does."""
    torch.manual_seed(0)
    model = MODELS[name]()
    model.setup(module.examples.table.schema)
    model.prepare(batches)
    return model.train(), torch.optim.AdamW(model.parameters(), lr=2e-3)


def iterate(model: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch) -> float:
    """Train on one batch; give the seconds."""
    # A copy without what was derived from it before: in training every batch is new.
    batch = batch.to("cpu", non_blocking=False)
    start = time.perf_counter()
    loss = model.loss(batch)  # pyright: ignore[reportCallIssue]
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return time.perf_counter() - start


def time_training(module: ForecastingDataModule, names: list[str], n_rounds: int) -> dict[str, float]:
    """Give the median seconds per iteration of each model."""
    batches = [batch for batch, _ in zip(module.epoch(0), range(n_rounds + 2), strict=False)]
    made = {name: make(name, module, batches) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for batch in batches:
        for i in rng.permutation(len(names)):
            seconds[names[i]].append(iterate(*made[names[i]], batch))
    # The first two rounds warm up.
    return {name: round(float(np.median(found[2:])), 4) for name, found in seconds.items()}


def time_forecasts(module: ForecastingDataModule, names: list[str], channels: Sequence[int]) -> dict[str, float]:
    """Give series per second, each with 50 query times, of the channels at these positions."""
    examples = module.examples
    reader = WindowReader(
        examples.table, examples.scaler, max_history=examples.settings.max_history, target_channels=channels
    )
    windows = examples.test.take(np.argsort(reader.count_tokens(examples.test), kind="stable")[-2048:])
    after = np.linspace(0.02, 1.0, 50) * examples.scaler.time_scale
    n_targets = np.full(len(windows), len(after) * len(channels))
    parts = chunks(n_targets, reader.count_tokens(windows), MAX_QUERIES_CPU)
    found = {}
    for name in names:
        model = make(name, module, [next(iter(module.epoch(0)))])[0].eval()
        start = time.perf_counter()
        with torch.inference_mode():
            for place in parts:
                part = windows.take(np.arange(place.start, place.stop))
                row = np.repeat(np.arange(len(part)), len(after))
                batch, _ = reader.read_queries(part, row, part.origin[row] + np.tile(after, len(part)))
                forecast = model(batch)
                for level in QUANTILES:
                    quantile(forecast, level)
        found[name] = round(len(windows) / (time.perf_counter() - start), 1)
    return found


def load(folder: Path) -> ForecastingDataModule:
    """Read the table and cut its windows."""
    task = next(iter(protocols_of("physionet2012").values())).build(folder, 42)
    examples = Examples.of_task(task, DataSettings(batch_size=64))
    module = ForecastingDataModule(examples.settings, examples, seed=0)
    module.setup("fit")
    return module


def measure_peak(folder: Path, name: str) -> float:
    """Train a model alone in a process of its own; give its peak in MiB."""
    command = [sys.executable, __file__, str(folder), "--peak_of", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=os.environ.get("LATENTODE_DATA", "../shared/data"))
    parser.add_argument("--n_rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--peak_of", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = Path(options.folder)
    if not (folder / "physionet2012.csv.gz").is_file():
        print(f"there is no {folder / 'physionet2012.csv.gz'}; name its folder to run this benchmark")
        return
    module = load(folder)
    if options.peak_of:
        time_training(module, [options.peak_of], options.n_rounds)
        print(peak_memory() / MIB)
        return
    result: dict[str, Any] = {"batch_size": 64, "n_rounds": options.n_rounds, "seconds_per_iteration": {}}
    for n in options.threads:
        torch.set_num_threads(n)
        result["seconds_per_iteration"][f"{n} thread{'s' if n > 1 else ''}"] = time_training(
            module, options.models, options.n_rounds
        )
    torch.set_num_threads(1)
    shown = [name for name in ("default", "linear") if name in options.models]
    asked = {"of 1 channel": [module.examples.table.schema.channels.index("HR")]}
    asked[f"of {len(module.reader.target_channels)} channels"] = list(module.reader.target_channels)
    result["series_per_second"] = {name: time_forecasts(module, shown, channels) for name, channels in asked.items()}
    result["peak_mb"] = {name: round(measure_peak(folder, name)) for name in shown}
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
