"""Sums over processes: figures are those of one process, however unevenly the batches were dealt out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal

from latentode.data.batch import Batch
from latentode.errors import InputError
from latentode.metrics import METRICS, PitCounts, Totals, horizon_edges
from latentode.training.metrics import CalibrationCounts, ForecastError, ForecastTotals

ROOT = Path(__file__).resolve().parents[2]
N_CHANNELS = 3
NAIVE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def make_batch(n_windows, n_targets, seed):
    """Give a batch of made-up targets and a forecast of them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n_windows, n_targets)
    value, mean = torch.randn(*shape, generator=generator), torch.randn(*shape, generator=generator)
    nothing = torch.zeros(n_windows, 1)
    batch = Batch(
        token_time=nothing,
        token_value=nothing,
        token_channel=nothing.long(),
        token_observed=nothing > 0,
        query_time=torch.rand(n_windows, 4, generator=generator).sort(1).values,
        query_observed=torch.ones(n_windows, 4, dtype=torch.bool),
        target_row=torch.randint(0, 4, shape, generator=generator),
        target_channel=torch.randint(0, N_CHANNELS, shape, generator=generator),
        target_value=value,
        target_observed=torch.rand(*shape, generator=generator) < 0.6,
        origin=nothing[:, 0],
        series=torch.zeros(n_windows, dtype=torch.int64),
        n_channels=N_CHANNELS,
    )
    return Normal(mean, 0.5 + torch.rand(*shape, generator=generator)), batch


# Of unlike sizes, and an odd number of them.
BATCHES = [(5, 7), (1, 30), (16, 2), (3, 3), (8, 11)]


def all_batches():
    return [make_batch(*size, seed) for seed, size in enumerate(BATCHES)]


def new_metrics():
    totals = ForecastTotals(N_CHANNELS, naive_error=NAIVE)
    errors = [
        ForecastError(N_CHANNELS, name, average) for name in ("mse", "rmse", "nll") for average in ("macro", "pooled")
    ]
    return totals, errors, CalibrationCounts(N_CHANNELS)


def compute_on(batches):
    """Give all figures after these batches, as plain lists; the processes of a group add their sums up."""
    totals, errors, calibration = new_metrics()
    for forecast, batch in batches:
        for metric in (totals, *errors, calibration):
            metric.update(forecast, batch)
    figures = {name: float(figure) for name, figure in totals.compute().items()}
    actual = calibration.compute()[1].tolist()
    return figures, [float(error.compute()) for error in errors], actual


def test_figures_are_those_of_totals():
    totals = Totals.zero(N_CHANNELS, edges=horizon_edges(), naive_error=NAIVE)
    pit = PitCounts.zero(N_CHANNELS)
    for forecast, batch in all_batches():
        targets = (batch.target_value, batch.target_channel, batch.target_observed)
        totals.add(forecast, *targets, lead=batch.query_time.gather(1, batch.target_row))
        pit.add(forecast, *targets)
    figures, errors, actual = compute_on(all_batches())
    assert set(figures) == {f"{name}_{average}" for name in METRICS for average in ("macro", "pooled")}
    for name in METRICS:
        assert figures[f"{name}_macro"] == totals.macro(name)
        assert figures[f"{name}_pooled"] == totals.pooled(name)
    expected = [figure for name in ("mse", "rmse", "nll") for figure in (totals.macro(name), totals.pooled(name))]
    assert errors == pytest.approx(expected, rel=1e-12)
    assert actual == pit.summary()["actual"]


def test_bins_are_kept_and_reset_forgets():
    totals, *_ = new_metrics()
    for forecast, batch in all_batches():
        totals.update(forecast, batch)
    kept = totals.totals()
    assert kept.count.shape == (N_CHANNELS, 4)
    assert float(kept.count.sum()) == sum(int(batch.target_observed.sum()) for _, batch in all_batches())
    totals.reset()
    assert float(totals.totals().count.sum()) == 0


def test_the_value_of_a_single_batch_does_not_disturb_the_sums():
    one, other = ForecastError(N_CHANNELS), ForecastError(N_CHANNELS)
    for forecast, batch in all_batches():
        of_batch = one(forecast, batch)
        other.update(forecast, batch)
        alone = ForecastError(N_CHANNELS)
        alone.update(forecast, batch)
        assert float(of_batch) == float(alone.compute())
    assert float(one.compute()) == float(other.compute())


def test_sums_stay_in_double_precision_whatever_the_module_is_cast_to():
    metric = ForecastError(N_CHANNELS)
    torch.nn.ModuleList([metric]).half()
    assert metric.total.dtype == metric.count.dtype == torch.float64


@pytest.mark.parametrize("name", ["coverage", "mase"])
def test_what_is_no_single_number_is_refused(name):
    with pytest.raises(InputError, match="not a single number"):
        ForecastError(N_CHANNELS, name)


WORKER = """
import json, sys, torch.distributions, torch.distributed as dist
from tests.training.test_metrics import DEALS, all_batches, compute_on
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{file}.store", rank=rank, world_size=2)
batches = all_batches()
figures = [compute_on([batches[i] for i in deal[rank]]) for deal in DEALS]
with open(f"{file}.{rank}", "w") as out:
    json.dump(figures, out)
dist.barrier()
dist.destroy_process_group()
"""
# Which process scores which batches: uneven in number and in size, and all to one.
DEALS = [[[0, 1, 2, 3], [4]], [[1, 3], [0, 2, 4]], [[0, 1, 2, 3, 4], []]]


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(tmp_path):
    file = tmp_path / "figures"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen([*command, str(rank), str(file)], env=environment, stderr=subprocess.PIPE) for rank in range(2)
    ]
    complaints = [worker.communicate(timeout=200)[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], complaints
    expected = compute_on(all_batches())
    for rank in range(2):
        found = json.loads(file.with_name(f"figures.{rank}").read_text())
        assert len(found) == len(DEALS)
        for figures, errors, actual in found:
            assert figures == pytest.approx(expected[0], rel=1e-12)
            assert errors == pytest.approx(expected[1], rel=1e-12)
            assert actual == pytest.approx(expected[2], rel=1e-12)
