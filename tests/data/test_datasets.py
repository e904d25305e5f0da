"""Every bundled data set follows the data contract and says where it comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from latentode.data.datasets import DATASETS, pbcseq


@pytest.mark.parametrize("name", DATASETS)
def test_data_set_is_a_file_that_names_its_source(name):
    module = DATASETS[name]
    assert module.path().is_file()
    assert "Source:" in module.__doc__
    assert "licence" in module.__doc__


@pytest.mark.parametrize("name", DATASETS)
def test_licence_notice_lies_beside_the_bundled_file(name):
    notice = Path(DATASETS[name].__file__).with_suffix(".LICENSE").read_text(encoding="utf-8")
    assert DATASETS[name].path().name in notice


@pytest.mark.parametrize("name", DATASETS)
def test_rows_are_distinct_and_ascending_within_each_series(name):
    frame = pd.read_csv(DATASETS[name].path())
    gap = frame.groupby("series_id")["time"].diff().dropna()
    assert (gap > 0).all()
    assert frame["series_id"].is_monotonic_increasing


def test_pbcseq_holds_what_its_docstring_counts():
    frame = pd.read_csv(pbcseq.path())
    assert list(frame.columns) == ["series_id", "time", *pbcseq.CHANNELS]
    values = frame[list(pbcseq.CHANNELS)]
    assert len(frame) == 1945
    assert frame["series_id"].nunique() == 312
    assert int(values.notna().sum().sum()) == 12_661
    assert int(values["chol"].isna().sum()) == 821
    assert frame["time"].max() == 5152
    assert np.isfinite(values.to_numpy()[values.notna().to_numpy()]).all()
