"""Time-IMM: eight collections of irregular series from eight causes of irregularity; one protocol per collection and way of scaling.

Two layouts are read:
    <collection>/processed/<entity>/time_series.csv (as published; columns date_time, record_id and channels), with text.csv (date_time,
        record_id and one column of text) beside it: the published rules keep only windows with a text in their history;
    epa_air.csv.gz, ilinet.csv.gz, repohealth.csv.gz: tidy tables with series_id and time, and no text.

Columns: series_id: the entity; time: dates; channels as the collection names them (EPA-Air: temp in degrees Fahrenheit, pm2_5 and aqi,
    ozone in ppm; ILINet: shares and counts of influenza-like illness, by age; RepoHealth: counts and ages of issues and pull requests).

Source: C. Chang et al., Time-IMM: A Dataset and Benchmark for Irregular Multimodal Multivariate Time Series, NeurIPS 2025, arXiv
2506.10412, https://github.com/blacksnail789521/Time-IMM and https://github.com/blacksnail789521/IMM-TSF; licence: none found beside the
files, which come from public sources (US EPA, CDC, the GitHub API and others) and are not bundled here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from latentode.data.assembly import assemble, count_history, count_targets, rows_of, with_values
from latentode.data.protocols import Protocol, Task, find_files
from latentode.data.published import read_columns, refuse_empty, to_floats
from latentode.data.schema import count, quote_names
from latentode.data.tables import Table, read_table
from latentode.data.windows import Windows, bisect_rows
from latentode.errors import DataError

HOW = "clone https://github.com/blacksnail789521/Time-IMM and name its folder data."
_HOUR = 3_600_000_000_000  # nanoseconds
_DAY, _WEEK = 24 * _HOUR, 168 * _HOUR


@dataclass(frozen=True)
class Collection:
    """Where a collection lies and how its windows are laid.

    Attributes:
        folder: its name, as published.
        history, horizon, stride: in nanoseconds.
        of_tidy: what the tidy table lacks, for a note.
    """

    folder: str
    history: int
    horizon: int
    stride: int
    of_tidy: str = ""


COLLECTIONS = {
    "epa_air": Collection(
        "EPA-Air",
        7 * _DAY,
        7 * _DAY,
        7 * _DAY,
        of_tidy="The tidy table lacks the 121 rows without a record_id, at the ends of series, that the published folder has (146, 51 and "
        "51 windows)",
    ),
    "ilinet": Collection("ILINet", 36 * _WEEK, 36 * _WEEK, 4 * _WEEK),
    "repohealth": Collection("RepoHealth", 31 * _DAY, 31 * _DAY, 31 * _DAY),
    "gdelt": Collection("GDELT", 14 * _DAY, 14 * _DAY, 14 * _DAY),
    "fnspid": Collection("FNSPID", 31 * _DAY, 31 * _DAY, 31 * _DAY),
    "clustertrace": Collection("ClusterTrace", 12 * _HOUR, 12 * _HOUR, 12 * _HOUR),
    "studentlife": Collection("StudentLife", 31 * _DAY, 31 * _DAY, 31 * _DAY),
    "cesnet": Collection("CESNET", 7 * _DAY, 7 * _DAY, 7 * _DAY),
}


def read(name: str, data_dir: str | Path | None = None) -> tuple[Table, list[np.ndarray] | None]:
    """Read a collection.

    Returns:
        The table, and the times of each series' texts (ascending, in nanoseconds), None in the tidy layout.

    Raises:
        DataError: neither layout is there, or a file is not of its format.
    """
    folder = COLLECTIONS[name].folder
    candidates = (f"{folder}/processed", f"time_imm/{folder}/processed", f"{name}.csv.gz", f"time_imm/{name}.csv.gz")
    path = find_files(f"time_imm ({folder})", candidates, data_dir, how=HOW)
    if path.is_file():
        return read_table(path), None
    entities = sorted(entity for entity in path.iterdir() if (entity / "time_series.csv").is_file())
    if not entities:
        raise DataError(f"{path}: no folder in it holds a time_series.csv; {HOW}")
    frames = [_read_entity(entity / "time_series.csv") for entity in entities]
    frame = pd.concat([one.assign(series_id=entity.name) for one, entity in zip(frames, entities, strict=True)])
    # Dates are written ISO in most collections, month first in one: each collection keeps to its own way.
    frame["time"] = _read_dates(frame.pop("date_time"), path)
    table = read_table(frame, duplicates="mean")
    return replace(table, source=str(path)), [_read_text_times(entity / "text.csv") for entity in entities]


def _read_entity(path: Path) -> pd.DataFrame:
    frame = read_columns(path).drop(columns="record_id", errors="ignore")
    if "date_time" not in frame.columns:
        raise DataError(f"{path}: has no column 'date_time' (it has {quote_names(list(frame.columns))}); {HOW}")
    refuse_empty(frame, ["date_time"], path)
    # What is to be refused is refused here, by file and line; a column of words alone is left to `read_table`, which leaves it out.
    numbers = [name for name in frame.columns if name != "date_time" and _holds_numbers(frame, name)]
    frame[numbers] = to_floats(frame, numbers, path)
    return frame


def _holds_numbers(frame: pd.DataFrame, name: str) -> bool:
    return not np.isnan(np.asarray(pd.to_numeric(frame[name], errors="coerce"), dtype=np.float64)).all()


def _read_text_times(path: Path) -> np.ndarray:
    if not path.is_file():
        return np.empty(0, np.int64)
    text = read_columns(path)
    columns = [name for name in text.columns if name not in ("date_time", "record_id")]
    if "date_time" not in text.columns or len(columns) != 1:
        raise DataError(
            f"{path}: needs the columns date_time, record_id and one of text; it has {', '.join(text.columns)}."
        )
    stamps = _read_dates(text.loc[text[columns[0]].notna(), "date_time"], path)
    return np.sort(stamps.astype("datetime64[ns]").astype(np.int64))


def _read_dates(dates: pd.Series, path: Path) -> np.ndarray:
    try:
        return np.asarray(pd.to_datetime(dates), dtype="datetime64[ns]")
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path}: column 'date_time' holds something that is no date ({error}); download it again."
        ) from error


def _lay_windows(table: Table, collection: Collection, texts: list[np.ndarray] | None) -> list[Windows]:
    """Lay windows from each series' first stamp on, and cut each series' windows 60/20/20 in the order of time."""
    first, last = table.time[table.starts[:-1]], table.time[table.starts[1:] - 1]
    total = collection.history + collection.horizon
    n_windows = np.maximum((last - first - total) // collection.stride + 1, 0)
    series = np.repeat(np.arange(table.n_series), n_windows)
    number = np.arange(len(series)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    start = first[series] + number * collection.stride
    # [start, start + history) is read, [start + history, start + total) is forecast; in whole nanoseconds these are closed on the right.
    windows = Windows(series, start + collection.history - 1, start + total - 1, start - 1)
    kept = (count_history(table, windows) > 0) & (count_targets(table, windows) > 0)
    if texts is not None:
        starts = np.concatenate([[0], np.cumsum([len(times) for times in texts])])
        stamps = np.concatenate([*texts, np.zeros(0, np.int64)])
        bounds = starts[series], starts[series + 1]
        kept &= bisect_rows(stamps, *bounds, windows.origin) > bisect_rows(stamps, *bounds, windows.history_from)
    windows = windows.take(np.flatnonzero(kept))
    n_kept = np.bincount(windows.series, minlength=table.n_series)
    rank = np.arange(len(windows)) - (np.cumsum(n_kept) - n_kept)[windows.series]
    cuts = [(n_kept * share).astype(np.int64)[windows.series] for share in (0.6, 0.8)]
    part = (rank >= cuts[0]).astype(int) + (rank >= cuts[1])
    return [windows.take(np.flatnonzero(part == i)) for i in range(3)]


def _end_before_later_parts(table: Table, parts: list[Windows]) -> list[Windows]:
    """Leave out windows of training and validation whose targets reach past the first origin of a later part of their series."""
    first = np.full(table.n_series, np.iinfo(np.int64).max)
    kept = []
    for part in reversed(parts):
        kept.insert(0, part.take(np.flatnonzero(part.until <= first[part.series])))
        np.minimum.at(first, part.series, part.origin)
    return kept


def _note_shared_targets(table: Table, parts: list[Windows]) -> list[str]:
    """Say how many values are targets in two parts, as windows that overlap make them."""
    targets = [rows_of(table, part, targets_only=True) for part in parts]
    is_shared = np.sum(targets, axis=0) > 1
    n = int((~np.isnan(table.values[is_shared])).sum())
    if not n:
        return []
    which = count(n, "value is a target", "values are targets")
    return [f"{which} in two parts or more, since windows overlap under the published rules; this is followed here."]


def _standardise(table: Table, is_seen: np.ndarray, *, floor: float) -> Table:
    """Bring each channel of each series to the mean and deviation of its rows where `is_seen`; the deviation has a floor.

    Args:
        table: the data.
        is_seen: bool `(N,)`.
        floor: least deviation of a series, as a share of the channel's deviation over all series.
    """
    series = table.row_series
    seen = pd.DataFrame(np.where(is_seen[:, None], table.values, np.nan))
    mean = seen.groupby(series).transform("mean").fillna(seen.mean()).fillna(0.0).to_numpy()
    std = seen.groupby(series).transform("std").to_numpy()
    if floor:
        # A channel that a series has not shown yet takes the deviation of all; one that nobody has shown stays as it is.
        overall = seen.std().fillna(1.0).replace(0.0, 1.0).to_numpy()
        std = np.maximum(np.where(np.isnan(std), overall, std), floor * overall)
    # As published: a constant channel is only centred; a channel with a single value has no deviation and falls out.
    return with_values(table, (table.values - mean) / np.where(std == 0, 1.0, std))


_FLOOR = 0.1


def _build(name: str, data_dir: Path | None, split: int, *, of_training: bool) -> Task:
    table, texts = read(name, data_dir)
    collection = COLLECTIONS[name]
    windows = _lay_windows(table, collection, texts)
    notes = []
    if texts is None:
        notes.append("The published rules keep only windows with a text in their history; this table carries no text.")
    if texts is None and collection.of_tidy:
        sizes = [len(part) for part in windows]
        notes.append(f"{collection.of_tidy}; here there are {sizes[0]}, {sizes[1]} and {sizes[2]}.")
    if of_training:
        windows = _end_before_later_parts(table, windows)
        until = np.full(table.n_series, np.iinfo(np.int64).min)
        np.maximum.at(until, windows[0].series, windows[0].until)
        table = _standardise(table, table.time <= until[table.row_series], floor=_FLOOR)
    else:
        notes += _note_shared_targets(table, windows)
        table = _standardise(table, np.ones(table.n_rows, bool), floor=0.0)
        notes.append(
            "The published rules standardise each series over all of its rows, the test included; this is followed here."
        )
    task = assemble(table, windows, time_scale=float(collection.horizon), notes=notes)
    if of_training:
        return task
    # Channels that appear in the test alone count in the published average: two of ILINet's eleven.
    return replace(task, target_channels=tuple(range(len(table.schema.channels))))


def _protocol(name: str, *, of_training: bool) -> Protocol:
    collection = COLLECTIONS[name]
    scaling = (
        f"its rows up to the last training window (deviations not below {_FLOOR} of the channel's over all series)"
        if of_training
        else "all of its rows (deviations as pandas', with n - 1)"
    )
    ends = ", those whose targets reach into a later part left out" if of_training else ""
    days = [f"{span / _DAY:g}" for span in (collection.history, collection.horizon, collection.stride)]
    return Protocol(
        name=f"{name}_training_scale" if of_training else name,
        source="C. Chang et al., Time-IMM, NeurIPS 2025; https://github.com/blacksnail789521/IMM-TSF"
        + ("; the scaling, and that no target is in two parts, are ours" if of_training else ""),
        rules=f"{collection.folder}: windows of {days[0]} days of history and {days[1]} days to forecast every {days[2]} days from a "
        "series' first stamp, kept where both parts hold a value (and the history a text); the first 60 % of a series' windows train, the "
        f"next 20 % validate{ends}; each series in deviations of {scaling}; errors averaged per channel, then over channels.",
        average="macro",
        splits=(0,),
        build=partial(_build, name, of_training=of_training),
    )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for of_training in (False, True)
    for protocol in (_protocol(name, of_training=of_training) for name in COLLECTIONS)
}
