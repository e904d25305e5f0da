"""The one LightningModule: trains any `ForecastModel`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import MaxMetric, MeanMetric

from latentode.data.batch import Batch
from latentode.errors import SolveError
from latentode.models import Dynamics, ForecastModel
from latentode.models.fitted import FittedModel
from latentode.models.interfaces import Path as LatentPath
from latentode.models.objectives import Mean
from latentode.models.registry import make_model
from latentode.progress import track
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.metrics import ForecastError
from latentode.training.rescue import Rescue
from latentode.training.sharing import joint_loss


class ForecastingTask(pl.LightningModule):
    """Trains a network by its own loss with AdamW under a one-cycle schedule.

    Args:
        network: the model to train, or the short name of one in `latentode.models.MODELS`: latent_ode, blend, ridge, gradient_boosting, ...
        learning_rate: highest learning rate of the cycle.
        weight_decay: of AdamW.
    """

    def __init__(
        self, network: ForecastModel | str = "latent_ode", learning_rate: float = 2e-3, weight_decay: float = 1e-2
    ) -> None:
        super().__init__()
        self.network = make_model(network) if isinstance(network, str) else network
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.fitted: FittedModel | None = None
        # Of a score that fits of other settings can be compared by (`trial.py`), per channel; None: there is no such score.
        self.common_unit: Tensor | None = None
        self.rescue = Rescue()
        # Sums that processes add up: Lightning's own means of several processes round the sizes of batches.
        self.train_loss, self.nfe = (MeanMetric(nan_strategy="disable") for _ in range(2))
        self.nfe_max = MaxMetric(nan_strategy="disable")
        # Whether a batch was seen, so that a checkpoint, where there is one, has been taken up.
        self.has_begun = False

    @property
    def dynamics(self) -> list[Dynamics]:
        """The parts of the network that carry a state."""
        return [part for part in self.network.modules() if isinstance(part, Dynamics)]

    @property
    def learning_rate_final(self) -> float:
        """Highest learning rate of the cycle as it stands after what `rescue` had to do."""
        return self.learning_rate * self.rescue.rate_factor

    def build(self, data: ForecastingDataModule, fit: dict[str, Any] | None = None) -> None:
        """Make the network's parameters for the data at hand, and fit its base; `fit` holds the settings of the fit, to be kept.

        Before the trainer starts, and not in `setup`: the callback that averages weights copies the module before its `setup` is called.
        """
        with track(f"reading {Path(data.settings.path).name}" if data.settings.path else "reading the data"):
            data.setup("fit")
        # Back to the start of the seeded stream: what was drawn before (a parser, a progress bar) must not change the weights.
        seed = torch.initial_seed()
        torch.manual_seed(seed)
        self.fitted = FittedModel.new(
            self.network,
            data.examples.table,
            data.examples.scaler,
            data.examples.settings,
            data.examples.spans,
            seed,
            target_channels=data.examples.target_channels,
        )
        self.fitted.fit, self.fitted.seen = fit or {}, data.examples.seen
        if data.examples.stream is not None:
            # The table of the examples is a sample.
            self.fitted.digest = data.examples.digest()
        with track("fitting what the network builds on"):
            self.fitted.measure_naive_error(data.preparation_batches())
            self.network.prepare(data.preparation_batches(), data.validation_batches())
        n_channels, flat = len(data.examples.table.schema.channels), self.fitted.flat_channels()
        self.error = ForecastError(n_channels, left_out=flat)
        self.score, self.common = (
            ForecastError(n_channels, average="balanced", left_out=flat, unit=unit)
            for unit in (self.network.error_unit(), self.common_unit)
        )

    def on_fit_start(self) -> None:
        """End after one epoch where there is nothing to train."""
        if not any(True for _ in self.network.parameters()):
            self.trainer.fit_loop.max_epochs = 1

    def configure_callbacks(self) -> list[pl.Callback]:
        """Bring what keeps training alive along, whoever trains."""
        return [self.rescue]

    def on_train_start(self) -> None:
        """Tell paths and dynamics where training stands: it may go on from within an epoch, whose start is then past."""
        self._tell_progress()
        if self.global_rank > 0:
            # Up to here all processes have drawn the same numbers; what each drops out of its own windows is another matter.
            torch.manual_seed(hash((torch.initial_seed(), self.global_rank, self.global_step)) % 2**63)

    def on_train_epoch_start(self) -> None:
        """Tell paths and dynamics where training stands."""
        self._tell_progress()

    def _tell_progress(self) -> None:
        planned = self.trainer.max_epochs or 0
        if planned < 1 and self.trainer.max_steps > 0:
            planned = self.trainer.max_steps / max(int(self.trainer.num_training_batches), 1)
        # A training without a planned end is solved as stated from the start.
        fraction = min(self.current_epoch / planned, 1.0) if planned > 0 else 1.0
        for part in self.network.modules():
            if isinstance(part, Dynamics | LatentPath):
                part.at_progress(fraction)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Give the loss; a baseline, which has nothing to learn, gives None."""
        self.has_begun = True
        try:
            loss = self._loss(batch)
        except SolveError as error:
            self._note_failure(error)
            return self._no_loss()
        self.train_loss.update(loss.detach(), len(batch))
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        if len(batch):
            self._log_nfe()
        return loss if loss.requires_grad else None

    def _loss(self, batch: Batch) -> Tensor:
        """Give the loss of the batch, of several processes that of the batch which they hold together."""
        n_processes = self.trainer.world_size
        if n_processes == 1:
            return self.network.loss(batch)
        # What has no window teaches nothing, but takes part.
        means = self.network.loss_means(batch) if len(batch) else [Mean(self._sum_of_weights() * 0, torch.zeros(()))]
        return joint_loss(means, self.trainer.strategy, n_processes)

    def _no_loss(self) -> Tensor:
        """Give the loss of a batch that could not be solved: it teaches nothing, and all parameters get a gradient.

        Of several processes the others must not learn from it either: it is made one that `rescue` drops in all of them.
        """
        if self.trainer.world_size == 1:
            return self._sum_of_weights() * 0
        lost = self._sum_of_weights() * torch.nan
        return joint_loss([Mean(lost, torch.ones_like(lost))], self.trainer.strategy, self.trainer.world_size)

    def _sum_of_weights(self) -> Tensor:
        return torch.stack([p.sum() for p in self.network.parameters() if p.requires_grad]).sum()

    def _log_nfe(self) -> None:
        """Log what the solves of the batch cost; it is summed up on the device and read once per epoch."""
        costs = [part.nfe.flatten() for part in self.dynamics if part.nfe is not None]
        if costs:
            nfe = torch.cat(costs).float()
            self.nfe.update(nfe)
            self.nfe_max.update(nfe)
            self.log("nfe", self.nfe, on_step=False, on_epoch=True)
            self.log("nfe_max", self.nfe_max, on_step=False, on_epoch=True)

    def _note_failure(self, error: SolveError) -> None:
        """Leave a failed solve to `rescue`.

        Raises:
            SolveError: nothing was learned yet, so that there is nothing to go back to; or nothing is learned here.
        """
        if self.trainer.state.fn != "fit" or self.trainer.global_step == 0:
            raise error
        self.rescue.failure = str(error)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Take the gradient; some gradient routes solve an equation for it, which may fail as well."""
        try:
            super().backward(loss, *args, **kwargs)
        except SolveError as error:
            if self.trainer.world_size > 1:
                # The others wait for the rest of the gradient.
                raise
            self._note_failure(error)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient, once it is known to be one."""
        scales = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        self.rescue.drop_lost_gradient(self.network.parameters(), counts=not scales)
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the batch to the validation error; where the field cannot be solved it is infinite."""
        self.has_begun = True
        errors = {"val_mse": self.error, "val_score": self.score}
        if self.common_unit is not None:
            errors["val_common"] = self.common
        try:
            if len(batch):
                forecast = self.network(batch)
                for error in errors.values():
                    error.update(forecast, batch)
        except SolveError as failure:
            self._note_failure(failure)
            for error in errors.values():
                error.total.fill_(torch.inf)
        for name, error in errors.items():
            self.log(name, error, on_epoch=True, batch_size=len(batch))

    def configure_optimizers(self) -> Any:
        """Give AdamW and a one-cycle schedule over all steps; nothing where there is nothing to train."""
        parameters = list(self.network.parameters())
        if not parameters:
            return None
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        n_steps = max(int(self.trainer.estimated_stepping_batches), 2)
        # Of ten steps a tenth is the first alone, and PyTorch divides by the steps between the first and the last of the rise.
        rise = 0.1 if n_steps != 10 else 0.11
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=n_steps, pct_start=rise
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put beside the weights, as plain values, all that rebuilding the model takes."""
        assert self.fitted is not None
        checkpoint["latentode"] = self.fitted.to_plain()
        # Without these a fit that goes on would drop other units than the one that was not cut off.
        checkpoint["generators"] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            checkpoint["generators"]["cuda"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put torch's generators where they stood."""
        generators = checkpoint.get("generators", {})
        if "cpu" in generators:
            torch.set_rng_state(generators["cpu"].cpu())
        if "cuda" in generators and self.device.type == "cuda":
            torch.cuda.set_rng_state(generators["cuda"].cpu(), self.device)
