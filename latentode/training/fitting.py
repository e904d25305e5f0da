"""One fit from table to run folder; the command line and `Forecaster` both come through here, so that they give the same forecast."""

from __future__ import annotations

import datetime
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from torch import Tensor

from latentode.data.durations import suggest_step
from latentode.data.settings import DataSettings
from latentode.data.tables import Table
from latentode.errors import RunError
from latentode.files import write_json, write_whole
from latentode.models import ForecastModel
from latentode.models.fitted import FittedModel, load_plain
from latentode.models.registry import as_class_path, foreign_modules, name_model, to_plain
from latentode.progress import showing_progress, track
from latentode.training.callbacks import EffortWatch, EpochLog, EpochProgress
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.examples import Examples
from latentode.training.task import ForecastingTask

BEST, LAST = "best.ckpt", "last.ckpt"

# Averaged over some fifty steps, an epoch or two: what is validated, kept and forecast with is the average.
EMA_DECAY = 0.98

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 30,
    "gradient_clip_val": 1.0,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


@dataclass(frozen=True)
class FitSettings:
    """How long and how fast to train.

    Attributes:
        max_epochs: epochs at most.
        patience: epochs without a better validation error after which training ends.
        learning_rate, weight_decay: of the task.
        seed: of weights and windows.
        device: "auto" or a Lightning accelerator: "cpu", "gpu".
    """

    max_epochs: int = TRAINER_DEFAULTS["max_epochs"]
    patience: int = 30
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 0
    device: str = "auto"


def moving_average(average: Tensor, new: Tensor, n_averaged: Tensor) -> Tensor:
    """Give the exponential moving average; while there are few, near the plain one, so that a short fit does not average its start."""
    n = n_averaged.to(average.device)
    decay = torch.minimum((1 + n) / (10 + n), torch.full_like(n, EMA_DECAY, dtype=torch.float32))
    return average + (1 - decay) * (new - average)


def run_callbacks(run_dir: Path, patience: int, *, show_progress: bool) -> list[Callback]:
    """Give the callbacks of every fit: best and last weights, early stopping, log, progress."""
    checkpoint = ModelCheckpoint(
        dirpath=run_dir, filename="best", monitor="val_score", save_last=True, enable_version_counter=False
    )
    # An error that is not finite does not end training: the task's `rescue` decides.
    stop = EarlyStopping(monitor="val_score", patience=patience, check_finite=False)
    average = WeightAveraging(avg_fn=moving_average)
    beside = [EpochLog(run_dir / "log.csv"), EffortWatch(), *([EpochProgress()] if show_progress else [])]
    return [average, checkpoint, stop, *beside]


def fit_network(
    network: ForecastModel,
    settings: DataSettings,
    fit: FitSettings,
    run_dir: Path,
    *,
    data: Table | Examples | None = None,
    show_progress: bool = True,
) -> tuple[FittedModel, dict[str, Any]]:
    """Train a network and leave a run folder.

    Args:
        network: not yet set up.
        settings: of the data.
        fit: of the training.
        run_dir: exists; checkpoints and log are written there.
        data: a table that was read before, or the examples of a benchmark; left out, `settings.path` is read.
        show_progress: whether to draw a bar on a terminal.

    Returns:
        The fitted model with its best weights, and the figures that stand in `metrics.json`.
    """
    write_config(run_dir / "config.yaml", network, settings, fit)
    with quiet_lightning(), showing_progress(show_progress):
        pl.seed_everything(fit.seed, workers=True, verbose=False)
        module = ForecastingDataModule(settings, data, seed=fit.seed)
        task = ForecastingTask(network, fit.learning_rate, fit.weight_decay)
        trainer = pl.Trainer(
            **{**TRAINER_DEFAULTS, "max_epochs": fit.max_epochs},
            accelerator=fit.device,
            devices=1,
            default_root_dir=run_dir,
            callbacks=run_callbacks(run_dir, fit.patience, show_progress=show_progress),
        )
        start = time.perf_counter()
        task.build(module, asdict(fit))
        trainer.fit(task, datamodule=module)
        return finish(task, module, run_dir, seconds=time.perf_counter() - start)


def write_config(path: Path, network: ForecastModel, settings: DataSettings, fit: FitSettings) -> None:
    """Write the settings of a fit as `latentode fit --config` reads them."""
    config = {
        "seed_everything": fit.seed,
        "patience": fit.patience,
        "model": {
            "network": as_class_path(to_plain(network)),
            "learning_rate": fit.learning_rate,
            "weight_decay": fit.weight_decay,
        },
        "data": {f.name: getattr(settings, f.name) for f in fields(settings)},
        "trainer": {"max_epochs": fit.max_epochs, "accelerator": fit.device},
    }
    text = yaml.safe_dump(config, sort_keys=False)
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def finish(
    task: ForecastingTask, data: ForecastingDataModule, run_dir: Path, *, seconds: float, scores_test: bool = True
) -> tuple[FittedModel, dict[str, Any]]:
    """Take the best weights, let validation decide the rest, score, and write `best.ckpt` and `metrics.json` whole.

    Args:
        task, data: after training.
        run_dir: of the checkpoints.
        seconds: that training took.
        scores_test: False leaves the test part alone: whoever chooses among many fits must not have seen it.

    Raises:
        RunError: training ended before its first validation.
    """
    fitted, best = task.fitted, run_dir / BEST
    if fitted is None or not best.is_file():
        raise RunError(f"{run_dir}: training ended before its first validation, so there are no best weights to keep.")
    content = load_plain(best)
    task.load_state_dict(content["state_dict"], strict=False)
    fitted.network.to("cpu")
    with track("calibrating on validation"):
        fitted.calibrate(data.validation_batches())
    data.notes += fitted.network.remarks()
    data.release()
    # What Lightning asks of a checkpoint, so that `validate --ckpt_path` takes it; its optimiser is in last.ckpt.
    fitted.save(best, extra={key: content[key] for key in ("pytorch-lightning_version", "epoch", "global_step")})
    metrics = {
        "validation": fitted.score(data.examples.table, data.validation),
        "test": fitted.score(data.examples.table, data.examples.test) if scores_test else None,
        "n_parameters": sum(p.numel() for p in fitted.network.parameters()),
        "n_epochs": int(task.trainer.current_epoch),
        "best_epoch": int(content["epoch"]),
        "n_rollbacks": task.rescue.n_rollbacks,
        "learning_rate_final": task.learning_rate_final,
        "seconds": round(seconds, 2),
        "horizon": data.examples.spans.describe(data.examples.table.schema),
        "known_columns": list(data.examples.table.schema.known_columns),
        "calendar": list(data.examples.table.schema.calendar),
        "notes": data.notes,
        **_origin(fitted, data),
    }
    write_json(run_dir / "metrics.json", metrics)
    return fitted, metrics


def _origin(fitted: FittedModel, data: ForecastingDataModule) -> dict[str, Any]:
    """Give what the fit was made of and when: what an index of runs and the next command are written from."""
    schema = data.examples.table.schema
    return {
        "model": name_model(fitted.network),
        "modules": foreign_modules(to_plain(fitted.network)),
        "data": data.settings.path,
        "query_columns": [*([schema.id_column] if schema.id_column else []), schema.time_column, *schema.known_columns],
        "step": suggest_step(data.examples.spans.horizon, schema.time_kind),
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hold back Lightning's remarks on hardware, workers and folders: they are no news to the user of a forecast."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", category=UserWarning, module=r"(pytorch_lightning|lightning|lightning_fabric)"
            )
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
