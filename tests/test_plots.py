"""Pictures show what is in the frames."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.dates import num2date

from latentode import plots
from latentode.errors import InputError
from latentode.plots import plot_forecast, plot_leaderboard, plot_overview, plot_scores


def frames(times, after, n_series=2):
    rng = np.random.default_rng(0)
    ids = [f"s{i}" for i in range(n_series)]
    history = pd.DataFrame(
        [(one, t, c, rng.normal()) for one in ids for t in times for c in ("x", "y")],
        columns=["series_id", "time", "channel", "value"],
    )
    rows = [(one, t, c, 0.0, 1.0, -1.28, 0.0, 1.28) for one in ids for t in after for c in ("x", "y")]
    forecast = pd.DataFrame(rows, columns=["series_id", "time", "channel", "mean", "std", "q0.1", "q0.5", "q0.9"])
    return history, forecast


def test_a_panel_per_series_and_channel_with_history_band_and_truth():
    history, forecast = frames(np.arange(10.0), np.arange(10.0, 15.0))
    truth = history.assign(time=history["time"] + 10).query("time < 14")
    figure = plot_forecast(history, forecast, truth)
    assert len(figure.axes) == 4
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["history", "80 % of outcomes", "forecast", "what happened"]
    line = figure.axes[0].lines[0]
    expected = history.query("series_id == 's0' and channel == 'x'")
    assert np.allclose(line.get_ydata(), expected["value"])


def test_dates_stand_on_a_date_axis():
    days = [f"2026-01-{d:02d} 06:00:00+02:00" for d in range(1, 20)]
    figure = plot_forecast(*frames(days[:15], days[15:]))
    low, high = (num2date(x) for x in figure.axes[0].get_xlim())
    assert low.year == high.year == 2026
    assert high.month == 1


def test_ids_are_found_as_text():
    history, forecast = frames(np.arange(5.0), [6.0])
    for frame in (history, forecast):
        frame["series_id"] = frame["series_id"].map({"s0": 7, "s1": 8})
    assert len(plot_forecast(history, forecast, series=["8"], channels=["y"]).axes) == 1


@pytest.mark.parametrize("wrong", [{"series": ["nobody"]}, {"channels": ["z"]}])
def test_what_is_not_in_the_forecast_is_refused(wrong):
    with pytest.raises(InputError, match="is not in the forecast"):
        plot_forecast(*frames(np.arange(5.0), [6.0]), **wrong)


@pytest.mark.parametrize("n_channels", [1, 3, 60])
def test_overview_marks_rows_counts_gaps_and_bars_shares(n_channels):
    marks = pd.DataFrame({"line": ["a", "a", "b$"], "time": [1.0, 2.0, 1.5], "share": [1.0, 0.5, 0.1]})
    gaps = np.asarray([1.0, 1.0, 10.0, 100.0])
    shares = pd.Series(np.linspace(1, 0, n_channels), index=[f"c{i}" for i in range(n_channels)])
    raster, histogram, bars = plot_overview(marks, gaps, shares, gap_unit="hours", title="data.csv").axes
    assert sorted(raster.collections[0].get_offsets().data.tolist()) == [[1.0, 0.0], [1.5, 1.0], [2.0, 0.0]]
    assert [label.get_text() for label in raster.get_yticklabels()] == ["a", r"b\$"]
    assert sum(bar.get_height() for bar in histogram.patches) == len(gaps)
    assert histogram.get_xlabel() == "hours"
    widths = [bar.get_width() for bar in bars.patches]
    assert widths == pytest.approx(shares if n_channels <= 40 else [*shares[:20], *shares[-20:]])


def test_overview_of_equal_gaps_or_none_is_drawn():
    marks = pd.DataFrame({"line": ["a"], "time": pd.to_datetime(["2026-01-01"]), "share": [1.0]})
    for gaps in (np.empty(0), np.full(3, 7.0)):
        figure = plot_overview(marks, gaps, pd.Series([0.5], index=["x"]), gap_unit="days")
        figure.draw_without_rendering()


def scores(mse=1.0):
    nominal = [0.25, 0.5, 0.75, 1.0]
    calibration = {"nominal": nominal, "actual": [0.2, 0.4, 0.7, 1.0], "pit_counts": [4, 2, 1, 1, 1, 1, 2, 4]}
    edges = [(0.0, 0.5), (0.5, 1.0)]
    bins = [{"after": a, "until": b, "mse_macro": mse * (1 + a)} for a, b in edges]
    return {"calibration": calibration, "bins": bins}


def test_scores_show_error_by_lead_time_coverage_and_the_density_of_the_pit():
    figure = plot_scores({**scores(2.0), "baselines": {"last_value": scores(), "blend": scores()}}, title="t")
    error, coverage, pit = figure.axes
    assert np.allclose(error.lines[-1].get_xdata(), [0.25, 0.75])
    assert np.allclose(error.lines[-1].get_ydata(), [2.0, 3.0])
    assert np.allclose(error.lines[0].get_ydata(), [1.0, 1.5])
    labels = [text.get_text() for text in coverage.get_legend().get_texts()]
    assert labels == ["calibrated", "last value", "blend", "this model"]
    assert np.allclose(coverage.lines[-1].get_ydata(), [0, 0.2, 0.4, 0.7, 1.0])
    heights = [bar.get_height() for bar in pit.containers[0]]
    assert np.mean(heights) == pytest.approx(1.0)
    assert heights[0] == pytest.approx(4 / 16 * 8)


def test_scores_without_the_metric_show_the_calibration_alone():
    assert len(plot_scores({**scores(), "baselines": {}}, metric="crps").axes) == 2


def test_a_leaderboard_has_the_lowest_error_on_top_and_leaves_out_what_has_none():
    records = [
        {"model": name, "metrics": {"mse": {"mean": mean, "sd": None}}}
        for name, mean in (("constant", 3.0), ("latent_ode", 1.0), ("broken", None), ("last_value", 2.0))
    ]
    axis = plot_leaderboard(records).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["latent ode", "last value", "constant"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]


def test_a_band_between_two_levels_is_read_off_on_the_scale_of_normal_scores():
    from statistics import NormalDist

    levels = [0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9]
    frame = pd.DataFrame({f"q{x:g}": [10 + 2 * NormalDist().inv_cdf(x)] for x in levels})
    assert plots._level(frame, 0.25)[0] == pytest.approx(10 + 2 * NormalDist().inv_cdf(0.25))
    assert plots._level(frame, 0.75)[0] == pytest.approx(10 + 2 * NormalDist().inv_cdf(0.75))
    assert plots._level(frame, 0.5)[0] == 10
    assert plots._level(frame, 0.025) is None
    assert plots._level(frame, 0.6) is None  # .5 and .7 are too far apart


def test_steps_are_drawn_from_edge_to_edge_and_counted_per_channel():
    ends = np.array([[[0.2, 0.5, 1.0], [1.0, np.nan, np.nan]], [[0.4, 1.0, np.nan], [0.5, 1.0, np.nan]]])
    figure = plots.plot_effort(ends, 0, names=["a", "b"], channels=["x", "y"])
    first, second = (patch.get_data() for patch in figure.axes[0].patches)
    assert np.allclose(first.edges, [0, 0.2, 0.5, 1.0])
    assert np.allclose(first.values, [0.2, 0.3, 0.5])
    assert np.allclose(second.values, [0.4, 0.6])
    bars = dict(zip([t.get_text() for t in figure.axes[1].get_yticklabels()], figure.axes[1].patches, strict=True))
    assert bars["x"].get_width() == 2.5
    assert bars["y"].get_width() == 1.5
    assert len(plots.plot_effort(ends[:, :1], 0, names=["a", "b"]).axes) == 1


def test_a_learning_curve_marks_the_epoch_that_was_kept():
    log = pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [3.0, 2.0, 1.0], "val_score": [2.0, 1.5, 1.7], "nfe": np.nan})
    figure = plots.plot_learning(log)
    training, validation, kept = figure.axes[0].lines
    assert list(training.get_ydata()) == [3, 2, 1]
    assert list(validation.get_xdata()) == [1, 2, 3]
    assert list(kept.get_xydata()[0]) == [2, 1.5]
    assert len(plots.plot_learning(log.assign(nfe=[10, 12, 14])).axes) == 2


def test_of_one_channel_many_series_share_the_page_and_the_rest_is_counted():
    history, forecast = frames(np.arange(10.0), np.arange(10.0, 15.0), n_series=20)
    figure = plot_forecast(history, forecast, channels=["x"])
    assert len(figure.axes) == 12
    assert figure.axes[3].get_title() == "series s3"
    assert figure.get_suptitle() == "12 of 20 series, 1 of 2 channels"
    assert plot_forecast(history, forecast, series=["s0", "s1"]).get_suptitle() == "2 of 20 series, 2 of 2 channels"


def test_a_channel_on_a_logarithmic_axis_shows_all_that_is_positive():
    history, forecast = frames(np.arange(10.0), np.arange(10.0, 15.0))
    history["value"] = np.exp(history["value"])
    forecast[["mean", "q0.1", "q0.5", "q0.9"]] = [1.0, 0.1, 1.0, 100.0]
    figure = plot_forecast(history, forecast, log_channels=["y"])
    assert [axis.get_yscale() for axis in figure.axes] == ["linear", "log"] * 2
    low, high = figure.axes[1].get_ylim()
    assert 0 < low < 0.1
    assert high > 100
