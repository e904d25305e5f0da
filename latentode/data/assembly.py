"""What data set modules share: a table from arrays, windows under published rules, a scaler of the training windows, a task.

Nothing here knows a data set. A module in `datasets/` reads files, says which windows a protocol lays, and leaves the rest to
`assemble`, so that every protocol keeps the same two promises: the scaler saw training windows alone, and no window is cut short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from latentode.data.calendar import with_calendar
from latentode.data.protocols import Task
from latentode.data.scaling import Scaler
from latentode.data.schema import IdKind, Schema, Survey, count, validate
from latentode.data.tables import Table
from latentode.data.windows import Rows, Windows, bisect_rows
from latentode.errors import DataError

MeanOf = Literal["all", "targets"]


def table_of(
    series_ids: Sequence[object],
    codes: np.ndarray,
    time: np.ndarray,
    values: np.ndarray,
    channels: Sequence[str],
    *,
    source: str,
    notes: Sequence[str] = (),
) -> Table:
    """Give the table of these observations; series without a row and rows without a value are left out.

    Args:
        series_ids: names of the series, all int or all text, `S` of them.
        codes: position of each row's series, `(N,)`, in any order.
        time: a number in any unit, `(N,)`; distinct inside a series.
        values: float64 `(N, C)`, NaN = not observed.
        channels: names, `C` of them.
        source: name of the table in messages.
        notes: what was changed in reading, one sentence each.

    Raises:
        DataError: two rows of a series share a time, or nothing is observed.
    """
    codes, time = np.asarray(codes, np.int64), np.asarray(time, np.float64)
    rows = np.flatnonzero(~np.isnan(values).all(axis=1))
    rows = rows[np.lexsort((time[rows], codes[rows]))]
    codes, time, values = codes[rows], time[rows], np.asarray(values, np.float64)[rows]
    repeated = np.flatnonzero((np.diff(codes) == 0) & (np.diff(time) == 0))
    if len(repeated):
        raise DataError(
            f"{source}: series '{series_ids[int(codes[repeated[0]])]}' has a time twice ({len(repeated)} such rows); remove one."
        )
    present, codes = np.unique(codes, return_inverse=True)
    names = np.empty(len(present), dtype=object)
    names[:] = [series_ids[int(i)] for i in present]
    id_kind: IdKind = "integer" if all(isinstance(name, int) for name in names) else "text"
    schema = Schema(
        id_column="series_id",
        time_column="time",
        channels=tuple(channels),
        target_channels=tuple(channels),
        id_kind=id_kind,
        time_kind="number",
        time_zone=None,
    )
    starts = np.searchsorted(codes, np.arange(len(present) + 1)).astype(np.int64)
    report = validate(schema, names, starts, Survey.of(values), source=source, notes=notes)
    return Table(schema=schema, series_ids=names, starts=starts, time=time, values=values, report=report, source=source)


def with_values(table: Table, values: np.ndarray) -> Table:
    """Give the table with other values `(N, C)` in the same rows and channels."""
    return replace(table, values=values, report=replace(table.report, n_values=int((~np.isnan(values)).sum())))


def keep_channels(table: Table, kept: np.ndarray) -> Table:
    """Give the table with the channels where `kept` (bool `(C,)`) is True; every row stays."""
    names = tuple(name for name, is_kept in zip(table.schema.channels, kept, strict=True) if is_kept)
    schema = replace(table.schema, channels=names, target_channels=names)
    return with_values(replace(table, schema=schema), table.values[:, kept])


def without_outliers(table: Table, limit: float = 5.0) -> tuple[Table, np.ndarray]:
    """Drop values `limit` deviations from their channel's mean or further, and channels that never vary.

    Deviations are over all rows, the test's included: an old leak of published code, which its protocols have to share. Every row stays,
    so that the next time steps are the same ones whether or not an outlier stood there.

    Returns:
        The table, in its own units, and the deviation of each channel left.
    """
    is_seen = ~np.isnan(table.values)
    n_values = np.maximum(is_seen.sum(axis=0), 1)
    mean = np.where(is_seen, table.values, 0.0).sum(axis=0) / n_values
    centred = table.values - mean
    deviation = np.sqrt(np.where(is_seen, centred**2, 0.0).sum(axis=0) / n_values)
    # Rounding leaves a constant channel a deviation of some 1e-16 of its size.
    kept = deviation > 1e-10 * np.abs(mean)
    inside = np.abs(centred) < limit * deviation
    return keep_channels(with_values(table, np.where(inside, table.values, np.nan)), kept), deviation[kept]


def value_range(values: np.ndarray) -> np.ndarray:
    """Give each channel's largest less smallest value over the rows `(N, C)`; 1 where that is 0 or nothing is seen."""
    # These pass over NaN, and give NaN for a channel that holds nothing else.
    low, high = np.fmin.reduce(values, axis=0, initial=np.nan), np.fmax.reduce(values, axis=0, initial=np.nan)
    return np.where(high > low, high - low, 1.0)


