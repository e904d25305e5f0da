"""Pictures show what is in the frames."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.dates import num2date

from latentode.errors import InputError
from latentode.plots import plot_forecast


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
