"""The unknown numbers of a fitted equation, with intervals, as a table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from latentode.data.tables import Table
from latentode.data.windows import forecast_windows
from latentode.errors import InputError
from latentode.models import Mechanistic
from latentode.models.fitted import READ_AT_ONCE, FittedModel


def estimates(
    fitted: FittedModel, history: Table | None = None, *, level: float = 0.9, device: torch.device | str = "cpu"
) -> pd.DataFrame:
    """Give the estimates of an equation's numbers, in the user's units.

    Args:
        fitted: of a `Mechanistic` model.
        history: of series whose own numbers are asked for; None: what all series have in common.
        level: of the intervals.
        device: where to compute.

    Returns:
        One row per number, `parameter, estimate, low, high`; of a number that every series has its own, that of the typical one. With a
        history one row per series and number, `series_id` in front.

    Raises:
        InputError: the model is no equation, or the level is not between 0 and 1.
    """
    model = fitted.network
    if not isinstance(model, Mechanistic):
        raise InputError(f"a {type(model).__name__} has no parameters to be named; fit a Mechanistic model.")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; give one between 0 and 1, such as 0.9.")
    if history is None:
        found = model.estimates(level)
        return pd.DataFrame(
            {
                "parameter": [one.name for one in found],
                **{key: [float(getattr(one, column)) for one in found] for key, column in COLUMNS.items()},
            }
        )
    windows, reader = forecast_windows(history, history=fitted.spans.history), fitted.reader(history)
    parts = []
    for rows in np.split(np.arange(len(windows)), range(READ_AT_ONCE, len(windows), READ_AT_ONCE)):
        batch = reader.read(windows.take(rows)).to(device)
        found = model.series_estimates(batch, level)
        part = {"series_id": np.repeat(history.series_ids[windows.series[rows]], len(found))}
        part["parameter"] = np.tile([one.name for one in found], len(rows))
        for key, column in COLUMNS.items():
            part[key] = torch.stack([getattr(one, column) for one in found], 1).flatten().cpu().numpy()
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


COLUMNS = {"estimate": "value", "low": "low", "high": "high"}
