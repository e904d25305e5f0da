"""Every bad or awkward table is read exactly or refused in one sentence that names the place; none is changed in silence."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentode.data import cells as cells_module
from latentode.data.describe import describe
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from latentode.errors import DataError, InputError
from tests.data.make_awkward import CASES, HEAD, ROWS, TWO, make_awkward


def test_there_are_more_than_a_hundred_cases_each_with_its_name(tmp_path):
    names = [path.name for path, _ in make_awkward(tmp_path)]
    assert len(names) == len(set(names)) > 100


@pytest.mark.parametrize("case", [case for case in CASES if case.rows is not None], ids=lambda case: case.name)
def test_awkward_file_is_read_exactly(case, tmp_path):
    table = read_table(case.write(tmp_path), **case.options)
    rows = [tuple(row) for row in table.to_frame().itertuples(index=False)]
    # As text, so that a NaN equals a NaN, 1 is not 1.0 and 0.1 is not 0.1 + 1e-17.
    assert [repr(plain(row)) for row in rows] == [repr(plain(row)) for row in case.rows]
    assert len(table.report.notes) == len(case.notes), table.report.notes
    for note, part in zip(table.report.notes, case.notes, strict=True):
        assert part in note
    describe(table, DataSettings())


def plain(row):
    return tuple(value.item() if isinstance(value, np.generic) else value for value in row)


@pytest.mark.parametrize("case", [case for case in CASES if case.refusal is not None], ids=lambda case: case.name)
def test_bad_file_is_refused_in_one_sentence_that_names_the_place(case, tmp_path):
    path = case.write(tmp_path)
    with pytest.raises(DataError) as caught:
        read_table(path, **case.options)
    message = str(caught.value)
    assert message.startswith(f"{path}{case.refusal}")
    assert "\n" not in message
    assert message.endswith(".")


# --- Files that are in the way of being read ----------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file; loop.csv stands for it")
def test_file_without_permission_is_refused(csv_file):
    path = csv_file(HEAD + ROWS)
    path.chmod(0)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\); check the path and its permissions\."):
        read_table(path)


@pytest.mark.parametrize("how", ["grows", "is cut off", "is replaced"])
def test_csv_that_changes_while_it_is_read_is_refused(csv_file, monkeypatch, how):
    path = csv_file(HEAD + ROWS)
    parse = cells_module.read_csv

    def change_and_parse(*args, **options):
        if how == "grows":
            with path.open("a", encoding="utf-8") as file:
                file.write("A,3,")
        elif how == "is cut off":
            os.truncate(path, len(HEAD) + 3)
        else:
            path.unlink()
            path.write_text(HEAD + ROWS, encoding="utf-8")
            os.utime(path, ns=(0, 0))
        return parse(*args, **options)

    monkeypatch.setattr(cells_module, "read_csv", change_and_parse)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value) == f"{path}: changed while it was read; read it again when it is written."


def test_folder_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    for i in range(2):
        pq.write_table(pa.table({"time": [i], "a": [1.0]}), tmp_path / f"{i}.parquet")
    read = cells_module.pa_dataset.dataset

    def rewrite(*args, **options):
        pq.write_table(pa.table({"time": [1, 2, 3], "a": [1.0, 2.0, 3.0]}), tmp_path / "1.parquet")
        return read(*args, **options)

    monkeypatch.setattr(cells_module.pa_dataset, "dataset", rewrite)
    with pytest.raises(DataError) as caught:
        read_table(tmp_path)
    assert str(caught.value) == f"{tmp_path}/1.parquet: changed while it was read; read it again when it is written."


def test_a_pipe_is_read_once_and_still_names_its_lines():
    for text, expected in ((HEAD + ROWS, None), (HEAD + "A,1,x,2\nA,2,3,2\n", ":2: column 'a' holds 'x'")):
        reader, writer = os.pipe()
        os.write(writer, text.encode())
        os.close(writer)
        path = f"/dev/fd/{reader}"
        if expected is None:
            assert read_table(path).n_rows == 2
        else:
            with pytest.raises(DataError) as caught:
                read_table(path)
            assert str(caught.value).startswith(path + expected)
        os.close(reader)


# --- Frames ------------------------------------------------------------------------------------------------------------------------

STAMPS = pd.to_datetime(["2026-07-01 10:00", "2026-07-02 10:00"])
FRAME = pd.DataFrame({"series_id": ["A", "A"], "time": [1, 2], "a": [2.0, 4.0]})
BERLIN = (("A", "2026-07-01 12:00:00+02:00", 2.0), ("A", "2026-07-02 12:00:00+02:00", 4.0))
NAIVE = (("A", "2026-07-01 10:00:00", 2.0), ("A", "2026-07-02 10:00:00", 4.0))


class Stream:
    """A table of a library that is not here: all that is known of it is Arrow's C interface."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


VIEWS = pa.table(
    {
        "series_id": pa.array(["A", "A"], pa.string_view()),
        "time": [1, 2],
        "a": pa.array([2, 4], pa.int8()).dictionary_encode(),
        "place": pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.uint32()), pa.array(["x"], pa.string_view())),
    }
)


