"""Intensive-care stays of the PhysioNet/Computing in Cardiology Challenge 2012: 12,000 stays, 36 variables, the first 48 hours.

Columns:
    series_id: the challenge's RecordID.
    time: hours since admission, minutes rounded to 4 decimals, 0 to 48.
    Age, Gender, Height, ICUType, Weight: descriptors, in the row at time 0; the challenge writes -1 for what was not recorded, which is
        read as missing. Weight is also measured later.
    the other 36: vital signs and laboratory values, in the challenge's own units.

Source: I. Silva, G. Moody, D. J. Scott, L. A. Celi and R. G. Mark, Predicting in-hospital mortality of ICU patients, Computing in
Cardiology 39:245-248, 2012; https://physionet.org/content/challenge-2012/1.0.0/, licence Open Data Commons Attribution v1.0.

Two layouts are read, and give the same table:
    physionet2012.csv.gz: one row per stay and minute, an empty cell where nothing was observed;
    set-a, set-b, set-c (in the data folder or in its subfolder physionet2012): the challenge's folders of one text file per stay, lines
        `Time,Parameter,Value` with times as HH:MM. Several values of one variable in one minute are averaged; lines without a parameter
        are left out, as every published reader does. set-a.tar.gz, set-b.tar.gz and set-c.tar.gz have the SHA-256 8cb250f1...20,
        b1637a2a...ac30 and a4a56b95...9ee1 (as tsdm of the GraFITi repository records them).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from latentode.data.assembly import (
    assemble,
    fixed_windows,
    split_series,
    split_t_patch_gnn,
    step_after,
    table_of,
    value_range,
    with_values,
    without_outliers,
)
from latentode.data.protocols import Protocol, Task, find_files
from latentode.data.published import note_checksum, read_cells_as_text
from latentode.data.schema import Survey
from latentode.data.suspicious import note_fillers
from latentode.data.tables import Table, read_table
from latentode.errors import DataError

DESCRIPTORS = ("Age", "Gender", "Height", "ICUType", "Weight")
CHANNELS = (
    *DESCRIPTORS,
    *(
        "Albumin",
        "ALP",
        "ALT",
        "AST",
        "Bilirubin",
        "BUN",
        "Cholesterol",
        "Creatinine",
        "DiasABP",
        "FiO2",
        "GCS",
        "Glucose",
    ),
    *(
        "HCO3",
        "HCT",
        "HR",
        "K",
        "Lactate",
        "Mg",
        "MAP",
        "MechVent",
        "Na",
        "NIDiasABP",
        "NIMAP",
        "NISysABP",
        "PaCO2",
        "PaO2",
    ),
    *("pH", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI", "TroponinT", "Urine", "WBC"),
)
SETS = ("set-a", "set-b", "set-c")
SHA256 = "39a652f83aa52f79d698afa68bccb56ff7420f0441417ba51a688bda548da11a"  # of the tidy table
HOW = "download sets a, b and c from https://physionet.org/content/challenge-2012/1.0.0/ and unpack them there."

_HEADER = b"Time,Parameter,Value"  # the line on top of every stay's file
_MINUTES = 60_000  # more than any time of three digits of hours has minutes
_WITHOUT_MEANING = ("RecordID", "")


def read(data_dir: str | Path | None = None) -> Table:
    """Read the stays, in the order of their ids.

    Args:
        data_dir: folder that holds either layout; None looks in `$LATENTODE_DATA` and `~/.cache/latentode`.

    Raises:
        DataError: neither layout is there, or a file is not of its format.
    """
    path = find_files("physionet2012", ("physionet2012.csv.gz", "physionet2012/set-a", "set-a"), data_dir, how=HOW)
    if path.is_dir():
        return _without_blanks(_read_folders([path.with_name(name) for name in SETS if path.with_name(name).is_dir()]))
    table = read_table(path, channels=CHANNELS)
    notes = (*table.report.notes, *note_checksum(path, SHA256))
    return _without_blanks(replace(table, report=replace(table.report, notes=notes)))


def _without_blanks(table: Table) -> Table:
    """Take the -1 of a descriptor for what it means, not recorded; a note that asked for just this goes with it."""
    values = table.values.copy()
    before = _note_descriptors(values)
    descriptors = values[:, : len(DESCRIPTORS)]
    descriptors[descriptors == -1] = np.nan
    settled = before - _note_descriptors(values)
    notes = tuple(note for note in table.report.notes if note not in settled)
    return with_values(replace(table, report=replace(table.report, notes=notes)), values)


def _note_descriptors(values: np.ndarray) -> set[str]:
    descriptors = values[:, : len(DESCRIPTORS)]
    return set(note_fillers(DESCRIPTORS, descriptors, Survey.of(descriptors)))


def _read_folders(folders: list[Path]) -> Table:
    # The challenge's outcomes may lie beside the stays, whose names are numbers.
    stays = (file for folder in folders for file in folder.glob("*.txt") if file.stem.isdecimal())
    files = sorted(stays, key=lambda file: int(file.stem))
    source = str(folders[0].parent)
    if not files:
        raise DataError(
            f"{source}: the folders {', '.join(f.name for f in folders)} hold no stay (a number with .txt); {HOW}"
        )
    for one, other in pairwise(files):
        if int(one.stem) == int(other.stem):
            raise DataError(f"{other}: is the stay of {one} once more; remove one of them.")
    stay, minute, channel, value = _read_lines(files)
    cell = (stay * _MINUTES + minute) * len(CHANNELS) + channel
    cells, place, n_values = np.unique(cell, return_inverse=True, return_counts=True)
    mean = np.bincount(place, weights=value) / n_values
    # As in the tidy table, so that both layouts give the same figures.
    mean = np.where(n_values > 1, np.round(mean, 4), mean)
    rows, row = np.unique(cells // len(CHANNELS), return_inverse=True)
    values = np.full((len(rows), len(CHANNELS)), np.nan)
    values[row, cells % len(CHANNELS)] = mean
    absent = [name for name in SETS if name not in {folder.name for folder in folders}]
    return table_of(
        [int(file.stem) for file in files],
        rows // _MINUTES,
        np.round(rows % _MINUTES / 60, 4),
        values,
        CHANNELS,
        source=source,
        notes=[f"{', '.join(absent)} not found: sets a, b and c make the 12,000 stays."] if absent else [],
    )


def _read_lines(files: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Give stay (position in `files`), minute, channel and value of every measurement, each `(L,)`."""
    # Every file starts with the same header line, which so tells the files apart after they were joined.
    cells = read_cells_as_text(b"".join(_read_stay(file) for file in files), 3, str(files[0].parent.parent))
    is_header = (cells == _HEADER.decode().split(",")).all(axis=1)
    stay = np.cumsum(is_header) - 1
    row = np.arange(len(cells)) - np.flatnonzero(is_header)[stay]
    channel = pd.Index(CHANNELS).get_indexer(pd.Index(cells[:, 1]))
    value = np.asarray(pd.to_numeric(pd.Series(cells[:, 2]), errors="coerce"), dtype=np.float64)
    minute = _minutes(cells[:, 0])
    is_other = is_header | np.isin(cells[:, 1], _WITHOUT_MEANING)
    is_wrong = np.where(channel < 0, ~is_other, np.isnan(minute) | ~np.isfinite(value))
    wrong = np.flatnonzero(is_wrong)
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{_place(files[stay[first]], int(row[first]))}: the line '{','.join(cells[first])}' is not HH:MM, a variable of the challenge "
            f"and a number ({len(wrong)} such lines in all files); download the file again."
        )
    number = np.asarray([int(file.stem) for file in files])
    other = np.flatnonzero((cells[:, 1] == "RecordID") & (value != number[stay]))
    if len(other):
        first = int(other[0])
        raise DataError(
            f"{_place(files[stay[first]], int(row[first]))}: the RecordID is '{cells[first, 2]}' and not the name of the file "
            f"({len(other)} such files); download the file again."
        )
    kept = channel >= 0
    return stay[kept], minute[kept].astype(np.int64), channel[kept], value[kept]


