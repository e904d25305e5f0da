"""`latentode benchmark`: train and score models on a standard data set, by its published rules, and write a leaderboard.

Every single run (model, split, seed) leaves a folder with its record before the next begins: what was finished is never lost, and is read
back instead of computed again when the same command is given once more.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentode import __version__
from latentode.data.datasets import protocols_of
from latentode.data.protocols import Protocol, Task
from latentode.data.settings import DataSettings
from latentode.data.windows import Windows
from latentode.errors import InputError, LatentODEError, did_you_mean
from latentode.files import write_json
from latentode.forecasting.leaderboard import find_losses, mean_of, number_or_dash, sort_key
from latentode.metrics import Totals
from latentode.models.fitted import FittedModel
from latentode.models.recipe import Recipe
from latentode.progress import track

SCORED = ("mse", "mae", "mae_mean", "crps", "nll", "coverage_80", "coverage_95")
# Of which a record also has the ratio to the blend's; a density has none, its zero being that of the unit.
ERRORS = ("mse_macro", "mse_common", "mse_pooled", "mae_mean", "mae_median", "mae_pooled", "crps")
MIB = 2**20
TINY = 1e-300  # below any error, so that nothing is divided by 0


@dataclass(frozen=True)
class BenchmarkSettings:
    """What to run.

    Attributes:
        dataset: a name in `latentode.data.datasets.DATASETS`.
        protocol: one of its protocols; None: its default.
        models: short names in `MODELS`, or YAML files of models (`Recipe.read`), which are called by the file's name.
        seeds: of weights and batches; a model that draws nothing is run with the first alone.
        splits: of the protocol; None: its first, or all of its folds where the rules average over them.
        data_dir: folder of the data; None looks in `$LATENTODE_DATA`, then in `~/.cache/latentode`.
        observing: how a synthetic system is observed, where not as its own options say.
        fit: settings of the fit that differ from the defaults: `max_epochs`, `patience`, `learning_rate`, `weight_decay`, `device`.
        batch_size: windows per step.
    """

    dataset: str
    protocol: str | None = None
    models: tuple[str, ...] = ("constant", "last_value", "blend", "gradient_boosting", "latent_ode")
    seeds: tuple[int, ...] = (0, 1, 2)
    splits: tuple[int, ...] | None = None
    data_dir: Path | None = None
    observing: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 64

    def __post_init__(self) -> None:
        # What is named twice is run once: a second copy of a run would pass for agreement between runs.
        for name in ("models", "seeds", "splits"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(dict.fromkeys(value)))


def choose_protocol(settings: BenchmarkSettings) -> Protocol:
    """Give the protocol that the settings name.

    Raises:
        InputError: there is no such data set, protocol, model or split; or two models have one name.
    """
    protocols = protocols_of(settings.dataset, **settings.observing)
    name = settings.protocol or next(iter(protocols))
    if name not in protocols:
        raise InputError(
            f"{settings.dataset} has no protocol '{name}'{did_you_mean(name, protocols)}; it has {', '.join(protocols)}."
        )
    read_recipes(settings.models)
    protocol = protocols[name]
    unknown = [split for split in settings.splits or () if split not in protocol.splits]
    if unknown:
        known = ", ".join(map(str, protocol.splits))
        raise InputError(f"{settings.dataset}, {name}: there is no split {unknown[0]}; the published ones are {known}.")
    return protocol


def read_recipes(models: Sequence[str]) -> list[Recipe]:
    """Give the recipe of each model.

    Raises:
        InputError: there is no such model, or two have one name.
    """
    recipes = [Recipe.read(model) for model in models]
    for i, recipe in enumerate(recipes):
        if recipe.name in [other.name for other in recipes[:i]]:
            raise InputError(f"two models are called '{recipe.name}', and rows are told apart by name; rename a file.")
    return recipes


def run_benchmark(
    settings: BenchmarkSettings, out: Path, *, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Run every model on every split with every seed, writing `out` after each.

    Args:
        settings: what to run.
        out: JSON file; single runs are kept in the folder `<out>.runs` beside it.
        say: takes one line of progress.

    Returns:
        The records, the best first (`summarise`).

    Raises:
        DataError: the data are not there or are not of their published form.
        InputError: the settings name what does not exist.
    """
    protocol = choose_protocol(settings)
    splits = settings.splits or protocol.splits[:1]
    runs: list[dict[str, Any]] = []
    n_reused = 0
    n_runs = sum(len(settings.seeds) if recipe.is_trained else 1 for recipe in read_recipes(settings.models))
    with track("benchmark", n_runs * len(splits), "runs") as advance:
        for split in splits:
            # Built once for all models, and only where one is still to be run.
            task: Task | None = None
            for recipe in read_recipes(settings.models):
                for seed in settings.seeds if recipe.is_trained else settings.seeds[:1]:
                    name = f"{settings.dataset}-{protocol.name}-{recipe.name}-{split}-{seed}"
                    advance(0, f"{recipe.name}, split {split}, seed {seed}")
                    folder = out.with_name(f"{out.name}.runs") / name
                    wanted = _fingerprint(settings, protocol, recipe, split, seed)
                    found = _read_record(folder, wanted)
                    if found is None:
                        if task is None:
                            say(f"{settings.dataset}, {protocol.name}, split {split}: reading")
                            task = protocol.build(settings.data_dir, split)
                        start = time.perf_counter()
                        try:
                            found = run_once(settings, protocol, task, recipe, split, seed, folder, wanted)
                        except LatentODEError as error:
                            # One model that breaks down must not cost the others their figures; it is tried again next time.
                            found = _failed(settings, protocol, recipe, split, seed, error)
                        took = f"{time.perf_counter() - start:.0f} s"
                    else:
                        n_reused += 1
                        took = "read back"
                    runs.append(found)
                    write_json(out, summarise(runs, protocol))
                    say(f"{recipe.name}, split {split}, seed {seed}: {_headline(found)} ({took})")
                    advance()
    if n_reused:
        say(f"{n_reused} of {len(runs)} runs were there already; remove {out.name}.runs to compute them anew.")
    return summarise(runs, protocol)


