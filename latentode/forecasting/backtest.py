"""Rolling origins: forecast from several points of the past, as it would have been done then, and score what came.

A model is only ever scored on what it has not seen. Without refitting, origins that lie in the part that was trained or validated on are
left out and counted; with it, the model is fitted anew at every origin on the rows up to there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from latentode.data.schema import count
from latentode.data.seen import Seen
from latentode.data.tables import Table
from latentode.data.times import format_duration, parse_duration
from latentode.data.windows import Rows, Windows, begin_history, lowest_time, make_split
from latentode.errors import DataError, InputError
from latentode.forecasting.report import scores_frame
from latentode.metrics import PitCounts, Totals, check_metrics
from latentode.models.fitted import FittedModel
from latentode.models.registry import from_plain, to_plain
from latentode.progress import track

Sums = tuple[dict[str, Totals], dict[str, PitCounts]]


def backtest(
    fitted: FittedModel,
    table: Table,
    *,
    origins: int = 5,
    horizon: str | float | None = None,
    refit: bool = False,
    fit: dict[str, Any] | None = None,
    metrics: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    n_draws: int = 1000,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Score forecasts from rolling origins.

    The origins of a series lie one horizon apart and end one horizon before its last row, so that its newest data are always among
    what is scored.

    Args:
        fitted: the model.
        table: with the channels of the fit.
        origins: how many per series.
        horizon: how far to forecast from each, a duration or a number; None: the horizon of the fit.
        refit: whether to fit the model anew at every origin, from the oldest to the newest, on the rows up to there.
        fit: settings of those fits that differ from those of the given one (`max_epochs`, `learning_rate`, ...).
        metrics: names in `latentode.metrics.METRICS`; left out, all.
        device: where to compute.
        n_draws: of the bootstrap over series; 0: no intervals.
        say: takes one line of progress.

    Returns:
        The figures of `FittedModel.score` over all origins, and `origins`: a list of the same for each, oldest first, with its `origin`
        (horizons before the end of each series); `horizon`, `refit`, `notes`. Errors are in training deviations of the given model.

    Raises:
        DataError: no window is left to score.
        InputError: `origins` is below 1, or the horizon is no duration.
    """
    names = check_metrics(metrics)
    if isinstance(origins, bool) or origins < 1:
        raise InputError(f"origins is {origins!r}; give how many per series, from 1 up.")
    kind = table.schema.time_kind
    span = fitted.spans.horizon if horizon is None else parse_duration(horizon, kind, name="horizon")
    notes = _notes(fitted, span, kind)
    backs = range(origins, 0, -1)
    rows = Rows.of(table)
    parts = [rolling_windows(table, fitted, span, back, rows=rows) for back in backs]
    if not refit:
        if fitted.seen is None and table.digest() != fitted.digest:
            notes.append(
                "This run does not say what it has seen, and the table is not the fitted one: some may be scored that it knows."
            )
        unseen = [_unseen(fitted, table, part) for part in parts]
        n_left_out = sum(len(part) - len(kept) for part, kept in zip(parts, unseen, strict=True))
        if n_left_out:
            notes.append(
                f"{count(n_left_out, 'window was', 'windows were')} left out: the model was trained or validated on what they "
                "would be scored on; --refit scores them with models that had not seen it."
            )
        parts = unseen
    sums: dict[int, Sums] = {}
    with track("backtest", sum(len(windows) > 0 for windows in parts), "origins") as advance:
        for back, windows in zip(backs, parts, strict=True):
            if len(windows) == 0:
                continue
            say(f"origin {back} {'horizons' if back > 1 else 'horizon'} before the end: {len(windows):,} windows")
            scorer = _refit(fitted, table, span, back, fit or {}) if refit else fitted
            sums[back] = _score(scorer, fitted, table, windows, names, device, span)
            advance()
    if not sums:
        raise DataError(
            f"{table.source}: no origin is left to score; give fewer or shorter horizons"
            + ("." if refit else ", or --refit (`refit=True`).")
        )
    totals, pit = reduce(_plus, sums.values())
    single = [{"origin": back, **fitted.summarise(*one, is_whole=True)} for back, one in sums.items()]
    return {
        **fitted.summarise(totals, pit, n_draws=n_draws, is_whole=True),
        "n_windows": sum(map(len, parts)),
        "horizon": float(span) if kind == "number" else format_duration(span, kind),
        "refit": refit,
        "origins": single,
        "notes": notes,
    }


