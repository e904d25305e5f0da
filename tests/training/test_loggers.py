"""Loggers by class path from YAML, with the real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from latentode.errors import InputError
from latentode.training.loggers import make_loggers
from tests.data.tables import make_frame

CONFIG = """
model:
  network:
    class_path: latentode.models.LatentODE
    init_args:
      latent_size: 4
      has_companion: false
      encoder: {class_path: latentode.models.AttentionEncoder, init_args: {hidden_size: 8, n_layers: 0}}
      dynamics: {class_path: latentode.models.LinearField}
data: {horizon: 3, windows_per_epoch: 32, batch_size: 16}
trainer:
  max_epochs: 2
  accelerator: cpu
  logger:
    - class_path: pytorch_lightning.loggers.CSVLogger
      init_args: {name: csv}
    - class_path: pytorch_lightning.loggers.TensorBoardLogger
      init_args: {name: tensorboard}
    - class_path: pytorch_lightning.loggers.MLFlowLogger
      init_args: {experiment_name: stations}
"""
FIGURES = {"train_loss", "val_mse", "val_score", "lr-AdamW"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    for package in ("tensorboard", "mlflow"):
        pytest.importorskip(package, reason=f"{package} is an optional logger; the extra dev has it")
    folder = tmp_path_factory.mktemp("loggers")
    make_frame(n_series=4).to_csv(folder / "data.csv", index=False)
    (folder / "fit.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "latentode.cli", "fit", "--config", "fit.yaml", "--data.path", "data.csv"]
    done = subprocess.run(
        [*command, "--run_dir", "run"], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    # Nothing lies beside the run folder.
    assert {path.name for path in folder.iterdir()} == {"data.csv", "fit.yaml", "run"}
    return folder / "run"


@pytest.mark.slow
def test_the_csv_logger_holds_figures_per_epoch_and_the_settings(run):
    figures = pd.read_csv(run / "csv" / "version_0" / "metrics.csv")
    assert set(figures) >= FIGURES
    log = pd.read_csv(run / "log.csv")
    assert figures["val_score"].dropna().tolist() == pytest.approx(log["val_score"].tolist())
    assert figures["train_loss"].dropna().tolist() == pytest.approx(log["train_loss"].tolist())
    settings = yaml.safe_load((run / "csv" / "version_0" / "hparams.yaml").read_text())
    assert settings["model.learning_rate"] == 0.002
    assert settings["model.network.init_args.latent_size"] == 4


@pytest.mark.slow
def test_tensorboard_holds_them_too(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard" / "version_0"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= FIGURES
    log = pd.read_csv(run / "log.csv")
    assert [event.value for event in events.Scalars("val_score")] == pytest.approx(log["val_score"].tolist())


@pytest.mark.slow
# MLflow's own use of SQLAlchemy.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_mlflow_holds_them_too(run):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    (logged,) = client.search_runs([client.get_experiment_by_name("stations").experiment_id])
    assert set(logged.data.metrics) >= FIGURES
    log = pd.read_csv(run / "log.csv")
    history = client.get_metric_history(logged.info.run_id, "val_score")
    assert [point.value for point in history] == pytest.approx(log["val_score"].tolist())
    assert logged.data.params["model.learning_rate"] == "0.002"
    assert logged.info.status == "FINISHED"


def test_a_place_that_is_given_is_kept(tmp_path):
    logger = make_loggers(
        {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "elsewhere")}}, Path("run")
    )
    assert logger[0].root_dir.startswith(str(tmp_path / "elsewhere"))
    assert make_loggers("CSVLogger", tmp_path / "run")[0].root_dir.startswith(str(tmp_path / "run"))
    assert (make_loggers(None, tmp_path), make_loggers(False, tmp_path)) == (False, False)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("CSVLoger", "did you mean 'CSVLogger'"),
        ("json.JSONDecoder", "no logger"),
        ("nowhere.Logger", "no class"),
        ({"class_path": "CSVLogger", "init_args": {"nam": "x"}}, "no setting 'nam' (did you mean 'name'?)"),
        ({"class": "CSVLogger"}, "class_path"),
        ([3], "class_path"),
    ],
)
def test_what_is_no_logger_is_refused_in_a_sentence(chosen, words, tmp_path):
    with pytest.raises(InputError) as refused:
        make_loggers(chosen, tmp_path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_logger_whose_package_is_missing_names_it(tmp_path, monkeypatch):
    # As it is where wandb is not installed, whether or not it is here.
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"WandbLogger needs a package .* pip install wandb\.$"):
        make_loggers("pytorch_lightning.loggers.WandbLogger", tmp_path)