def fixed_windows(
    table: Table,
    series: np.ndarray,
    origin: np.ndarray | float,
    until: np.ndarray | float,
    history_from: np.ndarray | float = -np.inf,
) -> Windows:
    """Give windows at fixed origins; each argument but `series` is one time or one per window.

    Args:
        table: the data.
        series: positions, int64 `(W,)`.
        origin: what stands at or before it is read; `np.nextafter(t, -inf)` leaves the stamp `t` to the targets.
        until: last time that may be a target.
        history_from: at or before it nothing is read.
    """
    laid = (np.broadcast_to(np.asarray(x, table.time.dtype), series.shape) for x in (origin, until, history_from))
    return Windows(np.asarray(series, np.int64), *laid)


def step_after(table: Table, series: np.ndarray, origin: float, n_steps: int) -> np.ndarray:
    """Give the time of the `n_steps`-th row after `origin`, or the last row's where there are fewer: `(W,)`."""
    stop = table.starts[series + 1]
    at = np.full(len(series), origin, table.time.dtype)
    following = bisect_rows(table.time, table.starts[series], stop, at)
    return table.time[np.minimum(following + n_steps, stop) - 1]


def split_series(
    n_series: int, first: Mapping[str, Any], second: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hold series out by two calls of scikit-learn's `train_test_split`, as most published code does.

    Args:
        n_series: how many there are, in the order that the code would have them.
        first: keywords of the call that holds out the test.
        second: keywords of the call that holds validation out of the rest.

    Returns:
        Positions of training, validation and test series.
    """
    from sklearn.model_selection import train_test_split  # takes a second to load

    rest, tested = train_test_split(np.arange(n_series), **first)
    trained, validated = train_test_split(rest, **second)
    return np.asarray(trained), np.asarray(validated), np.asarray(tested)


def split_t_patch_gnn(n_series: int, random_state: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hold series out as t-PatchGNN's code does: a fifth, drawn, is the test, the last quarter of the others validation.

    Args:
        n_series: how many there are, in the order that the code would have them.
        random_state: of the draw.
    """
    first = {"train_size": 0.8, "random_state": random_state, "shuffle": True}
    return split_series(n_series, first, {"train_size": 0.75, "shuffle": False})


def split_series_in_turn(
    n_series: int, fold: int, *, seed: int, test: float, validation: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give fold number `fold` of those that one generator draws in turn, as GRU-ODE-Bayes' `generate_folds.py` does.

    Args:
        n_series: how many there are.
        fold: counted from 0.
        seed: of NumPy's legacy generator, which scikit-learn's splits draw from.
        test: share held out for the test.
        validation: share of the rest held out for validation.
    """
    rng = np.random.RandomState(seed)
    first, second = ({"test_size": share, "random_state": rng} for share in (test, validation))
    for _ in range(fold):
        split_series(n_series, first, second)
    return split_series(n_series, first, second)


def rows_of(table: Table, windows: Windows, *, targets_only: bool = False) -> np.ndarray:
    """Say which rows lie in any of the windows, history and targets, or targets alone: bool `(N,)`."""
    rows = Rows.of(table)
    first = rows.until(windows.series, windows.origin if targets_only else windows.history_from)
    last = rows.until(windows.series, windows.until)
    edges = np.zeros(table.n_rows + 1, np.int64)
    np.add.at(edges, first, 1)
    np.add.at(edges, last, -1)
    return np.cumsum(edges)[:-1] > 0


def fit_scaler(table: Table, train: Windows, time_scale: float, mean_of: MeanOf = "all") -> Scaler:
    """Take mean and deviation of each channel from the rows of the training windows.

    Args:
        table: the data.
        train: windows of training.
        time_scale: one unit of model time, in the unit of the table's time.
        mean_of: "targets" takes the mean over targets alone (where a channel has any), as a constant forecast would.
    """
    scaler = Scaler.of_rows(table, rows_of(table, train), time_scale)
    if mean_of == "all":
        return scaler
    targets = Scaler.of_rows(table, rows_of(table, train, targets_only=True), time_scale)
    return replace(scaler, mean=np.where(targets.n_values > 0, targets.mean, scaler.mean))


def assemble_gru_ode_bayes(table: Table, fold: int, *, origin: float, time_scale: float) -> Task:
    """Make the task of GRU-ODE-Bayes' rules: history up to `origin`, the next three time steps as targets, folds by numpy's seed 432."""
    parts = split_series_in_turn(table.n_series, fold, seed=432, test=0.1, validation=0.2)
    windows = [fixed_windows(table, part, origin, step_after(table, part, origin, 3)) for part in parts]
    return assemble(table, windows, time_scale=time_scale)


def assemble(
    table: Table,
    parts: Sequence[Windows],
    *,
    time_scale: float,
    unit: np.ndarray | None = None,
    mean_of: MeanOf = "all",
    notes: Sequence[str] = (),
) -> Task:
    """Make the task of training, validation and test windows.

    Windows without a value to read or without one to forecast are dropped; a note counts those that had targets.

    Args:
        table: all series.
        parts: windows of training, validation and test.
        time_scale: one unit of model time, most often the horizon.
        unit: of the protocol's errors, `(C,)`; None: the table's own units.
        mean_of: see `fit_scaler`.
        notes: what a reader of the figures has to know.

    Raises:
        DataError: a part is left without a window.
    """
    rows = Rows.of(table)
    kept = [rows.keep_usable(part) for part in parts]
    for name, part in zip(("training", "validation", "test"), kept, strict=True):
        if len(part) == 0:
            raise DataError(
                f"{table.source}: no {name} window holds a value to read and one to forecast; give more series or later rows."
            )
    n_unread = sum(_count_targeted(rows, part) for part in parts) - sum(len(part) for part in kept)
    if n_unread:
        notes = [*notes, f"{count(n_unread, 'window', 'windows')} with targets but without any history were left out."]
    table = with_calendar(table, "auto", rows_of(table, kept[0]))
    return Task(
        table,
        fit_scaler(table, kept[0], time_scale, mean_of),
        np.ones(table.values.shape[1]) if unit is None else unit,
        *kept,
        max_history=max(int(count_history(table, part).max()) for part in kept),
        notes=tuple(notes),
    )


def _count_targeted(rows: Rows, windows: Windows) -> int:
    begin, end = (rows.until(windows.series, at) for at in (windows.origin, windows.until))
    return int((rows.targeted[end] > rows.targeted[begin]).sum())


def count_history(table: Table, windows: Windows) -> np.ndarray:
    """Count the observed values that each window reads, int64 `(W,)`."""
    return _count_between(table, windows.series, windows.history_from, windows.origin)


def count_targets(table: Table, windows: Windows) -> np.ndarray:
    """Count the observed values that each window forecasts, int64 `(W,)`."""
    return _count_between(table, windows.series, windows.origin, windows.until)


def _count_between(table: Table, series: np.ndarray, after: np.ndarray, until: np.ndarray) -> np.ndarray:
    rows = Rows.of(table)
    counted = np.concatenate([[0], np.cumsum((~np.isnan(table.values)).sum(axis=1))])
    return counted[rows.until(series, until)] - counted[rows.until(series, after)]
