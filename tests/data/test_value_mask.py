"""Value and mask columns as a table."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.data.value_mask import read_value_mask
from latentode.errors import DataError


def test_masked_values_are_missing_and_equal_times_are_averaged(csv_file):
    path = csv_file(
        "i,ID,Time,Value_a,Value_b,Mask_a,Mask_b\n0,2,120,1,5,1,0\n1,1,60,3,7,1,1\n2,1,60,5,9,1,0\n3,1,0,inf,0,0,1\n"
    )
    table = read_value_mask(path, "ID", "Time", time_scale=1 / 60)
    assert table.schema.channels == ("a", "b")
    assert table.series_ids.tolist() == [1, 2]
    assert table.time.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(table.values, [[np.nan, 0], [4, 7], [1, np.nan]])
    assert table.source == str(path)


def test_names_with_two_parts_pair_up(csv_file):
    path = csv_file("hadm_id,time_stamp,Value_label_0,Mask_label_0\n7,5,1.5,1\n7,6,2.5,1\n")
    assert read_value_mask(path, "hadm_id", "time_stamp").schema.channels == ("label_0",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,Time,Value_0\n1,2,3\n", "no column 'Mask_0'"),
        ("ID,Value_0,Mask_0\n1,2,1\n", "no column 'Time'"),
        ("ID,Time\n1,2\n", "no column 'Value_0'"),
        ("ID,Time,Value_0,Mask_0\n1,2,3,1\n1,3,4,0.5\n", "line 3: a Mask column"),
        ("ID,Time,Value_0,Mask_0\n1,2,3,1\n\n1,3,4,0.5\n", "line 4: a Mask column"),
        ("ID,Time,Value_0,Mask_0\n1,2,3,1\n1,3,inf,1\n", "line 3: column 'Value_0' holds 'inf'"),
        ("ID,Time,Value_0,Mask_0\n1,2,3,1\n\n1,,4,1\n", "line 4: column 'Time' is empty"),
        ("ID,Time,Value_0,Mask_0\n1,2,3,1\n,3,4,1\n", "line 3: column 'ID' is empty"),
    ],
)
def test_other_layouts_are_refused(csv_file, text, message):
    with pytest.raises(DataError, match=message):
        read_value_mask(csv_file(text), "ID", "Time")


def test_another_file_than_the_published_one_is_noted(csv_file):
    path = csv_file("ID,Time,Value_0,Mask_0\n1,2,3,1\n1,3,4,1\n")
    assert any("SHA-256" in note for note in read_value_mask(path, "ID", "Time", sha256="0" * 64).report.notes)
    assert not any("SHA-256" in note for note in read_value_mask(path, "ID", "Time").report.notes)
