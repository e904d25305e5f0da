"""Intensive-care stays of MIMIC-IV, the first 48 hours to the minute: 102 laboratory values, inputs, outputs and prescriptions.

The data may not be passed on: a user gets them from PhysioNet and prepares them with the code of the paper.

Columns (of the prepared file full_dataset.csv: hadm_id, time_stamp, Value_label_... and Mask_label_...; 2,485,769 rows of 17,874 stays):
    series_id: admission (hadm_id).
    time: minutes since admission.
    label_...: one channel per label.

Source: A. E. W. Johnson et al., MIMIC-IV, a freely accessible electronic health record dataset, Scientific Data 10:1, 2023,
https://physionet.org/content/mimiciv/1.0/, licence PhysioNet Credentialed Health Data License 1.5.0; prepared by M. Bilos et al., Neural
Flows, NeurIPS 2021, https://github.com/mbilos/neural-flows-experiments.
"""

from __future__ import annotations

from pathlib import Path

from latentode.data.assembly import assemble, fixed_windows, split_series, step_after, without_outliers
from latentode.data.protocols import Protocol, Task, find_files
from latentode.data.tables import Table
from latentode.data.value_mask import read_value_mask

SHA256 = "f2b09be20b021a681783d92a0091a49dcd23d8128011cb25990a61b1c2c1210f"
HOW = "prepare full_dataset.csv with nfe/experiments/gru_ode_bayes/data_preproc of https://github.com/mbilos/neural-flows-experiments."
_LEAK = (
    "The published rules standardise over all stays, the test included, and drop values 5 deviations out, targets included; both are "
    "followed here."
)


def read(data_dir: str | Path | None = None) -> Table:
    """Read the stays in ascending order of their admission.

    Raises:
        DataError: the file is not there or not of its format.
    """
    candidates = ("mimic4/full_dataset.csv", "mimic4/mimic4_full_dataset.csv", "mimic4_full_dataset.csv")
    path = find_files("mimic4", candidates, data_dir, how=HOW)
    return read_value_mask(path, "hadm_id", "time_stamp", sha256=SHA256)


def _grafiti(data_dir: Path | None, split: int) -> Task:
    table, deviation = without_outliers(read(data_dir))
    parts = split_series(
        table.n_series, {"test_size": 0.15, "random_state": split}, {"test_size": 0.2, "random_state": split}
    )
    windows = [fixed_windows(table, part, 2160.0, step_after(table, part, 2160.0, 3)) for part in parts]
    return assemble(table, windows, time_scale=720.0, unit=deviation, notes=[_LEAK])


PROTOCOLS: dict[str, Protocol] = {
    "grafiti": Protocol(
        name="grafiti",
        source="V. K. Yalavarthi et al., GraFITi, AAAI 2024; https://github.com/yalavarthivk/GraFITi, after M. Bilos et al., Neural Flows, "
        "NeurIPS 2021",
        rules="Minutes, standardised over all stays, values 5 deviations out dropped; history up to 36 h, targets the next 3 time steps; "
        "test 15 %, validation 20 % of the rest; errors in deviations, averaged over values. The five folds of the published code are one "
        "and the same split (its random state is always 0); there is so one split here.",
        average="pooled",
        splits=(0,),
        build=_grafiti,
    ),
}
