"""What pandas' reader would let pass is refused, with the line; what is right arrives as it stands in the file."""

from __future__ import annotations

import gzip
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentode.data.arrow import MISSING, parse_numbers, to_arrow
from latentode.data.cells import read_cells
from latentode.errors import DataError, InputError


def refusal(source, **options):
    with pytest.raises(DataError) as caught:
        read_cells(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def column(cells, name):
    return cells.columns[name].to_pylist()


# --- Files that are none -----------------------------------------------------------------------------------------------------------


def test_missing_file_is_named_with_its_role(tmp_path):
    message = refusal(tmp_path / "nix.csv", role="history")
    assert message == f"{tmp_path}/nix.csv: no such history file; check the path."


def test_path_below_a_file_is_a_missing_file(csv_file):
    assert "no such data file" in refusal(csv_file("a\n1\n") / "b.csv")


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b"])
def test_path_that_the_system_refuses_is_an_error_of_ours(path):
    assert "check the path" in refusal(path)


def test_source_of_another_type_is_an_input_error():
    with pytest.raises(
        InputError, match=r"cannot read data from a list; give a path or a pandas or polars DataFrame\."
    ):
        read_cells([1, 2])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_empty_file(csv_file, content):
    path = csv_file(content)
    assert refusal(path) == f"{path}: is empty; a table needs a header and at least one row."


@pytest.mark.parametrize("content", ["series_id,time,a", "series_id,time,a\n", "series_id,time,a\r\n\r\n"])
def test_header_only(csv_file, content):
    path = csv_file(content)
    assert refusal(path) == f"{path}: holds a header but no rows; a table needs at least one row."


def test_truncated_gzip(csv_file):
    path = csv_file(gzip.compress(b"time,a\n" + b"1,2\n" * 1000)[:-9], "data.csv.gz")
    message = refusal(path)
    assert message.startswith(f"{path}: the gzip file is cut off or damaged")
    assert message.endswith("copy or download it again.")


def test_damaged_gzip(csv_file):
    data = bytearray(gzip.compress(np.random.default_rng(0).bytes(4000)))
    data[2000] ^= 0xFF
    assert "cut off or damaged" in refusal(csv_file(bytes(data)))


def test_nul_bytes_are_refused_with_their_line_and_number(csv_file):
    path = csv_file(b"time,a\n1,2\n2,\0\0\n")
    message = refusal(path)
    assert message.startswith(f"{path}:3: holds 2 NUL bytes; the file is binary or damaged")


def test_latin_1_is_refused_with_its_line(csv_file):
    path = csv_file("time,température\n1,2\n".encode("latin-1"))
    assert refusal(path).startswith(f"{path}:1: byte 0xe9 is not UTF-8 text; save the file as UTF-8")
    path = csv_file("time,place\n1,a\n2,Köln\n".encode("latin-1"))
    assert refusal(path).startswith(f"{path}:3: byte 0xf6 is not UTF-8 text")


def test_utf_16_is_refused(csv_file):
    assert "UTF-16" in refusal(csv_file("time,a\n1,2\n".encode("utf-16")))
    assert "NUL bytes" in refusal(csv_file("time,a\n1,2\n".encode("utf-16-le")))


def test_excel_file_is_refused(csv_file):
    assert "zip or Excel file" in refusal(csv_file(b"PK\x03\x04rest", "data.xlsx"))


# --- The header --------------------------------------------------------------------------------------------------------------------


def test_second_column_of_one_name_is_refused(csv_file):
    path = csv_file("series_id,time,temp,wind, temp\nA,1,2,3,4\n")
    assert refusal(path) == f"{path}:1: column 'temp' stands 2 times (columns 3, 5); give every column its own name."


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_separators_are_named(csv_file, separator, word):
    text = separator.join(["time", "a"]) + "\n" + separator.join(["1", "2,5"]) + "\n"
    assert f":1: the columns seem to be separated by {word}; save the file with commas." in refusal(csv_file(text))


def test_quote_left_open_in_the_header(csv_file):
    assert ":1: a quote in the header is not closed on its line" in refusal(csv_file('time,"a\n1,2\n'))


def test_one_column_without_a_name_is_left_out_and_counted(csv_file):
    cells = read_cells(csv_file(",time,a\n0,1,2\n"))
    assert list(cells.columns) == ["time", "a"]
    assert cells.notes == ("1 column has no name and was left out.",)


def test_several_columns_without_a_name_are_refused(csv_file):
    assert "a column without a name stands 2 times (columns 3, 4)" in refusal(csv_file("time,a,,\n1,2,,\n"))


def test_byte_order_mark_quotes_and_spaces_are_no_part_of_a_name(csv_file):
    cells = read_cells(csv_file('\ufeff"time","wind, m/s" , a b\r\n1,2,3\r\n'))
    assert list(cells.columns) == ["time", "wind, m/s", "a b"]


# --- Rows --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "n_cells"),
    [("A,3", "2 cells"), ("A", "1 cell"), ("A,3,1,1", "4 cells"), ("A,3,1,5,", "5 cells"), (" ", "1 cell")],
)
def test_short_and_long_rows_are_refused_with_their_line(csv_file, row, n_cells):
    path = csv_file(f"series_id,time,a\nA,1,1\n\n{row}\nB,1,1\n{row}\n")
    assert refusal(path) == (
        f"{path}:4: has {n_cells} where the header has 3 (2 such rows); "
        "write one cell per column, an empty one where nothing was observed."
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_the_place_of_a_row_counts_blank_lines_and_quoted_line_ends(csv_file, newline):
    lines = ["", "series_id,time", '"A', '1",1', "", "B,2", 'C,"3"']
    cells = read_cells(csv_file(newline.join(lines) + newline), text_columns=["series_id"])
    assert column(cells, "time") == [1, 2, 3]
    assert [cells.at(row).rpartition(":")[2] for row in range(3)] == ["3", "6", "7"]


@pytest.mark.parametrize("row", ['A,2,"1', 'A,2,"1,1\nA,3,4', '"A,2,1'])
def test_quote_that_is_never_closed_is_refused_with_its_line(csv_file, row):
    path = csv_file(f'series_id,time,a\n"A\n",1,1\n{row}\n')
    assert refusal(path) == f"{path}:4: a quote is opened in this row and never closed; close it."


def test_inch_mark_inside_a_text_is_no_open_quote(csv_file):
    cells = read_cells(csv_file('time,pipe\n1,5" steel\n'))
    assert column(cells, "pipe") == ['5" steel']


def test_cells_longer_than_the_csv_module_allows(csv_file):
    cells = read_cells(csv_file(f'time,note\n1,"{"x" * 200_000}"\n2,y"\n'))
    assert cells.at(1).endswith(":3")


def test_text_columns_keep_zeros_na_and_spaces(csv_file):
    path = csv_file("series_id,time\n007,1\nNA,2\n x,3\n")
    assert column(read_cells(path, text_columns=["series_id"]), "series_id") == ["007", "NA", " x"]


def test_file_with_one_text_column_reads_its_numbers_as_before(csv_file):
    cells = read_cells(csv_file("time,a,b\n1,2.5,x\n2,,y\n"))
    values, is_text = parse_numbers(cells.columns["a"])
    np.testing.assert_array_equal(values, [2.5, np.nan])
    assert not is_text.any()


def test_gzip_is_known_by_its_content_not_its_name(csv_file):
    cells = read_cells(csv_file(gzip.compress(b"time,a\n1,2\n"), "data.csv"))
    assert column(cells, "a") == [2.0]


# --- Numbers -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("5", 5),
        ("+5", 5),
        (" 5 ", 5),
        ("-.5", -0.5),
        ("1.", 1),
        ("1e3", 1000),
        ("1.5E-2", 0.015),
        ("1e-400", 0),
        ("-inf", -np.inf),
    ],
)
def test_numbers_in_all_spellings(cell, value, with_text):
    values, is_text = parse_numbers(to_arrow([cell, "x" if with_text else "1"]))
    assert values[0] == value
    assert is_text.tolist() == [False, with_text]


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("cell", [*MISSING, " NA ", "-nan", "NAN", "  ", None])
def test_nan_like_texts_are_missing(cell, with_text):
    values, is_text = parse_numbers(to_arrow([cell, "x" if with_text else "1"]))
    assert np.isnan(values[0])
    assert not is_text[0]


