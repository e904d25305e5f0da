"""Positions of four tags on the bodies of five people who walk, fall, lie and sit: 25 recordings, 12 channels, a tag at a time.

Columns (of the published file: sequence name, tag, ticks of 100 ns, date, x, y, z, activity; no header):
    series_id: sequence, A01 to E05 (the letter is the person).
    time: milliseconds since the sequence began, rounded.
    <tag>_x, <tag>_y, <tag>_z of ankle_left, ankle_right, chest and belt: metres. Several readings of a tag in one millisecond are averaged.
        The activity is left out.

Source: B. Kaluza, V. Mirchevska, E. Dovgan, M. Lustrek and M. Gams, An Agent-based Approach to Care in Independent Living, AmI 2010; UCI
Machine Learning Repository, Localization Data for Person Activity, https://doi.org/10.24432/C57G8X, licence CC BY 4.0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from latentode.data.assembly import assemble, fixed_windows, split_t_patch_gnn, table_of, value_range
from latentode.data.protocols import Protocol, Task, find_files
from latentode.data.published import read_cells_as_text
from latentode.data.tables import Table
from latentode.data.windows import Windows
from latentode.errors import DataError

TAGS = {
    "010-000-024-033": "ankle_left",
    "010-000-030-096": "ankle_right",
    "020-000-033-111": "chest",
    "020-000-032-221": "belt",
}
CHANNELS = tuple(f"{tag}_{axis}" for tag in TAGS.values() for axis in "xyz")
HOW = "download ConfLongDemo_JSI.txt from https://archive.ics.uci.edu/dataset/196 and put it there."
_COLUMNS = ["sequence", "tag", "ticks", "date", "x", "y", "z", "activity"]
_READ = ("sequence", "tag", "ticks")
_TICKS = 10_000  # per millisecond
_LONGEST = 10**10  # milliseconds; more than any sequence lasts
_HISTORY, _HORIZON = 3000, 1000


def read(data_dir: str | Path | None = None) -> Table:
    """Read the sequences in the order of the file.

    Raises:
        DataError: the file is not there or not of its format.
    """
    name = "ConfLongDemo_JSI.txt"
    path = find_files("human_activity", (name, f"human_activity/{name}", f"activity/{name}"), data_dir, how=HOW)
    cells = read_cells_as_text(path.read_bytes(), len(_COLUMNS), str(path))
    sequence, tag_id, tick = (pd.Series(cells[:, _COLUMNS.index(name)]).str.strip() for name in _READ)
    position = np.asarray(pd.DataFrame(cells[:, 4:7]).apply(pd.to_numeric, errors="coerce"), dtype=np.float64)
    tag = pd.Index(TAGS).get_indexer(pd.Index(tag_id))
    is_time = tick.str.fullmatch(r"\d{1,18}").to_numpy(bool)
    wrong = np.flatnonzero((tag < 0) | ~is_time | ~np.isfinite(position).all(axis=1))
    if len(wrong):
        raise DataError(
            f"{path}, line {wrong[0] + 1}: is not '{','.join(_COLUMNS)}' with a known tag and numbers "
            f"({len(wrong)} such lines); download the file again."
        )
    codes, names = pd.factorize(sequence)
    # Whole numbers: a float would hold these ticks to 13 microseconds only.
    ticks = tick.astype(np.int64)
    since = (ticks - ticks.groupby(codes).transform("first")).to_numpy()
    back = np.flatnonzero(since < 0)
    if len(back):
        raise DataError(f"{path}, line {back[0] + 1}: lies before its sequence's first line; download the file again.")
    time = np.round(since / _TICKS).astype(np.int64)
    # One number per sequence and time: sequences are minutes long.
    rows, row = np.unique(codes * _LONGEST + time, return_inverse=True)
    cell = (row[:, None] * len(TAGS) + tag[:, None]) * 3 + np.arange(3)
    shape = (len(rows), len(CHANNELS))
    total = np.bincount(cell.ravel(), position.ravel(), shape[0] * shape[1]).reshape(shape)
    n_values = np.bincount(cell.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    values = np.where(n_values > 0, total / np.maximum(n_values, 1), np.nan)
    return table_of(list(names), rows // _LONGEST, rows % _LONGEST, values, CHANNELS, source=str(path))


def _t_patch_gnn(data_dir: Path | None, split: int) -> Task:
    table = read(data_dir)
    parts = split_t_patch_gnn(table.n_series, split)
    is_seen = ~np.isin(table.row_series, parts[2])
    return assemble(
        table,
        [_lay_windows(table, part) for part in parts],
        time_scale=float(_HORIZON),
        unit=value_range(table.values[is_seen]),
    )


def _lay_windows(table: Table, series: np.ndarray) -> Windows:
    """Lay a window every second over each sequence: 3 s of history, the next second as target; the last one is closed and may be short."""
    last = table.time[table.starts[series + 1] - 1]
    n_windows = np.maximum(np.ceil((last - _HISTORY) / _HORIZON), 0).astype(np.int64)
    first_of = np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    start = (np.arange(len(first_of)) - first_of) * float(_HORIZON)
    end = start + _HISTORY + _HORIZON
    return fixed_windows(
        table,
        np.repeat(series, n_windows),
        origin=np.nextafter(start + _HISTORY, 0),
        until=np.where(end >= np.repeat(last, n_windows), end, np.nextafter(end, 0)),
        history_from=np.nextafter(start, -1),
    )


PROTOCOLS: dict[str, Protocol] = {
    "tpatchgnn": Protocol(
        name="tpatchgnn",
        source="W. Zhang et al., Irregular Multivariate Time Series Forecasting: A Transformable Patching Graph Neural Networks Approach, "
        "ICML 2024; https://github.com/usail-hkust/t-PatchGNN",
        rules="Windows of 4,000 ms every 1,000 ms, 3,000 ms of history and 1,000 ms as target; sequences split 60/20/20 as for PhysioNet "
        "(random_state 42; 0 and 1 are further draws); errors in units of each channel's range over the seen sequences, averaged per "
        "channel, then over channels.",
        average="macro",
        splits=(42, 0, 1),
        build=_t_patch_gnn,
    ),
}
