"""Fitting and forecasting on a GPU, through the same calls as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentode import Forecaster
from latentode.data.datasets import pbcseq

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def test_a_model_fitted_on_the_gpu_forecasts_the_same_on_the_cpu():
    forecaster = Forecaster(max_epochs=2, windows_per_epoch=256, device="gpu", show_progress=False)
    forecaster.fit(pbcseq.path())
    there = forecaster.predict(pbcseq.path(), every=180, horizon=720).to_frame()
    forecaster.set_params(device="cpu")
    here = forecaster.predict(pbcseq.path(), every=180, horizon=720).to_frame()
    assert list(there["series_id"]) == list(here["series_id"])
    scale = here["std"].to_numpy()
    assert np.abs((there["mean"] - here["mean"]).to_numpy() / scale).max() < 1e-3
    assert forecaster.metrics_["test"]["ratio_to_blend"] < 1.1
