"""Tables from arrays, windows, splits, scalers and tasks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from latentode.data.assembly import (
    assemble,
    count_history,
    count_targets,
    fit_scaler,
    fixed_windows,
    keep_channels,
    rows_of,
    split_series,
    split_series_in_turn,
    split_t_patch_gnn,
    step_after,
    table_of,
    value_range,
    with_values,
    without_outliers,
)
from latentode.data.tables import read_table
from latentode.errors import DataError
from tests.data.tables import make_frame

NAN = np.nan


def small():
    """Two series: times 0..4 and 10..13, two channels, one gap each."""
    time = np.array([0.0, 1, 2, 3, 4, 10, 11, 12, 13])
    values = np.array([[1, 5], [2, NAN], [3, 7], [4, 8], [NAN, 9], [1, 1], [2, 2], [NAN, 3], [4, 4]], float)
    return table_of(["a", "b"], np.array([0] * 5 + [1] * 4), time, values, ["x", "y"], source="small")


def test_rows_in_any_order_give_the_table_that_reading_gives():
    frame = make_frame(n_series=5, n_rows=20)
    table = read_table(frame)
    order = np.random.default_rng(0).permutation(len(frame))
    made = table_of(
        list(table.series_ids),
        table.row_series[order],
        table.time[order],
        table.values[order],
        ["x0", "x1"],
        source="x",
    )
    assert made.digest() == table.digest()
    assert made.schema == table.schema
    assert made.report.n_values == table.report.n_values


def test_series_without_rows_and_rows_without_values_fall_out():
    table = table_of(
        [7, 8, 9], np.array([0, 2, 2]), np.array([1.0, 1, 2]), np.array([[1.0], [NAN], [2]]), ["x"], source="s"
    )
    assert table.series_ids.tolist() == [7, 9]
    assert table.schema.id_kind == "integer"
    assert table.starts.tolist() == [0, 1, 2]
    assert table.time.tolist() == [1, 2]


def test_a_time_twice_is_refused():
    with pytest.raises(DataError, match="small: series 'b' has a time twice"):
        table_of(["a", "b"], np.array([0, 1, 1]), np.zeros(3), np.ones((3, 1)), ["x"], source="small")


def test_channels_are_kept_with_every_row():
    table = keep_channels(small(), np.array([True, False]))
    assert table.schema.channels == table.schema.target_channels == ("x",)
    assert table.n_rows == 9
    assert table.report.n_values == 7


def test_outliers_and_channels_that_never_vary_fall_out():
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(10, 2, 400), np.full(400, 0.1), rng.normal(0, 1, 400)])
    values[7, 0] = 1000.0
    values[9, 2] = NAN
    table = table_of(["s"], np.zeros(400, int), np.arange(400.0), values, ["x", "flat", "z"], source="s")
    cut, deviation = without_outliers(table)
    assert cut.schema.channels == ("x", "z")
    assert np.isnan(cut.values[7, 0])
    assert cut.n_rows == 400
    np.testing.assert_allclose(deviation, np.nanstd(values[:, [0, 2]], axis=0))
    assert cut.report.n_values == 798


def test_range_is_one_where_nothing_varies_or_is_seen():
    values = np.array([[1.0, 3, NAN], [4, 3, NAN], [NAN, NAN, NAN]])
    np.testing.assert_array_equal(value_range(values), [3, 1, 1])


def test_the_step_after_an_origin_counts_rows_and_ends_with_the_series():
    table = small()
    np.testing.assert_array_equal(step_after(table, np.array([0, 1]), 1.0, 2), [3, 11])
    np.testing.assert_array_equal(step_after(table, np.array([0, 1]), 2.5, 9), [4, 13])


def test_one_origin_or_one_per_window():
    table = small()
    windows = fixed_windows(table, np.array([0, 1]), 2.0, np.array([3.0, 12.0]))
    assert windows.origin.tolist() == [2, 2]
    assert windows.until.tolist() == [3, 12]
    assert (windows.history_from == -np.inf).all()


@given(n=st.integers(5, 300), test=st.floats(0.1, 0.4), validation=st.floats(0.1, 0.4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_splits_are_partitions(n, test, validation, seed):
    parts = split_series(n, {"test_size": test, "random_state": seed}, {"test_size": validation, "shuffle": False})
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert len(parts[2]) == int(np.ceil(test * n))


def test_folds_in_turn_are_those_of_one_generator():
    rng = np.random.RandomState(5)
    for fold in range(3):
        rest, tested = train_test_split(np.arange(40), test_size=0.1, random_state=rng)
        trained, validated = train_test_split(rest, test_size=0.2, random_state=rng)
        parts = split_series_in_turn(40, fold, seed=5, test=0.1, validation=0.2)
        for given_part, part in zip(parts, (trained, validated, tested), strict=True):
            np.testing.assert_array_equal(given_part, part)


def test_rows_of_windows_are_found_with_and_without_history():
    table = small()
    windows = fixed_windows(table, np.array([0, 0, 1]), np.array([1.0, 2.0, 11.0]), np.array([2.0, 3.0, 12.0]), 0.0)
    assert np.flatnonzero(rows_of(table, windows)).tolist() == [1, 2, 3, 5, 6, 7]
    assert np.flatnonzero(rows_of(table, windows, targets_only=True)).tolist() == [2, 3, 7]
    assert count_history(table, windows).tolist() == [1, 3, 4]


def test_scaler_is_of_the_windows_rows_and_its_mean_of_the_targets_where_asked():
    table = small()
    train = fixed_windows(table, np.array([0]), 1.0, 3.0)
    scaler = fit_scaler(table, train, 2.0)
    np.testing.assert_allclose(scaler.mean, [2.5, 20 / 3])
    np.testing.assert_allclose(scaler.std, [np.std([1, 2, 3, 4]), np.std([5, 7, 8])])
    assert scaler.time_scale == 2.0
    targets = fit_scaler(table, train, 2.0, mean_of="targets")
    np.testing.assert_allclose(targets.mean, [3.5, 7.5])
    np.testing.assert_array_equal(targets.std, scaler.std)
    # A channel with history alone keeps the mean of that.
    values = table.values.copy()
    values[2:4, 1] = NAN
    only_history = fit_scaler(with_values(table, values), train, 2.0, mean_of="targets")
    np.testing.assert_allclose(only_history.mean, [3.5, 5.0])


def test_a_task_drops_windows_without_history_or_target_and_counts_the_former():
    table = small()
    series = np.array([0, 0, 1])
    train = fixed_windows(table, series, np.array([1.0, -1.0, 10.0]), np.array([3.0, 3.0, 12.0]))
    part = fixed_windows(table, np.array([1]), 11.0, 13.0)
    task = assemble(table, [train, part, part], time_scale=1.0, notes=["a note"])
    assert len(task.train) == 2
    assert task.notes == ("a note", "1 window with targets but without any history were left out.")
    assert task.max_history == 4
    assert (task.unit == 1).all()
    beyond = fixed_windows(table, np.array([1]), 13.0, 20.0)
    with pytest.raises(DataError, match="small: no validation window"):
        assemble(table, [train, beyond, part], time_scale=1.0)


def test_t_patch_gnn_draws_the_test_and_takes_the_last_quarter_of_the_others_for_validation():
    train, validation, test = split_t_patch_gnn(40, 42)
    seen, drawn = train_test_split(np.arange(40), train_size=0.8, random_state=42, shuffle=True)
    assert list(test) == list(drawn)
    assert list(train) == list(seen[:24])
    assert list(validation) == list(seen[24:])


def test_values_read_and_values_forecast_are_counted_on_either_side_of_the_origin():
    table = small()
    windows = fixed_windows(table, np.array([0, 0]), np.array([1.0, 3.0]), 4.0, np.array([-np.inf, 1.0]))
    n = (~np.isnan(table.values[:5])).sum(axis=1)
    assert count_history(table, windows).tolist() == [n[:2].sum(), n[2:4].sum()]
    assert count_targets(table, windows).tolist() == [n[2:].sum(), n[4:].sum()]