@pytest.mark.parametrize("cell", ["abc", "1,5", "1_000", "0x10", "5%", "--", "?", "True", "1 2", "infinite"])
def test_what_is_no_number_is_text(cell):
    values, is_text = parse_numbers(to_arrow([cell, "7"]))
    assert is_text.tolist() == [True, False]
    np.testing.assert_array_equal(values, [np.nan, 7])


# --- Parquet -----------------------------------------------------------------------------------------------------------------------


def test_parquet_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "data"
    pq.write_table(pa.table({"time": [1, 2], "a": [0.5, None]}), path)
    cells = read_cells(path)
    assert column(cells, "a") == [0.5, None]
    assert cells.at(1) == f"{path}, row 2"


def test_folder_of_parquet_files_is_one_table_whose_rows_name_their_file(tmp_path):
    pq.write_table(pa.table({"time": [1, 2], "a": [1, 2]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"time": [3.0], "a": [0.5], "b": [9]}), tmp_path / "2.parquet")
    (tmp_path / "._2.parquet").write_bytes(b"another system's note on the file")
    cells = read_cells(tmp_path)
    assert column(cells, "time") == [1, 2, 3]
    assert column(cells, "b") == [None, None, 9]
    assert cells.at(2) == f"{tmp_path}/2.parquet, row 1"


