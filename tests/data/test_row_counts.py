"""Running counts and their steps against plain NumPy, over the edges of blocks."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.data import row_counts
from latentode.data.row_counts import Rows, index_type, running_count, steps
from latentode.data.tables import read_table
from tests.data.tables import make_frame


@pytest.mark.parametrize("n_rows", [0, 1, 5, 100_000])
def test_running_counts_are_cumulated_sums(n_rows):
    values = np.where(np.random.default_rng(0).random((n_rows, 3)) < 0.4, np.nan, 1.0)
    found = running_count(values, lambda seen: seen.sum(axis=1))
    assert found.dtype == np.int32
    assert found.tolist() == [0, *np.cumsum((~np.isnan(values)).sum(1)).tolist()]
    assert steps(found).tolist() == np.flatnonzero((~np.isnan(values)).any(1)).tolist()


def test_indices_are_wide_enough():
    assert index_type(2**31 - 1) is np.int32
    assert index_type(2**31) is np.int64


@pytest.mark.parametrize("at_once", [1, 7, 1 << 18])
def test_the_next_target_is_the_next_row_that_holds_one(monkeypatch, at_once):
    monkeypatch.setattr(row_counts, "AT_ONCE", at_once)
    table = read_table(make_frame(n_series=3, n_rows=20), target_channels=["x1"])
    rows = Rows.of(table)
    holds = np.flatnonzero(~np.isnan(table.values[:, 1]))
    expected = [min([*holds[holds > row], table.n_rows]) for row in range(table.n_rows)]
    assert rows.next_target(np.arange(table.n_rows)).tolist() == expected
