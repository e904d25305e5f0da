"""PhysioNet 2012: two layouts, one table; three protocols on small files of the challenge's format and on the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from latentode.data.datasets import physionet2012
from latentode.data.datasets.physionet2012 import CHANNELS, PROTOCOLS, read
from latentode.errors import DataError
from tests.data.datasets import laws

STAY = """Time,Parameter,Value
00:00,RecordID,132539
00:00,Age,54
00:00,Gender,0
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,-1
00:07,GCS,15
00:07,HR,73
00:07,HR,74
00:07,HR,76
10:45,,1.9
36:59,Weight,81.5
47:37,Urine,280
"""
OTHER = """Time,Parameter,Value
00:00,RecordID,142675
00:00,Age,70
00:00,Gender,-1
00:00,Height,175.3
00:00,ICUType,2
00:00,Weight,76
00:00,MechVent,1
48:00,HR,-1
"""


def write_stay(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_stay(tmp_path / "set-a", "132539.txt", STAY)
    write_stay(tmp_path / "set-b", "142675.txt", OTHER)
    return tmp_path


def cell(table, series, time, channel):
    row = np.flatnonzero((table.row_series == series) & (table.time == time))
    assert len(row) == 1
    return table.values[row[0], CHANNELS.index(channel)]


def test_folders_give_hours_means_and_missing_descriptors(raw):
    table = read(raw)
    assert list(table.series_ids) == [132539, 142675]
    assert table.time.tolist() == [0.0, 0.1167, 36.9833, 47.6167, 0.0, 48.0]
    assert cell(table, 0, 0.1167, "HR") == 74.3333
    assert cell(table, 0, 0.1167, "GCS") == 15
    assert np.isnan(cell(table, 0, 0.0, "Height"))
    assert np.isnan(cell(table, 0, 0.0, "Weight"))
    assert np.isnan(cell(table, 1, 0.0, "Gender"))
    assert cell(table, 1, 0.0, "MechVent") == 1
    # Only a descriptor's -1 means nothing.
    assert cell(table, 1, 48.0, "HR") == -1
    assert table.report.n_values == 3 + 2 + 1 + 1 + 5 + 1


def test_missing_sets_are_said(raw):
    assert any("set-c not found" in note for note in read(raw).report.notes)


def test_tidy_table_and_folders_give_the_same_table(raw, tmp_path):
    rows = {
        (132539, 0.0): {"Age": 54, "Gender": 0, "Height": -1, "ICUType": 4, "Weight": -1},
        (132539, 0.1167): {"GCS": 15, "HR": 74.3333},
        (132539, 36.9833): {"Weight": 81.5},
        (132539, 47.6167): {"Urine": 280},
        (142675, 0.0): {"Age": 70, "Gender": -1, "Height": 175.3, "ICUType": 2, "Weight": 76, "MechVent": 1},
        (142675, 48.0): {"HR": -1},
    }
    frame = pd.DataFrame([{"series_id": key[0], "time": key[1], **cells} for key, cells in rows.items()])
    tidy = tmp_path / "tidy"
    tidy.mkdir()
    frame.reindex(columns=["series_id", "time", *CHANNELS]).to_csv(tidy / "physionet2012.csv.gz", index=False)
    table = read(tidy)
    assert table.digest() == read(raw).digest()
    assert any("not the published file" in note for note in table.report.notes)


@pytest.mark.parametrize("line", ["00:07,HearthRate,73", "0a:07,HR,73", "00:60,HR,73", "00:07,HR,n/a", "00:07,HR,inf"])
def test_damaged_lines_are_refused_with_the_file_and_the_line(raw, line):
    write_stay(raw / "set-b", "142676.txt", OTHER + line + "\n")
    with pytest.raises(DataError, match=f"142676.txt:{OTHER.count(chr(10)) + 1}: the line '{line}'"):
        read(raw)


@pytest.mark.parametrize("line", ["00:07,HR", "00:07,HR,73,74"])
def test_short_and_long_lines_are_refused(raw, line):
    write_stay(raw / "set-b", "142676.txt", OTHER.replace("142675", "142676") + line + "\n")
    with pytest.raises(DataError, match=r"142676\.txt|cannot be read as lines of 3 cells"):
        read(raw)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("132540.txt", "", "132540.txt: does not begin with the line 'Time,Parameter,Value'"),
        ("132540.txt", STAY.partition("\n")[2], "132540.txt: does not begin with the line 'Time,Parameter,Value'"),
        ("132540.txt", STAY + STAY, "132540.txt: holds the line 'Time,Parameter,Value' more than once"),
        ("132540.txt", "\n" + STAY, "132540.txt:3: the RecordID is '132539' and not the name of the file"),
        ("142675.txt", OTHER, "set-b/142675.txt: is the stay of .*set-a/142675.txt once more"),
        ("0142675.txt", OTHER, "142675.txt: is the stay of .*142675.txt once more"),
    ],
)
def test_a_stay_that_would_be_taken_for_another_is_refused(raw, name, text, message):
    write_stay(raw / "set-a", name, text)
    with pytest.raises(DataError, match=message):
        read(raw)


def test_a_descriptor_that_is_read_as_missing_is_no_suspicious_value(raw, tmp_path):
    stays = pd.DataFrame(
        {"series_id": [1, 2, 3, 4], "time": 0.0, "Height": [-1, -1, 170, 180], "DiasABP": [-1, -1, 60, 70]}
    )
    tidy = tmp_path / "tidy"
    tidy.mkdir()
    stays.reindex(columns=["series_id", "time", *CHANNELS]).to_csv(tidy / "physionet2012.csv.gz", index=False)
    table = read(tidy)
    assert np.isnan(table.values[:2, CHANNELS.index("Height")]).all()
    assert not any("'Height' are -1" in note for note in table.report.notes)
    assert any("2 values of 'DiasABP' are -1" in note for note in table.report.notes)


def test_files_that_are_no_stays_are_passed_over(raw):
    before = read(raw).digest()
    write_stay(raw / "set-a", "Outcomes-a.txt", "RecordID,SAPS-I\n1,2\n")
    assert read(raw).digest() == before
    for name in ("set-a/132539.txt", "set-b/142675.txt"):
        (raw / name).unlink()
    with pytest.raises(DataError, match="hold no stay"):
        read(raw)


def test_absent_data_name_folder_and_source(tmp_path):
    with pytest.raises(DataError, match=r"physionet2012: .* holds none of .*physionet.org"):
        read(tmp_path)


def make_stays(folder: Path, n_stays: int, seed: int = 0, last_hour: float = 1.0) -> None:
    """Write stays with hourly heart rates from a random minute on and a few other values; `last_hour` scales what follows 36 h."""
    rng = np.random.default_rng(seed)
    for stay in range(n_stays):
        lines = ["Time,Parameter,Value", f"00:00,RecordID,{stay + 1}", f"00:00,Age,{rng.integers(20, 90)}"]
        lines += ["00:00,Gender,1", "00:00,Height,-1", "00:00,ICUType,3", f"00:00,Weight,{rng.integers(50, 90)}"]
        for hour in range(48):
            minute, heart, weight, level = rng.integers(1, 60), rng.normal(80, 10), rng.normal(70, 5), rng.normal(36, 1)
            scale = last_hour if hour >= 36 and stay >= n_stays - 2 else 1.0
            lines.append(f"{hour:02d}:{minute:02d},HR,{heart * scale:.1f}")
            if hour % 5 == 0:
                lines.append(f"{hour:02d}:{minute:02d},Weight,{weight:.1f}")
                lines.append(f"{hour:02d}:{minute:02d},MechVent,1")
            if hour % 2 == 0:
                lines.append(f"{hour:02d}:{minute:02d},Temp,{level:.2f}")
        lines.append("48:00,GCS,15")
        write_stay(folder / "set-a", f"{stay + 1}.txt", "\n".join(lines) + "\n")


def test_t_patch_gnn_splits_60_20_20_and_forecasts_from_24_hours_on(tmp_path):
    make_stays(tmp_path, 40)
    task = PROTOCOLS["tpatchgnn"].build(tmp_path, 42)
    laws.check_task(task)
    laws.check_no_series_twice(task)
    laws.check_no_target_twice(task)
    laws.check_scaler_is_of_training(task)
    assert [len(part) for part in laws.parts(task)] == [24, 8, 8]
    # 24 heart rates, 5 weights and 5 ventilations (25, 30, 35, 40, 45 h), 12 temperatures, 1 coma score.
    assert laws.n_targets(task, task.test) == 8 * (24 + 5 + 5 + 12 + 1)
    train = np.isin(task.table.row_series, task.train.series)
    heart = CHANNELS.index("HR")
    later = task.table.values[train & (task.table.time >= 24), heart]
    assert task.scaler.mean[heart] == pytest.approx(np.nanmean(later))
    seen = task.table.values[~np.isin(task.table.row_series, task.test.series), heart]
    assert task.unit[heart] == pytest.approx(np.nanmax(seen) - np.nanmin(seen))
    assert task.unit[CHANNELS.index("MechVent")] == 1


def test_an_observation_at_24_hours_is_a_target(tmp_path):
    make_stays(tmp_path, 10)
    for stay in range(10):
        with (tmp_path / "set-a" / f"{stay + 1}.txt").open("a") as file:
            file.write("24:00,Lactate,2.5\n")
    task = PROTOCOLS["tpatchgnn"].build(tmp_path, 42)
    lactate = CHANNELS.index("Lactate")
    assert not np.isnan(laws.mean_errors(task, task.test, "constant")[lactate])
    assert PROTOCOLS["tpatchgnn"].average == "macro"


def test_the_test_stays_future_changes_nothing_that_training_sees(tmp_path):
    # Unshuffled, the last stays are the test: they alone are changed.
    make_stays(tmp_path / "one", 40)
    make_stays(tmp_path / "two", 40, last_hour=1.01)
    one, two = (PROTOCOLS["pyomnits"].build(tmp_path / name, 0) for name in ("one", "two"))
    assert not np.array_equal(one.table.values, two.table.values, equal_nan=True)
    np.testing.assert_array_equal(one.scaler.mean, two.scaler.mean)
    np.testing.assert_array_equal(one.scaler.std, two.scaler.std)
    np.testing.assert_array_equal(one.train.series, two.train.series)


@pytest.mark.parametrize(("name", "sizes", "origin"), [("grafiti", [27, 7, 6], 36.0), ("pyomnits", [32, 4, 4], 34.5)])
def test_next_three_steps_after_36_hours(tmp_path, name, sizes, origin):
    make_stays(tmp_path, 40)
    task = PROTOCOLS[name].build(tmp_path, 0)
    laws.check_task(task)
    laws.check_no_series_twice(task)
    laws.check_no_target_twice(task)
    laws.check_scaler_is_of_training(task)
    assert [len(part) for part in laws.parts(task)] == sizes
    # Mechanical ventilation and the coma score never vary here.
    assert task.table.schema.channels == ("Weight", "HR", "Temp")
    assert (task.train.until == np.floor(origin) + 3).all()
    assert (task.train.origin == origin).all()
    # Hours 37, 38, 39 hold three heart rates and a temperature; 35, 36, 37 hold a weight more.
    assert laws.n_targets(task, task.test) == len(task.test) * (4 if name == "grafiti" else 5)
    assert PROTOCOLS[name].average == "pooled"
    assert any("the test included" in note for note in task.notes)


def test_hours_hold_means_and_drop_outliers_and_descriptors(tmp_path):
    make_stays(tmp_path, 40)
    lines = "\n05:10,HR,60\n05:20,HR,80\n05:40,HR,100\n07:00,Temp,500\n"
    text = (tmp_path / "set-a" / "1.txt").read_text().split("\n05:")
    write_stay(tmp_path / "set-a", "1.txt", text[0] + lines)
    table = PROTOCOLS["grafiti"].build(tmp_path, 0).table
    first = slice(*table.starts[:2])
    hour, values = table.time[first], table.values[first]
    weight, heart, temperature = (table.schema.channels.index(name) for name in ("Weight", "HR", "Temp"))
    assert values[hour == 5, heart] == 80
    # The row of the outlier stays, its value does not; the descriptor at time 0 is no measurement.
    assert np.isnan(values[hour == 7, temperature])
    assert len(hour[hour == 7]) == 1
    later = (tmp_path / "set-a" / "1.txt").read_text()
    measured = float(
        next(line for line in later.split("\n") if ",Weight," in line and not line.startswith("00:00")).split(",")[2]
    )
    assert values[hour == 0, weight] == measured


def test_the_real_table_is_the_published_one(shared_data):
    path = shared_data / "physionet2012.csv.gz"
    assert list(pd.read_csv(path, nrows=10).columns) == ["series_id", "time", *CHANNELS]
    assert physionet2012.note_checksum(path, physionet2012.SHA256) == ()


# Computed independently of this package, on the same table: constant and last value, macro MSE.
FIGURES = {42: (10.196e-3, 6.404e-3, 462_494), 0: (9.976e-3, 6.203e-3, 465_545), 1: (10.019e-3, 6.445e-3, 472_187)}


@pytest.mark.slow
@pytest.mark.parametrize("split", FIGURES)
def test_real_stays_give_the_figures_of_constant_and_last_value(shared_data, split):
    constant, last, n = FIGURES[split]
    task = PROTOCOLS["tpatchgnn"].build(shared_data, split)
    laws.check_no_series_twice(task)
    assert sum(len(part) for part in laws.parts(task)) == 11_975
    assert laws.n_targets(task, task.test) == n
    assert np.nanmean(laws.mean_errors(task, task.test, "constant")) == pytest.approx(constant, rel=1e-3)
    assert np.nanmean(laws.mean_errors(task, task.test, "last")) == pytest.approx(last, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes"), [("grafiti", [8106, 2018, 1788]), ("pyomnits", [9652, 1077, 1194])])
def test_real_stays_under_next_three_steps(shared_data, name, sizes):
    task = PROTOCOLS[name].build(shared_data, 0)
    laws.check_no_series_twice(task)
    assert len(task.table.schema.channels) == 36
    assert [len(part) for part in laws.parts(task)] == sizes
