"""Every file in `configs/` does what it is there for: it trains, forecasts, and is read back from its run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from latentode import Forecaster
from tests.data.tables import make_frame

CONFIGS = Path(__file__).parents[2] / "configs"
MODELS = sorted((CONFIGS / "models").glob("*.yaml"))
RUNS = sorted(CONFIGS.glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_shipped_model_trains_forecasts_and_is_read_back(path, tmp_path):
    frame = make_frame(n_channels=3)
    forecaster = Forecaster(
        str(path), horizon=3.0, max_epochs=1, windows_per_epoch=64, batch_size=32, show_progress=False
    ).fit(frame)
    forecast = forecaster.predict(frame, every=1.0).to_frame()
    assert np.isfinite(forecast[["mean", "std", "q0.5"]].to_numpy()).all()
    forecaster.save(tmp_path / "run")
    again = Forecaster.load(tmp_path / "run").predict(frame, every=1.0).to_frame()
    pd.testing.assert_frame_equal(forecast, again)


@pytest.mark.slow
@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_shipped_config_runs_from_the_command_line(path, tmp_path):
    make_frame(n_channels=2).to_csv(tmp_path / "data.csv", index=False)
    command = [sys.executable, "-m", "latentode.cli", "fit", "--config", str(path), "--data.path", "data.csv"]
    command += ["--run_dir", "run", "--trainer.max_epochs", "1", "--data.windows_per_epoch", "64"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best.ckpt").is_file()
