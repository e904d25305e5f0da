"""One fit from table to run folder; the command line and `Forecaster` both come through here, so that they give the same forecast."""

from __future__ import annotations

import datetime
import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback, EarlyStopping, WeightAveraging
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from latentode.data.durations import suggest_step
from latentode.data.plain import read_json
from latentode.data.settings import DataSettings
from latentode.data.tables import Table
from latentode.errors import LatentODEError, RunError, Stopped
from latentode.files import hold_folder, write_json
from latentode.models import ForecastModel
from latentode.models.fitted import FittedModel
from latentode.models.plain_file import load_plain
from latentode.models.registry import as_class_path, foreign_modules, name_model, to_plain
from latentode.progress import showing_progress, track
from latentode.training.callbacks import EffortWatch, EpochLog, EpochProgress
from latentode.training.checkpoints import BEST, LAST, SAVE_EVERY, RunCheckpoint
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.examples import Examples
from latentode.training.launching import check_processes
from latentode.training.plain_checkpoints import PlainCheckpointIO, refuse_unfit
from latentode.training.run_folder import (
    CONFIG,
    METRICS,
    check_same_run,
    check_same_weights,
    is_finished,
    refuse_run,
    remove_run,
    resume_command,
    write_config,
)
from latentode.training.stopping import StopNow, StopRequest
from latentode.training.task import ForecastingTask

Start = Literal["new", "resume", "overwrite"]
# Averaged over some fifty steps, an epoch or two: what is validated, kept and forecast with is the average.
EMA_DECAY = 0.98

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 30,
    # More, on this machine or others, are asked for: a fit of a small table gains nothing by all there are.
    "devices": 1,
    "gradient_clip_val": 1.0,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class End(Protocol):
    """What is done after training; None where nothing is to be left."""

    def __call__(
        self, task: ForecastingTask, data: ForecastingDataModule, run_dir: Path, *, seconds: float
    ) -> tuple[FittedModel, dict[str, Any]] | None:
        """Finish a run; arguments as for `finish`."""
        ...


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


def run_callbacks(
    run_dir: Path, patience: int, stop: StopRequest, *, show_progress: bool, save_every: float = SAVE_EVERY
) -> list[Callback]:
    """Give the callbacks of every fit: best and last weights, early stopping, log, progress."""
    checkpoint = RunCheckpoint(run_dir, stop, save_every)
    # An error that is not finite does not end training: the task's `rescue` decides.
    early = EarlyStopping(monitor="val_score", patience=patience, check_finite=False)
    average = WeightAveraging(avg_fn=moving_average)
    beside = [EpochLog(run_dir / "log.csv"), EffortWatch(), *([EpochProgress()] if show_progress else [])]
    return [average, checkpoint, early, *beside]


def fit_network(
    network: ForecastModel,
    settings: DataSettings,
    fit: FitSettings,
    run_dir: Path,
    *,
    data: Table | Examples | None = None,
    show_progress: bool = True,
    start: Start = "new",
    save_every: float = SAVE_EVERY,
    go_on: str | None = None,
) -> tuple[FittedModel, dict[str, Any]]:
    """Train a network and leave a run folder.

    Args:
        network: not yet set up.
        settings: of the data.
        fit: of the training.
        run_dir: checkpoints and log are written there; made where it is not there.
        data: a table that was read before, or the examples of a benchmark; left out, `settings.path` is read.
        show_progress: whether to draw a bar on a terminal.
        start: what to do where the folder holds a run; see `carry_out`.
        save_every: seconds between checkpoints within an epoch.
        go_on: how to go on, to be said where the fit is stopped; None: by which command.

    Returns:
        The fitted model with its best weights, and the figures that stand in `metrics.json`.

    Raises:
        RunError: the folder is in use, or holds a run that `start` does not allow for.
        WriteError: the disk is full, or the folder cannot be written into.
        Stopped: somebody has stopped it by Ctrl-C or SIGTERM; it can be gone on with.
    """
    stop = StopRequest()
    with quiet_lightning(), showing_progress(show_progress):
        pl.seed_everything(fit.seed, workers=True, verbose=False)
        module = ForecastingDataModule(settings, data, seed=fit.seed)
        task = ForecastingTask(network, fit.learning_rate, fit.weight_decay)
        trainer = pl.Trainer(
            **{**TRAINER_DEFAULTS, "max_epochs": fit.max_epochs},
            accelerator=fit.device,
            default_root_dir=run_dir,
            callbacks=run_callbacks(run_dir, fit.patience, stop, show_progress=show_progress, save_every=save_every),
            plugins=[PlainCheckpointIO(run_dir)],
        )
        config = describe(network, settings, fit)
        done = carry_out(
            task, module, trainer, run_dir, stop=stop, config=config, fit=asdict(fit), start=start, go_on=go_on
        )
        assert done is not None  # one process, which is the first
        return done


def describe(network: ForecastModel, settings: DataSettings, fit: FitSettings) -> str:
    """Give the settings of a fit as YAML, as `latentode fit --config` reads them."""
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
    return yaml.safe_dump(config, sort_keys=False)