def test_ids_in_the_names_of_folders_keep_their_zeros(tmp_path):
    for station in ("007", "NA"):
        (tmp_path / f"station={station}").mkdir()
        pq.write_table(pa.table({"time": [1]}), tmp_path / f"station={station}" / "part.parquet")
    assert column(read_cells(tmp_path), "station") == ["007", "NA"]


def test_folder_without_parquet_is_refused(tmp_path):
    assert refusal(tmp_path).startswith(f"{tmp_path}: is a folder without a .parquet file; give")


def test_cut_off_parquet_file_is_named(tmp_path):
    pq.write_table(pa.table({"time": [1]}), tmp_path / "1.parquet")
    cut = tmp_path / "2.parquet"
    cut.write_bytes((tmp_path / "1.parquet").read_bytes()[:-20])
    for source in (cut, tmp_path):
        assert refusal(source).startswith(f"{cut}: cannot be read as Parquet")


def test_parquet_damaged_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "1.parquet"
    pq.write_table(pa.table({"time": np.random.default_rng(0).random(10_000)}), path, use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[4:40] = b"\xff" * 36
    path.write_bytes(data)
    assert "cannot be read as Parquet" in refusal(path)


def test_a_place_is_found_without_the_whole_file_in_memory(csv_file):
    rows = "A,1,2.5\n" * 1_000_000
    cells = read_cells(csv_file("series_id,time,a\nA,0,1\nA,x,2\n" + rows))
    ragged = csv_file("series_id,time,a\nA,0,1\nA,1\n" + rows, "ragged.csv")
    tracemalloc.start()
    try:
        assert cells.at(1).endswith("data.csv:3")
        assert "ragged.csv:3: has 2 cells" in refusal(ragged)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Decoded as a whole the text takes four times its size; arrow's memory is not counted.
    assert peak < len(rows) / 2


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.csv").write_text("time,a\n1,2\n", encoding="utf-8")
    assert read_cells("~/x.csv").source == str(tmp_path / "x.csv")


def test_files_that_disagree_on_a_column_are_refused(tmp_path):
    pq.write_table(pa.table({"time": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"time": ["2026-01-01"]}), tmp_path / "2.parquet")
    assert refusal(tmp_path) == (
        f"{tmp_path}/2.parquet: column 'time' is of type string, but of type int64 in {tmp_path}/1.parquet; write it alike in all files."
    )


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 3, names=["time", "temp", "temp"]), path)
    assert "column 'temp' stands 2 times (columns 2, 3)" in refusal(path)


def test_empty_parquet_table_is_refused(tmp_path):
    pq.write_table(pa.table({"time": pa.array([], pa.float64())}), tmp_path / "data.parquet")
    assert "has columns but no rows" in refusal(tmp_path / "data.parquet")


def test_unnamed_index_that_pandas_wrote_is_no_column(tmp_path):
    pd.DataFrame({"time": [1, 2]}, index=[5, 9]).to_parquet(tmp_path / "data.parquet")
    assert list(read_cells(tmp_path / "data.parquet").columns) == ["time"]


