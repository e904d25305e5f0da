"""Score a fitted model and the baselines on held-out windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from latentode.data.tables import Table
from latentode.data.windows import heldout_windows, make_split
from latentode.errors import DataError, InputError
from latentode.metrics import METRICS, check_metrics
from latentode.models.fitted import FittedModel


def evaluate(
    fitted: FittedModel,
    table: Table,
    *,
    metrics: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    n_draws: int = 1000,
) -> dict[str, Any]:
    """Score on the test part of the table that was fitted, or on all rows of another one.

    Args:
        fitted: the model.
        table: with the channels of the fit.
        metrics: names in `latentode.metrics.METRICS`; left out, all.
        device: where to compute.
        n_draws: of the bootstrap over series from which intervals and skill come; 0: none.

    Returns:
        The figures of `FittedModel.score`; `part`: "test" or "all"; `n_seen`: windows that lie in what the fit has read of these series,
        whose errors flatter (0 of the test part).

    Raises:
        DataError: the table holds no window to score.
        InputError: there is no such metric, or the run does not hold what it takes.
    """
    names = check_metrics(metrics)
    asked = [name for name in names if METRICS[name].per_naive_error] if metrics is not None else []
    if asked and fitted.naive_error is None:
        raise InputError(
            f'{asked[0]} takes the error of "last value" in training, which this run does not hold; fit the model again.'
        )
    is_known = table.digest() == fitted.digest
    part = "test" if is_known else "all"
    split = make_split(table, fitted.settings) if is_known else None
    windows = heldout_windows(table, split, part, fitted.spans)
    if len(windows) == 0:
        raise DataError(
            f"{table.source}: the run holds out no test part; fit with a --data.test_fraction above 0, or name another table."
            if is_known and _holds_out_nothing(fitted)
            else f"{table.source}: holds no window with a value to read and a value to forecast within the horizon; "
            "give longer series, or fit with a shorter horizon."
        )
    fitted.network.to(device).eval()
    fitted.baselines.to(device)
    n_seen = 0 if is_known or fitted.seen is None else int((~fitted.seen.is_unseen(table, windows)).sum())
    return {
        "part": part,
        "n_seen": n_seen,
        **fitted.score(table, windows, names, device=device, n_draws=n_draws, is_whole=True),
    }


def _holds_out_nothing(fitted: FittedModel) -> bool:
    return fitted.settings.test_fraction == 0 and fitted.settings.test_from is None