def run_once(
    settings: BenchmarkSettings,
    protocol: Protocol,
    task: Task,
    recipe: Recipe,
    split: int,
    seed: int,
    folder: Path,
    wanted: dict[str, Any],
) -> dict[str, Any]:
    """Fit one model and score it on the test windows in the protocol's units; leaves a run folder with `record.json`."""
    from latentode.training import Examples, FitSettings, fit_network

    folder.mkdir(parents=True, exist_ok=True)
    examples = Examples.of_task(task, DataSettings(batch_size=settings.batch_size))
    fit = FitSettings(**settings.fit, seed=seed)
    reset_peak_memory()
    fitted, metrics = fit_network(recipe.build(), examples.settings, fit, folder, data=examples)
    peak = peak_memory()
    figures, validation = (score_windows(fitted, task, windows) for windows in (task.test, task.validation))
    n_epochs = max(metrics["n_epochs"], 1)
    record = {
        "wanted": wanted,
        **_identity(settings, protocol, recipe, split, seed),
        "metrics": _with_headline(figures[""], figures["blend"], protocol),
        "validation": _with_headline(validation[""], validation["blend"], protocol),
        "blend": figures["blend"],
        "n_test": figures["n_values"],
        "n_parameters": metrics["n_parameters"],
        "n_epochs": n_epochs,
        "seconds": metrics["seconds"],
        "seconds_per_epoch": metrics["seconds"] / n_epochs,
        "peak_mb": peak / MIB,
        "notes": metrics["notes"],
    }
    write_json(folder / "record.json", record)
    return record


def _identity(settings: BenchmarkSettings, protocol: Protocol, recipe: Recipe, split: int, seed: int) -> dict[str, Any]:
    """Give what tells a run's record from others'; `network` is what a YAML file would hold to make its model again."""
    return {
        "dataset": settings.dataset,
        "protocol": protocol.name,
        "model": recipe.name,
        "network": recipe.written,
        "is_trained": recipe.is_trained,
        "split": split,
        "seed": seed,
    }


def _failed(
    settings: BenchmarkSettings, protocol: Protocol, recipe: Recipe, split: int, seed: int, error: Exception
) -> dict[str, Any]:
    """Give the record of a run that broke down: no figure, and the reason as a note."""
    return {
        **_identity(settings, protocol, recipe, split, seed),
        "metrics": {},
        "validation": {},
        "notes": [f"{recipe.name}, split {split}, seed {seed} failed: {error}"],
    }


def score_windows(fitted: FittedModel, task: Task, windows: Windows) -> dict[str, Any]:
    """Give the figures of the model, under the name "", and of the baselines on windows of a task, in the protocol's units."""
    totals, _ = fitted.totals(task.table, windows, SCORED)
    ratio = torch.from_numpy(task.scaler.std / task.unit)
    figures: dict[str, Any] = {}
    for name, total in totals.items():
        shares = {key: total.pooled(key) for key in ("coverage_80", "coverage_95")}
        figures[name] = {
            **total.record(ratio),
            "mae_pooled": total.pooled("mae", ratio),
            **shares,
            **floors(task, total),
        }
    figures["n_values"] = int(totals[""].count.sum())
    return figures


def floors(task: Task, total: Totals) -> dict[str, float]:
    """Give the error that the noise alone makes, over the channels and values that were scored; nothing where it is not known."""
    if task.floor is None or not task.floor.any():
        return {}
    count = total.count.sum(1).numpy()
    return {
        "floor_macro": float(task.floor[count > 0].mean()),
        "floor_pooled": float(np.average(task.floor, weights=count)),
    }


