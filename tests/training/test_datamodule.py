"""Batches on their way to the task: validation is bounded, drawn once, and the same however its batches are kept."""

from __future__ import annotations

import torch

from latentode.data.settings import DataSettings
from latentode.training import datamodule, examples
from latentode.training.datamodule import ForecastingDataModule
from tests.data.tables import make_frame, make_table

SETTINGS = DataSettings(horizon=3.0, windows_per_epoch=64, batch_size=16)


def module_of(table, seed=0):
    module = ForecastingDataModule(SETTINGS, table, seed=seed)
    module.setup("fit")
    return module


def test_validation_batches_are_the_same_kept_or_made_anew(monkeypatch):
    monkeypatch.setattr(datamodule, "READ_AT_ONCE", 4)
    table = make_table(n_series=12, n_rows=60)
    kept = module_of(table).validation_batches()
    monkeypatch.setattr(datamodule, "KEPT", 1)
    module = module_of(table)
    anew = module.validation_batches()
    assert len(kept) == len(anew) > 2
    assert kept[0] is kept[0]
    assert anew[0] is not anew[0]
    assert sum(len(batch) for batch in anew) == len(module.validation)
    for one, two in zip(kept, module.val_dataloader(), strict=True):
        assert torch.equal(one.token_value, two.token_value)
        assert torch.equal(one.target_value, two.target_value)


def test_validation_is_on_a_bounded_number_of_windows_the_same_for_every_seed(monkeypatch):
    table = make_table(n_series=12, n_rows=60)
    everything = module_of(table)
    n_all = len(everything.validation)
    monkeypatch.setattr(examples, "MAX_VALIDATION", 5)
    one, two = module_of(table), module_of(table, seed=3)
    assert n_all > len(one.validation) == 5
    assert one.validation.origin.tolist() == two.validation.origin.tolist()
    pairs = set(zip(everything.validation.series.tolist(), everything.validation.origin.tolist(), strict=True))
    assert set(zip(one.validation.series.tolist(), one.validation.origin.tolist(), strict=True)) <= pairs
    assert f"on 5 of its {n_all} windows" in one.notes[-1]
    assert len(one.examples.test) == len(everything.examples.test)


def test_streaming_is_suggested_where_a_table_takes_half_of_the_memory(tmp_path, monkeypatch, caplog):

    make_frame().to_parquet(tmp_path / "data.parquet")
    settings = DataSettings(path=str(tmp_path / "data.parquet"))
    datamodule.read_settings(settings)
    assert caplog.messages == []
    monkeypatch.setattr("latentode.data.partitions.available_memory", lambda: 1000)
    datamodule.read_settings(settings)
    assert "--data.streaming true" in caplog.messages[0]
