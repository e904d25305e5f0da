"""Evaluation cannot flatter: nothing of the held-out part is seen, and what loses is said to lose."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from latentode import Forecaster
from latentode.data.windows import make_split
from latentode.forecasting.evaluate import evaluate
from latentode.forecasting.report import print_scores
from latentode.metrics import METRICS
from tests.data.tables import make_frame, make_table

QUICK = {"horizon": 3.0, "max_epochs": 2, "windows_per_epoch": 64, "device": "cpu", "show_progress": False}


@pytest.mark.parametrize("model", ["latent_ode", "ridge", "gradient_boosting"])
@pytest.mark.parametrize("split", ["time", "series"])
def test_the_held_out_future_changes_nothing_that_is_fitted(model, split):
    """Scaling, weights, early stopping, calibration and validation figures are those of an untouched future."""
    forecaster = Forecaster(model=model, split=split, **QUICK)
    table, spoilt = make_table(n_series=10, n_rows=60), make_table(n_series=10, n_rows=60)
    # The test part of the split that the fit makes, each value far off and of another sign.
    fitted = forecaster.fit(table).fitted_
    cut = make_split(table, fitted.settings)
    series = table.row_series
    is_test = cut.role[series] == 2 if split == "series" else table.time > cut.test_from[series]
    assert 0 < is_test.sum() < table.n_rows / 2
    spoilt.values[is_test] = -50.0 * spoilt.values[is_test] + 1000.0
    other = Forecaster(model=model, split=split, **QUICK).fit(spoilt)
    for name, value in fitted.network.state_dict().items():
        assert torch.equal(value, other.fitted_.network.state_dict()[name]), name
    for name, value in fitted.baselines.state_dict().items():
        assert torch.equal(value, other.fitted_.baselines.state_dict()[name]), name
    np.testing.assert_array_equal(fitted.scaler.mean, other.fitted_.scaler.mean)
    np.testing.assert_array_equal(fitted.scaler.std, other.fitted_.scaler.std)
    assert forecaster.metrics_["validation"] == other.metrics_["validation"]
    assert forecaster.metrics_["best_epoch"] == other.metrics_["best_epoch"]
    assert other.metrics_["test"]["mse"] > 10 * forecaster.metrics_["test"]["mse"]


def test_a_report_has_every_metric_per_channel_and_lead_time_and_against_every_baseline():
    table = make_table(n_series=8, n_rows=60)
    fitted = Forecaster(model="last_value", **QUICK).fit(table).fitted_
    report = evaluate(fitted, table, n_draws=100)
    assert report["part"] == "test"
    assert set(report["channels"]) == {"x0", "x1"}
    assert [round(one["until"], 2) for one in report["bins"]] == [0.25, 0.5, 0.75, 1.0]
    assert sum(one["n_values"] for one in report["bins"]) == report["n_values"]
    for one in report["bins"]:
        assert set(METRICS) <= set(one)
        assert set(METRICS) <= set(one["channels"]["x0"])
    for name in ("mse", "mae", "crps"):
        low, high = report["intervals"][name]["macro"]
        assert low <= report[f"{name}_macro"] <= high
        for baseline in ("constant", "last_value", "blend"):
            skill = report["against"][baseline][name]["macro"]["skill"]
            assert skill["low"] <= skill["estimate"] <= skill["high"]
    # The model is "last value": against itself it has no skill and no doubt about it.
    own = report["against"]["last_value"]["mse"]["macro"]["skill"]
    assert own == {"estimate": 0.0, "low": 0.0, "high": 0.0}


def test_a_channel_that_is_constant_in_training_is_in_no_average_and_named():
    frame = make_frame(n_series=8, n_rows=60)
    honest = Forecaster(model="blend", **QUICK).fit(frame)
    cut = frame.groupby("series_id")["time"].transform(lambda time: time.max() - 0.1 * (time.max() - time.min()))
    # Constant until far into the test part, then of another size altogether.
    odd = frame.assign(odd=np.where(frame["time"] <= cut, 3.0, 1e6))
    fitted = Forecaster(model="blend", **QUICK).fit(odd)
    report, plain = fitted.metrics_["test"], honest.metrics_["test"]
    assert report["left_out"] == ["odd"]
    assert plain["left_out"] == []
    for name in ("mse", "mae_pooled", "nll_macro", "coverage_80"):
        assert report[name] == pytest.approx(plain[name], rel=1e-4), name
    # Intervals of cells with few residuals lean on those of all channels, of which this is one.
    assert report["crps"] == pytest.approx(plain["crps"], rel=1e-3)
    assert report["n_values"] == plain["n_values"]
    assert report["channels"]["odd"]["mse"] > 1e6
    assert fitted.metrics_["validation"]["mse"] == pytest.approx(honest.metrics_["validation"]["mse"], rel=1e-4)
    printed = io.StringIO()
    print_scores(report, console=Console(file=printed, width=140))
    assert "in no average: odd" in printed.getvalue()


def test_a_table_of_constants_alone_is_still_scored():
    frame = make_frame(n_series=4, n_rows=40, n_channels=1).assign(x0=5.0)
    report = Forecaster(model="last_value", **QUICK).fit(frame).metrics_["test"]
    assert report["left_out"] == []
    assert report["mse"] == 0.0
