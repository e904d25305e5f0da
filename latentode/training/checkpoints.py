"""What a run leaves on the disk while it trains: `best.ckpt`, and `last.ckpt` from which it goes on as if nothing had happened."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor
from torchmetrics import MaxMetric, Metric

from latentode.errors import RunError
from latentode.training.stopping import StopNow, StopRequest

BEST, LAST = "best.ckpt", "last.ckpt"
SAVE_EVERY = 60.0  # seconds


class RunCheckpoint(Checkpoint):
    """Keeps the best weights on validation, and the state of training at the end of every epoch and every so often within one.

    Lightning's own checkpoint leaves out what an epoch has gathered so far, the reason for which training has ended, and the generators
    outside of torch; and one that is written just before a validation skips it. `last.ckpt` has all of it, and none is written there.

    Args:
        run_dir: where the files go.
        stop: whether somebody has asked to stop; training leaves after the next checkpoint.
        save_every: seconds between checkpoints within an epoch.
    """

    def __init__(self, run_dir: Path, stop: StopRequest, save_every: float = SAVE_EVERY) -> None:
        self.run_dir = run_dir
        self.stop = stop
        self.save_every = save_every
        self.best_score: float | None = None
        self._saved_at = 0.0
        self._is_within_epoch = False
        self._gathered: dict[str, dict[str, Tensor]] = {}
        self._figures: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and put back the figures of the last epoch, which Lightning has cleared since the checkpoint was read."""
        self.stop.listen()
        self._saved_at = time.monotonic()
        trainer.callback_metrics.update(self._figures)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time to, or where somebody has asked to stop."""
        self._add_gathered(trainer)
        is_due = self.stop.signum is not None or time.monotonic() - self._saved_at >= self.save_every
        if self._of_any_process(trainer, is_due) and _may_go_on_from_here(trainer):
            self._save_last(trainer, within_epoch=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the best weights."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics.get("val_score", math.inf))
        score = math.inf if math.isnan(score) else score
        if self.best_score is None or score < self.best_score:
            self.best_score = score
            trainer.save_checkpoint(self.run_dir / BEST)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; all other callbacks have had their say by now, since Lightning calls those that save last."""
        self._save_last(trainer, within_epoch=False)

    def _save_last(self, trainer: pl.Trainer, *, within_epoch: bool) -> None:
        self._is_within_epoch = within_epoch
        trainer.save_checkpoint(self.run_dir / LAST)
        self._saved_at = time.monotonic()
        if self._of_any_process(trainer, self.stop.signum is not None):
            raise StopNow

    def _of_any_process(self, trainer: pl.Trainer, wish: bool) -> bool:
        """Tell whether any of the processes that train together wishes so; all have to act alike."""
        return trainer.strategy.reduce_boolean_decision(wish, all=False) if trainer.world_size > 1 else wish

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning leaves out."""
        kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  a user's model may draw from it
        checkpoint["run"] = {
            "best_score": self.best_score,
            "should_stop": bool(trainer.should_stop),
            "gathered": _gathered(trainer) if self._is_within_epoch else {},
            "figures": {name: value.detach().clone() for name, value in trainer.callback_metrics.items()},
            "python": random.getstate(),
            "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from there.

        Raises:
            RunError: the best weights that it speaks of are not there.
        """
        if trainer.state.fn != "fit":
            return
        state = checkpoint["run"]
        self.best_score = state["best_score"]
        self._gathered, self._figures = state["gathered"], state["figures"]
        if self.best_score is not None and not (self.run_dir / BEST).is_file():
            raise RunError(f"{self.run_dir} has lost its {BEST}; fit anew with --overwrite.")
        trainer.should_stop = state["should_stop"]
        random.setstate(state["python"])
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002

    def _add_gathered(self, trainer: pl.Trainer) -> None:
        """Add what the epoch had gathered before it was cut off, once there is something to add it to.

        A sum of two is the same in either order, so that means come out as if nothing had happened, to the last bit.
        """
        results = trainer.fit_loop.epoch_loop._results
        for name in [name for name in self._gathered if name in results]:
            logged, before = results[name], self._gathered.pop(name)
            metric = _sums_of(logged)
            for key, value in before.items():
                now = getattr(metric, key)
                value = value.to(now.device)
                if isinstance(metric, MaxMetric):
                    value = torch.maximum(now, value)
                elif key == "value" and (logged.meta.is_max_reduction or logged.meta.is_min_reduction):
                    value = logged.meta.reduce_fx(now, value)
                else:
                    value = now + value
                setattr(metric, key, value)
            metric._computed = None


def _gathered(trainer: pl.Trainer) -> dict[str, dict[str, Tensor]]:
    """Give what the epoch has gathered so far of what is logged, by name."""
    results = trainer.fit_loop.epoch_loop._results
    logged = {name: _sums_of(metric) for name, metric in results.items() if metric.meta.on_epoch}
    return {
        name: {key: getattr(metric, key).detach().clone() for key in metric._defaults}
        for name, metric in logged.items()
    }


def _sums_of(logged: Any) -> Metric:
    """Give what has gathered a logged figure: a metric that was given to Lightning, or its own around a tensor."""
    return logged if logged.is_tensor else logged.value


def _may_go_on_from_here(trainer: pl.Trainer) -> bool:
    """Tell whether training can go on from the end of this batch.

    Not where a validation comes next, which Lightning would skip, where gradients are still gathered, or where training is about to end.
    """
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    ends = trainer.should_stop or loop._is_training_done or loop._should_check_val_fx(fetcher)
    return not ends and not loop._should_accumulate()
