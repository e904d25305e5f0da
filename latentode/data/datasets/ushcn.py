"""Daily climate of 1,114 United States stations, 1996 to 2000, thinned to sporadic observations as GRU-ODE-Bayes does.

Columns (of the published file: ID, Time, Value_0 to Value_4, Mask_0 to Mask_4; 350,665 rows):
    series_id: station, a number.
    time: 0 to 200, one unit being 7.3 days (in protocol 'tpatchgnn' months, 0 to 48).
    0, 1, 2, 3, 4: snowfall, snow depth, precipitation, largest and smallest temperature, as the file gives them (normalised).

Source: M. J. Menne, C. N. Williams and R. S. Vose, Long-Term Daily and Monthly Climate Records from Stations Across the Contiguous United
States (USHCN), public domain; prepared by E. De Brouwer et al., GRU-ODE-Bayes, NeurIPS 2019, https://github.com/edebrouwer/gru_ode_bayes
(MIT licence), file gru_ode_bayes/datasets/Climate/small_chunked_sporadic.csv.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentode.data.assembly import (
    assemble,
    assemble_gru_ode_bayes,
    fixed_windows,
    split_t_patch_gnn,
)
from latentode.data.protocols import Protocol, Task, find_files
from latentode.data.tables import Table
from latentode.data.value_mask import read_value_mask

SHA256 = "671eb8d121522e98891c84197742a6c9e9bb5015e42b328a93ebdf2cfd393ecf"
HOW = (
    "download small_chunked_sporadic.csv from gru_ode_bayes/datasets/Climate of https://github.com/edebrouwer/gru_ode_bayes "
    "and put it there."
)
_MONTHS, _HISTORY = 48, 24


def read(data_dir: str | Path | None = None, time_scale: float = 1.0) -> Table:
    """Read the stations in the order of their numbers, with times multiplied by `time_scale`.

    Raises:
        DataError: the file is not there or not of its format.
    """
    name = "small_chunked_sporadic.csv"
    path = find_files("ushcn", (name, f"ushcn/{name}"), data_dir, how=HOW)
    return read_value_mask(path, "ID", "Time", time_scale=time_scale, sha256=SHA256)


def _t_patch_gnn(data_dir: Path | None, split: int) -> Task:
    table = read(data_dir, time_scale=_MONTHS / 200)
    parts = split_t_patch_gnn(table.n_series, split)
    # Windows [start, start + 25 months), the last one closed; targets from start + 24.
    start = np.arange(_MONTHS - _HISTORY, dtype=np.float64)
    end = np.where(start + _HISTORY + 1 == _MONTHS, _MONTHS, np.nextafter(start + _HISTORY + 1, 0))
    windows = [
        fixed_windows(
            table,
            np.repeat(part, len(start)),
            origin=np.tile(np.nextafter(start + _HISTORY, 0), len(part)),
            until=np.tile(end, len(part)),
            history_from=np.tile(np.nextafter(start, -1), len(part)),
        )
        for part in parts
    ]
    return assemble(table, windows, time_scale=1.0)


def _gru_ode_bayes(data_dir: Path | None, split: int) -> Task:
    table = read(data_dir)
    return assemble_gru_ode_bayes(table, split, origin=150.0, time_scale=50.0)


PROTOCOLS: dict[str, Protocol] = {
    "tpatchgnn": Protocol(
        name="tpatchgnn",
        source="W. Zhang et al., Irregular Multivariate Time Series Forecasting: A Transformable Patching Graph Neural Networks Approach, "
        "ICML 2024; https://github.com/usail-hkust/t-PatchGNN",
        rules="Time in months; 24 windows per station, 24 months of history and the next month as target; stations split 60/20/20 as for "
        "PhysioNet (random_state 42; 0 and 1 are further draws); values as in the file, errors averaged per variable, then over variables.",
        average="macro",
        splits=(42, 0, 1),
        build=_t_patch_gnn,
    ),
    "gru_ode_bayes": Protocol(
        name="gru_ode_bayes",
        source="E. De Brouwer et al., GRU-ODE-Bayes, NeurIPS 2019; https://github.com/edebrouwer/gru_ode_bayes; the same folds in "
        "https://github.com/yalavarthivk/GraFITi",
        rules="History up to time 150 of 200, targets the next 3 observation times; five folds drawn in turn with numpy's seed 432, test "
        "10 %, validation 20 % of the rest; values as in the file, errors averaged over values.",
        average="pooled",
        splits=(0, 1, 2, 3, 4),
        build=_gru_ode_bayes,
    ),
}
