"""Panels cut in time."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.data.panels import Panel, time_cut
from tests.data.datasets import laws
from tests.data.tables import make_frame


@pytest.fixture
def panel(tmp_path):
    path = tmp_path / "panel.csv"
    make_frame(n_series=12, n_rows=60).to_csv(path, index=False)
    return Panel("panel", lambda data_dir: path, source="a test")


def test_each_series_is_cut_at_fractions_of_its_span(panel):
    task = time_cut(panel).build(None, 0)
    laws.check_task(task)
    laws.check_no_target_twice(task)
    laws.check_scaler_is_of_training(task)
    table = task.table
    first, last = table.time[table.starts[:-1]], table.time[table.starts[1:] - 1]
    for part, share in ((task.validation, 0.30), (task.test, 0.15)):
        cut = (last - share * (last - first))[part.series]
        assert (part.origin >= cut - 1e-9).all()
    np.testing.assert_array_equal(task.unit, task.scaler.std)


def test_splits_draw_training_origins_anew_and_keep_the_rest(panel):
    one, two = (time_cut(panel).build(None, split) for split in (0, 1))
    np.testing.assert_array_equal(one.test.origin, two.test.origin)
    assert not np.array_equal(np.sort(one.train.origin), np.sort(two.train.origin))


def test_the_horizon_can_be_given(panel):
    task = time_cut(panel, name="short", horizon=1.5).build(None, 0)
    assert task.scaler.time_scale == 1.5
    assert (task.test.until - task.test.origin <= 1.5 + 1e-12).all()
    assert time_cut(panel, name="short", horizon=1.5).name == "short"
