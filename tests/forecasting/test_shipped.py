"""Every model in `configs/models/` does what it is there for: it trains, forecasts, and is read back from its run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from latentode import Forecaster
from tests.data.tables import make_frame

MODELS = sorted((Path(__file__).parents[2] / "configs" / "models").glob("*.yaml"))


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
