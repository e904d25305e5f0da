"""`Forecaster` as a scikit-learn user expects it, and forecasts in the user's formats."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ks_2samp
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from latentode import Forecaster, read_table
from latentode.data.settings import DataSettings
from latentode.errors import DataError, InputError, RunError
from latentode.forecasting.evaluate import evaluate
from latentode.forecasting.predict import read_history
from latentode.models import GaussianDecoder, LatentODE
from latentode.training import FitSettings
from tests.data.tables import make_frame

QUICK = {"max_epochs": 2, "windows_per_epoch": 64, "batch_size": 16, "device": "cpu", "show_progress": False}


@pytest.fixture(scope="module")
def frame():
    return make_frame(n_series=4)


@pytest.fixture(scope="module")
def fitted(frame):
    return Forecaster(horizon=3.0, learning_rate=1e-2, **QUICK).fit(frame)


@pytest.fixture(scope="module")
def dates():
    frame = make_frame(n_series=2, datetimes=True)
    frame["time"] = [f"{stamp.isoformat()}+02:00" for stamp in frame["time"]]
    frame["series_id"] = frame["series_id"].map({"s0": "007", "s1": "NA"})
    return frame


@pytest.fixture(scope="module")
def fitted_dates(dates):
    return Forecaster(horizon="3h", **QUICK).fit(dates)


def test_every_setting_of_data_and_fit_is_a_keyword_with_the_same_default():
    signature = inspect.signature(Forecaster).parameters
    for cls in (DataSettings, FitSettings):
        for field in fields(cls):
            if field.name != "path":
                assert signature[field.name].default == field.default, field.name


def test_parameters_are_stored_untouched_and_cloned(fitted):
    assert fitted.get_params()["horizon"] == 3.0
    copy = clone(fitted).set_params(seed=7)
    assert (copy.seed, copy.max_epochs) == (7, 2)
    assert not hasattr(copy, "fitted_")
    with pytest.raises(NotFittedError):
        copy.predict("x.csv", at=[1.0])


def test_a_model_that_was_passed_stays_as_it_was(frame):
    model = LatentODE(latent_size=4)
    forecaster = Forecaster(model, horizon=3.0, **{**QUICK, "max_epochs": 1})
    assert forecaster.fit(frame) is forecaster
    assert forecaster.model is model
    assert not hasattr(model, "unit")
    assert forecaster.fitted_.network is not model


@pytest.mark.parametrize("how", ["folder", "pickle"])
def test_what_is_saved_comes_back(fitted, frame, tmp_path, how):
    before = fitted.predict(frame, every=0.5).to_frame()
    if how == "folder":
        fitted.save(tmp_path / "run")
        again = Forecaster.load(tmp_path / "run")
        again.save(tmp_path / "second")
        assert (tmp_path / "second" / "best.ckpt").read_bytes() == (tmp_path / "run" / "best.ckpt").read_bytes()
    else:
        again = pickle.loads(pickle.dumps(fitted))
    pd.testing.assert_frame_equal(again.predict(frame, every=0.5).to_frame(), before)
    with pytest.raises(RunError, match="no folder"):
        Forecaster.load(tmp_path / "nowhere")


def test_a_table_a_frame_and_a_file_give_the_same(fitted, frame, tmp_path):
    frame.to_csv(tmp_path / "h.csv", index=False)
    reference = fitted.predict(frame, every=1.0).to_frame()
    for source in (read_table(frame), tmp_path / "h.csv"):
        pd.testing.assert_frame_equal(fitted.predict(source, every=1.0).to_frame(), reference, check_dtype=False)


def test_times_at_hold_for_every_series_and_keep_their_order(fitted, frame):
    last = frame["time"].max()
    asked = [last + 2.0, last + 1.0, last + 2.0]
    out = fitted.predict(frame, at=asked).to_frame()
    assert out["time"].tolist() == [t for _ in range(4) for t in asked for _ in range(2)]
    same = out.groupby(["series_id", "channel"])["mean"].agg(["first", "last"])
    assert (same["first"] == same["last"]).all()


def test_every_counts_from_each_series_own_last_observation(fitted, frame):
    out = fitted.predict(frame, every=1.0).to_frame()
    last = frame.groupby("series_id")["time"].max()
    first = out.groupby("series_id")["time"].min()
    assert np.allclose(first, last[first.index] + 1.0)
    assert out.groupby("series_id")["time"].nunique().eq(3).all()


def test_a_query_table_keeps_its_order(fitted, frame):
    last = frame.groupby("series_id")["time"].max()
    queries = pd.DataFrame(
        {"series_id": ["s2", "s0", "s2"], "time": [last["s2"] + 2, last["s0"] + 1, last["s2"] + 0.5]}
    )
    out = fitted.predict(frame, queries=queries).to_frame()
    assert out["series_id"].tolist() == ["s2", "s2", "s0", "s0", "s2", "s2"]
    alone = fitted.predict(frame[frame["series_id"] == "s0"], queries=queries.iloc[[1]]).to_frame()
    assert np.allclose(alone["mean"], out["mean"][2:4], rtol=1e-3, atol=1e-4)


def test_an_origin_hides_what_came_later(fitted, frame):
    origin = 8.0
    hidden = fitted.predict(frame, origin=origin, at=[9.0])
    cut = fitted.predict(frame[frame["time"] <= origin], origin=origin, at=[9.0])
    pd.testing.assert_frame_equal(hidden.to_frame(), cut.to_frame())
    assert any("after the origin" in note for note in hidden.notes)


def test_a_series_never_seen_is_forecast_from_its_history(fitted):
    stranger = make_frame(n_series=1, seed=9).assign(series_id="stranger")
    out = fitted.predict(stranger, every=1.0).to_frame()
    assert set(out["series_id"]) == {"stranger"}
    assert np.isfinite(out.select_dtypes("number")).all(axis=None)


def test_warping_the_history_changes_the_forecast(frame):
    fitted = Forecaster(horizon=3.0, **{**QUICK, "max_epochs": 8, "windows_per_epoch": 512}).fit(frame)
    warped = frame.assign(time=frame["time"].max() * (frame["time"] / frame["time"].max()) ** 2)
    at = [frame["time"].max() + 1.0]
    # The quantiles, not the mean alone: on so small a table validation may leave nothing of the residual's mean.
    one, two = (fitted.predict(f, at=at, origin=frame["time"].max()).quantiles for f in (frame, warped))
    assert np.abs(one - two).max() > 1e-3


def test_dates_and_ids_come_back_as_they_were_written(fitted_dates, dates):
    out = fitted_dates.predict(dates, every="1h").to_frame()
    assert set(out["series_id"]) == {"007", "NA"}
    assert out["time"].str.endswith("+02:00").all()
    last = pd.Timestamp(dates.loc[dates["series_id"] == "007", "time"].iloc[-1])
    assert pd.Timestamp(out["time"].iloc[0]) == last + pd.Timedelta("1h")


def test_times_without_offset_are_read_in_the_table_s_zone_and_it_is_said(fitted_dates, dates):
    forecast = fitted_dates.predict(dates, at="2026-02-01T07:30")
    assert forecast.to_frame()["time"].unique().tolist() == ["2026-02-01 07:30:00+02:00"]
    assert any("+02:00" in note for note in forecast.notes)
    assert any("beyond the horizon" in note for note in forecast.notes)


def test_quantiles_ascend(fitted, frame):
    forecast = fitted.predict(frame, every=1.0, quantiles=[0.9, 0.5, 0.1])
    assert forecast.levels == (0.1, 0.5, 0.9)
    assert (np.diff(forecast.quantiles, axis=-1) > 0).all()
    assert list(forecast.to_frame().columns) == ["series_id", "time", "channel", "mean", "std", "q0.1", "q0.5", "q0.9"]


def test_the_median_of_a_normal_is_its_mean(frame):
    forecast = (
        Forecaster(LatentODE(decoder=GaussianDecoder()), horizon=3.0, **QUICK).fit(frame).predict(frame, every=1.0)
    )
    middle = forecast.levels.index(0.5)
    assert np.allclose(forecast.quantiles[..., middle], forecast.mean, atol=1e-6)


def test_wide_and_long_hold_the_same(fitted, frame):
    forecast = fitted.predict(frame, every=1.0)
    long, wide = forecast.to_frame(), forecast.to_frame(layout="wide")
    assert len(long) == 2 * len(wide)
    assert np.allclose(wide["x1_q0.95"], long.loc[long["channel"] == "x1", "q0.95"])


@pytest.mark.statistical
def test_samples_have_the_moments_of_the_forecast(fitted, frame):
    forecast = fitted.predict(frame, every=1.0)
    draws = forecast.sample(4_000, seed=1)
    moments = draws.groupby(["series_id", "time", "channel"], sort=False)["value"].agg(["mean", "std"])
    assert np.allclose(
        moments["mean"].to_numpy().reshape(forecast.mean.shape), forecast.mean, atol=5 * forecast.std.max() / 60
    )
    assert np.allclose(moments["std"].to_numpy().reshape(forecast.std.shape), forecast.std, rtol=0.08)


def test_samples_are_drawn_by_seed(fitted, frame):
    forecast = fitted.predict(frame, every=1.0)
    one, two, other = (forecast.sample(3, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, two)
    assert not np.allclose(one["value"], other["value"])
    with pytest.raises(InputError, match="at least 1"):
        forecast.sample(0)


def test_scores_stand_beside_the_baselines(fitted, frame):
    scores = fitted.score(frame, metrics=["mse", "coverage"])
    assert scores["part"] == "test"
    assert set(scores["baselines"]) == {"constant", "last_value", "blend"}
    assert "crps" not in scores
    other = fitted.score(make_frame(n_series=3, seed=5))
    assert other["part"] == "all"
    assert fitted.metrics_["test"]["mse"] == pytest.approx(scores["mse"])


def test_a_scaled_error_is_refused_where_the_run_has_no_scale(fitted, frame):
    old = replace(fitted.fitted_, naive_error=None)
    with pytest.raises(InputError, match="mase takes the error"):
        evaluate(old, read_history(old, frame), metrics=["mase"])
    assert "mase" not in evaluate(old, read_history(old, frame), n_draws=0)
    assert fitted.score(frame, metrics=["mase"])["mase"] > 0


def test_a_constant_channel_and_one_seen_once_do_no_harm(frame):
    odd = frame.assign(flat=5.0, rare=np.nan)
    odd.loc[0, "rare"] = 3.0
    forecast = Forecaster(horizon=3.0, **{**QUICK, "max_epochs": 1}).fit(odd).predict(odd, every=1.0)
    flat = forecast.mean[:, forecast.channels.index("flat")]
    assert np.allclose(flat, 5.0, atol=0.2)
    assert np.isfinite(forecast.mean).all()


def test_a_channel_without_training_values_is_left_out_and_said(frame):
    late = frame.assign(
        late=np.where(frame["time"] > 0.99 * frame.groupby("series_id")["time"].transform("max"), 1.0, np.nan)
    )
    forecaster = Forecaster(horizon=3.0, **{**QUICK, "max_epochs": 1}).fit(late)
    forecast = forecaster.predict(late, every=1.0)
    assert "late" not in forecast.channels
    assert any("'late'" in note for note in forecast.notes)
    assert any("late" in note for note in forecaster.metrics_["notes"])


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        ({}, InputError, "one of at, every"),
        ({"at": [99.0], "every": 1.0}, InputError, "found at and every"),
        ({"at": [99.0], "horizon": 2.0}, InputError, "goes with every"),
        ({"at": [-5.0]}, DataError, "before the first observation of series 's0'"),
        ({"every": 5.0, "horizon": 2.0}, InputError, "longer than the horizon"),
        ({"every": -1.0}, InputError, "positive"),
        ({"every": 1.0, "horizon": -2.0}, InputError, "positive"),
        ({"at": "2026-01-01"}, InputError, "plain numbers"),
        ({"at": [99.0], "quantiles": [1.5]}, InputError, "between 0 and 1"),
        (
            {"queries": pd.DataFrame({"series_id": ["nobody"], "time": [99.0]})},
            DataError,
            "'nobody' is not in the history",
        ),
        ({"queries": pd.DataFrame({"time": [99.0]})}, DataError, "series_id"),
        ({"at": [99.0], "origin": -50.0}, DataError, "starts after the origin"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(fitted, frame, ask, error, words):
    with pytest.raises(error, match=words):
        fitted.predict(frame, **ask)


@pytest.fixture(scope="module")
def smoothing():
    frame = make_frame(n_series=12, n_rows=60)
    return frame, Forecaster(horizon=5.0, **QUICK).fit(frame)


def test_what_lies_inside_the_history_is_answered_and_marked(smoothing):
    frame, fitted = smoothing
    own = frame[frame["series_id"] == "s1"]
    inside, at, last = own["time"].iloc[10] + 0.01, own["time"].iloc[20], own["time"].iloc[-1]
    queries = pd.DataFrame({"series_id": "s1", "time": [last + 1.0, inside, at, last]})
    forecast = fitted.predict(frame, queries=queries)
    table = forecast.to_frame()
    assert list(table.columns[:6]) == ["series_id", "time", "channel", "kind", "mean", "std"]
    assert table["kind"].tolist() == ["forecast"] * 2 + ["smoothed"] * 6
    wide = forecast.to_frame("wide")
    assert list(wide.columns[:3]) == ["series_id", "time", "kind"]
    assert wide["kind"].tolist() == ["forecast", "smoothed", "smoothed", "smoothed"]
    # A table of forecasts alone is as it was; and a forecast does not depend on what else is asked.
    alone = fitted.predict(frame, queries=queries[:1])
    assert "kind" not in alone.to_frame()
    assert np.allclose(alone.mean, forecast.mean[:1], rtol=1e-5)
    observed = own[["x0", "x1"]].to_numpy()[20]
    assert np.allclose(forecast.mean[2][~np.isnan(observed)], observed[~np.isnan(observed)], atol=1e-3)


def test_values_on_either_side_tell_more_than_those_before(smoothing):
    frame, fitted = smoothing
    hidden = frame["time"] > 5
    hidden &= frame.index % 5 == 0
    shown = frame[~hidden]
    last = shown.groupby("series_id")["time"].max()
    asked = frame[hidden & (frame["time"] < frame["series_id"].map(last))]
    answer = fitted.predict(shown, queries=asked[["series_id", "time"]]).mean
    before = pd.merge_asof(
        asked.reset_index().sort_values("time"),
        shown.ffill().sort_values("time"),
        on="time",
        by="series_id",
        suffixes=("_true", ""),
    )
    before = before.set_index("index").loc[asked.index]
    true = asked[["x0", "x1"]].to_numpy()
    seen = ~np.isnan(true) & ~np.isnan(before[["x0", "x1"]].to_numpy())
    error = [np.square(x - true)[seen].mean() for x in (answer, before[["x0", "x1"]].to_numpy())]
    assert error[0] < 0.6 * error[1]


def test_rows_after_an_origin_say_nothing_of_what_lies_before(smoothing):
    frame, fitted = smoothing
    time = frame["time"]
    one = fitted.predict(frame, at=[10.5], origin=20.0)
    other = fitted.predict(frame[time <= 20.0], at=[10.5], origin=20.0)
    assert np.allclose(one.mean, other.mean, rtol=1e-5)
    assert not np.allclose(one.mean, fitted.predict(frame[time <= 11.0], at=[10.5], origin=20.0).mean, rtol=1e-3)
    assert one.is_smoothed.all()


def test_a_saved_model_says_the_same_of_the_history(smoothing, tmp_path):
    frame, fitted = smoothing
    again = Forecaster.load(fitted.save(tmp_path / "run"))
    assert np.array_equal(again.predict(frame, at=[8.0]).quantiles, fitted.predict(frame, at=[8.0]).quantiles)


def test_smoothed_values_are_drawn_and_plotted(smoothing):
    frame, fitted = smoothing
    forecast = fitted.predict(frame, at=[8.0, 9.0, 200.0])
    draws = forecast.sample(400)["value"].to_numpy().reshape(*forecast.mean.shape, -1)
    assert np.allclose(np.median(draws, -1), forecast.quantiles[..., forecast.levels.index(0.5)], atol=0.3)
    assert forecast.plot(series=["s1"]).axes


def test_a_model_that_only_forecasts_refuses_what_lies_inside_the_history(frame):
    blend = Forecaster("blend", horizon=3.0, **QUICK).fit(frame)
    with pytest.raises(InputError, match="Blend forecasts only"):
        blend.predict(frame, at=[5.0])


def test_of_too_few_validation_values_there_are_no_trajectories(fitted, frame):
    forecast = fitted.predict(frame, every=1.0)
    assert not forecast.has_trajectories
    forecast.sample(3)
    with pytest.raises(InputError, match="leave joint out"):
        forecast.sample(3, joint=True)


def test_trajectories_have_the_distributions_that_the_table_states():
    frames = [make_frame(n_series=16, n_rows=70, seed=seed) for seed in range(3)]
    frame = pd.concat([f.assign(series_id=f["series_id"] + f"-{i}") for i, f in enumerate(frames)], ignore_index=True)
    forecast = Forecaster(horizon=5.0, **QUICK).fit(frame).predict(frame, every=1.0)
    assert forecast.has_trajectories
    joint, apart = (
        forecast.sample(1000, joint=joint)["value"].to_numpy().reshape(*forecast.mean.shape, -1)
        for joint in (True, False)
    )
    for p, k in ((0, 0), (3, 1), (7, 0)):
        assert ks_2samp(joint[p, k], apart[p, k]).pvalue > 1e-3
    neighbours = [np.mean([np.corrcoef(x[p, 0], x[p + 1, 0])[0, 1] for p in range(0, 20, 5)]) for x in (joint, apart)]
    assert neighbours[0] > 0.1
    assert abs(neighbours[1]) < 0.05


def test_a_history_without_offsets_is_forecast_as_the_one_with_the_offsets_of_the_fit(fitted_dates, dates):
    naive = dates.assign(time=dates["time"].str.removesuffix("+02:00"))
    expected = fitted_dates.predict(dates, every="1h", horizon="3h").to_frame()
    pd.testing.assert_frame_equal(fitted_dates.predict(naive, every="1h", horizon="3h").to_frame(), expected)
    with pytest.raises(
        DataError, match="its times have no offset, but those that the model was fitted on have an offset"
    ):
        fitted_dates.predict(read_table(naive), every="1h", horizon="3h")


def test_a_history_of_another_schema_is_refused(fitted, frame):
    with pytest.raises(DataError, match="x1"):
        fitted.predict(frame.drop(columns="x1"), every=1.0)
    with pytest.raises(DataError, match="x0"):
        fitted.predict(read_table(frame.rename(columns={"x0": "other"})), every=1.0)


def test_a_gpu_that_is_not_there_is_not_used_in_silence(fitted, frame):
    assert fitted.set_params(device="auto")._torch_device() == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="device"):
        clone(fitted).set_params(device="abacus")._torch_device()
    fitted.set_params(device="cpu")


def test_what_came_after_an_earlier_origin_is_drawn_as_what_happened(frame):
    forecaster = Forecaster("blend", horizon=3.0, device="cpu", show_progress=False).fit(frame)
    origin = float(frame["time"].quantile(0.6))
    axis = forecaster.predict(frame, every=0.5, origin=origin).plot(series=["s0"]).axes[0]
    lines = {line.get_label(): line.get_xdata() for line in axis.lines}
    assert lines["history"].max() <= origin < lines["what happened"].min()
    later = forecaster.predict(frame, every=0.5).plot(series=["s0"]).axes[0]
    assert "what happened" not in [line.get_label() for line in later.lines]
