"""A file is written whole or not at all."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from latentode.files import write_frame, write_json, write_whole


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail(part):
        part.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_json_has_not_becomes_null(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1.0, math.nan], "y": {"z": math.inf}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1.0, None], "y": {"z": None}}


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_the_same_table_gives_the_same_bytes_and_reads_back(tmp_path, name):
    frame = pd.DataFrame({"series_id": ["a", "b"], "x": [1 / 3, 2e10]})
    write_frame(tmp_path / name, frame)
    first = (tmp_path / name).read_bytes()
    write_frame(tmp_path / name, frame)
    assert (tmp_path / name).read_bytes() == first
    read = pd.read_parquet if name.endswith("parquet") else pd.read_csv
    pd.testing.assert_frame_equal(read(tmp_path / name), frame, rtol=1e-8)
