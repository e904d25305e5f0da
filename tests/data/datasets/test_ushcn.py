"""USHCN on small files of the published format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from latentode.data.datasets.ushcn import PROTOCOLS, read
from latentode.errors import DataError
from tests.data.datasets import laws


def write_stations(folder: Path, n_stations: int, *, changed: set[int] = frozenset()) -> Path:
    """Write stations with rows at 0, 4, 8, ... 200 and one observed variable per row; stations in `changed` differ after 150."""
    rng = np.random.default_rng(0)
    time = np.arange(0, 201, 4)
    rows = []
    for station in range(n_stations):
        for i, t in enumerate(time):
            values = rng.normal(size=5)
            mask = np.zeros(5, int)
            mask[i % 5] = 1
            if station in changed and t > 150:
                values = 5 * values + 3
            rows.append([station, t, *(values * mask), *mask])
    columns = ["ID", "Time", *(f"Value_{i}" for i in range(5)), *(f"Mask_{i}" for i in range(5))]
    path = folder / "small_chunked_sporadic.csv"
    # The published file is not sorted by time.
    pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


def test_unobserved_values_are_missing_and_rows_are_sorted(tmp_path):
    write_stations(tmp_path, 10)
    table = read(tmp_path)
    assert table.series_ids.tolist() == list(range(10))
    assert table.schema.channels == ("0", "1", "2", "3", "4")
    assert table.n_rows == 10 * 51
    assert table.report.n_values == 10 * 51
    assert (np.diff(table.time)[np.diff(table.row_series) == 0] > 0).all()
    assert any("not the published file" in note for note in table.report.notes)


def test_windows_of_24_months_and_the_next_one(tmp_path):
    write_stations(tmp_path, 10)
    task = PROTOCOLS["tpatchgnn"].build(tmp_path, 42)
    laws.check_task(task)
    laws.check_no_series_twice(task)
    laws.check_scaler_is_of_training(task)
    assert [len(part) for part in laws.parts(task)] == [6 * 24, 2 * 24, 2 * 24]
    one = task.test.take(np.arange(24))
    assert (one.series == one.series[0]).all()
    np.testing.assert_allclose(one.origin, 24 + np.arange(24))
    np.testing.assert_allclose(one.until, 25 + np.arange(24))
    np.testing.assert_allclose(one.history_from, np.arange(24), atol=1e-300)
    # Months are 0.96 apart: each of the 26 rows from month 24 to 48, both included, is a target once.
    assert laws.n_targets(task, one) == 26
    assert (task.unit == 1).all()
    assert task.table.time.max() == 48


def test_a_row_at_a_boundary_belongs_to_what_follows(tmp_path):
    write_stations(tmp_path, 10)
    task = PROTOCOLS["tpatchgnn"].build(tmp_path, 42)
    # Time 100 of 200 is month 24, the first target of the first window.
    at = task.table.time == 24.0
    assert at.sum() == 10
    first = task.train.take(np.flatnonzero(task.train.history_from < 0))
    assert (first.origin < 24).all()
    assert (first.until >= 24).all()


def test_gru_ode_bayes_folds_observe_to_150_and_forecast_three_times(tmp_path):
    write_stations(tmp_path, 50)
    protocol = PROTOCOLS["gru_ode_bayes"]
    tasks = [protocol.build(tmp_path, fold) for fold in protocol.splits]
    for task in tasks:
        laws.check_task(task)
        laws.check_no_series_twice(task)
        laws.check_no_target_twice(task)
        laws.check_scaler_is_of_training(task)
        assert [len(part) for part in laws.parts(task)] == [36, 9, 5]
        assert (task.test.origin == 150).all()
        assert (task.test.until == 160).all()  # 152, 156, 160
        assert laws.n_targets(task, task.test) == 5 * 3
    assert len({tuple(sorted(task.test.series)) for task in tasks}) == 5


def test_folds_are_those_of_the_published_script(tmp_path):
    from sklearn.model_selection import train_test_split

    write_stations(tmp_path, 50)
    np.random.seed(432)  # noqa: NPY002 - what the published script does
    for fold in range(2):
        train, test = train_test_split(np.arange(50), test_size=0.1)
        train, val = train_test_split(train, test_size=0.2)
        task = PROTOCOLS["gru_ode_bayes"].build(tmp_path, fold)
        assert [part.series.tolist() for part in laws.parts(task)] == [train.tolist(), val.tolist(), test.tolist()]


def test_the_future_of_the_test_stations_changes_nothing_before(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    write_stations(one, 50)
    before = PROTOCOLS["gru_ode_bayes"].build(one, 0)
    write_stations(two, 50, changed=set(before.test.series.tolist()))
    after = PROTOCOLS["gru_ode_bayes"].build(two, 0)
    assert not np.array_equal(before.table.values, after.table.values, equal_nan=True)
    for name in ("mean", "std", "n_values"):
        np.testing.assert_array_equal(getattr(before.scaler, name), getattr(after.scaler, name))
    np.testing.assert_array_equal(before.unit, after.unit)


def test_absent_data_say_where_to_get_them(tmp_path):
    with pytest.raises(DataError, match=r"small_chunked_sporadic.csv.*github.com/edebrouwer"):
        read(tmp_path)
