"""A file is written whole or not at all."""

from __future__ import annotations

import csv
import json
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentode.files import guard_frame, guard_text, write_frame, write_json, write_whole


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


TEXTS = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx y", "\n=x", "'", "'=x", "''", "plain", "a=b", "", " =x", "1-2"]


def test_texts_that_a_spreadsheet_computes_are_guarded_counted_and_read_back(tmp_path):
    frame = pd.DataFrame(
        {"series_id": TEXTS, "n": range(len(TEXTS)), "=x_mean": -1.5, "kind": ["@x", None] + ["k"] * (len(TEXTS) - 2)}
    )
    guarded, n = guard_frame(frame)
    assert list(guarded.columns) == ["series_id", "n", "'=x_mean", "kind"]
    assert n == 10 + 1 + 1
    # What begins as a formula does, after whatever a spreadsheet skips, no longer stands in a cell.
    assert not any(text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for text in guarded.series_id)
    assert guarded["'=x_mean"].tolist() == [-1.5] * len(TEXTS)
    write_frame(tmp_path / "a.csv", guarded)
    with (tmp_path / "a.csv").open(newline="") as file:
        again = [row["series_id"] for row in csv.DictReader(file)]
    assert [text.removeprefix("'") for text in again] == TEXTS
    assert frame.series_id.tolist() == TEXTS  # the one that was given stays


@given(st.text())
def test_one_apostrophe_fewer_gives_the_text_back(text):
    guarded = guard_text(text)
    assert guarded.removeprefix("'") == text
    assert not guarded.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
