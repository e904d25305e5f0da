"""Human activity on small files of the published format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentode.data.datasets.human_activity import CHANNELS, PROTOCOLS, TAGS, read
from latentode.errors import DataError
from tests.data.datasets import laws

START = 633790226051280329


def line(sequence: str, tag: str, millisecond: float, x: float, y: float, z: float) -> str:
    return f"{sequence},{tag},{START + round(millisecond * 10_000)},27.05.2009 14:03:25:127,{x},{y},{z},walking\n"


def write_sequences(
    folder: Path, n_sequences: int, seconds: float, *, factor: float = 1.0, changed: set[int] = frozenset()
):
    """Write sequences in which one tag in turn reports every 50 ms; those in `changed` are scaled by `factor`."""
    rng = np.random.default_rng(0)
    text = []
    for i in range(n_sequences):
        size = factor if i in changed else 1.0
        for k, millisecond in enumerate(np.arange(0, 1000 * seconds + 1, 50)):
            text.append(line(f"A{i:02d}", list(TAGS)[k % 4], millisecond, *(size * rng.normal(3, 1, 3)).round(6)))
    (folder / "ConfLongDemo_JSI.txt").write_text("".join(text), encoding="utf-8")


def test_tags_become_channels_and_ticks_milliseconds(tmp_path):
    left, belt = "010-000-024-033", "020-000-032-221"
    (tmp_path / "ConfLongDemo_JSI.txt").write_text(
        line("B01", left, 0, 1, 2, 3)
        + line("B01", left, 0.2, 3, 4, 5)
        + line("B01", belt, 27.4, 7, 8, 9)
        + line("A01", belt, 900, 1, 1, 1),
        encoding="utf-8",
    )
    table = read(tmp_path)
    assert table.series_ids.tolist() == ["B01", "A01"]
    assert table.time.tolist() == [0, 27, 0]
    assert table.values[0, :3].tolist() == [2, 3, 4]
    assert np.isnan(table.values[0, 3:]).all()
    assert table.values[1, CHANNELS.index("belt_x")] == 7
    assert table.report.n_values == 9


def test_windows_of_four_seconds_every_second(tmp_path):
    write_sequences(tmp_path, 10, seconds=7.95)
    task = PROTOCOLS["tpatchgnn"].build(tmp_path, 42)
    laws.check_task(task)
    laws.check_no_series_twice(task)
    laws.check_scaler_is_of_training(task)
    # Starts 0, 1000, ... below 7950 - 3000: five per sequence.
    assert [len(part) for part in laws.parts(task)] == [6 * 5, 2 * 5, 2 * 5]
    one = task.test.take(np.arange(5))
    np.testing.assert_allclose(one.origin, 3000 + 1000 * np.arange(5))
    # 20 rows of 3 values a second, in the last window 3000 to 7950 inclusive: all rows from 3000 on, once.
    assert laws.n_targets(task, one) == 3 * 100
    seen = task.table.values[~np.isin(task.table.row_series, task.test.series)]
    np.testing.assert_allclose(task.unit, np.nanmax(seen, axis=0) - np.nanmin(seen, axis=0))


def test_a_full_last_window_is_closed_on_the_right(tmp_path):
    write_sequences(tmp_path, 10, seconds=8)
    task = PROTOCOLS["tpatchgnn"].build(tmp_path, 42)
    last = task.test.take(np.array([4]))
    assert last.until[0] == 8000
    assert laws.n_targets(task, last) == 3 * 21


def test_the_test_sequences_change_neither_scaler_nor_unit(tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    write_sequences(folders[0], 10, seconds=6)
    before = PROTOCOLS["tpatchgnn"].build(folders[0], 42)
    write_sequences(folders[1], 10, seconds=6, factor=9.0, changed=set(before.test.series.tolist()))
    after = PROTOCOLS["tpatchgnn"].build(folders[1], 42)
    assert np.nanmax(after.table.values) > 2 * np.nanmax(before.table.values)
    np.testing.assert_array_equal(before.scaler.mean, after.scaler.mean)
    np.testing.assert_array_equal(before.scaler.std, after.scaler.std)
    np.testing.assert_array_equal(before.unit, after.unit)


@pytest.mark.parametrize(
    "bad",
    [
        "A01\n",
        "A01,999,633790226051280329,27.05.2009,1,2,3,walking\n",
        "A01,020-000-032-221,then,27.05.2009,1,2,3,walking\n",
    ],
)
def test_other_lines_are_refused_by_number(tmp_path, bad):
    (tmp_path / "ConfLongDemo_JSI.txt").write_text(line("A01", "020-000-032-221", 0, 1, 2, 3) + bad, encoding="utf-8")
    with pytest.raises(DataError, match="line 2: is not"):
        read(tmp_path)


def test_a_long_line_is_refused(tmp_path):
    good = line("A01", "020-000-032-221", 0, 1, 2, 3)
    (tmp_path / "ConfLongDemo_JSI.txt").write_text(good + good.strip() + ",9,9\n", encoding="utf-8")
    with pytest.raises(DataError, match="lines of 8 cells"):
        read(tmp_path)


def test_a_file_of_longer_lines_is_refused(tmp_path):
    text = "x," + line("A01", "020-000-032-221", 0, 1, 2, 3)
    (tmp_path / "ConfLongDemo_JSI.txt").write_text(text + text, encoding="utf-8")
    with pytest.raises(DataError, match="the first line holds more"):
        read(tmp_path)


def test_a_line_before_the_first_is_refused(tmp_path):
    belt = "020-000-032-221"
    (tmp_path / "ConfLongDemo_JSI.txt").write_text(
        line("A01", belt, 5, 1, 2, 3) + line("A01", belt, 0, 1, 2, 3), encoding="utf-8"
    )
    with pytest.raises(DataError, match="line 2: lies before"):
        read(tmp_path)
