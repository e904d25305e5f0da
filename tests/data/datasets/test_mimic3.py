"""MIMIC-III on small files of the two prepared formats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from latentode.data.datasets.mimic3 import PROTOCOLS, read_tensor
from latentode.errors import DataError
from tests.data.datasets import laws


def write_tensor(folder, n_stays=50):
    """Write stays with a value of one of three labels in every second half-hour bin, in no order."""
    rng = np.random.default_rng(0)
    rows = [
        (stay, 10 + i % 3, stamp, rng.normal(), 0.0, 1.0)
        for stay in range(n_stays)
        for i, stamp in enumerate(range(0, 97, 2))
    ]
    frame = pd.DataFrame(rows, columns=["UNIQUE_ID", "LABEL_CODE", "TIME_STAMP", "VALUENUM", "MEAN", "STD"])
    frame["VALUENORM"] = 2 * frame["VALUENUM"]
    frame.sample(frac=1, random_state=1).to_csv(folder / "complete_tensor.csv")
    return frame


def test_long_rows_become_a_channel_per_label(tmp_path):
    frame = write_tensor(tmp_path)
    table = read_tensor(tmp_path)
    assert table.schema.channels == ("10", "11", "12")
    assert table.series_ids.tolist() == list(range(50))
    assert table.report.n_values == len(frame)
    assert table.values[0].tolist()[0] == pytest.approx(frame["VALUENORM"][0])
    assert any("not the published file" in note for note in table.report.notes)


def test_gru_ode_bayes_reads_to_bin_72_and_forecasts_three_steps(tmp_path):
    write_tensor(tmp_path)
    protocol = PROTOCOLS["gru_ode_bayes"]
    tests = []
    for fold in protocol.splits:
        task = protocol.build(tmp_path, fold)
        laws.check_task(task)
        laws.check_no_series_twice(task)
        laws.check_no_target_twice(task)
        laws.check_scaler_is_of_training(task)
        assert [len(part) for part in laws.parts(task)] == [36, 9, 5]
        assert (task.train.origin == 72).all()
        assert (task.train.until == 78).all()
        assert laws.n_targets(task, task.test) == 5 * 3
        tests.append(tuple(task.test.series))
    assert len(set(tests)) == len(protocol.splits)


def test_t_patch_gnn_reads_minutes_and_forecasts_from_24_hours_on(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "mimic3").mkdir()
    rows = [(stay, 60 * hour, rng.normal(), 0, 1, 0) for stay in range(40) for hour in range(48)]
    rows += [(stay, 60 * 30 + 1, 0, rng.normal(), 0, 1) for stay in range(40)]
    frame = pd.DataFrame(rows, columns=["ID", "Time", "Value_0", "Value_1", "Mask_0", "Mask_1"])
    frame.to_csv(tmp_path / "mimic3" / "full_dataset.csv", index=False)
    task = PROTOCOLS["tpatchgnn"].build(tmp_path, 42)
    laws.check_task(task)
    laws.check_no_series_twice(task)
    laws.check_scaler_is_of_training(task)
    assert [len(part) for part in laws.parts(task)] == [24, 8, 8]
    assert laws.n_targets(task, task.test) == 8 * 25
    seen = task.table.values[~np.isin(task.table.row_series, task.test.series)]
    np.testing.assert_allclose(task.unit, np.nanmax(seen, axis=0) - np.nanmin(seen, axis=0))


def test_a_missing_column_and_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"mimic3: .*complete_tensor.csv.*bin_k = 2"):
        read_tensor(tmp_path)
    (tmp_path / "complete_tensor.csv").write_text("a,UNIQUE_ID\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'TIME_STAMP'"):
        read_tensor(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,,0,0.5", r"line 4: column 'LABEL_CODE' is empty \(1 such cell\)"),
        (",3,0,0.5", r"line 4: column 'UNIQUE_ID' is empty"),
        ("1,2.7,0,0.5", r"line 4: column 'LABEL_CODE' holds '2.7', which is no whole number"),
        ("1,1e300,0,0.5", r"line 4: column 'LABEL_CODE' holds '1e\+300', which is no whole number"),
        ("1,3,,0.5", r"line 4: column 'TIME_STAMP' is empty"),
        ("1,3,0,inf", r"line 4: column 'VALUENORM' holds 'inf', which is no number"),
    ],
)
def test_labels_and_stays_are_whole_numbers_or_refused_by_line(tmp_path, row, message):
    # The blank line is no row and still counts as a line.
    text = f"UNIQUE_ID,LABEL_CODE,TIME_STAMP,VALUENORM\n\n1,3,0,0.5\n{row}\n"
    (tmp_path / "complete_tensor.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_tensor(tmp_path)
