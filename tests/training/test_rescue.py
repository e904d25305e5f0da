"""Training that breaks down: no bad gradient reaches the weights, and the fit goes on by smaller steps or ends with its best weights."""

from __future__ import annotations

import csv
import json
import logging
import statistics

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import nn
from torch.distributions import Normal

from latentode.data.settings import DataSettings
from latentode.errors import SolveError
from latentode.models import ForecastModel
from latentode.ode import solve
from latentode.training import FitSettings, fit_network
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.fitting import TRAINER_DEFAULTS, moving_average, quiet_lightning
from latentode.training.rescue import MAX_RETRIES, Rescue, has_exploded
from latentode.training.task import ForecastingTask
from tests.data.tables import make_table

SETTINGS = DataSettings(horizon=3.0, windows_per_epoch=64, batch_size=16)  # 4 steps per epoch


class Level(ForecastModel):
    """Forecasts `size * level` per channel, wherever it is asked for.

    `fault` of the next loss: "loss" makes it NaN, "gradient" keeps it finite and makes its gradient NaN.
    """

    def __init__(self, size: float = 1.0, start: float = -2.0) -> None:
        super().__init__()
        self.size = size
        self.start = start
        self.fault = ""

    def setup(self, schema):
        self.level = nn.Parameter(torch.full((len(schema.channels),), self.start))

    def forward(self, batch):
        mean = self.size * self.level[batch.target_channel]
        return Normal(mean, torch.ones_like(mean), validate_args=False)

    def loss(self, batch):
        error = torch.where(batch.target_observed, self(batch).mean - batch.target_value, 0.0)
        loss = error.square().mean()
        if self.fault == "loss":
            loss = loss * torch.nan
        if self.fault == "gradient":
            # sqrt has an infinite slope at 0, and 0 times it is NaN.
            loss = loss + (0.0 * self.level.sum()).sqrt()
        return loss


class Steep(Level):
    """Forecasts `sinh(size * level)`: one step too far costs a hundred times the loss."""

    def forward(self, batch):
        mean = (self.size * self.level[batch.target_channel]).sinh()
        return Normal(mean, torch.ones_like(mean), validate_args=False)


class Stiffening(Level):
    """Relaxes to its level at a rate that training drives up, until explicit steps are too many."""

    def setup(self, schema):
        super().setup(schema)
        self.log_rate = nn.Parameter(torch.zeros(()))

    def loss(self, batch):
        rate, t = self.log_rate.exp(), torch.linspace(0, 1, 2)
        end = solve(lambda t, y: -rate * (y - t[:, None].sin()), torch.ones(1, 1), t, max_steps=25).ys[0, -1]
        return super().loss(batch) + end.square().sum() - self.log_rate


class Faults(pl.Callback):
    """Breaks the network at some steps and keeps its weights before each."""

    def __init__(self, kind, *steps):
        self.kind, self.steps = kind, steps
        self.levels, self.averages = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pl_module.network.fault = self.kind if trainer.global_step in self.steps else ""
        self.levels.append(pl_module.network.level.detach().clone())
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging):
                self.averages.append(callback._average_model.module.network.level.detach().clone())


def fit(network, *callbacks, rate=1e-2, n_epochs=4, ckpt_path=None, folder=None):
    with quiet_lightning():
        pl.seed_everything(0, workers=True, verbose=False)
        task = ForecastingTask(network, rate)
        options = {**TRAINER_DEFAULTS, "max_epochs": n_epochs, "accelerator": "cpu", "default_root_dir": folder}
        average = WeightAveraging(avg_fn=moving_average)
        trainer = pl.Trainer(**options, enable_checkpointing=False, callbacks=[average, *callbacks])
        module = ForecastingDataModule(SETTINGS, make_table())
        task.build(module)
        trainer.fit(task, datamodule=module, ckpt_path=ckpt_path)
    return task


def warnings_of(caplog):
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_never_reaches_the_weights_and_is_retried_with_a_smaller_step(kind, caplog):
    faults = Faults(kind, 9)
    task = fit(Level(), faults)
    assert all(level.isfinite().all() for level in [*faults.levels, *faults.averages])
    assert task.rescue.n_rollbacks == 1
    assert task.learning_rate_final == 0.5e-2
    # Step 9 is in the third epoch; the fourth begins with what the second ended with, weights and average alike.
    assert torch.equal(faults.levels[12], faults.levels[8])
    assert torch.equal(faults.averages[12], faults.averages[8])
    assert not torch.equal(faults.levels[12], faults.levels[11])
    assert not torch.equal(faults.levels[13], faults.levels[12])
    (warning,) = warnings_of(caplog)
    assert "epoch 3" in warning
    assert "in 1 of 4 steps" in warning
    assert "retry 1 of 3" in warning


def test_the_moments_of_the_optimiser_go_back_with_the_weights():
    class Moments(pl.Callback):
        def __init__(self):
            self.first = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            state = trainer.optimizers[0].state
            self.first.append([value["exp_avg"].clone() for value in state.values()])

    moments = Moments()
    fit(Level(), Faults("loss", 9), moments)
    assert torch.equal(moments.first[12][0], moments.first[8][0])


