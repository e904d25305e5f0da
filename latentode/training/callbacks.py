"""What happens beside training: a log that survives a crash, and progress for the person who waits."""

from __future__ import annotations

import csv
import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from latentode.progress import track

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
        with self.path.open("w", newline="") as file:
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
    """Shows how many epochs are done, with the best validation score, where somebody waits (`latentode.progress`)."""

    def __init__(self) -> None:
        self.best = float("inf")
        self.open = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin: only here does the trainer know how many batches an epoch has."""
        n_epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        work = track("fitting", n_epochs, "epochs", done=trainer.current_epoch)
        # The end of training takes it away, or its failure: a callback is told of either.
        self.advance = self.open.enter_context(work)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Move on by one batch."""
        self.advance(1 / max(int(trainer.num_training_batches), 1))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the best error so far."""
        self.best = min(self.best, float(trainer.callback_metrics.get("val_score", float("inf"))))
        self.advance(0, f"best validation score {self.best:.4f}")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take it away."""
        self.open.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self.open.close()
