"""What happens where training breaks down: no bad gradient reaches the weights, and the fit goes on from its best weights by smaller steps.

All that is needed to tell is kept on the device and read once per stretch of steps, so that a healthy fit waits for nothing.
"""

from __future__ import annotations

import copy
import logging
import math
import statistics
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim import Optimizer

_log = logging.getLogger(__name__)

MAX_RETRIES = 3  # after that a still smaller step is not the remedy
SHRINK = 0.5  # of the learning rate, at every retry
STRETCH = 200  # steps at most after which the losses are read

# A loss has exploded where a typical batch (the median of a stretch) is worse than the best stretch was by ten times that loss, or by ten
# where that is smaller: losses are per target and in deviations, and a log-likelihood may be near 0 or below it. The median, since
# single batches of heavy-tailed data may be a thousand times the others and do no harm: gradients are clipped.
EXPLODED = 10.0


def has_exploded(loss: float, best: float) -> bool:
    """Tell whether the typical loss of a stretch is out of all proportion to that of the best one; see `EXPLODED`."""
    return loss > best + EXPLODED * max(1.0, abs(best))


class Rescue(pl.Callback):
    """Watches losses, gradients and solves of a fit, and rolls it back where they are lost.

    A stretch of training has failed where a loss or a gradient was not finite, where the field could not be solved, or where the loss has
    exploded. Weights, averaged weights and optimiser then return to where validation was best (or to the start), the learning rate is
    halved for the rest of the fit, and training goes on; after `MAX_RETRIES` times it ends. `ForecastingTask` brings this callback along.

    Attributes:
        n_rollbacks: how often training went on from earlier weights.
        failure: why the field could not be solved since the last look; None: it could.
    """

    def __init__(self) -> None:
        self.n_rollbacks = 0
        self.failure: str | None = None
        self._best_error, self._best_loss = math.inf, math.inf
        self._kept: dict[str, Any] = {}
        self._losses: list[Tensor] = []
        self._n_lost: Tensor | None = None

    @property
    def rate_factor(self) -> float:
        """By how much the learning rate is smaller than it was set."""
        return SHRINK**self.n_rollbacks

    def drop_lost_gradient(self, parameters: Iterable[Tensor], *, counts: bool = True) -> None:
        """Put zeros in place of a gradient whose norm is not finite, without asking the device.

        Args:
            parameters: with their gradients.
            counts: whether training has failed by it; not where a gradient scaler looks for its scale by trying.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        is_lost = ~torch.nn.utils.get_total_norm(gradients).isfinite()
        if self.failure is not None:
            # A solve that broke off on the way back leaves a part of the gradient.
            is_lost = torch.ones_like(is_lost)
        for gradient in gradients:
            gradient.masked_fill_(is_lost, 0.0)
        if counts:
            self._n_lost = is_lost.long() if self._n_lost is None else self._n_lost + is_lost

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights that training starts from; a fit that goes on has kept its own."""
        if not self._kept:
            self._kept = _keep(trainer, pl_module)
        self._losses = [loss.to(pl_module.device) for loss in self._losses]
        self._n_lost = None if self._n_lost is None else self._n_lost.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss; look at once where a solve failed, since others would fail for as long."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        if loss is not None:
            self._losses.append(loss.detach())
        # Other processes do not know of a solve that failed here until all of them look.
        if (self.failure is not None and trainer.world_size == 1) or len(self._losses) >= STRETCH:
            self._look(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look before validation, so that only weights of a healthy training are validated and kept."""
        if _is_in_fit(trainer):
            self._look(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the best weights; look again, since the averaged weights may have a field that cannot be solved."""
        if not _is_in_fit(trainer):
            return
        self._look(trainer, pl_module)
        error = float(trainer.callback_metrics.get("val_score", math.inf))
        # Machines round differently: what one keeps, all do.
        if trainer.strategy.reduce_boolean_decision(error < self._best_error, all=False):
            self._best_error, self._kept = error, _keep(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look where no validation has."""
        self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read what has gathered, and roll back where training has failed."""
        reason = self._judge(trainer)
        self._losses, self._n_lost, self.failure = [], None, None
        if reason is None or not _optimizers(trainer):
            return
        _restore(trainer, pl_module, self._kept)
        if self.n_rollbacks == MAX_RETRIES:
            trainer.should_stop = True
            _log.warning(
                f"{_place(trainer)}: {reason}; it was retried {MAX_RETRIES} times with a smaller step, so training ends here and the "
                "best weights are kept; set a lower learning_rate, or look for values out of the ordinary in the data."
            )
            return
        self.n_rollbacks += 1
        for optimizer in _optimizers(trainer):
            _shrink_rates(optimizer)
        rate = max(_peak_rate(optimizer) for optimizer in _optimizers(trainer))
        _log.warning(
            f"{_place(trainer)}: {reason}; training is retried from the best weights with a smaller step (learning rate at most "
            f"{rate:.2g}, retry {self.n_rollbacks} of {MAX_RETRIES})."
        )

    def _judge(self, trainer: pl.Trainer) -> str | None:
        """Say why training has failed, None where it has not; every process comes to the same."""
        values, n_lost = [], 0.0
        if self._losses:
            lost = self._n_lost if self._n_lost is not None else torch.zeros_like(self._losses[0])
            *values, n_lost = torch.stack([number.float() for number in (*self._losses, lost)]).tolist()
        n_lost = max(n_lost, sum(not math.isfinite(value) for value in values))
        typical = statistics.median(values) if values and not n_lost else -math.inf
        # The first batch is read by weights that have not moved: it stands for a stretch before the first.
        best = self._best_loss if math.isfinite(self._best_loss) or not values else values[0]
        found = [float(self.failure is not None), n_lost, typical, best]
        if trainer.world_size > 1:
            found = trainer.strategy.reduce(torch.tensor(found, device=trainer.strategy.root_device), reduce_op="max")
            found = found.tolist()
        has_failed, n_lost, typical, best = found
        if has_failed:
            return f"the field could not be solved ({_first_text(self.failure, trainer.world_size)})"
        if n_lost:
            return f"the loss or its gradient was not finite in {n_lost:.0f} of {len(values)} steps"
        if has_exploded(typical, best):
            return f"the training loss has grown from {best:.3g} to {typical:.3g}"
        if values:
            self._best_loss = min(self._best_loss, typical)
        return None

    def state_dict(self) -> dict[str, Any]:
        """Give all that decides, as plain values and tensors, so that a fit that goes on does what the undisturbed one does."""
        return {
            "n_rollbacks": self.n_rollbacks,
            "best_error": self._best_error,
            "best_loss": self._best_loss,
            "losses": list(self._losses),
            "n_lost": self._n_lost,
            "kept": self._kept,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.n_rollbacks = state_dict["n_rollbacks"]
        self._best_error, self._best_loss = state_dict["best_error"], state_dict["best_loss"]
        self._losses, self._n_lost, self._kept = state_dict["losses"], state_dict["n_lost"], state_dict["kept"]


def _first_text(text: str | None, n_processes: int) -> str | None:
    """Give what the first of all processes that has something to say says."""
    if n_processes == 1:
        return text
    texts: list[str | None] = [None] * n_processes
    torch.distributed.all_gather_object(texts, text)
    return next(found for found in texts if found is not None)


def _place(trainer: pl.Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1}"


def _is_in_fit(trainer: pl.Trainer) -> bool:
    """Tell a validation that follows training from those before it and without it."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _optimizers(trainer: pl.Trainer) -> list[Optimizer]:
    """Give those that have something to train; Lightning stands an empty one in where there is nothing."""
    return [optimizer for optimizer in trainer.optimizers if optimizer.param_groups]


def _averages(trainer: pl.Trainer) -> list[WeightAveraging]:
    return [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]  # pyright: ignore[reportAttributeAccessIssue]


def _keep(trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
    """Copy weights, averaged weights and the state of the optimisers."""
    kept: dict[str, Any] = {"state_dict": pl_module.state_dict()}
    for average in _averages(trainer):
        # What it puts into a checkpoint: the current weights under another name and its own in their place.
        average.on_save_checkpoint(trainer, pl_module, kept)
    kept["optimizers"] = [optimizer.state_dict()["state"] for optimizer in _optimizers(trainer)]
    return copy.deepcopy(kept)


def _restore(trainer: pl.Trainer, pl_module: pl.LightningModule, kept: dict[str, Any]) -> None:
    """Put back what `_keep` copied; learning rates stay with their schedule."""
    kept = copy.deepcopy(kept)
    pl_module.load_state_dict(kept["state_dict"])
    for average in _averages(trainer):
        # It takes its own weights and gives the module the current ones.
        average.on_load_checkpoint(trainer, pl_module, kept)
    for optimizer, state in zip(_optimizers(trainer), kept["optimizers"], strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _shrink_rates(optimizer: Optimizer) -> None:
    """Shrink the rate and those between which a cycle moves it; both stand in checkpoints with the optimiser."""
    for group in optimizer.param_groups:
        for name in ("lr", "initial_lr", "max_lr", "min_lr"):
            if name in group:
                group[name] *= SHRINK


def _peak_rate(optimizer: Optimizer) -> float:
    return max(group.get("max_lr", group["lr"]) for group in optimizer.param_groups)
