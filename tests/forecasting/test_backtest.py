"""Rolling origins: only what came before is read, only what was not seen is scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from latentode import Forecaster, read_table
from latentode.data.windows import make_split
from latentode.errors import DataError, InputError
from latentode.forecasting.backtest import backtest, backtest_frame, rolling_origins, rolling_windows, rows_until
from latentode.forecasting.evaluate import evaluate
from tests.data.tables import make_frame, make_table


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
    """Series that no fit has seen."""
    frame = make_frame(n_series=8, n_rows=60, seed=5)
    return read_table(frame.assign(series_id="other " + frame["series_id"]))


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


def test_a_table_that_has_grown_since_is_not_scored_on_what_was_trained_on(table, fitted):
    frame = table.to_frame()
    last = frame.groupby("series_id", sort=False).tail(1).assign(time=lambda rows: rows["time"] + 0.5)
    grown = read_table(pd.concat([frame, last.iloc[:3]]))
    report = backtest(fitted, grown, origins=6, n_draws=0)
    split = make_split(table, fitted.settings)
    position = [list(table.series_ids).index(name) for name in grown.series_ids]
    cut = split.test_from[position]
    expected = 0
    for back in range(6, 0, -1):
        windows = rolling_windows(grown, fitted, 3.0, back)
        expected += int((windows.origin >= cut[windows.series]).sum())
    assert 0 < report["n_windows"] == expected
    assert "left out" in report["notes"][0]
    again = evaluate(fitted, grown, n_draws=0)
    assert again["part"] == "all"
    assert 0 < again["n_seen"] < again["n_windows"]


@pytest.mark.parametrize("split", ["time", "series"])
def test_what_was_seen_is_told_by_name_and_survives_a_checkpoint(split, tmp_path):
    table = make_table(n_series=10, n_rows=40)
    options = {"horizon": 3.0, "max_epochs": 1, "windows_per_epoch": 32, "device": "cpu", "show_progress": False}
    Forecaster(model="blend", split=split, **options).fit(table).save(tmp_path / "run")
    fitted = Forecaster.load(tmp_path / "run").fitted_
    cut = make_split(table, fitted.settings)
    shuffled = table.select([7, 2, 9, 0])
    windows = rolling_windows(shuffled, fitted, 3.0, 1)
    unseen = fitted.seen.is_unseen(shuffled, windows)
    for i, one in enumerate(windows.series):
        name = [7, 2, 9, 0][one]
        expected = cut.role[name] == 2 if split == "series" else windows.origin[i] >= cut.test_from[name]
        assert unseen[i] == expected
    stranger = read_table(table.to_frame().assign(series_id=lambda frame: "new " + frame["series_id"]))
    assert fitted.seen.is_unseen(stranger, rolling_windows(stranger, fitted, 3.0, 1)).all()


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


def test_refitting_makes_the_same_fit_again(fitted, tmp_path):
    """On nothing but the rows that it was fitted on, a refitted model is the model; settings survive save and load."""
    chosen = {"horizon": 3.0, "max_epochs": 2, "patience": 7, "learning_rate": 1e-3, "windows_per_epoch": 64, "seed": 3}
    forecaster = Forecaster(**chosen, device="cpu", show_progress=False).fit(make_table(n_series=6, n_rows=40))
    forecaster.save(tmp_path / "run")
    loaded = Forecaster.load(tmp_path / "run")
    assert {name: loaded.get_params()[name] for name in chosen} == chosen
    kept = loaded.fitted_.fit
    assert (kept["max_epochs"], kept["patience"], kept["learning_rate"], kept["seed"]) == (2, 7, 1e-3, 3)


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


def test_bins_of_lead_time_are_parts_of_the_backtests_own_horizon(fitted):
    table = other_table()
    report = backtest(fitted, table, origins=2, horizon=0.9, n_draws=0)
    assert [one["until"] for one in report["bins"]] == [0.25, 0.5, 0.75, 1.0]
    assert all(one["n_values"] > 0 for one in report["bins"])
    # By hand: how many targets lie in the first quarter of 0.9.
    parts = [rolling_windows(table, fitted, 0.9, back) for back in (2, 1)]
    expected = 0
    for part in parts:
        origin = np.full(table.n_series, np.inf)
        origin[part.series] = part.origin
        lead = table.time - origin[table.row_series]
        is_first = (lead > 0) & (lead <= 0.225 * (1 + 1e-6))
        expected += int((~np.isnan(table.values[is_first])).sum())
    assert report["bins"][0]["n_values"] == expected


def test_origins_before_all_dates_are_refused():
    table = make_table(n_series=2, n_rows=40, datetimes=True)
    with pytest.raises(InputError, match="dates"):
        rolling_origins(table, 365 * 86_400e9, 400)


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
