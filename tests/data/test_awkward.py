"""Every bad or awkward table is read exactly or refused in one sentence that names the place; none is changed in silence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from latentode.data import cells as cells_module
from latentode.data.describe import describe
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from latentode.errors import DataError
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
