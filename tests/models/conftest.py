"""A small table, its reader and a batch, shared by the model tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from latentode.data.batch import Batch, WindowReader
from latentode.data.scaling import Scaler
from latentode.data.settings import DataSettings
from latentode.data.tables import Table
from latentode.data.windows import Spans, Split, Windows, heldout_windows, make_split, training_windows
from latentode.models.smoothing import hide
from tests.data.tables import make_table


@dataclass(frozen=True)
class Prepared:
    table: Table
    settings: DataSettings
    split: Split
    spans: Spans
    scaler: Scaler
    reader: WindowReader
    windows: Windows
    batch: Batch
    validation: Batch


def prepare(table, *, horizon: float | str = 3.0, n=24, max_history=512):
    settings = DataSettings(horizon=horizon)
    split, spans = make_split(table, settings), Spans.of(table, settings)
    scaler = Scaler.fit(table, split, spans.horizon)
    reader = WindowReader(table, scaler, max_history=max_history)
    windows = training_windows(table, split, spans, np.random.default_rng(0), n)
    validation = reader.read(heldout_windows(table, split, "val", spans))
    return Prepared(table, settings, split, spans, scaler, reader, windows, reader.read(windows), validation)


def perturb(model, seed=0):
    """Move every parameter away from its start, so that the residual is not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model.eval()


@torch.no_grad()
def whole_loss(model, batch):
    """Give what training lowers, on histories of which nothing is hidden and with every unit there."""
    return float(model.eval().loss(batch))


def make_model(prepared, build, **settings):
    """Give an untrained model with its base fitted, its weights drawn from seed 0."""
    torch.manual_seed(0)
    model = build(**settings)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    return model.eval()


def check_smoothing_of_rows_alone(model, prepared):
    """Assert that what lies inside a history is told for a row alone as for a row among others."""
    model.calibrate([prepared.validation])
    batch = hide([prepared.validation])[0]
    said = model.smooth(batch)
    for b in (0, len(batch) - 1):
        seen = batch.target_observed[b]
        alone = model.smooth(batch.take(torch.tensor([b])))
        assert alone.mean[0][seen].isfinite().all()
        assert torch.allclose(alone.mean[0][seen], said.mean[b][seen], atol=2e-3)


@pytest.fixture(scope="session")
def prepared():
    return prepare(make_table(n_channels=3))
