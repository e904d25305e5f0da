"""Programs of torch.export: they forecast as the run does, in a process that has no latentode."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from latentode import Forecaster
from latentode.cli import main
from latentode.errors import InputError, LatentODEError
from latentode.forecasting.export import export
from latentode.forecasting.predict import read_history
from latentode.models import AttentionEncoder, LatentODE, LinearField, MLPField, QuantileDecoder
from latentode.models.exportable import ExportableForecast
from tests.data.tables import make_covariate_frame, make_frame

LEVELS = [0.1, 0.5, 0.9]
# Whoever loads a program has torch and no latentode.
LOAD = """
import sys
sys.modules["latentode"] = None
import torch
program = torch.export.load("model.pt2").module()
torch.save(program(**torch.load("inputs.pt")), "outputs.pt")
"""


def model(dynamics):
    # Without base and companion, so that what is compared is the network.
    return LatentODE(
        AttentionEncoder(hidden_size=8, n_layers=1),
        dynamics,
        QuantileDecoder(hidden_size=8),
        latent_size=4,
        context_size=8,
        base=None,
        has_companion=False,
    )


def fit(frame, path, dynamics, **settings):
    forecaster = Forecaster(
        model(dynamics),
        horizon=3,
        max_epochs=2,
        windows_per_epoch=64,
        learning_rate=0.02,
        show_progress=False,
        **settings,
    )
    forecaster.fit(frame).save(path)
    return forecaster


def run_program(folder, inputs):
    torch.save(inputs, folder / "inputs.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [x.numpy() for x in torch.load(folder / "outputs.pt")]


def observations(frame, channels):
    """Give the observed values of each series, padded, in the order of rows from last to first."""
    parts = []
    for _, rows in frame.groupby("series_id", sort=True):
        long = rows[::-1].melt("time", channels).dropna()
        parts.append(
            (long["time"].to_numpy(), long["variable"].map(channels.index).to_numpy(), long["value"].to_numpy())
        )
    width = max(len(time) for time, *_ in parts)
    shape = (len(parts), width)
    time, channel, value = np.zeros(shape), np.zeros(shape, np.int64), np.full(shape, 99.0)
    observed = np.zeros(shape, bool)
    for i, found in enumerate(parts):
        n = len(found[0])
        time[i, :n], channel[i, :n], value[i, :n] = found
        observed[i, :n] = True
    arrays = {"time": time, "channel": channel, "value": value, "observed": observed}
    return {name: torch.from_numpy(x) for name, x in arrays.items()}


@pytest.fixture(scope="module")
def frame():
    return make_frame(n_series=5)


@pytest.mark.slow
def test_a_program_forecasts_in_a_process_without_latentode_as_the_run_does(frame, tmp_path):
    frame.to_csv(tmp_path / "data.csv", index=False)
    forecaster = fit(str(tmp_path / "data.csv"), tmp_path / "run", LinearField())
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "model.pt2")]) == 0
    record = json.loads((tmp_path / "model.json").read_text())
    assert record["channels"] == ["x0", "x1"]
    assert record["levels"] == LEVELS
    assert record["solver"] is None
    assert [entry["name"] for entry in record["inputs"]] == [
        "time",
        "channel",
        "value",
        "observed",
        "origin",
        "query_time",
    ]
    inputs = observations(frame, ["x0", "x1"])
    last = frame.groupby("series_id")["time"].max().to_numpy(copy=True)
    inputs["origin"] = torch.from_numpy(last)
    after = np.array([0.4, 1.0, 2.2])
    inputs["query_time"] = torch.from_numpy(last[:, None] + after)
    mean, std, quantiles = run_program(tmp_path, inputs)
    queries = pd.DataFrame(
        {"series_id": np.repeat(np.unique(frame["series_id"]), 3), "time": (last[:, None] + after).ravel()}
    )
    expected = forecaster.predict(frame, queries=queries, quantiles=LEVELS)
    assert mean.shape == (5, 3, 2)
    np.testing.assert_allclose(mean.reshape(-1, 2), expected.mean, rtol=1e-6)
    np.testing.assert_allclose(std.reshape(-1, 2), expected.std, rtol=1e-6)
    np.testing.assert_allclose(quantiles.reshape(-1, 2, 3), expected.quantiles, rtol=1e-6)
    # One series and one query: every size is one that a caller chooses.
    one = {name: x[:1] for name, x in inputs.items()} | {"query_time": inputs["query_time"][:1, :1]}
    np.testing.assert_allclose(run_program(tmp_path, one)[0], mean[:1, :1], rtol=1e-6)


@pytest.mark.slow
def test_a_solved_field_is_exported_by_fixed_steps_that_are_compared_with_the_run(tmp_path):
    # Covariates of every kind, and dates with their calendar.
    frame = make_covariate_frame(n_series=6)
    frame["time"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(frame["time"], unit="D")
    columns = {"static_columns": ["age", "kind"], "known_columns": ["dose"]}
    forecaster = Forecaster(
        model(MLPField(hidden_size=8)), horizon="3d", max_epochs=2, windows_per_epoch=64, learning_rate=0.02,
        show_progress=False, **columns,
    )  # fmt: skip
    fitted = forecaster.fit(frame).fitted_
    with torch.no_grad():
        # A field that bends its paths, so that the number of steps matters.
        for parameter in fitted.network.dynamics.parameters():
            parameter.mul_(10)
    table, out = read_history(fitted, frame), tmp_path / "model.pt2"
    with pytest.raises(LatentODEError, match="nothing was written"):
        export(fitted, table, out, levels=[0.5], n_steps=1, tolerance=1e-4)
    assert not list(tmp_path.iterdir())
    export(fitted, table, out, levels=[0.5], n_steps=8, tolerance=1e-4)
    record = json.loads((tmp_path / "model.json").read_text())
    assert record["solver"] == {"method": "tsit5", "n_steps": 8}
    # Steps of one kind and of the other, so that it is no copy; and near each other.
    assert 0 < record["agreement"]["largest"] < 1e-4
    assert [entry["name"] for entry in record["inputs"]][-4:] == ["known", "query_known", "statics", "categories"]
    assert record["known"][0] == "dose"
    assert record["inputs"][0]["dtype"] == "int64"


@pytest.mark.slow
def test_what_cannot_be_exported_is_refused_with_what_can(frame, tmp_path, capsys):
    frame.to_csv(tmp_path / "data.csv", index=False)
    Forecaster("exponential_smoothing", horizon=3, max_epochs=1, show_progress=False).fit(frame).save(tmp_path / "run")
    command = [
        "export",
        str(tmp_path / "run"),
        "--data",
        str(tmp_path / "data.csv"),
        "--out",
        str(tmp_path / "model.pt2"),
    ]
    assert main(command) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "ExponentialSmoothing cannot be exported" in error
    assert "AttentionEncoder" in error
    assert not list(tmp_path.glob("model.*"))


def test_other_suffixes_missing_tables_and_channels_with_a_support_are_refused(frame, tmp_path, capsys):
    counts = frame.assign(x1=np.round(np.exp(frame["x1"])))
    forecaster = Forecaster("blend", horizon=3, max_epochs=1, count_channels=["x1"], show_progress=False).fit(counts)
    with pytest.raises(InputError, match="log, count or bounded"):
        ExportableForecast(forecaster.fitted_, LEVELS)
    forecaster.save(tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "model.pt2")]) == 2
    assert "--data" in capsys.readouterr().err
    counts.to_csv(tmp_path / "data.csv", index=False)
    command = [
        "export",
        str(tmp_path / "run"),
        "--data",
        str(tmp_path / "data.csv"),
        "--out",
        str(tmp_path / "model.onnx"),
    ]
    assert main(command) == 2
    assert ".pt2" in capsys.readouterr().err
