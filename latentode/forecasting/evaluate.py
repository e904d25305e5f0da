"""Score a fitted model and the baselines on held-out windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from latentode.data.tables import Table
from latentode.data.windows import heldout_windows, make_split
from latentode.errors import DataError
from latentode.metrics import check_metrics
from latentode.models.fitted import FittedModel


def evaluate(
    fitted: FittedModel,
    table: Table,
    *,
    metrics: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Score on the test part of the table that was fitted, or on all rows of another one.

    Args:
        fitted: the model.
        table: with the channels of the fit.
        metrics: names in `latentode.metrics.METRICS`; left out, all.
        device: where to compute.

    Returns:
        The figures of `FittedModel.score`, and `part`: "test" or "all".

    Raises:
        DataError: the table holds no window to score.
        InputError: there is no such metric.
    """
    names = check_metrics(metrics)
    is_known = table.digest() == fitted.digest
    part = "test" if is_known else "all"
    split = make_split(table, fitted.settings) if is_known else None
    windows = heldout_windows(table, split, part, fitted.spans)
    if len(windows) == 0:
        raise DataError(
            f"{table.source}: holds no window with a value to read and a value to forecast within the horizon; "
            "give longer series, or fit with a shorter horizon."
        )
    fitted.network.to(device).eval()
    fitted.baselines.to(device)
    return {"part": part, **fitted.score(table, windows, names, device=device)}