@pytest.mark.parametrize(
    ("frame", "rows"),
    {
        "two levels of index": (FRAME.set_index(["series_id", "time"]), TWO),
        "time as index": (FRAME.set_index("time"), (("A", 1.0, 2.0), ("A", 2.0, 4.0))),
        "objects": (FRAME.astype(object), TWO),
        "objects of mixed types": (FRAME.assign(a=pd.Series([2, "4"], dtype=object)), TWO),
        "pyarrow dtypes": (FRAME.convert_dtypes(dtype_backend="pyarrow"), TWO),
        "nullable dtypes": (FRAME.convert_dtypes(), TWO),
        "categories": (FRAME.astype({"series_id": "category", "a": "category"}), TWO),
        "categories in another order": (FRAME.assign(series_id=pd.Categorical(["A", "A"], categories=["C", "A"])), TWO),
        "sparse": (FRAME.astype({"a": "Sparse[float]"}), TWO),
        "booleans": (FRAME.assign(a=[True, False]), (("A", 1.0, 1.0), ("A", 2.0, 0.0))),
        "days of a calendar": (FRAME.assign(time=STAMPS.to_period("D")), (("A", "2026-07-01 00:00:00", 2.0), ("A", "2026-07-02 00:00:00", 4.0))),
        "stamps": (FRAME.assign(time=STAMPS), NAIVE),
        "stamps of Python": (FRAME.assign(time=STAMPS.to_pydatetime()), NAIVE),
        "stamps with a zone": (FRAME.assign(time=STAMPS.tz_localize("UTC").tz_convert("Europe/Berlin")), BERLIN),
        "stamps with an offset": (FRAME.assign(time=STAMPS.tz_localize("UTC").tz_convert("+02:00")), BERLIN),
        "text ids of digits": (FRAME.assign(series_id=["7", "7"]), (("7", 1.0, 2.0), ("7", 2.0, 4.0))),
        "whole ids as floats": (FRAME.assign(series_id=[7.0, 7.0]), ((7, 1.0, 2.0), (7, 2.0, 4.0))),
        "arrow": (pa.Table.from_pandas(FRAME), TWO),
        "arrow's C stream": (Stream(pa.Table.from_pandas(FRAME)), TWO),
        "views and codes, as polars gives them": (Stream(VIEWS), TWO),
    }.values(),
)  # fmt: skip
def test_awkward_frame_is_read_exactly(frame, rows):
    table = read_table(frame)
    columns = [name for name in ("series_id", "time", "a") if name in table.to_frame()]
    found = list(table.to_frame()[columns].itertuples(index=False, name=None))
    assert [repr(row) for row in found] == [
        repr(row) for row in (rows if len(columns) == 3 else [row[1:] for row in rows])
    ]
    assert [note for note in table.report.notes if "'place' holds no numbers" not in note] == []


def test_ids_of_two_kinds_that_read_the_same_are_one_series_and_it_is_said():
    table = read_table(FRAME.assign(series_id=pd.Series([1, "1"], dtype=object)))
    assert table.series_ids.tolist() == ["1"]
    assert table.report.notes == (
        "Column 'series_id': 1 name stands as a text and as another kind of cell: '1'; each was read as one.",
    )
    assert read_table(FRAME.assign(series_id=pd.Series([1, "2"], dtype=object))).series_ids.tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.concat([FRAME, FRAME[["a"]]], axis=1), "DataFrame: column 'a' stands 2 times (columns 3, 4)"),
        (FRAME.assign(time=pd.PeriodIndex(["2026Q1", "2026Q2"], freq="Q")), "DataFrame, row 0 (counted from 0): column 'time' holds '2026Q1', which is no ISO 8601 datetime"),
        (FRAME.assign(time=[pd.Timestamp("2026-07-01", tz="UTC"), pd.Timestamp("2026-07-02")]), "DataFrame, row 1 (counted from 0): column 'time' holds '2026-07-02 00:00:00', a time without offset"),
        (FRAME.assign(time=pd.Series([pd.Timestamp("2026-07-01"), 5], dtype=object)), "DataFrame, row 0 (counted from 0): column 'time' holds '2026-07-01 00:00:00' where other rows hold numbers"),
        (FRAME.assign(a=pd.Series([1.0, "high"], dtype=object)), "DataFrame, row 1 (counted from 0): column 'a' holds 'high', which is not a number (1 such row)"),
        (FRAME.assign(a=[1.0, np.inf]), "DataFrame, row 1 (counted from 0): column 'a' holds an infinite value"),
        (FRAME.assign(series_id=["A", None]), "DataFrame, row 1 (counted from 0): column 'series_id' holds no series id"),
        (FRAME.assign(series_id=[["A"], ["A"]]), "DataFrame, row 0 (counted from 0): column 'series_id' is of type list<"),
        (FRAME.set_axis(pd.MultiIndex.from_product([["x"], ["series_id", "time", "a"]]), axis=1), "DataFrame: has no time column 'time' (it has "),
        (Stream(pa.table({"time": [1], "time ": [1]})), "Stream: column 'time' stands 2 times (columns 1, 2)"),
        (Stream(pa.table({"time": [1, 2], "a": ["x", "1"]})), "Stream, row 0 (counted from 0): column 'a' holds 'x', which is not a number"),
    ],
)  # fmt: skip
def test_bad_frame_is_refused_in_one_sentence_that_names_the_place(frame, message):
    with pytest.raises(DataError) as caught:
        read_table(frame)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [5, None, [1], pd.Series([1.0]), pa.array([1]), b"data.csv"])
def test_what_is_no_table_is_an_input_error(source):
    with pytest.raises(
        InputError, match=r"^cannot read data from a \w+; give a path or a pandas or polars DataFrame\.$"
    ):
        read_table(source)
