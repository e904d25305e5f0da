"""Static, known, input-only and log columns from a table to a forecast."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from latentode import Forecaster, read_table
from latentode.data.settings import DataSettings
from latentode.data.windows import heldout_windows, make_split
from latentode.errors import DataError, InputError
from latentode.forecasting.backtest import rows_until
from latentode.models import GaussianDecoder, LatentODE
from tests.data.tables import ROLES, make_covariate_frame

QUICK = {"max_epochs": 6, "windows_per_epoch": 512, "horizon": 3.0, "device": "cpu", "show_progress": False}


@pytest.fixture(scope="module")
def frame():
    return make_covariate_frame(n_series=12)


@pytest.fixture(scope="module")
def fitted(frame):
    model = LatentODE(decoder=GaussianDecoder())
    return Forecaster(model, **ROLES, target_channels=["y", "p"], **QUICK).fit(frame)


def ask(frame, doses, after=1.0):
    """One query per series and dose, one unit after its last row."""
    last = frame.groupby("series_id", sort=False)["time"].max()
    ids = np.repeat(last.index.to_numpy(), len(doses))
    times = np.repeat(last.to_numpy() + after, len(doses))
    return pd.DataFrame({"series_id": ids, "time": times, "dose": np.tile(doses, len(last))})


def test_a_driven_channel_is_forecast_by_what_drives_it(fitted, frame):
    without = Forecaster(channels=["y", "p", "lead"], target_channels=["y", "p"], log_channels=["p"], **QUICK).fit(
        frame
    )
    told, untold = (f.metrics_["test"]["channels"]["y"]["mse"] for f in (fitted, without))
    # The noise is 0.3, the dose moves `y` by 3: without it nothing better than 9 can be had.
    assert untold > 6
    assert told < 0.2 * untold
    forecast = fitted.predict(frame, queries=ask(frame, [-2.0, 0.0, 2.0]))
    y = forecast.mean[:, 0].reshape(-1, 3)
    assert (np.diff(y, axis=1) > 3).all()
    assert np.allclose(y.mean(axis=0), [4, 10, 16], atol=2)


@pytest.mark.parametrize("how", [{"at": [999.0]}, {"every": 1.0}])
def test_without_a_query_table_it_is_said_to_give_one(fitted, frame, how):
    name = next(iter(how))
    words = rf"^the model takes 'dose', known in the future too, which {name} does not tell; give --queries .*\.$"
    with pytest.raises(InputError, match=words):
        fitted.predict(frame, **how)


def test_queries_without_the_known_column_are_refused(fitted, frame, tmp_path):
    queries = ask(frame, [1.0])
    with pytest.raises(DataError, match="has no column 'dose', which the model was told is known in the future"):
        fitted.predict(frame, queries=queries.drop(columns="dose"))
    queries.loc[4, "dose"] = np.nan
    queries.to_csv(tmp_path / "q.csv", index=False)
    with pytest.raises(DataError, match=r"q\.csv:6: known column 'dose' is empty \(1 such cell\)"):
        fitted.predict(frame, queries=tmp_path / "q.csv")


def test_an_input_only_channel_is_never_forecast(fitted, frame):
    forecast = fitted.predict(frame, queries=ask(frame, [0.0]))
    assert forecast.channels == ("y", "p")
    assert set(forecast.to_frame()["channel"]) == {"y", "p"}
    assert "lead" not in fitted.metrics_["test"]["channels"]


def test_an_input_only_channel_helps():
    # `y` goes where `lead` was one unit of time before; its own past says nothing.
    rng = np.random.default_rng(0)
    lead = rng.normal(size=700)
    frame = pd.DataFrame({"time": np.arange(700.0), "lead": lead, "y": np.concatenate([[0.0], lead[:-1]])})
    errors = {}
    for name, channels in (("with", ["lead", "y"]), ("without", ["y"])):
        forecaster = Forecaster("ridge", channels=channels, target_channels=["y"], **{**QUICK, "horizon": 1.0})
        metrics = forecaster.fit(frame).metrics_["test"]
        assert set(metrics["channels"]) == {"y"}
        errors[name] = metrics["mse"]
    assert errors["with"] < 0.1 * errors["without"]


def test_a_category_that_training_never_saw_is_forecast(fitted, frame):
    stranger = frame[frame["series_id"] == "s1"].assign(series_id="new", kind="Z", age=np.nan)
    forecast = fitted.predict(stranger, queries=ask(stranger, [0.0, 1.0]))
    assert np.isfinite(forecast.mean).all()
    nameless = fitted.predict(stranger.assign(kind=None), queries=ask(stranger, [0.0, 1.0]))
    assert np.array_equal(forecast.mean, nameless.mean)


def test_a_category_of_held_out_series_alone_is_one_that_training_never_saw(frame):
    settings = DataSettings(split="series", horizon=3.0)
    plain = frame.assign(kind="A")
    held_out = np.flatnonzero(make_split(read_table(plain, **ROLES), settings).role > 0)
    assert len(held_out) > 1
    kinds = frame["series_id"].map({f"s{i}": "B" for i in held_out}).fillna("A")
    fitted = Forecaster("ridge", **ROLES, split="series", **QUICK).fit(frame.assign(kind=kinds)).fitted_
    assert fitted.schema.categories == (("A",),)


def test_a_table_read_before_gives_the_same_whatever_categories_it_holds(fitted, frame):
    some = frame[frame["kind"] == "C"]
    queries = ask(some, [0.5])
    reference = fitted.predict(some, queries=queries)
    read = read_table(some, **ROLES, target_channels=["y", "p"])
    assert read.schema.categories == (("C",),)
    assert np.array_equal(fitted.predict(read, queries=queries).mean, reference.mean)


@pytest.mark.parametrize("role", ["static_columns", "known_columns", "log_channels"])
def test_a_table_read_without_its_columns_is_refused(fitted, frame, role):
    roles = {name: columns for name, columns in ROLES.items() if name != role}
    read = read_table(frame, **roles, target_channels=["y", "p"])
    with pytest.raises(DataError, match="read the table as the model's was"):
        fitted.predict(read, queries=ask(frame, [0.0]))
    with pytest.raises(InputError, match=f"was read without {role}"):
        Forecaster(**ROLES, target_channels=["y", "p"], **QUICK).fit(read)


def test_what_is_saved_comes_back(fitted, frame, tmp_path):
    fitted.save(tmp_path / "run")
    again = Forecaster.load(tmp_path / "run")
    assert (again.static_columns, again.known_columns, again.log_channels) == (["kind", "age"], ["dose"], ["p"])
    queries = ask(frame, [0.0, 2.0])
    one, two = (f.predict(frame, queries=queries) for f in (fitted, again))
    pd.testing.assert_frame_equal(one.to_frame(), two.to_frame())
    pd.testing.assert_frame_equal(one.sample(5), two.sample(5))
    scores = again.score(frame)
    assert scores["part"] == "test"
    assert scores["mse"] == pytest.approx(fitted.metrics_["test"]["mse"])


def test_a_table_cut_at_origins_keeps_its_columns_in_step(frame):
    table = read_table(frame, **ROLES)
    origin = np.where(np.arange(table.n_series) == 2, -1.0, 10.0)
    cut = rows_until(table, origin)
    assert cut.n_series == 11
    assert cut.statics.texts[:3, 0].tolist() == ["A", "B", "A"]
    keep = (table.time <= 10) & (table.row_series != 2)
    assert np.array_equal(cut.known, table.known[keep])
    assert np.array_equal(cut.values, table.values[keep], equal_nan=True)


def test_a_batch_row_is_the_series_alone(fitted, frame):
    queries = ask(frame, [0.5])
    together = fitted.predict(frame, queries=queries)
    for i in (0, 5):
        alone = fitted.predict(frame[frame["series_id"] == f"s{i}"], queries=queries.iloc[[i]])
        assert np.allclose(alone.mean[0], together.mean[i], rtol=1e-3)
        assert np.allclose(alone.quantiles[0], together.quantiles[i], rtol=1e-3)


def test_a_log_channel_is_forecast_as_a_log_normal(fitted, frame):
    forecast = fitted.predict(frame, queries=ask(frame, [0.0]), quantiles=[0.1, 0.5, 0.9])
    low, middle, high = np.log(forecast.quantiles[:, 1]).T
    # Symmetric in the logarithm; mean and deviation are those of the log-normal.
    assert np.allclose(high - middle, middle - low, rtol=1e-4)
    spread = (high - low) / 2 / 1.2815515655446004
    assert np.allclose(forecast.mean[:, 1], np.exp(middle + spread**2 / 2), rtol=1e-4)
    assert np.allclose(forecast.std[:, 1], forecast.mean[:, 1] * np.sqrt(np.expm1(spread**2)), rtol=1e-4)


@pytest.mark.statistical
def test_draws_of_a_log_channel_have_its_quantiles(fitted, frame):
    forecast = fitted.predict(frame, queries=ask(frame, [0.0]), quantiles=[0.1, 0.5, 0.9])
    draws = forecast.sample(4_000, seed=1)
    p = draws[draws["channel"] == "p"]["value"].to_numpy().reshape(-1, 4_000)
    assert (p > 0).all()
    assert np.allclose(np.quantile(p, [0.1, 0.5, 0.9], axis=1).T, forecast.quantiles[:, 1], rtol=0.12)
    y = draws[draws["channel"] == "y"]["value"].to_numpy().reshape(-1, 4_000)
    assert np.allclose(y.mean(axis=1), forecast.mean[:, 0], atol=5 * forecast.std[:, 0].max() / 60)


def test_a_history_with_a_value_that_has_no_logarithm_is_refused_by_line(fitted, frame, tmp_path):
    frame.assign(p=frame["p"].where(frame.index != 3, -1.0)).to_csv(tmp_path / "h.csv", index=False)
    with pytest.raises(DataError, match=r"h\.csv:5: channel 'p' holds -1, which has no logarithm"):
        fitted.predict(tmp_path / "h.csv", queries=ask(frame, [0.0]))


@pytest.mark.parametrize("model", ["latent_ode", "ridge", "blend"])
def test_one_wild_value_ruins_no_other_forecast_under_robust_scaling(frame, model):
    plain = frame[["series_id", "time", "y", "lead"]]
    wild = plain.copy()
    wild.loc[200, "y"] = 1e12
    others = plain["series_id"] != plain.loc[200, "series_id"]
    errors = {}
    for name, table, scaling in (
        ("clean", plain, "robust"),
        ("robust", wild, "robust"),
        ("standard", wild, "standard"),
    ):
        quick = {**QUICK, "max_epochs": 2, "windows_per_epoch": 256}
        forecast = Forecaster(model, scaling=scaling, **quick).fit(table).predict(plain[others], every=1.0)
        errors[name] = float(np.abs(forecast.mean[:, 0] - 10).mean())
    assert errors["robust"] < 1.3 * errors["clean"] + 0.3
    # What it is for: in units of a deviation of 1e10, float32 cannot tell the other values apart.
    assert errors["standard"] > 2 * errors["robust"]


@pytest.mark.parametrize("model", ["latent_ode", "ridge", "gradient_boosting"])
def test_one_wild_value_keeps_no_model_from_learning_the_rest_under_robust_scaling(frame, model):
    wild = frame.copy()
    wild.loc[200, "y"] = 1e12
    roles = {"channels": ["y", "lead"], "known_columns": ["dose"], "scaling": "robust"}
    fitted = Forecaster(model, **roles, **QUICK).fit(wild)
    history = frame[frame["series_id"] != frame.loc[200, "series_id"]]
    queries = ask(history, [-1.0, 0.0, 1.0])
    error = fitted.predict(history, queries=queries).mean[:, 0] - (10 + 3 * queries["dose"])
    # Without the dose it would be 2 on average.
    assert np.abs(error).mean() < 1


def test_scores_are_in_deviations_of_the_values_whatever_models_see(frame):
    errors = {}
    for name, options in (("plain", {}), ("robust", {"scaling": "robust"}), ("log", {"log_channels": ["y"]})):
        columns = frame[["series_id", "time", "y"]]
        fitted = Forecaster("constant", **options, **QUICK).fit(columns)
        figures = fitted.metrics_["test"]
        std = float(fitted.fitted_.scaler.std[0])
        assert figures["channels"]["y"]["mse"] == pytest.approx(figures["mse"] * std**2)
        errors[name] = figures["mse"], figures["mae"], figures["crps"], std
    assert len({round(error[3], 9) for error in errors.values()}) == 1
    # Mean, median and the mean of the log-normal differ a little.
    for name in ("robust", "log"):
        assert errors[name][:3] == pytest.approx(errors["plain"][:3], rel=0.3)


@pytest.mark.parametrize("scaling", ["standard", "robust"])
def test_scores_are_those_of_the_forecast_in_the_user_s_units(frame, scaling):
    columns = frame[["series_id", "time", "y", "p"]]
    forecaster = Forecaster("ridge", log_channels=["p"], scaling=scaling, **QUICK).fit(columns)
    fitted, table = forecaster.fitted_, read_table(columns, log_channels=["p"])
    table_windows = heldout_windows(table, make_split(table, fitted.settings), "test", fitted.spans)
    squares, naive = [[], []], [[], []]
    for w in range(len(table_windows)):
        s, origin, until = (x[w] for x in (table_windows.series, table_windows.origin, table_windows.until))
        rows = np.arange(table.starts[s], table.starts[s + 1])
        future = rows[(table.time[rows] > origin) & (table.time[rows] <= until)]
        asked = pd.DataFrame({"series_id": f"s{s}", "time": table.time[future]})
        alone = columns[columns["series_id"] == f"s{s}"]
        forecast = forecaster.predict(alone, queries=asked, origin=float(origin))
        for c in range(2):
            squares[c] += ((forecast.mean[:, c] - table.values[future, c]) ** 2).tolist()
            past = table.values[rows[table.time[rows] <= origin], c]
            naive[c] += np.abs(past[-1] - table.values[future, c]).tolist()
    figures = forecaster.metrics_["test"]
    for c, name in enumerate("yp"):
        assert figures["channels"][name]["mse"] == pytest.approx(np.mean(squares[c]), rel=1e-3)
        median = figures["baselines"]["last_value"]["channels"][name]["mae"]
        assert median == pytest.approx(np.mean(naive[c]), rel=1e-3)
    train = table.values[make_split(table, fitted.settings).train_rows(table)]
    scaled = [np.mean(squares[c]) / train[:, c].var() for c in range(2)]
    assert figures["mse"] == pytest.approx(np.mean(scaled), rel=1e-3)


def test_the_naive_error_is_that_of_the_values_whatever_models_see(frame):
    columns = frame[["series_id", "time", "p"]]
    # Every history holds a value, so the median of "last value" is the same number in all units.
    plain, log, robust = (
        Forecaster("last_value", **options, **QUICK).fit(columns).fitted_.naive_error
        for options in ({}, {"log_channels": ["p"]}, {"scaling": "robust"})
    )
    assert log == pytest.approx(plain, rel=1e-4)
    assert robust == pytest.approx(plain, rel=1e-4)
