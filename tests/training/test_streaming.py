"""Streaming: the statistics of the whole, an order that seed and epoch decide, and an epoch that goes on where it was cut off."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
import pytorch_lightning as pl
import torch

from latentode import Forecaster
from latentode.data.settings import DataSettings
from latentode.errors import DataError, InputError
from latentode.models import LatentODE
from latentode.training import streaming
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.examples import Examples
from latentode.training.fitting import TRAINER_DEFAULTS, quiet_lightning
from latentode.training.streaming import Stream
from latentode.training.task import ForecastingTask
from tests.data.tables import make_frame

SETTINGS = DataSettings(windows_per_epoch=128, batch_size=8, streaming=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    frame = make_frame(n_series=14, n_rows=60)
    frame.iloc[:250].to_parquet(folder / "a.parquet", row_group_size=37, index=False)
    frame.iloc[250:].to_parquet(folder / "b.parquet", row_group_size=50, index=False)
    return folder


def module_of(folder, *, partition_bytes=1500, seed=0, **kwargs):
    settings = replace(SETTINGS, path=str(folder), **kwargs)
    if not settings.streaming:
        return ready(ForecastingDataModule(settings, seed=seed))
    stream = Stream.of(settings, partition_bytes=partition_bytes)
    return ready(ForecastingDataModule(settings, Examples.of_stream(stream), seed=seed))


def ready(module):
    module.setup("fit")
    return module


@pytest.mark.parametrize("calendar", ["auto", ["weekday"], "none"])
def test_a_streamed_table_of_dates_has_the_calendar_of_the_one_in_memory(tmp_path, calendar):
    frame = make_frame(n_series=14, n_rows=60, datetimes=True)
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=50, index=False)
    streamed = module_of(tmp_path, horizon="3h", calendar=calendar)
    whole = module_of(tmp_path, horizon="3h", calendar=calendar, streaming=False)
    assert len(streamed.examples.stream.partitions) > 3
    schema = streamed.examples.table.schema
    assert schema == whole.examples.table.schema
    assert schema.calendar == {"auto": ("hour", "weekday"), "none": ()}.get(str(calendar), ("weekday",))
    batch = next(iter(streamed.epoch(0)))
    assert batch.known.shape[-1] == batch.token_known.shape[-1] == schema.n_known
    held = streamed.reader.read(streamed.validation.take(np.arange(3))).known
    assert torch.equal(held, whole.reader.read(whole.validation.take(np.arange(3))).known)


def key(batch):
    """What tells windows apart: their origins and all that is read and forecast."""
    return [batch.origin.tolist(), batch.token_value.tolist(), batch.target_value.tolist()]


def epochs(module, *numbers):
    return [key(batch) for number in numbers for batch in module.epoch(number)]


@pytest.mark.parametrize("split", ["time", "series"])
@pytest.mark.parametrize("horizon", [None, 3.0])
def test_a_streamed_table_has_the_statistics_of_the_one_in_memory(folder, split, horizon):
    streamed = module_of(folder, split=split, horizon=horizon)
    whole = module_of(folder, split=split, horizon=horizon, streaming=False)
    assert len(streamed.examples.stream.partitions) > 3
    assert streamed.examples.spans == whole.examples.spans
    one, two = streamed.examples.scaler, whole.examples.scaler
    assert one.n_values.tolist() == two.n_values.tolist()
    np.testing.assert_allclose(one.mean, two.mean, rtol=1e-13)
    np.testing.assert_allclose(one.std, two.std, rtol=1e-13)
    assert streamed.n_batches == whole.n_batches
    assert sum(len(batch) for batch in streamed.epoch(0)) == sum(len(batch) for batch in whole.epoch(0)) == 128
    for part in ("validation", "test"):
        assert len(getattr(streamed.examples, part)) == len(getattr(whole.examples, part)) > 0
    assert streamed.examples.digest() == whole.examples.table.digest()


@pytest.mark.parametrize("split", ["time", "series"])
def test_streamed_windows_see_nothing_of_what_is_held_out(folder, split):
    streamed = module_of(folder, split=split, horizon=3.0)
    whole = module_of(folder, split=split, horizon=3.0, streaming=False)
    table, cuts = whole.examples.table, streaming.split_of(whole.examples.table, whole.settings, None, slice(None))
    is_seen = cuts.train_rows(table)
    mean, std = streamed.examples.scaler.mean, streamed.examples.scaler.std
    allowed = {np.float32(v) for c in range(2) for v in (table.values[is_seen, c] - mean[c]) / std[c]}
    for batch in streamed.epoch(0):
        seen = [*batch.token_value[batch.token_observed].tolist(), *batch.target_value[batch.target_observed].tolist()]
        assert {np.float32(value) for value in seen} <= allowed


def test_the_order_is_a_function_of_seed_and_epoch(folder):
    one, again, other = module_of(folder), module_of(folder), module_of(folder, seed=1)
    assert epochs(one, 1, 0) == epochs(again, 1, 0)
    assert epochs(one, 0) != epochs(one, 1)
    assert epochs(one, 0) != epochs(other, 0)


def test_every_partition_is_visited_equally_often(folder):
    stream = module_of(folder, windows_per_epoch=64, batch_size=8).examples.stream
    n_partitions = len(stream.partitions)
    visits = [stream.visits(0, epoch) for epoch in range(3 * n_partitions)]
    assert {len(partitions) for partitions in visits} == {2}
    assert np.bincount(np.concatenate(visits)).tolist() == [6] * n_partitions
    assert not np.array_equal(
        np.concatenate(visits[: n_partitions // 2]), np.concatenate(visits[n_partitions:])[:n_partitions]
    )


def test_batches_of_several_partitions_are_mixed(folder):
    stream = module_of(folder, windows_per_epoch=1024, batch_size=8).examples.stream
    in_order = [key(batch) for batch in stream._in_order(0, 0)]
    shuffled = [key(batch) for batch in stream.batches(0, 0)]
    assert sorted(map(str, in_order)) == sorted(map(str, shuffled))
    places = [in_order.index(batch) for batch in shuffled]
    assert np.mean(np.abs(np.diff(places)) > 5) > 0.5


@pytest.mark.parametrize("is_streamed", [True, False])
def test_an_epoch_goes_on_with_the_batch_that_would_have_come_next(folder, is_streamed):
    undisturbed = module_of(folder, streaming=is_streamed)
    expected = [key(batch) for batch in undisturbed.train_dataloader()]
    module = module_of(folder, streaming=is_streamed)
    loader, batches = module.train_dataloader(), []
    for batch in loader:
        batches.append(key(batch))
        if len(batches) == 5:
            break
    state = loader.state_dict()
    assert state == {"seed": 0, "epoch": 0, "position": 5}
    other = module_of(folder, streaming=is_streamed).train_dataloader()
    other.load_state_dict(state)
    assert batches + [key(batch) for batch in other] == expected
    # Only that epoch was cut off: the next one is whole.
    assert len(list(other)) == len(expected)
    changed = module_of(folder, streaming=is_streamed, seed=1).train_dataloader()
    changed.load_state_dict(state)
    assert len(list(changed)) == len(expected)


class Recorder(pl.Callback):
    """Keeps the batches, saves a checkpoint after some of them and gives up after some more."""

    def __init__(self, path=None, *, save_at=0, stop_at=0):
        self.path, self.save_at, self.stop_at = path, save_at, stop_at
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(key(batch))
        if len(self.batches) == self.save_at:
            trainer.save_checkpoint(self.path)
        if len(self.batches) == self.stop_at:
            raise ConnectionError("cut off")


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_resumed_fit_is_the_undisturbed_one(folder, tmp_path, is_streamed):
    def fit(recorder, ckpt_path=None):
        with quiet_lightning():
            pl.seed_everything(0, workers=True, verbose=False)
            module = module_of(folder, streaming=is_streamed, horizon=3.0)
            # Its dropout draws from torch's own generator.
            task = ForecastingTask(LatentODE(latent_size=4), 1e-3)
            options = {**TRAINER_DEFAULTS, "max_epochs": 3, "accelerator": "cpu", "callbacks": [recorder]}
            trainer = pl.Trainer(**options, enable_checkpointing=False, default_root_dir=tmp_path)
            task.build(module)
            trainer.fit(task, datamodule=module, ckpt_path=ckpt_path)
        return task

    whole, cut_off, resumed = Recorder(), Recorder(tmp_path / "last.ckpt", save_at=21, stop_at=25), Recorder()
    expected = fit(whole)
    with pytest.raises(ConnectionError):
        fit(cut_off)
    found = fit(resumed, tmp_path / "last.ckpt")
    assert cut_off.batches[:21] + resumed.batches == whole.batches
    for name, value in expected.network.state_dict().items():
        assert torch.allclose(found.network.state_dict()[name], value, atol=1e-6)


def test_the_sample_of_a_large_table_is_whole_series_within_its_bound(folder, monkeypatch):
    everything = module_of(folder).examples
    monkeypatch.setattr(streaming, "SAMPLE_ROWS", 150)
    examples = module_of(folder).examples
    assert 50 < examples.table.n_rows <= 150
    names = list(everything.table.series_ids)
    positions = [names.index(name) for name in examples.table.series_ids]
    assert positions == sorted(positions)
    assert examples.table.digest() == everything.table.select(positions).digest()
    assert examples.digest() == everything.digest()
    np.testing.assert_allclose(examples.scaler.mean, everything.scaler.mean, rtol=1e-13)
    assert f"a sample of {len(positions)} of the series" in examples.table.report.notes[0]


def test_a_streamed_fit_knows_its_table_again(folder):
    forecaster = Forecaster(
        LatentODE(latent_size=4), max_epochs=1, windows_per_epoch=64, streaming=True, device="cpu", show_progress=False
    ).fit(folder)
    assert forecaster.score(folder)["part"] == "test"
    assert "validation and test are on all series" in forecaster.metrics_["notes"][0]


def test_streaming_needs_a_path_and_something_to_learn(tmp_path):
    with pytest.raises(InputError, match="Parquet file or folder"):
        ready(ForecastingDataModule(SETTINGS))
    make_frame(n_rows=1).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"nothing|no value to read"):
        ready(ForecastingDataModule(replace(SETTINGS, path=str(tmp_path))))


LIMITED = """
import resource, sys
from latentode import Forecaster, read_table
from latentode.training import streaming as module
path, allowed, streaming = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
module.SAMPLE_ROWS = 100_000  # scored on in seconds
# What the imports have mapped for themselves, and the first fit of a process on top of it, is not counted.
Forecaster(max_epochs=1, windows_per_epoch=64, show_progress=False, device="cpu").fit(path + "/small.parquet")
held = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (held + allowed, held + allowed))
forecaster = Forecaster(max_epochs=1, windows_per_epoch=64, streaming=streaming, show_progress=False, device="cpu")
forecaster.fit(path + "/large.parquet")
print("trained", forecaster.metrics_["notes"][0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the data of a process")
def test_a_process_with_less_memory_than_the_table_trains_by_streaming(tmp_path):
    n_series, n_rows, n_channels = 40_000, 250, 4
    table_bytes = 8 * n_series * n_rows * (1 + n_channels)
    make_frame().to_parquet(tmp_path / "small.parquet")
    rng, writer = np.random.default_rng(0), None
    for first in range(0, n_series, 4000):
        time = np.cumsum(rng.exponential(1.0, (4000, n_rows)), axis=1)
        values = rng.normal(size=(time.size, n_channels)).astype(np.float32)
        frame = pd.DataFrame(values, columns=[f"x{c}" for c in range(n_channels)])
        frame.insert(0, "time", time.ravel())
        frame.insert(0, "series_id", np.repeat(np.arange(first, first + 4000), n_rows))
        part = pa.Table.from_pandas(frame, preserve_index=False)
        writer = writer or pa_parquet.ParquetWriter(tmp_path / "large.parquet", part.schema)
        writer.write_table(part, row_group_size=250_000)
    writer.close()

    def run(is_streamed):
        command = [sys.executable, "-c", LIMITED, str(tmp_path), str(int(0.9 * table_bytes)), str(is_streamed)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    streamed = run(True)
    assert streamed.returncode == 0, streamed.stderr
    assert "Streamed 10,000,000 rows of 40,000 series" in streamed.stdout
    whole = run(False)
    assert whole.returncode != 0
    assert "trained" not in whole.stdout
    assert "--data.streaming true" in whole.stderr
