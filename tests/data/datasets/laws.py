"""What every task has to keep, whatever the protocol."""

from __future__ import annotations

import numpy as np

from latentode.data.assembly import fit_scaler, rows_of, with_values
from latentode.data.protocols import Task
from latentode.data.windows import Rows, Windows


def parts(task: Task) -> tuple[Windows, Windows, Windows]:
    return task.train, task.validation, task.test


def check_task(task: Task) -> None:
    """Windows hold something to read and to forecast, lie in order, and the scaler and units are usable."""
    rows = Rows.of(task.table)
    for part in parts(task):
        assert len(part) > 0
        assert len(rows.keep_usable(part)) == len(part)
        assert (part.history_from < part.origin).all()
        assert (part.origin <= part.until).all()
    n_channels = len(task.table.schema.channels)
    for positive in (task.unit, task.scaler.std):
        assert positive.shape == (n_channels,)
        assert (positive > 0).all()
        assert np.isfinite(positive).all()
    assert task.max_history > 0


def check_no_series_twice(task: Task) -> None:
    """Training, validation and test share no series."""
    series = [set(part.series.tolist()) for part in parts(task)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not series[i] & series[j]


def check_no_target_twice(task: Task) -> None:
    """No row is a target in two parts, and no target of a later part is read or forecast in training."""
    targets = [rows_of(task.table, part, targets_only=True) for part in parts(task)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not (targets[i] & targets[j]).any()
    train = rows_of(task.table, task.train)
    assert not (train & (targets[1] | targets[2])).any()


def check_scaler_is_of_training(task: Task) -> None:
    """What lies outside the training windows can be anything: the scaler stays the same."""
    seen = rows_of(task.table, task.train)
    changed = with_values(task.table, np.where(seen[:, None], task.table.values, 1e6 * np.abs(task.table.values) + 7.0))
    assert (~seen).any()
    again = fit_scaler(changed, task.train, task.scaler.time_scale)
    before = fit_scaler(task.table, task.train, task.scaler.time_scale)
    np.testing.assert_array_equal(again.mean, before.mean)
    np.testing.assert_array_equal(again.std, before.std)
    np.testing.assert_array_equal(before.std, task.scaler.std)


def n_targets(task: Task, part: Windows) -> int:
    """Count the observed values in the windows' targets."""
    rows = Rows.of(task.table)
    counted = np.concatenate([[0], np.cumsum((~np.isnan(task.table.values)).sum(axis=1))])
    return int((counted[rows.until(part.series, part.until)] - counted[rows.until(part.series, part.origin)]).sum())


def mean_errors(task: Task, part: Windows, forecast: str) -> np.ndarray:
    """Give each channel's mean squared error, in the protocol's units, of the training mean or of the last value; NaN without a target.

    Written a second time here, without batches or models, window by window.
    """
    table, mean = task.table, task.scaler.mean
    error, count = np.zeros(len(mean)), np.zeros(len(mean))
    for series, origin, until, begin in zip(part.series, part.origin, part.until, part.history_from, strict=True):
        rows = slice(table.starts[series], table.starts[series + 1])
        time, values = table.time[rows], table.values[rows]
        level = mean.copy()
        if forecast == "last":
            for row in values[(time > begin) & (time <= origin)]:
                level = np.where(np.isnan(row), level, row)
        off = ((values[(time > origin) & (time <= until)] - level) / task.unit) ** 2
        error += np.nansum(off, axis=0)
        count += (~np.isnan(off)).sum(axis=0)
    return np.where(count > 0, error / np.maximum(count, 1), np.nan)
