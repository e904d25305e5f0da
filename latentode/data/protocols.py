"""Published rules of a benchmark: which windows, which split, which units, which average. Two protocols are never mixed.

A data set module (`datasets/<name>.py`) lists its protocols in `PROTOCOLS`; each builds one `Task` per split. What a benchmark scores is
the table's own targets, so a task is only a table, three lists of windows, a scaler that has seen the training windows alone, and the
units in which the protocol reports.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from latentode.data.scaling import Scaler
from latentode.data.tables import Table
from latentode.data.windows import Windows
from latentode.errors import DataError

Average = Literal["macro", "pooled"]


@dataclass(frozen=True)
class Task:
    """One split of a data set under one protocol.

    Attributes:
        table: all series, training, validation and test.
        scaler: of the models: mean and deviation of the values that training may see, and the unit of model time.
        unit: by how much one divides an error in the user's units to get it in the protocol's, `(C,)`, positive.
        train, validation, test: windows of each part.
        max_history: most observed values read per window.
        notes: what a reader of the figures has to know, one sentence each.
        target_channels: positions of the channels that are scored; None: those that training saw. Some protocols also score channels
            that show up in the test alone.
        floor: squared deviation of the noise of each channel, in the protocol's units, `(C,)`: what the truth itself is charged with. None
            where nobody knows the truth.
    """

    table: Table
    scaler: Scaler
    unit: np.ndarray
    train: Windows
    validation: Windows
    test: Windows
    max_history: int
    notes: tuple[str, ...] = ()
    target_channels: tuple[int, ...] | None = None
    floor: np.ndarray | None = None


@dataclass(frozen=True)
class Protocol:
    """Rules that a paper or its repository published.

    Attributes:
        name: short, as `--protocol` takes it.
        source: paper and repository.
        rules: windows, scaling, split and averaging, in words.
        average: of the headline error: "macro" (over channels) or "pooled" (over values).
        splits: the published splits, as random states or folds, in order.
        build: of a folder (None: look in the usual places) and a split, gives the task.
    """

    name: str
    source: str
    rules: str
    average: Average
    splits: tuple[int, ...]
    build: Callable[[Path | None, int], Task] = field(repr=False)


def find_files(name: str, candidates: Sequence[str], data_dir: str | Path | None, *, how: str) -> Path:
    """Give the first of `candidates` that is there: in `data_dir`, else in `$LATENTODE_DATA`, else in `~/.cache/latentode`.

    Args:
        name: of the data set, for the message.
        candidates: files or folders relative to the data folder, the preferred one first.
        data_dir: the folder that the user named; None looks in the usual places.
        how: one sentence on where to get the data.

    Raises:
        DataError: none is there; the message names the folder, the files and `how`.
    """
    folder = Path(data_dir or os.environ.get("LATENTODE_DATA") or Path.home() / ".cache" / "latentode")
    for candidate in candidates:
        if (folder / candidate).exists():
            return folder / candidate
    raise DataError(
        f"{name}: {folder} holds none of {', '.join(candidates)}; {how} Name the folder with --data_dir or LATENTODE_DATA."
    )
