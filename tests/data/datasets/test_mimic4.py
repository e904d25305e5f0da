"""MIMIC-IV on a small file of the prepared format."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from latentode.data.datasets.mimic4 import PROTOCOLS, read
from latentode.errors import DataError
from tests.data.datasets import laws


def write_stays(folder, n_stays=40):
    """Write stays with a row every two hours, one wild value, and a label that never varies."""
    rng = np.random.default_rng(0)
    rows = [
        (1000 + stay, minute, rng.normal(5, 1), 1, 1, minute % 240 == 0, 0, 0)
        for stay in range(n_stays)
        for minute in range(0, 2881, 120)
    ]
    columns = ["hadm_id", "time_stamp", "Value_label_0", "Mask_label_0", "Value_label_1", "Mask_label_1"]
    frame = pd.DataFrame(rows, columns=[*columns, "Value_label_2", "Mask_label_2"]).astype(float)
    frame.loc[frame.index[20], "Value_label_0"] = 1e4  # in the last quarter of the first stay
    (folder / "mimic4").mkdir()
    frame.to_csv(folder / "mimic4" / "full_dataset.csv", index=False)


def test_outliers_and_dead_labels_fall_out_and_three_steps_are_forecast(tmp_path):
    write_stays(tmp_path)
    assert read(tmp_path).schema.channels == ("label_0", "label_1", "label_2")
    protocol = PROTOCOLS["grafiti"]
    task = protocol.build(tmp_path, protocol.splits[0])
    laws.check_task(task)
    laws.check_no_series_twice(task)
    laws.check_no_target_twice(task)
    laws.check_scaler_is_of_training(task)
    assert task.table.schema.channels == ("label_0",)
    assert np.nanmax(task.table.values) < 100
    assert np.isnan(task.table.values[20, 0])
    assert [len(part) for part in laws.parts(task)] == [27, 7, 6]
    assert (task.train.origin == 2160).all()
    assert (task.train.until == 2520).all()
    assert laws.n_targets(task, task.test) == 6 * 3 - int(0 in task.test.series)
    assert any("the test included" in note for note in task.notes)


def test_absent_data_say_where_to_get_them(tmp_path):
    with pytest.raises(DataError, match=r"mimic4: .*neural-flows-experiments"):
        read(tmp_path)
