"""The layout of GRU-ODE-Bayes and its heirs: one row per series and time, `Value_x` beside `Mask_x`, 1 where the value was observed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from latentode.data.published import line_of, note_checksum, read_columns, refuse_empty, to_floats
from latentode.data.schema import quote_names
from latentode.data.tables import Table, read_table
from latentode.errors import DataError


def read_value_mask(
    path: Path, id_column: str, time_column: str, *, time_scale: float = 1.0, sha256: str | None = None
) -> Table:
    """Read a CSV of value and mask columns, by series in ascending order.

    Args:
        path: the CSV; columns beside those named here are left out (published files carry an index).
        id_column, time_column: their names.
        time_scale: by which the file's times are multiplied.
        sha256: of the published file, where it is known; another file is noted.

    Returns:
        A table whose channels are the `x` of `Value_x`; rows of one series and time are averaged.

    Raises:
        DataError: a column is missing, an id or a time is empty, or a mask is something other than 0 and 1.
    """
    frame = read_columns(path)
    names = [name for name in frame.columns if name.startswith("Value")] or ["Value_0"]
    masks = ["Mask" + name[len("Value") :] for name in names]
    missing = [name for name in (id_column, time_column, *names, *masks) if name not in frame.columns]
    if missing:
        raise DataError(
            f"{path}: has no column '{missing[0]}' (it has {quote_names(list(frame.columns))}); "
            f"columns {id_column}, {time_column}, Value_... and Mask_... are needed."
        )
    refuse_empty(frame, [id_column, time_column], path)
    mask = to_floats(frame, masks, path)
    wrong = np.flatnonzero(~np.isin(mask, (0.0, 1.0)).all(axis=1))
    if len(wrong):
        raise DataError(
            f"{path}, line {line_of(path, int(wrong[0]))}: a Mask column holds something other than 0 and 1; write 1 where observed."
        )
    values = np.where(mask == 1, to_floats(frame, names, path, counted=mask == 1), np.nan)
    wide = pd.DataFrame(values, columns=[name[len("Value") :].lstrip("_") for name in names])
    wide.insert(0, "series_id", frame[id_column])
    wide.insert(1, "time", to_floats(frame, [time_column], path)[:, 0] * time_scale)
    wide = wide.sort_values(["series_id", "time"], kind="stable")
    table = read_table(wide, duplicates="mean")
    notes = table.report.notes + (note_checksum(path, sha256) if sha256 else ())
    return replace(table, source=str(path), report=replace(table.report, notes=notes))
