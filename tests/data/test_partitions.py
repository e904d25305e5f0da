"""Partitions: whole series, every row once, cut where a series begins; what cannot be streamed is refused in one sentence."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentode.data.partitions import Groups, Partitions, join, suggest_streaming
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from latentode.errors import DataError, InputError
from tests.data.tables import make_frame


def write(frame, folder, *, cuts=(), row_group_size=37):
    """Write a frame as files that begin at the rows `cuts`, in row groups."""
    folder.mkdir(exist_ok=True)
    for i, (a, b) in enumerate(zip([0, *cuts], [*cuts, len(frame)], strict=True)):
        frame.iloc[a:b].to_parquet(folder / f"part-{i}.parquet", row_group_size=row_group_size, index=False)
    return folder


def partitions_of(path, partition_bytes=1500, **kwargs):
    return Partitions.of(DataSettings(path=str(path), **kwargs), partition_bytes=partition_bytes)


@pytest.mark.parametrize("ids", ["text", "integer", "category"])
@pytest.mark.parametrize("datetimes", [False, True])
def test_partitions_joined_are_the_table(tmp_path, ids, datetimes):
    frame = make_frame(n_series=9, n_rows=40, datetimes=datetimes)
    if ids == "integer":
        frame["series_id"] = frame["series_id"].str[1:].astype(int)
    elif ids == "category":
        frame["series_id"] = frame["series_id"].astype("category")
    found = partitions_of(write(frame, tmp_path / "set", cuts=(50, 51, 170)))
    whole, joined = read_table(tmp_path / "set"), join(list(found))
    assert len(found) > 3
    assert found.schema == whole.schema
    assert joined.series_ids.tolist() == whole.series_ids.tolist()
    assert found.series_ids.tolist() == [str(name) for name in whole.series_ids]
    assert joined.starts.tolist() == whole.starts.tolist()
    assert joined.time.tolist() == whole.time.tolist()
    np.testing.assert_array_equal(joined.values, whole.values)
    assert joined.report.n_values == whole.report.n_values
    assert joined.digest() == whole.digest()


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_every_row_is_in_one_partition_however_groups_and_files_are_cut(tmp_path_factory, data):
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    n_rows = sum(lengths)
    frame = pd.DataFrame({"series_id": np.repeat([f"s{i}" for i in range(len(lengths))], lengths)})
    frame = frame.assign(time=np.arange(n_rows), a=np.arange(n_rows, dtype=float))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(n_rows - 1, 1)), max_size=3))) if n_rows > 1 else []
    size, n_bytes = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 600))
    found = partitions_of(write(frame, tmp_path_factory.mktemp("set"), cuts=cuts, row_group_size=size), n_bytes)
    tables = list(found)
    assert np.concatenate([table.values[:, 0] for table in tables]).tolist() == list(range(n_rows))
    assert [str(name) for table in tables for name in table.series_ids] == found.series_ids.tolist()
    assert [table.n_series for table in tables] == np.diff(found.first_series).tolist()
    assert found.n_rows == n_rows
    starts = np.cumsum([0, *lengths])
    assert set(found.first_row) <= set(starts)


def test_smaller_partitions_are_more_of_them(tmp_path):
    folder = write(make_frame(n_series=12, n_rows=40), tmp_path / "set")
    counts = [len(partitions_of(folder, n_bytes)) for n_bytes in (10, 3000, 1 << 30)]
    assert counts[0] > counts[1] > counts[2] == 1


def test_groups_give_any_stretch_of_rows(tmp_path):
    frame = make_frame(n_series=3, n_rows=40)
    groups = Groups.of(write(frame, tmp_path / "set", cuts=(41,), row_group_size=10))
    for first, last in ((0, 1), (9, 11), (10, 20), (35, 60), (0, len(frame))):
        assert groups.read(first, last, ["time"]).column(0).to_pylist() == frame["time"][first:last].tolist()


def test_a_series_that_comes_back_is_refused_with_how_to_sort(tmp_path):
    frame = make_frame(n_series=3, n_rows=20)
    again = pd.concat([frame, frame.iloc[:3].assign(time=[1e3, 1e3 + 1, 1e3 + 2])])
    with pytest.raises(DataError, match=rf"'s0' comes back at row {len(frame) + 1} .*sort_values\('series_id'\)"):
        partitions_of(write(again, tmp_path / "set"))


def test_what_cannot_be_streamed_is_said(tmp_path):
    frame = make_frame()
    frame.to_csv(tmp_path / "data.csv", index=False)
    with pytest.raises(DataError, match="streaming reads Parquet"):
        partitions_of(tmp_path / "data.csv")
    with pytest.raises(DataError, match="no such data file"):
        partitions_of(tmp_path / "absent")
    folder = write(frame, tmp_path / "set")
    with pytest.raises(DataError, match="no column 'station'"):
        partitions_of(folder, id_column="station")
    with pytest.raises(DataError, match="write ids as text or whole numbers"):
        partitions_of(folder, id_column="time")
    with pytest.raises(InputError, match="name them with"):
        partitions_of(folder, layout="long")
    with pytest.raises(InputError, match="name it with"):
        Partitions.of(DataSettings(streaming=True))


def test_an_error_in_a_part_says_where_the_part_begins(tmp_path):
    frame = make_frame(n_series=6, n_rows=40)
    frame.loc[frame.index[-1], "x0"] = np.inf
    found = partitions_of(write(frame, tmp_path / "set"))
    with pytest.raises(DataError, match=rf"part that begins at row {found.first_row[-2] + 1}: .*infinite"):
        list(found)


def test_files_that_change_while_they_are_streamed_are_refused(tmp_path):
    frame = make_frame(n_series=6, n_rows=40)
    folder = write(frame, tmp_path / "set", cuts=(100,))
    found = partitions_of(folder)
    found.read(len(found) - 1)
    (folder / "part-1.parquet").write_bytes((folder / "part-1.parquet").read_bytes()[:-300])
    found.read(0)
    with pytest.raises(DataError, match=r"part-1.parquet: changed while it was read"):
        found.read(len(found) - 1)


def test_the_long_layout_is_streamed_with_its_channels_named(tmp_path):
    frame = make_frame(n_series=6, n_rows=30).melt(["series_id", "time"], var_name="channel")
    frame = frame.dropna().sort_values(["series_id", "time"])
    folder = write(frame, tmp_path / "set")
    joined = join(list(partitions_of(folder, layout="long", channels=["x0", "x1"])))
    assert joined.digest() == read_table(folder, layout="long", channels=["x0", "x1"]).digest()


def test_streaming_is_suggested_where_memory_is_scarce(tmp_path, monkeypatch):
    folder = write(make_frame(), tmp_path / "set")
    assert suggest_streaming(folder) is None
    monkeypatch.setattr("latentode.data.partitions.available_memory", lambda: 3000)
    assert "--data.streaming true" in suggest_streaming(folder)
    assert suggest_streaming(tmp_path / "absent.csv") is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process holds")
def test_available_memory_is_what_a_limit_leaves():
    program = (
        "import resource; from latentode.data import memory as p; held = p._proc('/proc/self/status')['VmData']; "
        "resource.setrlimit(resource.RLIMIT_DATA, (held + 50_000_000, held + 50_000_000)); print(p.available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 30_000_000 < int(done.stdout) <= 50_000_000


@pytest.mark.parametrize(
    "option", [{"static_columns": ["x1"]}, {"known_columns": ["x1"]}, {"log_channels": ["x1"]}, {"scaling": "robust"}]
)
def test_what_a_pass_over_parts_cannot_tell_is_refused(tmp_path, option):
    folder = write(make_frame(), tmp_path / "set")
    with pytest.raises(InputError, match=f"streaming does not take {next(iter(option))}"):
        partitions_of(folder, **option)