def test_the_rate_of_the_cycle_is_halved_where_it_stands():
    class Rates(pl.Callback):
        def __init__(self):
            self.rates = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    healthy, rescued = Rates(), Rates()
    fit(Level(), healthy)
    fit(Level(), Faults("loss", 9), rescued)
    assert rescued.rates[:12] == healthy.rates[:12]
    assert rescued.rates[12:] == pytest.approx([0.5 * rate for rate in healthy.rates[12:]])


def test_a_rate_that_makes_the_loss_explode_is_rescued(tmp_path, caplog):
    # At 4.0 the cycle's warm-up of a tenth makes it explode a fourth time, and the fit ends with its best weights.
    rate = 3.8
    fit_settings = FitSettings(max_epochs=12, learning_rate=rate, device="cpu")
    _, metrics = fit_network(Steep(size=4.0, start=0.0), SETTINGS, fit_settings, tmp_path, data=make_table())
    assert 1 <= metrics["n_rollbacks"] <= MAX_RETRIES
    assert metrics["learning_rate_final"] == rate / 2 ** metrics["n_rollbacks"]
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["n_rollbacks"] == metrics["n_rollbacks"]
    assert all("loss has grown" in warning for warning in warnings_of(caplog))
    assert len(warnings_of(caplog)) == metrics["n_rollbacks"]
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert float(rows[-1]["train_loss"]) < 3
    assert metrics["validation"]["mse"] < 4


def test_a_field_that_becomes_stiff_ends_the_fit_with_the_best_weights_after_three_retries(tmp_path, caplog):
    fit_settings = FitSettings(max_epochs=40, learning_rate=4.0, device="cpu")
    fitted, metrics = fit_network(Stiffening(), SETTINGS, fit_settings, tmp_path, data=make_table())
    assert metrics["n_rollbacks"] == MAX_RETRIES
    warnings = warnings_of(caplog)
    assert len(warnings) == MAX_RETRIES + 1
    assert all("could not be solved" in warning and "max_steps" in warning for warning in warnings)
    assert "the best weights are kept" in warnings[-1]
    assert metrics["n_epochs"] < 40
    assert fitted.network.get_parameter("log_rate").detach() < 6
    with (tmp_path / "log.csv").open() as file:
        errors = [float(row["val_mse"]) for row in csv.DictReader(file)]
    assert metrics["validation"]["mse"] == pytest.approx(min(errors), rel=1e-5)


def test_a_field_that_cannot_be_solved_from_the_start_is_an_error():
    class Stiff(Stiffening):
        def setup(self, schema):
            super().setup(schema)
            nn.init.constant_(self.log_rate, 12.0)

    with pytest.raises(SolveError, match="max_steps"):
        fit(Stiff())


def test_a_fit_that_goes_on_rolls_back_as_the_undisturbed_one(tmp_path):
    class CutOff(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 11:
                trainer.save_checkpoint(tmp_path / "last.ckpt")
                raise ConnectionError("cut off")

    # One step is lost before the cut, in the epoch that is cut off, and one in the next.
    whole = fit(Level(), Faults("loss", 9, 13), folder=tmp_path)
    with pytest.raises(ConnectionError):
        fit(Level(), Faults("loss", 9, 13), CutOff(), folder=tmp_path)
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    resumed = fit(Level(), Faults("loss", 9, 13), ckpt_path=tmp_path / "last.ckpt", folder=tmp_path)
    assert resumed.rescue.n_rollbacks == whole.rescue.n_rollbacks == 2
    for name, value in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], value)


def test_a_gradient_that_is_not_finite_is_dropped_whole():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    rescue = Rescue()
    a.grad, b.grad = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0])
    rescue.drop_lost_gradient([a, b])
    assert a.grad.tolist() == [1, 2]
    b.grad[1] = torch.inf
    rescue.drop_lost_gradient([a, b])
    assert a.grad.tolist() == [0, 0]
    assert b.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("degrees", [1.2, 2.0, 5.0])
def test_heavy_tailed_losses_are_healthy(degrees):
    """Squared errors of Student's t: batches differ by orders of magnitude, the typical batch of a stretch does not."""
    rng = np.random.default_rng(0)
    stretches = np.median(np.square(rng.standard_t(degrees, size=(300, 32, 64))).mean(-1), axis=1)
    assert not any(has_exploded(one, min(stretches)) for one in stretches)
    if degrees < 2:
        means = np.square(rng.standard_t(degrees, size=(300, 32, 64))).mean((1, 2))
        assert any(has_exploded(one, min(means)) for one in means)


def test_a_likelihood_near_zero_or_below_may_wander_but_not_explode():
    assert not has_exploded(0.5, 0.01)
    assert not has_exploded(2.0, -3.0)
    assert has_exploded(12.0, 0.01)
    assert has_exploded(120.0, 3.0)
    assert not has_exploded(statistics.median([3.0, 4.0, 1e9]), 3.0)
