"""`latentode demo`: real patients, a model, a table and a picture, in about a minute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from latentode.data.datasets import pbcseq
from latentode.data.settings import DataSettings
from latentode.data.tables import Table, read_table
from latentode.data.windows import Windows, bisect_rows, heldout_windows, make_split
from latentode.errors import InputError
from latentode.files import write_frame
from latentode.forecasting.forecast import Forecast
from latentode.forecasting.predict import Ask, predict
from latentode.models import LatentODE
from latentode.models.fitted import FittedModel
from latentode.plots import save_figure

SETTINGS = DataSettings(horizon=730.0, split="series")
EVERY = 30.0  # days between two forecast times
N_SHOWN, SHOWN_CHANNELS = 3, ("bili", "albumin", "protime")


def run_demo(
    out: Path, *, seed: int = 0, max_epochs: int | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Fit the bundled data, score held-out patients, forecast them, draw three.

    Args:
        out: run folder; made where it is not there.
        seed: of weights and windows.
        max_epochs: fewer epochs than usual.
        say: takes one line of what was done.

    Returns:
        The figures of the fit, as in `metrics.json`.

    Raises:
        InputError: `out` is a file.
    """
    from latentode.training.fitting import FitSettings, fit_network

    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    table = read_table(pbcseq.path())
    say(
        f"{table.n_series} patients with irregular blood tests ({len(table.schema.channels)} channels, "
        f"{table.report.n_values:,} values); forecasting two years ahead for patients that the model never saw"
    )
    fit = FitSettings(seed=seed) if max_epochs is None else FitSettings(seed=seed, max_epochs=max_epochs)
    settings = DataSettings(**{**SETTINGS.__dict__, "path": str(pbcseq.path())})
    fitted, metrics = fit_network(LatentODE(), settings, fit, out)
    forecast, truth = forecast_heldout(fitted, table)
    write_frame(out / "forecast.csv", forecast.to_frame())
    chosen = _most_observed(forecast, truth)
    figure = forecast.plot([forecast.history.series_ids[i] for i in chosen], SHOWN_CHANNELS, truth=truth)
    save_figure(figure, out / "forecast.png")
    write_frame(out / "data.csv", table.to_frame())
    say(f"fitted in {metrics['seconds']:.0f} s; the run folder is {out}")
    say(f"forecast of {len(np.unique(forecast.series))} patients: {out / 'forecast.csv'}")
    say(f"picture of three of them: {out / 'forecast.png'}")
    return metrics


def forecast_heldout(fitted: FittedModel, table: Table) -> tuple[Forecast, Table]:
    """Forecast each held-out series from a visit in the middle of its time, so that some truth can stand beside it.

    Returns:
        The forecast, whose history ends at that visit, and the rows in the two years after it.
    """
    split = make_split(table, fitted.settings)
    chosen = _middle_windows(heldout_windows(table, split, "test", fitted.spans))
    last = bisect_rows(table.time, table.starts[chosen.series], table.starts[chosen.series + 1], chosen.origin) - 1
    origin = np.full(table.n_series, -np.inf)
    origin[chosen.series] = table.time[last]
    elapsed = table.time - origin[table.row_series]
    frame = table.to_frame()
    history = read_table(frame.loc[elapsed <= 0], schema=table.schema)
    truth = read_table(frame.loc[(elapsed > 0) & (elapsed <= fitted.spans.horizon)], schema=table.schema)
    return predict(fitted, history, Ask(every=EVERY)), truth


def _middle_windows(windows: Windows) -> Windows:
    """Choose one window per series, the middle one: some past to read, some future to compare with."""
    _, first, count = np.unique(windows.series, return_index=True, return_counts=True)
    return windows.take(first + count // 2)


def _most_observed(forecast: Forecast, truth: Table) -> list[int]:
    """Give the positions, in the history, of the series with most rows before and after their origin."""
    n_after = dict(zip(map(str, truth.series_ids), np.diff(truth.starts), strict=True))
    history = forecast.history
    rows = np.diff(history.starts) + 2 * np.asarray([n_after.get(str(name), 0) for name in history.series_ids])
    return np.argsort(-rows, kind="stable")[:N_SHOWN].tolist()