def rolling_origins(table: Table, span: float, back: int) -> np.ndarray:
    """Give, for each series, the time `back` horizons before its last row, dtype of `Table.time`, `(S,)`.

    Raises:
        InputError: that lies before any date that nanoseconds can tell.
    """
    if table.time.dtype == np.int64 and back * float(span) > float(table.time.min()) - lowest_time(table):
        raise InputError(
            f"{back} horizons back lies before all that dates can tell; give fewer origins or a shorter horizon."
        )
    return table.time[table.starts[1:] - 1] - back * np.asarray(span, dtype=table.time.dtype)


def rolling_windows(table: Table, fitted: FittedModel, span: float, back: int, *, rows: Rows | None = None) -> Windows:
    """Give one window per series from `rolling_origins`, where it has something to read and something to score.

    Args:
        table, fitted, span, back: as for `rolling_origins`, and the model whose history is read.
        rows: of the table, where they are at hand.
    """
    origin = rolling_origins(table, span, back)
    history_from = begin_history(origin, fitted.spans.history, table)
    windows = Windows(np.arange(table.n_series), origin, rolling_origins(table, span, back - 1), history_from)
    return (rows or Rows.of(table)).keep_usable(windows)


def rows_until(table: Table, origin: np.ndarray) -> Table:
    """Give the table as it was at each series' origin `(S,)`; a series that had no row then is left out."""
    keep = table.time <= origin[table.row_series]
    lengths = np.bincount(table.row_series[keep], minlength=table.n_series)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    known = None if table.known is None else table.known[keep]
    cut = replace(table, starts=starts, time=table.time[keep], values=table.values[keep], known=known)
    return cut.select(np.flatnonzero(lengths > 0))


def _notes(fitted: FittedModel, span: float, kind: str) -> list[str]:
    if span <= fitted.spans.horizon * (1 + 1e-9):
        return []
    return [
        f"the horizon {format_duration(span, kind)} is beyond the {format_duration(fitted.spans.horizon, kind)} that the model was "
        "fitted for; expect less of it."
    ]


def _unseen(fitted: FittedModel, table: Table, windows: Windows) -> Windows:
    """Leave out the windows with targets that the fit has seen, also where the table has grown since."""
    if fitted.seen is not None:
        return windows.take(np.flatnonzero(fitted.seen.is_unseen(table, windows)))
    if table.digest() != fitted.digest:
        return windows
    return windows.take(np.flatnonzero(Seen.of(table, make_split(table, fitted.settings)).is_unseen(table, windows)))


def _refit(fitted: FittedModel, table: Table, span: float, back: int, fit: dict[str, Any]) -> FittedModel:
    """Fit the same model on the rows up to the origins; what was held out for the test before is now the past."""
    from latentode.training import FitSettings, fit_network

    horizon = fitted.spans.horizon
    settings = replace(
        fitted.settings,
        horizon=float(horizon) if table.schema.time_kind == "number" else format_duration(horizon, "datetime"),
        calendar=list(fitted.schema.calendar) or "none",
        test_fraction=0.0,
        val_from=None,
        test_from=None,
    )
    network = from_plain(to_plain(fitted.network))
    known = rows_until(table, rolling_origins(table, span, back))
    with tempfile.TemporaryDirectory(prefix="latentode-") as folder:
        return fit_network(
            network, settings, FitSettings(**{"seed": fitted.seed, **fitted.fit, **fit}), Path(folder), data=known
        )[0]


def _score(
    scorer: FittedModel,
    fitted: FittedModel,
    table: Table,
    windows: Windows,
    names: Sequence[str],
    device: torch.device | str,
    span: float,
) -> Sums:
    """Give the sums of one origin, in the deviations of `fitted`, so that those of several origins add up."""
    scorer.network.to(device).eval()
    scorer.baselines.to(device)
    totals, pit = scorer.totals(table, windows, names, device=device, per_series=True, horizon=span)
    if scorer is fitted:
        return totals, pit
    naive_error = None if fitted.naive_error is None else torch.tensor(fitted.naive_error, dtype=torch.float64)
    ratio = torch.from_numpy(scorer.scaler.std / fitted.scaler.std)
    return {name: total.rescaled(ratio, naive_error) for name, total in totals.items()}, pit


def _plus(one: Sums, other: Sums) -> Sums:
    return (
        {name: total + other[0][name] for name, total in one[0].items()},
        {name: counts + other[1][name] for name, counts in one[1].items()},
    )


def backtest_frame(report: dict[str, Any]) -> pd.DataFrame:
    """Give a backtest as a table: `scores_frame` for each origin, and for "all" of them."""
    parts = [scores_frame(one, origin=one["origin"]) for one in report["origins"]]
    return pd.concat([scores_frame(report, origin="all"), *parts], ignore_index=True)
