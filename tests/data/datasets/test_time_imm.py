"""Time-IMM: windows, texts and the two ways of scaling, on small folders of the published layout and on the shared tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from latentode.data.datasets.time_imm import COLLECTIONS, PROTOCOLS, read
from latentode.errors import DataError
from tests.data.datasets import laws

DAY = 86_400_000_000_000


def write_entity(
    folder: Path, name: str, *, days: int = 140, text_until: int | None = None, future: float = 1.0
) -> None:
    """Write an entity of EPA-Air with a temperature every six hours and ozone once a week; the last third is scaled by `future`."""
    entity = folder / "EPA-Air" / "processed" / name
    entity.mkdir(parents=True)
    time = pd.date_range("2024-01-01", periods=4 * days + 1, freq="6h")
    rng = np.random.default_rng(len(name))
    temperature = rng.normal(60, 10, len(time)) * np.where(np.arange(len(time)) > 0.8 * len(time), future, 1.0)
    ozone = np.where(np.arange(len(time)) % 28 == 3, rng.normal(0.03, 0.01, len(time)), np.nan)
    frame = pd.DataFrame({"date_time": time, "record_id": name, "temp": temperature, "ozone": ozone})
    frame.to_csv(entity / "time_series.csv", index=False)
    stamps = pd.date_range("2024-01-01 03:00", periods=text_until or 0, freq="1D")
    pd.DataFrame({"date_time": stamps, "record_id": name, "text": "warm"}).to_csv(entity / "text.csv", index=False)


def test_windows_need_a_text_in_their_history(tmp_path):
    # 140 days: starts 0, 7, ..., 126 days, 19 windows; texts of the first 63 days reach windows 0 to 8.
    write_entity(tmp_path, "Bexar", text_until=140)
    write_entity(tmp_path, "Dallas", text_until=63)
    task = PROTOCOLS["epa_air"].build(tmp_path, 0)
    laws.check_task(task)
    # Every six hours of less than half a year.
    assert task.table.schema.calendar == ("hour", "weekday")
    counts = [np.bincount(part.series, minlength=2).tolist() for part in laws.parts(task)]
    # 60 % and 80 % of 19 and of 9 windows, rounded down.
    assert counts == [[11, 5], [4, 2], [4, 2]]


def test_windows_run_from_the_first_stamp_and_leave_the_boundary_to_the_targets(tmp_path):
    write_entity(tmp_path, "Bexar", text_until=140)
    task = PROTOCOLS["epa_air"].build(tmp_path, 0)
    first = task.train.take(np.array([0]))
    start = pd.Timestamp("2024-01-01").value
    assert first.origin[0] == start + 7 * DAY - 1
    assert first.until[0] == start + 14 * DAY - 1
    # Four temperatures a day for seven days, and one ozone.
    assert laws.n_targets(task, first) == 7 * 4 + 1
    assert (np.diff(task.train.origin) == 7 * DAY).all()
    laws.check_no_target_twice(task)


def test_published_scaling_is_over_the_whole_series_and_says_so(tmp_path):
    write_entity(tmp_path, "Bexar", text_until=140)
    task = PROTOCOLS["epa_air"].build(tmp_path, 0)
    np.testing.assert_allclose(np.nanmean(task.table.values, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(task.table.values, axis=0, ddof=1), 1)
    assert any("the test included" in note for note in task.notes)


def test_scaling_of_training_does_not_see_the_future(tmp_path):
    scalers, tables = [], []
    for factor in (1.0, 50.0):
        folder = tmp_path / str(factor)
        write_entity(folder, "Bexar", text_until=140, future=factor)
        write_entity(folder, "Dallas", text_until=140, future=factor)
        task = PROTOCOLS["epa_air_training_scale"].build(folder, 0)
        laws.check_task(task)
        laws.check_scaler_is_of_training(task)
        scalers.append(task.scaler)
        tables.append(task.table)
    np.testing.assert_array_equal(scalers[0].mean, scalers[1].mean)
    np.testing.assert_array_equal(scalers[0].std, scalers[1].std)
    early = tables[0].time < pd.Timestamp("2024-04-01").value
    np.testing.assert_array_equal(tables[0].values[early], tables[1].values[early])
    assert np.nanmax(tables[1].values) > 10 * np.nanmax(tables[0].values)


def test_a_channel_that_hardly_varies_in_training_does_not_blow_up(tmp_path):
    for name in ("Bexar", "Dallas"):
        write_entity(tmp_path, name, text_until=140)
    path = tmp_path / "EPA-Air" / "processed" / "Dallas" / "time_series.csv"
    frame = pd.read_csv(path)
    flat = frame.index < len(frame) * 3 // 4
    frame.loc[flat, "temp"] = 60.0 + 1e-4 * np.sin(np.arange(flat.sum()))
    frame.to_csv(path, index=False)
    task = PROTOCOLS["epa_air_training_scale"].build(tmp_path, 0)
    assert np.nanmax(np.abs(task.table.values)) < 100


def test_dates_written_month_first_are_read(tmp_path):
    entity = tmp_path / "ILINet" / "processed" / "US"
    entity.mkdir(parents=True)
    dates = [f"{d.month}/{d.day}/{d.year}" for d in pd.date_range("1997-09-29", periods=150, freq="7D")]
    pd.DataFrame({"date_time": dates, "record_id": "US", "ILI": np.arange(150.0)}).to_csv(
        entity / "time_series.csv", index=False
    )
    table, texts = read("ilinet", tmp_path)
    assert table.time[0] == pd.Timestamp("1997-09-29").value
    assert (np.diff(table.time) == 7 * DAY).all()
    assert texts is not None
    assert len(texts[0]) == 0


def test_folders_without_series_and_odd_texts_are_refused(tmp_path):
    (tmp_path / "EPA-Air" / "processed").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no folder in it holds a time_series.csv"):
        read("epa_air", tmp_path)
    write_entity(tmp_path, "Bexar", text_until=3)
    text = tmp_path / "EPA-Air" / "processed" / "Bexar" / "text.csv"
    text.write_text("date_time,record_id,a,b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"text.csv: needs the columns"):
        read("epa_air", tmp_path)
    text.write_text("date_time,record_id,a\nsome day,Bexar,warm\n", encoding="utf-8")
    with pytest.raises(DataError, match="no date"):
        read("epa_air", tmp_path)
    with pytest.raises(DataError, match="GDELT"):
        read("gdelt", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (",Bexar,60.0,0.03", r"Bexar/time_series.csv, line 4: column 'date_time' is empty"),
        (
            "2024-01-02,Bexar,warm,0.03",
            r"Bexar/time_series.csv, line 4: column 'temp' holds 'warm', which is no number",
        ),
        ("2024-01-02,Bexar,inf,0.03", r"Bexar/time_series.csv, line 4: column 'temp' holds 'inf', which is no number"),
    ],
)
def test_a_bad_cell_is_refused_by_file_and_line(tmp_path, line, message):
    write_entity(tmp_path, "Alamo")
    write_entity(tmp_path, "Bexar")
    path = tmp_path / "EPA-Air" / "processed" / "Bexar" / "time_series.csv"
    path.write_text(f"date_time,record_id,temp,ozone\n2024-01-01,Bexar,60.0,0.03\n\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read("epa_air", tmp_path)


def test_targets_in_two_parts_are_counted_and_left_out_of_our_own_variant(tmp_path):
    # 400 weeks and windows of 36 + 36 every 4: starts at 0, 4, ..., 324 weeks, the first 49 train, 16 validate, 17 test.
    entity = tmp_path / "ILINet" / "processed" / "US"
    entity.mkdir(parents=True)
    dates = pd.date_range("1997-09-29", periods=400, freq="7D")
    values = np.random.default_rng(0).normal(size=400)
    pd.DataFrame({"date_time": dates, "record_id": "US", "ILI": values}).to_csv(entity / "time_series.csv", index=False)
    texts = pd.DataFrame({"date_time": dates, "record_id": "US", "text": "flu"})
    texts.to_csv(entity / "text.csv", index=False)
    published = PROTOCOLS["ilinet"].build(tmp_path, 0)
    assert [len(part) for part in laws.parts(published)] == [49, 16, 17]
    week = np.arange(400)
    targets = [
        np.any([(week >= start + 36) & (week < start + 72) for start in starts], axis=0)
        for starts in (range(0, 196, 4), range(196, 260, 4), range(260, 328, 4))
    ]
    n = int((np.sum(targets, axis=0) > 1).sum())
    assert any(note.startswith(f"{n} values are targets in two parts or more") for note in published.notes)
    ours = PROTOCOLS["ilinet_training_scale"].build(tmp_path, 0)
    laws.check_task(ours)
    laws.check_no_target_twice(ours)
    laws.check_scaler_is_of_training(ours)
    assert not any("in two parts" in note for note in ours.notes)
    # Targets end where those of the next part begin, 196 + 36 and 260 + 36 weeks in: starts to 160 and from 196 to 224 are left.
    assert [len(part) for part in laws.parts(ours)] == [41, 8, 17]


def test_every_collection_has_both_protocols():
    assert set(PROTOCOLS) == {f"{name}{kind}" for name in COLLECTIONS for kind in ("", "_training_scale")}


# Published window counts; errors of the last value computed independently.
SHARED = {"ilinet": ([85, 28, 29], 1.727), "repohealth": ([234, 79, 80], 1.034)}


@pytest.mark.parametrize("name", SHARED)
def test_shared_tables_give_the_published_windows_and_the_error_of_the_last_value(shared_data, name):
    sizes, error = SHARED[name]
    task = PROTOCOLS[name].build(shared_data, 0)
    laws.check_task(task)
    assert [len(part) for part in laws.parts(task)] == sizes
    errors = laws.mean_errors(task, task.test, "last")
    # In published units the mean of a channel that a history lacks is 0; where training saw the channel, its mean is not.
    assert np.nanmean(errors) == pytest.approx(error, rel=0.01)
    assert any("no text" in note for note in task.notes)


def test_the_shared_air_table_gives_windows_without_texts(shared_data):
    task = PROTOCOLS["epa_air"].build(shared_data, 0)
    laws.check_task(task)
    # 146/51/51 from the published folder, as the note says.
    assert any("lacks the 121 rows" in note and "138, 49 and 50" in note for note in task.notes)
    assert [len(part) for part in laws.parts(task)] == [138, 49, 50]