def _with_headline(own: dict[str, float], blend: dict[str, float], protocol: Protocol) -> dict[str, float]:
    """Put the errors first that the protocol reports, in its own average, and behind all figures their ratios to blend and noise."""
    mse, mae = ("mse_macro", "mae_median") if protocol.average == "macro" else ("mse_pooled", "mae_pooled")
    ends = {"": mse, "_mae": mae, **{f"_{name}": name for name in ERRORS}}
    ratios = {f"ratio_to_blend{end}": own[name] / max(blend[name], TINY) for end, name in ends.items()}
    if f"floor_{protocol.average}" in own:
        ratios["ratio_to_floor"] = own[mse] / own[f"floor_{protocol.average}"]
    return {"mse": own[mse], "mae": own[mae], **own, **ratios}


def summarise(runs: Sequence[dict[str, Any]], protocol: Protocol) -> list[dict[str, Any]]:
    """Give one record per model: mean and standard deviation over its runs of every figure, the lowest mean `mse` first.

    Returns:
        Dicts of `dataset, protocol, model, network, is_trained, average, n_seeds, n_runs, n_failed, split, seeds, metrics: {name: {mean,
        sd}}, validation, loses_to, n_parameters, seconds_per_epoch, peak_mb, n_test, notes`; `sd` is over seeds and splits together, None
        of a single run. A figure that one of the runs does not have is None: no run is left out of a mean. `validation` is as `metrics`,
        on validation; `loses_to` names, of a trained model, the baselines among the rows with a lower `mse` or `mae`, and where there is
        no such row the blend of its own runs.
    """
    models = dict.fromkeys(run["model"] for run in runs)
    records = [_record([run for run in runs if run["model"] == model], protocol) for model in models]
    for record in records:
        record["loses_to"] = find_losses(record, records)
    return sorted(records, key=lambda record: sort_key(mean_of(record, "mse")))


def _record(own: Sequence[dict[str, Any]], protocol: Protocol) -> dict[str, Any]:
    """Give the record of one model from its runs."""

    def over_runs(key: str, function: Callable[[list[Any]], Any]) -> Any:
        known = [run[key] for run in own if key in run]
        return function(known) if known else None

    seeds = sorted({run["seed"] for run in own})
    return {
        **{key: own[0][key] for key in ("dataset", "protocol", "model", "network", "is_trained")},
        "average": protocol.average,
        "n_seeds": len(seeds),
        "n_runs": len(own),
        "n_failed": sum(not _is_finite(run["metrics"].get("mse")) for run in own),
        "split": sorted({run["split"] for run in own}),
        "seeds": seeds,
        **{part: _over_runs([run[part] for run in own]) for part in ("metrics", "validation")},
        "n_parameters": over_runs("n_parameters", max),
        "seconds_per_epoch": over_runs("seconds_per_epoch", statistics.fmean),
        "seconds": over_runs("seconds", statistics.fmean),
        "peak_mb": over_runs("peak_mb", max),
        "n_test": over_runs("n_test", sum),
        "notes": list(dict.fromkeys(note for run in own for note in run["notes"])),
        "source": protocol.source,
    }


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _over_runs(figures: Sequence[dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    names = dict.fromkeys(("mse", "mae", *(name for run in figures for name in run)))
    return {name: _mean_and_sd([run.get(name) for run in figures]) for name in names}


def _mean_and_sd(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < len(values):
        return {"mean": None, "sd": None}
    return {"mean": statistics.fmean(known), "sd": statistics.stdev(known) if len(known) > 1 else None}


def _headline(run: dict[str, Any]) -> str:
    if not run["metrics"]:
        return run["notes"][0]
    figures = {name: run["metrics"][name] for name in ("mse", "mae", "ratio_to_blend")}
    shown = {name: number_or_dash(value, ".4g") for name, value in figures.items()}
    return f"mse {shown['mse']}, mae {shown['mae']}, mse to blend {shown['ratio_to_blend']}"


def _fingerprint(
    settings: BenchmarkSettings, protocol: Protocol, recipe: Recipe, split: int, seed: int
) -> dict[str, Any]:
    """Give what a kept run must have been made with to stand for this one."""
    chosen = asdict(settings)
    kept = {key: chosen[key] for key in ("dataset", "observing", "fit", "batch_size")}
    chosen_folder = settings.data_dir or os.environ.get("LATENTODE_DATA")
    folder = None if chosen_folder is None else str(Path(chosen_folder).resolve())
    kept |= {"protocol": protocol.name, "network": recipe.written, "split": split, "seed": seed, "data_dir": folder}
    return {**kept, "version": __version__}


def _read_record(folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    path = folder / "record.json"
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return record if record.get("wanted") == wanted else None


def reset_peak_memory() -> None:
    """Let the peak be counted anew: on Linux that of the process, on a GPU that of torch."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # elsewhere the peak of the whole process stands


def peak_memory() -> int:
    """Give the most memory since `reset_peak_memory` in bytes: of the GPU where one was used, else the process's resident size."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