# --- DataFrames --------------------------------------------------------------------------------------------------------------------


def test_levels_of_a_named_index_are_columns():
    frame = pd.DataFrame({"series_id": ["a", "b"], "time": [1, 2], "x": [3, 4]}).set_index(["series_id", "time"])
    assert {name: column(read_cells(frame), name) for name in ("series_id", "time", "x")} == {
        "series_id": ["a", "b"],
        "time": [1, 2],
        "x": [3, 4],
    }


def test_index_named_like_a_column_is_refused():
    frame = pd.DataFrame({"time": [1, 2], "x": [3, 4]}).set_index("time", drop=False)
    assert refusal(frame) == "DataFrame: column 'time' stands 2 times (columns 1, 2); give every column its own name."


def test_index_without_a_name_is_no_column_and_its_labels_do_not_matter():
    frame = pd.DataFrame({"time": [1, 2]}, index=[3, 3])
    cells = read_cells(frame)
    assert list(cells.columns) == ["time"]
    assert cells.at(1) == "DataFrame, row 1 (counted from 0)"


def test_column_whose_name_is_missing_is_left_out_and_counted():
    cells = read_cells(pd.DataFrame([[1, 2]], columns=["time", None]))
    assert list(cells.columns) == ["time"]
    assert cells.notes == ("1 column has no name and was left out.",)


@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame({"time": []}), pd.DataFrame(index=[1, 2])])
def test_frame_without_rows_or_columns_is_refused(frame):
    assert "but no rows" in refusal(frame) or "has no columns" in refusal(frame)


@pytest.mark.parametrize(
    "dtype",
    ["int64", "Int64", "float32", "Float64", "object", "string", "str", "category", "int64[pyarrow]", "Sparse[float]"],
)
def test_numbers_of_every_dtype(dtype):
    values, is_text = parse_numbers(read_cells(pd.DataFrame({"x": pd.Series([1, 2]).astype(dtype)})).columns["x"])
    np.testing.assert_array_equal(values, [1, 2])
    assert not is_text.any()


@pytest.mark.parametrize("dtype", ["Int64", "float64", "object", "category", "string", "boolean"])
def test_missing_cells_of_every_dtype(dtype):
    values, is_text = parse_numbers(read_cells(pd.DataFrame({"x": pd.Series([1, None]).astype(dtype)})).columns["x"])
    np.testing.assert_array_equal(values, [1, np.nan])
    assert not is_text.any()


@pytest.mark.parametrize(
    ("cells", "expected"), [([2**62 + 1, None], [2**62 + 1, None]), (["a", 1, None], ["a", "1", None])]
)
def test_categories_are_judged_like_the_cells_they_stand_for(cells, expected):
    assert to_arrow(pd.Series(pd.Categorical(cells))).to_pylist() == expected


def test_numpy_datetime_beside_a_numpy_float_does_not_end_the_process():
    assert to_arrow([np.datetime64("2026-01-31"), np.float32(2), None]).to_pylist() == ["2026-01-31", "2.0", None]


def test_object_column_of_mixed_cells_is_judged_cell_by_cell():
    frame = pd.DataFrame({"x": pd.Series([1, "2.5", None, np.nan, pd.NA, "oops", [1]], dtype=object)})
    values, is_text = parse_numbers(read_cells(frame).columns["x"])
    np.testing.assert_array_equal(values, [1, 2.5] + [np.nan] * 5)
    assert is_text.tolist() == [False] * 5 + [True] * 2


@pytest.mark.parametrize(
    "cells",
    [
        pd.period_range("2026-01", periods=2, freq="D"),
        pd.interval_range(0, 2),
        [1j, 2],
        [{"a": 1}, {"b": 2}],
        pd.to_timedelta([1, 2]),
    ],
)
def test_cells_that_are_no_numbers_are_text(cells):
    _, is_text = parse_numbers(read_cells(pd.DataFrame({"x": cells})).columns["x"])
    assert is_text.all()


def test_reading_needs_no_torch(tmp_path):
    path = Path(tmp_path / "data.csv")
    path.write_text("time,a\n1,2\n2,3\n", encoding="utf-8")
    code = (
        f"import sys; from latentode.data.tables import read_table; read_table({str(path)!r}); "
        "print([name for name in ('torch', 'pytorch_lightning', 'matplotlib', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
