"""What happens beside training: a log that survives a crash, and progress for the person who waits."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

COLUMNS = ("epoch", "step", "seconds", "learning_rate", "train_loss", "val_mse")


class EpochLog(pl.Callback):
    """Writes one row per epoch to `log.csv`, flushed at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the file and the clock."""
        self.start = time.perf_counter()
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch that has ended."""
        metrics = trainer.callback_metrics
        # A baseline has nothing to optimise, so no rate.
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        rate = groups[0]["lr"] if groups else 0.0
        seconds = round(time.perf_counter() - self.start, 2)
        figures = [float(metrics[name]) if name in metrics else "" for name in COLUMNS[-2:]]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([trainer.current_epoch, trainer.global_step, seconds, rate, *figures])


class EpochProgress(pl.Callback):
    """Shows one bar over the epochs with the best validation error; on a pipe it writes nothing but warnings."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.best = float("inf")
        self.progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar: only here does the trainer know how many batches an epoch has."""
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[error]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        total = (trainer.max_epochs or 0) * max(int(trainer.num_training_batches), 1)
        self.task = self.progress.add_task("fitting", total=total, error="")
        self.progress.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Move on by one batch."""
        if self.progress:
            self.progress.advance(self.task)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the best error so far."""
        self.best = min(self.best, float(trainer.callback_metrics.get("val_mse", float("inf"))))
        if self.progress:
            self.progress.update(
                self.task, error=f"epoch {trainer.current_epoch + 1}, best validation mse {self.best:.4f}"
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar away."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def _stop(self) -> None:
        if self.progress:
            self.progress.stop()
