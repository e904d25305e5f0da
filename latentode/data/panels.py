"""Panels without published rules: each series is cut twice in time, as `latentode fit` does by default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from latentode.data.assembly import assemble
from latentode.data.protocols import Protocol, Task
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from latentode.data.windows import Spans, heldout_windows, make_split, training_windows


@dataclass(frozen=True)
class Panel:
    """A table of series, and how it is read.

    Attributes:
        name: of the data set.
        find: of a data folder (None: look in the usual places), gives the file.
        source: where the rules stand.
        reading: keywords of `read_table`.
    """

    name: str
    find: Callable[[Path | None], Path]
    source: str
    reading: dict[str, Any] = field(default_factory=dict)


def time_cut(panel: Panel, *, name: str = "time", horizon: float | str | None = None) -> Protocol:
    """Give the protocol that cuts each series at .70 and .85 of its span; a target never crosses a cut.

    Args:
        panel: the data.
        name: of the protocol.
        horizon: how far to forecast; left out, chosen from the data as `latentode fit` chooses it.
    """
    return Protocol(
        name=name,
        source=panel.source,
        rules="Each series is cut at .70 and .85 of its own time span into training, validation and test; held-out origins every horizon "
        f"from the cut; horizon {'chosen from the data' if horizon is None else horizon}; errors in deviations of the training rows, "
        "averaged per channel, then over channels. Splits differ in the training origins alone.",
        average="macro",
        splits=(0, 1, 2),
        build=partial(_build, panel, horizon),
    )


def _build(panel: Panel, horizon: float | str | None, data_dir: Path | None, split: int) -> Task:
    table = read_table(panel.find(data_dir), **panel.reading)
    settings = DataSettings(horizon=horizon)
    cuts, spans = make_split(table, settings), Spans.of(table, settings)
    trained = training_windows(table, cuts, spans, np.random.default_rng(split), settings.windows_per_epoch)
    parts = [trained, *(heldout_windows(table, cuts, part, spans) for part in ("val", "test"))]
    task = assemble(table, parts, time_scale=float(spans.horizon), notes=[f"{spans.describe(table.schema)}."])
    return replace(task, unit=task.scaler.std)
