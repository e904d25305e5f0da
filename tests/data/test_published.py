"""Published files: what is read, and the one sentence for what is not."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from latentode.data.published import note_checksum, read_cells_as_text, read_columns, to_floats
from latentode.errors import DataError


def test_wanted_columns_come_in_their_order(csv_file):
    path = csv_file("a,b,c\n1,2,x\n3,,y\n")
    frame = read_columns(path, ["b", "a"])
    assert list(frame.columns) == ["b", "a"]
    np.testing.assert_array_equal(to_floats(frame, ["a", "b"], path), [[1, 2], [3, np.nan]])
    assert list(read_columns(path).columns) == ["a", "b", "c"]


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n1,2,3\n", b"a,b\n\xff\xfe,2\n"])
def test_what_is_no_csv_is_refused(csv_file, content):
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_columns(csv_file(content))


def test_a_missing_column_is_named(csv_file):
    with pytest.raises(DataError, match=r"has no column 'c' .it has 'a', 'b'"):
        read_columns(csv_file("a,b\n1,2\n"), ["a", "c"])


def test_a_cell_that_is_no_number_is_named_by_line_and_column(csv_file):
    path = csv_file("a,b\n1,2\n3,high\n")
    with pytest.raises(DataError, match="line 3: column 'b' holds 'high'"):
        to_floats(read_columns(path), ["a", "b"], path)


def test_lines_are_counted_with_blank_ones_and_line_breaks_in_quotes(csv_file):
    path = csv_file('a,b\n\n"x\ny",2\n \n3,high\n')
    with pytest.raises(DataError, match="line 6: column 'b' holds 'high'"):
        to_floats(read_columns(path), ["b"], path)


def test_cells_are_text_and_short_lines_are_filled():
    cells = read_cells_as_text(b"007,NA,\nx\n", 3, "file")
    assert cells.tolist() == [["007", "NA", ""], ["x", "", ""]]


@pytest.mark.parametrize("content", [b"a,b\n1,2,3\n", b"a,b,c\n1,2,3\n", b""])
def test_longer_lines_are_refused(content):
    with pytest.raises(DataError, match="file: cannot be read as lines of 2 cells"):
        read_cells_as_text(content, 2, "file")


def test_checksums_are_compared(csv_file):
    path = csv_file("abc")
    assert note_checksum(path, hashlib.sha256(b"abc").hexdigest()) == ()
    assert "is not the published file" in note_checksum(path, "0" * 64)[0]
