"""Rolling origins: only what came before is read, only what was not seen is scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentode import Forecaster
from latentode.data.windows import make_split
from latentode.errors import DataError, InputError
from latentode.forecasting.backtest import backtest, backtest_frame, rolling_origins, rolling_windows, rows_until
from tests.data.tables import make_table


@pytest.fixture(scope="module")
def table():
    return make_table(n_series=8, n_rows=60)


@pytest.fixture(scope="module")
def fitted(table):
    forecaster = Forecaster(
        model="blend", horizon=3.0, max_epochs=1, windows_per_epoch=64, device="cpu", show_progress=False
    )
    return forecaster.fit(table).fitted_


def other_table():
    return make_table(n_series=8, n_rows=60, seed=5)


def test_origins_lie_one_horizon_apart_and_end_one_before_the_last_row(table, fitted):
    last = table.time[table.starts[1:] - 1]
    for back in (1, 2, 3):
        np.testing.assert_allclose(rolling_origins(table, 3.0, back), last - 3.0 * back)
    windows = rolling_windows(table, fitted, 3.0, 1)
    np.testing.assert_array_equal(windows.until, last[windows.series])


def test_what_the_model_was_trained_on_is_left_out_and_counted(table, fitted):
    report = backtest(fitted, table, origins=6, n_draws=0)
    split = make_split(table, fitted.settings)
    parts = [rolling_windows(table, fitted, 3.0, back) for back in range(6, 0, -1)]
    unseen = [int((part.origin >= split.test_from[part.series]).sum()) for part in parts]
    assert report["n_windows"] == sum(unseen) > 0
    n_seen = sum(map(len, parts)) - sum(unseen)
    assert f"{n_seen} windows were left out" in report["notes"][0]


def test_of_another_table_every_origin_is_scored_and_sums_add_up(fitted):
    table = other_table()
    report = backtest(fitted, table, origins=4, n_draws=0)
    assert [one["origin"] for one in report["origins"]] == [4, 3, 2, 1]
    assert report["notes"] == []
    assert report["n_values"] == sum(one["n_values"] for one in report["origins"])
    pooled = sum(one["mse_pooled"] * one["n_values"] for one in report["origins"]) / report["n_values"]
    assert report["mse_pooled"] == pytest.approx(pooled, rel=1e-9)
    frame = backtest_frame(report)
    whole = frame[(frame["origin"] == "all") & (frame["model"] == "model") & (frame["channel"] == "pooled")]
    assert float(whole["mse"].iloc[0]) == pytest.approx(report["mse_pooled"])
    assert set(frame["model"]) == {"model", "constant", "last_value", "blend"}


def test_the_future_of_an_origin_changes_no_forecast_from_it(fitted):
    """Refitted or not: what comes after an origin's targets is changed, and its figures stay."""
    table, spoilt = other_table(), other_table()
    last = spoilt.time[spoilt.starts[1:] - 1]
    spoilt.values[spoilt.time > (last - 3.0)[spoilt.row_series]] += 100.0
    fit = {"max_epochs": 1, "device": "cpu"}
    for refit in (False, True):
        one, other = (backtest(fitted, t, origins=2, refit=refit, fit=fit, n_draws=0) for t in (table, spoilt))
        assert one["origins"][0] == other["origins"][0]
        assert one["origins"][1]["mse"] != other["origins"][1]["mse"]


def test_refitted_models_see_the_rows_up_to_their_origin_only(table):
    origin = rolling_origins(table, 3.0, 2)
    known = rows_until(table, origin)
    np.testing.assert_array_less(known.time, np.nextafter(origin, np.inf)[known.row_series])
    n_before = (table.time <= origin[table.row_series]).sum()
    assert known.n_rows == n_before
    assert known.report.n_rows == n_before


def test_a_refitted_backtest_is_in_the_units_of_the_model_that_was_given(fitted):
    """A constant's error in user units does not depend on any scaling, so it must agree with the channels' own."""
    table = other_table()
    report = backtest(fitted, table, origins=2, refit=True, fit={"max_epochs": 1, "device": "cpu"}, n_draws=0)
    std = dict(zip(table.schema.channels, fitted.scaler.std, strict=True))
    for one in report["origins"]:
        scaled = [one["channels"][name]["mse"] / std[name] ** 2 for name in one["channels"]]
        assert one["mse_macro"] == pytest.approx(np.mean(scaled), rel=1e-9)


def test_bad_requests_are_refused_in_a_sentence(table, fitted):
    with pytest.raises(InputError, match="origins"):
        backtest(fitted, table, origins=0)
    with pytest.raises(DataError, match="no origin is left"):
        backtest(fitted, table, origins=1, horizon=1e6)
    with pytest.raises(InputError, match="horizon"):
        backtest(fitted, table, horizon="soon")


def test_a_longer_horizon_than_the_fit_knew_is_said(fitted):
    report = backtest(fitted, other_table(), origins=1, horizon=6.0, n_draws=0)
    assert "beyond" in report["notes"][0]
    assert report["horizon"] == 6.0


def test_totals_rescaled_are_those_of_values_in_the_new_unit():
    from torch.distributions import Normal

    from latentode.metrics import Totals

    torch.manual_seed(0)
    mean, value = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    channel = torch.randint(0, 2, (5, 7))
    observed = torch.rand(5, 7) < 0.8
    ratio = torch.tensor([2.0, 0.3], dtype=torch.float64)
    factor = ratio[channel]
    naive = torch.tensor([1.0, 2.0], dtype=torch.float64)
    one, other = (Totals.zero(2, naive_error=unit) for unit in (naive, naive * ratio))
    one.add(Normal(mean, torch.ones_like(mean)), value, channel, observed)
    other.add(Normal(mean * factor, factor), value * factor, channel, observed)
    rescaled = one.rescaled(ratio, naive * ratio)
    for name, total in other.sums.items():
        torch.testing.assert_close(rescaled.sums[name], total, rtol=1e-9, atol=1e-9, msg=name)
        assert rescaled.macro(name) == pytest.approx(other.macro(name), rel=1e-9)
