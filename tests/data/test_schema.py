"""The contract of a table survives being stored, and its report counts what cannot be learned from."""

from __future__ import annotations

import json

import numpy as np
import pytest

from latentode.data.schema import Schema, Survey, count, quote_cell, quote_names, validate
from latentode.errors import DataError

NAN = np.nan
SCHEMA = Schema("station", "date", ("temp", "wind", "rain"), ("temp",), "text", "datetime", "Europe/Berlin")


def check(values, lengths, **options):
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.asarray([f"s{i}" for i in range(len(lengths))], dtype=object)
    return validate(SCHEMA, ids, starts, Survey.of(np.asarray(values, dtype=float)), source="data.csv", **options)


@pytest.mark.parametrize("schema", [SCHEMA, Schema(None, "t", ("x",), (), "none", "number", None)])
def test_schema_goes_through_json_and_back(schema):
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_report_counts_rows_series_and_observed_values():
    report = check([[1, NAN, 2], [NAN, 3, 4]], [2])
    assert (report.n_rows, report.n_series, report.n_values, report.notes) == (2, 1, 4, ())
    assert json.loads(json.dumps(report.to_dict())) == {
        "n_rows": 2,
        "n_series": 1,
        "n_values": 4,
        "notes": [],
        "n_repeats": 0,
    }


def test_channel_never_observed_is_a_counted_note():
    assert check([[1, NAN, NAN], [2, NAN, NAN]], [2]).notes == ("2 channels are never observed: 'wind', 'rain'.",)
    assert check([[1, 1, NAN], [2, 1, NAN]], [2]).notes == ("1 channel is never observed: 'rain'.",)


def test_series_with_one_row_is_a_counted_note_with_five_names():
    notes = check(np.ones((4, 3)), [1, 2, 1]).notes
    assert notes == ("2 series have one row and can serve as history only: 's0', 's2'.",)
    notes = check(np.ones((8, 3)), [1] * 8).notes
    assert notes == ("8 series have one row and can serve as history only: 's0', 's1', 's2', 's3', 's4' and 3 more.",)


def test_rows_without_a_value_are_kept_and_counted():
    notes = check([[1, 1, 1], [NAN] * 3], [2]).notes
    assert notes == ("1 row holds no value in any channel; the time stamps are kept.",)


def test_notes_of_the_reading_come_first():
    assert check([[1, 1, NAN]] * 2, [2], notes=["Read."]).notes[0] == "Read."


def test_table_without_a_value_is_refused():
    with pytest.raises(
        DataError, match=r"^data\.csv: no channel holds a single value \('temp', 'wind', 'rain'\); name the columns"
    ):
        check([[NAN] * 3], [1])


def test_counts_names_and_cells_in_sentences():
    assert count(1, "row", "rows") == "1 row"
    assert count(1_234_567, "row", "rows") == "1,234,567 rows"
    assert quote_names(range(22)).endswith("'18', '19' and 2 more")
    assert quote_cell("x" * 61) == repr("x" * 60 + "...")
    assert quote_cell("a\nb") == "'a\\nb'"
