"""Every data set says where it comes from; the bundled ones follow the data contract; a new one is a copied file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from latentode.data.datasets import DATASETS, damped_oscillators, pbcseq, protocols_of
from latentode.errors import InputError
from tests.data.datasets import laws

BUNDLED = [name for name, module in DATASETS.items() if hasattr(module, "path")]


@pytest.mark.parametrize("name", DATASETS)
def test_data_set_names_its_source_licence_and_columns(name):
    text = DATASETS[name].__doc__
    assert "Source:" in text
    assert "licence" in text
    assert "Columns" in text


@pytest.mark.parametrize("name", DATASETS)
def test_data_set_is_named_as_its_file(name):
    assert Path(DATASETS[name].__file__).stem == name
    assert list(DATASETS) == sorted(DATASETS)


@pytest.mark.parametrize("name", BUNDLED)
def test_licence_notice_lies_beside_the_bundled_file(name):
    assert DATASETS[name].path().is_file()
    notice = Path(DATASETS[name].__file__).with_suffix(".LICENSE").read_text(encoding="utf-8")
    assert DATASETS[name].path().name in notice


@pytest.mark.parametrize("name", BUNDLED)
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


def test_pbcseq_is_cut_in_time():
    protocol = pbcseq.PROTOCOLS["time"]
    task = protocol.build(None, 0)
    laws.check_task(task)
    laws.check_no_target_twice(task)
    laws.check_scaler_is_of_training(task)
    assert len(task.test) > len(task.validation) > 100
    assert laws.n_targets(task, task.test) > 2000


def test_a_data_set_is_added_by_copying_a_file(tmp_path):
    text = Path(damped_oscillators.__file__).read_text(encoding="utf-8")
    copy = tmp_path / "my_oscillators.py"
    copy.write_text(
        text.replace("damped_oscillators", "my_oscillators").replace("rng.uniform(1.0, 4.0", "rng.uniform(2.0, 3.0")
    )
    spec = importlib.util.spec_from_file_location("my_oscillators", copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # What a line in the table makes of it: a task, from its protocols alone.
    task = module.PROTOCOLS["half"].build(None, 0)
    laws.check_task(task)
    assert task.table.source == "my_oscillators"
    assert task.table.digest() != DATASETS["damped_oscillators"].PROTOCOLS["half"].build(None, 0).table.digest()


def test_protocols_are_found_by_name():
    assert protocols_of("ushcn") is DATASETS["ushcn"].PROTOCOLS
    with pytest.raises(InputError, match="did you mean 'ushcn'"):
        protocols_of("usch")


def test_synthetic_data_sets_can_be_observed_otherwise():
    protocols = protocols_of("physiome", missing=0.9, n_series=30, sampling="poisson")
    assert list(protocols) == list(DATASETS["physiome"].PROTOCOLS)
    task = protocols["selkov"].build(None, 0)
    assert task.table.report.n_values / (30 * 100 * 2) == pytest.approx(0.1, rel=0.2)
    assert len(set(task.table.time)) > 100
    assert protocols["selkov"].average == "pooled"
    assert "90% of cells dropped" in protocols["selkov"].rules


def test_options_that_do_not_apply_are_refused():
    with pytest.raises(InputError, match="ushcn is not simulated, so missing cannot be set"):
        protocols_of("ushcn", missing=0.1)
    with pytest.raises(InputError, match="missing is 2"):
        protocols_of("lorenz63", missing=2)
    with pytest.raises(InputError, match=r"no option 'mising' .did you mean 'missing'"):
        protocols_of("lorenz63", mising=0.1)