def _read_stay(file: Path) -> bytes:
    """Give the lines of one stay, after making sure that its header stands on top and nowhere else."""
    text = file.read_bytes().strip() + b"\n"
    if text.partition(b"\n")[0].strip() != _HEADER:
        raise DataError(f"{file}: does not begin with the line '{_HEADER.decode()}'; download the file again.")
    if text.count(_HEADER) > 1:
        raise DataError(f"{file}: holds the line '{_HEADER.decode()}' more than once; download the file again.")
    return text


def _place(file: Path, row: int) -> str:
    """Name the line of a stay's row, counted from its header; blank lines are no rows."""
    lines = [i for i, line in enumerate(file.read_bytes().splitlines(), start=1) if line.strip()]
    return f"{file}:{lines[row]}"


def _minutes(times: np.ndarray) -> np.ndarray:
    """Read HH:MM as minutes, NaN where it is something else; each distinct text once."""
    codes, texts = pd.factorize(times)
    parts = pd.Series(texts).str.extract(r"^(\d{1,3}):([0-5]\d)$").to_numpy(dtype=np.float64)
    return (parts @ np.array([60.0, 1.0]))[codes]


def _t_patch_gnn(data_dir: Path | None, split: int) -> Task:
    table = read(data_dir)
    parts = split_t_patch_gnn(table.n_series, split)
    # A target is what stands at 24 h or later, so the origin lies just before.
    origin = float(np.nextafter(24.0, 0.0))
    is_seen = ~np.isin(table.row_series, parts[2])
    return assemble(
        table,
        [fixed_windows(table, part, origin, 48.0) for part in parts],
        time_scale=24.0,
        unit=value_range(table.values[is_seen]),
        mean_of="targets",
        notes=[
            "The published split depends on the order in which the authors' file system listed the stays; here it is drawn over stays "
            "in the order of their ids, so ratios to a baseline compare, levels only within 11 %.",
            "The published code reads a descriptor's -1 as a value; here it is missing.",
        ],
    )


