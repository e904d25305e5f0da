"""One small fit and what it leaves."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import yaml

from latentode.data.settings import DataSettings
from latentode.errors import DataError, RunError
from latentode.models import Blend, LatentODE
from latentode.models.fitted import FittedModel
from latentode.training import FitSettings, fit_network
from latentode.training.fitting import EMA_DECAY, moving_average
from tests.data.tables import make_table

SETTINGS = DataSettings(horizon=3.0, windows_per_epoch=64, batch_size=16)
QUICK = FitSettings(max_epochs=2, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fitted, metrics = fit_network(LatentODE(latent_size=4), SETTINGS, QUICK, folder, data=make_table())
    return folder, fitted, metrics


def test_a_run_folder_holds_what_it_should(run):
    folder, _, metrics = run
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "metrics.json",
        "log.csv",
        "best.ckpt",
        "last.ckpt",
    }
    assert json.loads((folder / "metrics.json").read_text())["test"]["mse"] == pytest.approx(metrics["test"]["mse"])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["horizon"] == 3.0
    assert config["model"]["network"]["init_args"]["latent_size"] == 4


def test_the_log_has_a_row_per_epoch(run):
    with (run[0] / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(float(row["val_mse"]) > 0 and float(row["train_loss"]) for row in rows)


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_checkpoints_hold_plain_values_only(run, name):
    content = torch.load(run[0] / name, weights_only=True)
    assert "hyper_parameters" not in content
    assert "_instantiator" not in str(content.keys())
    assert content["latentode"]["network"]["class"] == "LatentODE"


def test_the_best_weights_are_kept_calibrated(run):
    folder, fitted, metrics = run
    again = FittedModel.load(folder / "best.ckpt")
    for key, value in fitted.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key])
    validation = metrics["validation"]
    assert validation["mse"] <= validation["baselines"]["blend"]["mse"] + 1e-6


def test_a_fit_that_did_not_end_is_told_from_one_that_did(run):
    with pytest.raises(RunError, match="did not come to its end"):
        FittedModel.load(run[0] / "last.ckpt")


def test_the_same_seed_gives_the_same_weights_and_another_does_not(run, tmp_path):
    def weights(seed):
        folder = tmp_path / f"{seed}"
        folder.mkdir(exist_ok=True)
        fit = FitSettings(max_epochs=2, device="cpu", seed=seed)
        torch.rand(3)  # what was drawn before must not matter
        return fit_network(LatentODE(latent_size=4), SETTINGS, fit, folder, data=make_table())[0].network.state_dict()

    first, other = run[1].network.state_dict(), weights(1)
    for key, value in weights(0).items():
        assert torch.equal(value, first[key])
    assert any(not torch.equal(other[key], first[key]) for key in first)


def age_of_average(n_steps):
    """Average `0, 1, 2, ...`, the number of each step: how far the average lags behind, in steps."""
    average = torch.tensor(0.0, dtype=torch.float64)
    for n in range(1, n_steps + 1):
        average = moving_average(average, torch.tensor(float(n), dtype=torch.float64), torch.tensor(n))
    return n_steps - float(average)


def test_the_average_lags_behind_by_a_small_share_of_any_fit():
    for n_steps in (30, 60, 100, 400):
        assert 2 < age_of_average(n_steps) < 0.13 * n_steps
    # The mean age under a decay d is d / (1 - d).
    assert age_of_average(5000) == pytest.approx(EMA_DECAY / (1 - EMA_DECAY), rel=1e-4)


def test_a_baseline_is_fitted_like_any_model(tmp_path):
    _, metrics = fit_network(Blend(), SETTINGS, FitSettings(max_epochs=1, device="cpu"), tmp_path, data=make_table())
    assert metrics["test"]["mse"] == pytest.approx(metrics["test"]["baselines"]["blend"]["mse"])
    assert metrics["n_parameters"] == 0


def test_nothing_trainable_is_said(tmp_path):
    with pytest.raises(DataError, match="no window"):
        fit_network(LatentODE(), DataSettings(horizon=1e-9, val_fraction=0.5, test_fraction=0.49), QUICK, tmp_path,
                    data=make_table(n_series=1, n_rows=3))  # fmt: skip