def carry_out(
    task: ForecastingTask,
    data: ForecastingDataModule,
    trainer: pl.Trainer,
    run_dir: Path,
    *,
    stop: StopRequest,
    config: str,
    fit: dict[str, Any],
    start: Start,
    go_on: str | None = None,
    end: End | None = None,
) -> tuple[FittedModel, dict[str, Any]] | None:
    """Train and finish a run in its folder, which is nobody else's meanwhile; a fit that was killed goes on as if nothing had happened.

    Args:
        task, data, trainer: with the callbacks of `run_callbacks`, which hold `stop`.
        run_dir: of the run.
        stop: whether somebody has asked to stop.
        config: what is written to `config.yaml`.
        fit: settings of the fit, to be kept.
        start: "new" where the folder must not hold a run, "resume" to go on with it (a finished one is read back; where there is none, one
            is begun), "overwrite" to replace it.
        go_on: how to go on, to be said where the fit is stopped; None: by which command.
        end: what is done after training; None: `finish`.

    Returns:
        As `fit_network`; None in a process that is not the first of those that train together.

    Raises:
        RunError: the folder is in use or holds a run, or a run that is to be gone on with was begun with other settings.
    """
    started = time.perf_counter()
    # Of processes that train together, the first one cares for the folder.
    holding = hold_folder(run_dir) if rank_zero_only.rank == 0 else nullcontext()
    with holding, _stoppable(stop, go_on or f"go on with: {resume_command(run_dir)}"):
        is_resumed = start == "resume" and (run_dir / LAST).is_file()
        if start == "resume" and (is_resumed or is_finished(run_dir)):
            data.setup("fit")
            begun = run_dir / (LAST if is_resumed else BEST)
            with refuse_unfit(begun, lambda: False):
                check_same_run(begun, _identity(task, data, fit))
            if is_finished(run_dir):
                return _read_back(task, run_dir)
        elif rank_zero_only.rank == 0 and start == "new":
            refuse_run(run_dir)
        if start != "overwrite":
            write_config(run_dir, config)
        try:
            task.build(data, fit)
        except LatentODEError:
            # A table that is not there, or nothing to learn: that was no run, and leaves none.
            if start == "new" and rank_zero_only.rank == 0:
                (run_dir / CONFIG).unlink(missing_ok=True)
            raise
        if start == "overwrite":
            # Not before the table was read: where it is not there, the run of before still is.
            remove_run(run_dir)
            write_config(run_dir, config)
        check_processes(task, trainer)
        checkpoint = (run_dir / LAST).absolute() if is_resumed else None
        with refuse_unfit(checkpoint, lambda: task.has_begun), stop.training():
            if checkpoint:
                check_same_weights(checkpoint, task)
            trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if not trainer.is_global_zero:
            return None
        before = sum(log.seconds_before for log in trainer.callbacks if isinstance(log, EpochLog))  # pyright: ignore[reportAttributeAccessIssue]
        return (end or finish)(task, data, run_dir, seconds=before + time.perf_counter() - started)


@contextmanager
def _stoppable(stop: StopRequest, go_on: str) -> Iterator[None]:
    """Listen to signals, and let none of them out but as `Stopped`."""
    try:
        with stop.listening():
            yield
    except (StopNow, KeyboardInterrupt, SystemExit):
        if stop.signum is None:
            raise
        raise Stopped(f"stopped; {go_on}", stop.signum) from None


def _identity(task: ForecastingTask, data: ForecastingDataModule, fit: dict[str, Any]) -> dict[str, Any]:
    """Give what a run must have been begun with so that this fit may go on with it, by the name of the option."""
    settings = data.examples.settings
    named = {f"data.{f.name}": getattr(settings, f.name) for f in fields(settings) if f.name != "path"}
    # Where it is computed does not say what is.
    named |= {name: value for name, value in fit.items() if name != "device"}
    return {**named, "model.network": to_plain(task.network), "seed": data.seed, "table": data.examples.digest()}


def _read_back(task: ForecastingTask, run_dir: Path) -> tuple[FittedModel, dict[str, Any]]:
    """Give what a run that has come to its end left; the classes that it was fitted with may be imported again."""
    modules = sorted({type(part).__module__ for part in task.network.modules()})
    fitted = FittedModel.load(run_dir / BEST, allow_modules=modules)
    return fitted, _with_nan(read_json(run_dir / METRICS))


def _with_nan(value: Any) -> Any:
    """Put back the figures that are no number, which JSON has not."""
    if isinstance(value, dict):
        return {key: _with_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_nan(entry) for entry in value]
    return math.nan if value is None else value


def finish(
    task: ForecastingTask, data: ForecastingDataModule, run_dir: Path, *, seconds: float, scores_test: bool = True
) -> tuple[FittedModel, dict[str, Any]]:
    """Take the best weights, let validation decide the rest, score, and write `metrics.json` and `best.ckpt` whole, in this order.

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
    metrics = {
        "validation": fitted.score(data.examples.table, data.validation),
        "test": fitted.score(data.examples.table, data.examples.test) if scores_test else None,
        "n_parameters": sum(p.numel() for p in fitted.network.parameters()),
        # Not `current_epoch`, which a fit that went on after its last epoch did not come to raise.
        "n_epochs": int(task.trainer.fit_loop.epoch_progress.current.processed),  # pyright: ignore[reportAttributeAccessIssue]
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
    write_json(run_dir / METRICS, metrics)
    # The last thing to be written: a fit that is killed before goes on from the best weights as they were, since calibrating the calibrated
    # ones would give others. What Lightning asks of a checkpoint is kept, so that `validate --ckpt_path` takes it.
    fitted.save(best, extra={key: content[key] for key in ("pytorch-lightning_version", "epoch", "global_step")})
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
    names = ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric")
    loggers = [logging.getLogger(name) for name in names]
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