def _hourly(table: Table) -> Table:
    """Average the measurements of each hour; descriptors fall out, a weight that was measured stays."""
    values = table.values.copy()
    values[np.ix_(table.time == 0, np.arange(len(DESCRIPTORS)))] = np.nan
    hour = np.floor(table.time)
    first = np.flatnonzero(np.append(True, (np.diff(table.row_series) != 0) | (np.diff(hour) != 0)))
    is_seen = ~np.isnan(values)
    total = np.add.reduceat(np.where(is_seen, values, 0.0), first)
    n_values = np.add.reduceat(is_seen, first, dtype=np.int64)
    mean = np.where(n_values > 0, total / np.maximum(n_values, 1), np.nan)
    is_measured = ~np.isin(CHANNELS, DESCRIPTORS[:-1])
    channels = [name for name, is_kept in zip(CHANNELS, is_measured, strict=True) if is_kept]
    return table_of(
        list(table.series_ids),
        table.row_series[first],
        hour[first],
        mean[:, is_measured],
        channels,
        source=table.source,
    )


_LEAKS = (
    "The published rules standardise over all stays, the test included, and drop values 5 deviations out, targets included; both are "
    "followed here.",
    "The published reader loses the first line of every hour and the last hour of a stay; here nothing is lost.",
)


def _next_three_steps(data_dir: Path | None, origin: float, first: dict[str, Any], second: dict[str, Any]) -> Task:
    # Mechanical ventilation is always 1, so it has no z-score and falls out: 36 of 37 channels remain.
    table, deviation = without_outliers(_hourly(read(data_dir)))
    windows = [
        fixed_windows(table, part, origin, step_after(table, part, origin, 3))
        for part in split_series(table.n_series, first, second)
    ]
    return assemble(table, windows, time_scale=12.0, unit=deviation, notes=_LEAKS)


def _grafiti(data_dir: Path | None, split: int) -> Task:
    return _next_three_steps(
        data_dir, 36.0, {"test_size": 0.15, "random_state": split}, {"test_size": 0.2, "random_state": split}
    )


def _pyomnits(data_dir: Path | None, split: int) -> Task:
    # P12.py divides times by their largest + 1, its scaler by their range: of 36 hours it reads 0 to 34, and hour 35 is the first target.
    return _next_three_steps(data_dir, 34.5, {"test_size": 0.1, "shuffle": False}, {"test_size": 0.1, "shuffle": False})


PROTOCOLS: dict[str, Protocol] = {
    "tpatchgnn": Protocol(
        name="tpatchgnn",
        source="W. Zhang, C. Yin, H. Liu, X. Zhou and H. Xiong, Irregular Multivariate Time Series Forecasting: A Transformable Patching "
        "Graph Neural Networks Approach, ICML 2024; https://github.com/usail-hkust/t-PatchGNN",
        rules="History before 24 h, targets every observation from 24 to 48 h, all 41 variables; stays split 60/20/20 "
        "(train_test_split of seen and test with random_state 42, seen again unshuffled); errors in units of each variable's range over "
        "the seen stays, averaged per variable, then over the variables with a target. Only random_state 42 is published; 0 and 1 are "
        "further draws of the same rule.",
        average="macro",
        splits=(42, 0, 1),
        build=_t_patch_gnn,
    ),
    "grafiti": Protocol(
        name="grafiti",
        source="V. K. Yalavarthi et al., GraFITi: Graphs for Forecasting Irregularly Sampled Time Series, AAAI 2024; "
        "https://github.com/yalavarthivk/GraFITi, after E. De Brouwer et al., GRU-ODE-Bayes, NeurIPS 2019",
        rules="Hourly means of 36 variables, standardised over all stays, values 5 deviations out dropped; history up to hour 36 (that "
        "hour included), targets the next 3 time steps; test 15 %, validation 20 % of the rest; errors in deviations, averaged over "
        "values. The five folds of the published code are one and the same split (its random state is always 0); there "
        "is so one split here.",
        average="pooled",
        splits=(0,),
        build=_grafiti,
    ),
    "pyomnits": Protocol(
        name="pyomnits",
        source="PyOmniTS, https://github.com/Ladbaby/PyOmniTS (P12, 36 -> 3)",
        rules="Hourly means of 36 variables, standardised and cut as in 'grafiti'; history hours 0 to 34 (36 as named, "
        "but its code divides times by another number than their range), targets the next 3 time steps; the last 10 % of the stays are the "
        "test, the last 10 % of the others validation, nothing shuffled; errors in deviations, averaged over values.",
        average="pooled",
        splits=(0,),
        build=_pyomnits,
    ),
}
