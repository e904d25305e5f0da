"""Panels of R on small files of the Rdatasets layout."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.data.datasets.rdatasets import ITEMS, PROTOCOLS
from latentode.errors import DataError
from tests.data.datasets import laws


def write_item(folder, name):
    """Write an item: a column of row names, a column that is no number, and ten times for each of eight units."""
    item = ITEMS[name]
    rng = np.random.default_rng(0)
    header = ["rownames", item.id_column, item.time_column, *item.channels, "Diet"]
    rows = [
        [8 * unit + i + 1, f"U{unit}", i + rng.uniform(0, 0.5), *rng.normal(size=len(item.channels)), "a"]
        for unit in range(8)
        for i in range(20)
    ]
    lines = [",".join(str(cell) for cell in row) for row in [header, *rows]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", ITEMS)
def test_a_panel_is_read_from_its_package_folder_and_cut_in_time(name, tmp_path):
    write_item(tmp_path / "rdatasets" / ITEMS[name].package, name)
    task = PROTOCOLS[name].build(tmp_path, 0)
    laws.check_task(task)
    laws.check_no_target_twice(task)
    laws.check_scaler_is_of_training(task)
    assert task.table.schema.channels == ITEMS[name].channels
    assert task.table.n_series == 8
    assert task.table.report.n_values == 160


def test_a_panel_is_also_found_in_the_data_folder_itself(tmp_path):
    write_item(tmp_path, "Theoph")
    assert PROTOCOLS["Theoph"].build(tmp_path, 0).table.n_series == 8
    with pytest.raises(DataError, match=r"rdatasets \(Orange\)"):
        PROTOCOLS["Orange"].build(tmp_path, 0)
