"""What happens beside training: a log that survives a crash, and progress for the person who waits."""

from __future__ import annotations

import csv
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_log = logging.getLogger(__name__)

FIGURES = ("train_loss", "val_mse", "val_score", "nfe", "nfe_max")
COLUMNS = ("epoch", "step", "seconds", "learning_rate", *FIGURES)

# A healthy field is worked out while it is learned: it costs more than at the start, but not this much more.
NFE_GROWTH = 2.0


class EpochLog(pl.Callback):
    """Writes one row per epoch to `log.csv`, flushed at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the file and the clock."""
        self.start = time.perf_counter()
        # A new file, not what a link of that name points to.
        self.path.unlink(missing_ok=True)
        with self.path.open("x", newline="") as file:
            csv.writer(file).writerow(COLUMNS)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch that has ended."""
        metrics = trainer.callback_metrics
        # A baseline has nothing to optimise, so no rate.
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        rate = groups[0]["lr"] if groups else 0.0
        seconds = round(time.perf_counter() - self.start, 2)
        figures = [float(metrics[name]) if name in metrics else "" for name in FIGURES]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([trainer.current_epoch, trainer.global_step, seconds, rate, *figures])


class EffortWatch(pl.Callback):
    """Warns, once, where the field has become much more expensive to solve than it was in the second epoch."""

    def __init__(self) -> None:
        self.at_first: float | None = None
        self.has_warned = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the epoch that has ended; the first one is still near the untrained field."""
        if "nfe" not in trainer.callback_metrics or trainer.current_epoch == 0 or self.has_warned:
            return
        nfe = float(trainer.callback_metrics["nfe"])
        if self.at_first is None:
            self.at_first = nfe
        elif nfe > NFE_GROWTH * self.at_first:
            self.has_warned = True
            _log.warning(
                f"epoch {trainer.current_epoch + 1}: solving the field takes {nfe:.0f} evaluations per sample, "
                f"{nfe / self.at_first:.1f} times as many as in the second epoch; loosen its rtol and atol, regularise it "
                "(kinetic_energy, jacobian_norm, or a higher weight_decay), or choose a dynamics in closed form."
            )

    def state_dict(self) -> dict[str, Any]:
        """Give what the warning depends on."""
        return {"at_first": self.at_first, "has_warned": self.has_warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.at_first, self.has_warned = state_dict["at_first"], state_dict["has_warned"]


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
        self.best = min(self.best, float(trainer.callback_metrics.get("val_score", float("inf"))))
        if self.progress:
            self.progress.update(
                self.task, error=f"epoch {trainer.current_epoch + 1}, best validation score {self.best:.4f}"
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
