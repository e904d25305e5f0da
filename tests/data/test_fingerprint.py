"""Fingerprints see every cell and no order, and those of parts add up."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.data.tables import read_table
from tests.data.tables import make_frame


@pytest.mark.parametrize("datetimes", [False, True])
def test_the_order_of_series_does_not_matter_and_parts_add_up(datetimes):
    table = read_table(make_frame(n_series=5, datetimes=datetimes))
    whole = table.fingerprint()
    assert table.select([3, 0, 4, 1, 2]).fingerprint() == whole
    assert table.select([0, 2]).fingerprint() + table.select([4, 1, 3]).fingerprint() == whole
    assert table.select([0, 1, 2, 3]).fingerprint() != whole


def test_a_change_of_any_cell_changes_it():
    frame = make_frame(n_series=3, n_rows=10)
    digests = {read_table(frame).digest()}
    for column in ("time", "x0", "x1"):
        for row in range(len(frame)):
            changed = frame.copy()
            changed.loc[row, column] = np.nextafter(changed.loc[row, column], -np.inf) if column == "time" else 0.5
            digests.add(read_table(changed).digest())
    assert len(digests) == 1 + 3 * len(frame)


def test_values_that_change_places_are_seen():
    frame = make_frame(n_series=2, n_rows=20)
    swapped = frame.rename(columns={"x0": "x1", "x1": "x0"})[["series_id", "time", "x0", "x1"]]
    assert read_table(swapped).digest() != read_table(frame).digest()
    other = frame.replace({"series_id": {"s0": "s1", "s1": "s0"}})
    assert read_table(other).digest() != read_table(frame).digest()
