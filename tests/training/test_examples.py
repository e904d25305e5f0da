"""The examples of a benchmark: enough steps of few windows, and one pass over many as they are."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.data.assembly import assemble
from latentode.data.settings import DataSettings
from latentode.data.windows import Windows
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.examples import MIN_BATCHES, Examples
from tests.data.tables import make_table


def task_of(n_series):
    """One training window per series, of 15 rows."""
    table = make_table(n_series=n_series, n_rows=15)
    series = np.arange(n_series)
    origin = table.time[(table.starts[:-1] + table.starts[1:]) // 2]
    windows = Windows(series, origin, origin + 100.0, np.full(n_series, -np.inf))
    return assemble(table, [windows, windows.take(series[:2]), windows.take(series[2:4])], time_scale=3.0)


@pytest.mark.parametrize(("n_series", "batch_size"), [(10, 16), (1200, 19)])
def test_few_windows_are_gone_through_several_times_in_small_batches(n_series, batch_size):
    examples = Examples.of_task(task_of(n_series), DataSettings(batch_size=64))
    drawn = examples.draw(np.random.default_rng(0))
    assert examples.settings.batch_size == batch_size
    assert len(drawn) == examples.settings.windows_per_epoch == MIN_BATCHES * batch_size
    counts = np.bincount(drawn.series, minlength=n_series)
    assert counts.max() - counts.min() <= 1
    module = ForecastingDataModule(examples.settings, examples)
    module.setup("fit")
    assert module.n_batches == len(list(module.epoch(0))) == MIN_BATCHES
    # What is fitted before training sees each window once: counts of values are evidence there.
    assert sum(len(batch) for batch in module.preparation_batches()) == n_series


def test_many_windows_are_seen_once_in_batches_as_asked_for():
    n_series = 2 * MIN_BATCHES
    examples = Examples.of_task(task_of(n_series), DataSettings(batch_size=2))
    assert examples.settings.batch_size == 2
    assert sorted(examples.draw(np.random.default_rng(0)).series) == list(range(n_series))
