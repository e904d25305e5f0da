"""Intensive-care stays of MIMIC-III, the first 48 hours: 96 laboratory values, inputs, outputs and prescriptions.

The data may not be passed on: a user gets them from PhysioNet and prepares them with the code of the paper. Two prepared files are read:
    complete_tensor.csv (of GRU-ODE-Bayes with half-hour bins; 3,082,224 rows of 21,250 stays): UNIQUE_ID, LABEL_CODE, TIME_STAMP,
        VALUENUM, MEAN, STD, VALUENORM. VALUENORM, the standardised value, is what is forecast.
    full_dataset.csv (of t-PatchGNN; 23,457 stays): ID, Time in minutes, Value_... and Mask_... .

Columns: series_id: stay; time: hours since admission (half hours in protocol 'gru_ode_bayes'); one channel per label, by its code.

Source: A. E. W. Johnson et al., MIMIC-III, a freely accessible critical care database, Scientific Data 3:160035, 2016,
https://physionet.org/content/mimiciii/1.4/, licence PhysioNet Credentialed Health Data License 1.5.0.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from latentode.data.assembly import (
    assemble,
    assemble_gru_ode_bayes,
    fixed_windows,
    split_t_patch_gnn,
    value_range,
)
from latentode.data.protocols import Protocol, Task, find_files
from latentode.data.published import note_checksum, read_columns, refuse_empty, to_floats, to_integers
from latentode.data.tables import Table, read_table
from latentode.data.value_mask import read_value_mask

SHA256 = "8e884a916d28fd546b898b54e20055d4ad18d9a7abe262e15137080e9feb4fc2"  # of complete_tensor.csv
_WANTED = ["UNIQUE_ID", "TIME_STAMP", "LABEL_CODE", "VALUENORM"]


def read_tensor(data_dir: str | Path | None = None) -> Table:
    """Read complete_tensor.csv, by stay in ascending order, times in half hours.

    Raises:
        DataError: the file is not there or not of its format.
    """
    path = find_files(
        "mimic3",
        ("mimic3/complete_tensor.csv", "complete_tensor.csv"),
        data_dir,
        how="prepare complete_tensor.csv with data_preproc/MIMIC of https://github.com/edebrouwer/gru_ode_bayes (bin_k = 2).",
    )
    read = read_columns(path, _WANTED)
    refuse_empty(read, ["TIME_STAMP"], path)
    stay, label = to_integers(read, ["UNIQUE_ID", "LABEL_CODE"], path).T
    stamp, value = to_floats(read, ["TIME_STAMP", "VALUENORM"], path).T
    order = np.lexsort((stamp, stay))
    codes, code = np.unique(label, return_inverse=True)
    names = [str(name) for name in codes]
    columns = {
        "series_id": stay,
        "time": stamp,
        "channel": np.array(names, object)[code],
        "value": value,
    }
    frame = pd.DataFrame({name: column[order] for name, column in columns.items()})
    table = read_table(frame, layout="long", channels=names, duplicates="mean")
    notes = (*table.report.notes, *note_checksum(path, SHA256))
    return replace(table, source=str(path), report=replace(table.report, notes=notes))


def read_masked(data_dir: str | Path | None = None) -> Table:
    """Read full_dataset.csv, by stay in ascending order, times in hours.

    Raises:
        DataError: the file is not there or not of its format.
    """
    path = find_files(
        "mimic3",
        ("mimic3/full_dataset.csv", "mimic/raw/full_dataset.csv"),
        data_dir,
        how="download MIMIC-III-Ext-tPatchGNN from https://physionet.org/content/mimic-iii-ext-tpatchgnn/1.0.0/ (access on request).",
    )
    return read_value_mask(path, "ID", "Time", time_scale=1 / 60)


def _gru_ode_bayes(data_dir: Path | None, split: int) -> Task:
    table = read_tensor(data_dir)
    return assemble_gru_ode_bayes(table, split, origin=72.0, time_scale=24.0)


def _t_patch_gnn(data_dir: Path | None, split: int) -> Task:
    table = read_masked(data_dir)
    parts = split_t_patch_gnn(table.n_series, split)
    is_seen = ~np.isin(table.row_series, parts[2])
    windows = [fixed_windows(table, part, float(np.nextafter(24.0, 0.0)), np.inf) for part in parts]
    return assemble(table, windows, time_scale=24.0, unit=value_range(table.values[is_seen]), mean_of="targets")


PROTOCOLS: dict[str, Protocol] = {
    "tpatchgnn": Protocol(
        name="tpatchgnn",
        source="W. Zhang et al., Irregular Multivariate Time Series Forecasting: A Transformable Patching Graph Neural Networks Approach, "
        "ICML 2024; https://github.com/usail-hkust/t-PatchGNN",
        rules="History before 24 h, targets every observation from 24 h; stays split 60/20/20 (random_state 42; 0 and 1 are further "
        "draws); errors in units of each variable's range over the seen stays, averaged per variable, then over variables.",
        average="macro",
        splits=(42, 0, 1),
        build=_t_patch_gnn,
    ),
    "gru_ode_bayes": Protocol(
        name="gru_ode_bayes",
        source="E. De Brouwer et al., GRU-ODE-Bayes, NeurIPS 2019, with the bins of https://github.com/yalavarthivk/GraFITi",
        rules="Half-hour bins, standardised values; history up to bin 72 (36 h), targets the next 3 time steps; five folds drawn in turn "
        "with numpy's seed 432, test 10 %, validation 20 % of the rest; errors averaged over values.",
        average="pooled",
        splits=(0, 1, 2, 3, 4),
        build=_gru_ode_bayes,
    ),
}
