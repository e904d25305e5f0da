"""Processes that train together: their shares are the batch, their gradient is that of one, and they fail and recover as one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from latentode.data.settings import DataSettings
from latentode.errors import InputError
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.examples import Examples
from latentode.training.sharing import Share
from latentode.training.streaming import Stream
from tests.conftest import ROOT
from tests.data.tables import make_frame, make_table

SETTINGS = DataSettings(horizon=3.0, windows_per_epoch=37, batch_size=8)


def windows_of(batch):
    """Give series and origin of every window, which tell it from all others."""
    return sorted(zip(batch.series.tolist(), batch.origin.tolist(), strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8])
def test_shares_are_disjoint_and_together_all(n, size):
    shares = [Share(rank, size) for rank in range(size)]
    taken = [share.take(np.arange(n)) for share in shares]
    assert sorted(np.concatenate(taken)) == list(range(n))
    assert [share.count(n) for share in shares] == [len(part) for part in taken]
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


@pytest.mark.parametrize("size", [2, 3])
def test_shares_of_an_epoch_are_the_batches_of_one_process(size):
    data = ForecastingDataModule(SETTINGS, make_table(), seed=3)
    data.setup("fit")
    whole = list(data.epoch(4))
    shares = [list(data.epoch(4, share=Share(rank, size))) for rank in range(size)]
    assert [len(share) for share in shares] == [len(whole)] * size
    for batch, *parts in zip(whole, *shares, strict=True):
        assert windows_of(batch) == sorted(window for part in parts for window in windows_of(part))
        n_targets = sum(int(part.target_observed.sum()) for part in parts)
        assert n_targets == int(batch.target_observed.sum())
    # The last batch of 37 windows by eights has five.
    assert {len(batch) for batch in whole} == {8, 5}


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    make_frame(n_series=14, n_rows=60).to_parquet(folder / "all.parquet", row_group_size=40, index=False)
    settings = DataSettings(path=str(folder), streaming=True, horizon=3.0, windows_per_epoch=216, batch_size=9)
    data = ForecastingDataModule(settings, Examples.of_stream(Stream.of(settings, partition_bytes=1500)))
    data.setup("fit")
    assert len(data.examples.stream.partitions) >= 6
    return data


@pytest.mark.parametrize("size", [1, 2, 3])
def test_partitions_are_divided_and_each_visited_equally_often(streamed, size):
    stream = streamed.examples.stream
    shares = [Share(rank, size) for rank in range(size)]
    visits = [[stream.visits(0, epoch, share) for share in shares] for epoch in range(12)]
    counts = np.bincount(np.concatenate([part for parts in visits for part in parts]))
    assert len(counts) == len(stream.partitions)
    assert counts.max() - counts.min() <= 1
    assert {len(part) for parts in visits for part in parts} == {6 // size}
    # Nobody reads what another trains on; later epochs may go over the end of a round.
    assert len(set(np.concatenate(visits[0]))) == 6


@pytest.mark.parametrize("size", [2, 3])
def test_streamed_shares_go_in_step_and_make_batches_of_the_size_asked_for(streamed, size):
    for epoch in range(2):
        shares = [list(streamed.epoch(epoch, share=Share(rank, size))) for rank in range(size)]
        assert [len(share) for share in shares] == [streamed.n_batches] * size
        assert [sum(map(len, step)) for step in zip(*shares, strict=True)] == [9] * streamed.n_batches
        of_first, of_second = ({window for batch in share for window in windows_of(batch)} for share in shares[:2])
        assert of_first != of_second


def test_a_partition_that_gives_nothing_leaves_processes_in_step(streamed, monkeypatch):
    stream = streamed.examples.stream
    monkeypatch.setattr(type(stream), "batches", lambda self, *a: iter([]))
    batches = list(streamed.epoch(0, share=Share(1, 2)))
    assert [len(batch) for batch in batches] == [0] * streamed.n_batches


def test_fewer_windows_than_processes_are_refused():
    Share(0, 8).check(8)
    with pytest.raises(InputError, match="cannot be divided among 9 processes"):
        Share(0, 9).check(8)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_two(module, *arguments):
    """Run a module in two processes that find each other as Lightning's do."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", module, *arguments]
    workers = [
        subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank)}, stdout=subprocess.DEVNULL, stderr=-1)
        for rank in range(2)
    ]
    complaints = [worker.communicate(timeout=200)[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "".join(complaints)


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path):
    file = tmp_path / "gradients"
    run_two("tests.training.gradients", str(file))
    found = [torch.load(f"{file}.{rank}", weights_only=True) for rank in range(2)]
    for case, (alone, single, joint, ours) in found[0].items():
        assert joint == pytest.approx(alone, rel=1e-12), case
        assert any(g is not None and bool(g.abs().max() > 1e-6) for g in single), case
        for one, two, other in zip(single, ours, found[1][case][3], strict=True):
            # What no process' objective reaches has no gradient in the one and in the other, so that weight decay leaves it alone.
            assert (one is None) == (two is None) == (other is None), case
            if one is not None:
                assert torch.allclose(one, two, rtol=1e-9, atol=1e-12), case
                assert torch.equal(two, other), case


@pytest.mark.slow
def test_a_solve_that_fails_in_one_process_sends_all_back_to_the_same_weights(tmp_path):
    file = tmp_path / "failed"
    run_two("tests.training.failing", str(file))
    one, two = (torch.load(f"{file}.{rank}", weights_only=True) for rank in range(2))
    assert one["n_rollbacks"] == two["n_rollbacks"] == 1
    assert one["rate"] == two["rate"] == 0.5
    assert torch.equal(one["level"], two["level"])
    assert bool(one["level"].isfinite().all())
    # Whoever speaks knows the reason, although it lies in the other process.
    assert any("could not be solved (sample 3 took too many steps)" in said for said in one["heard"]), one["heard"]
