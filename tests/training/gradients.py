"""Run in two processes: the gradient of a batch in one process, and of the same batch in both together.

`python -m tests.training.gradients FILE` writes `FILE.<rank>`, with the environment that Lightning reads.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from latentode.data.settings import DataSettings
from latentode.models import (
    ODERNN,
    AttentionEncoder,
    GRUODEBayes,
    LatentODE,
    LinearField,
    MLPField,
    MultipleShooting,
    ODERNNEncoder,
)
from latentode.models.interfaces import ForecastModel, Posterior
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.sharing import Share
from latentode.training.task import ForecastingTask
from tests.data.tables import make_table

SIZES = (7, 2, 1)  # windows of a batch for two processes: uneven, one each, one of them without
SETTINGS = DataSettings(horizon=3.0, windows_per_epoch=32, batch_size=8)


class Own(ForecastModel):
    """A user's model, which says its loss and no more: it takes a mean over windows."""

    def setup(self, schema):
        self.level = nn.Parameter(torch.zeros(len(schema.channels)))

    def forward(self, batch):
        raise NotImplementedError

    def loss(self, batch):
        error = torch.where(batch.target_observed, self.level[batch.target_channel] - batch.target_value, 0.0)
        return error.square().sum(1).mean()


def latent(**settings):
    encoder = AttentionEncoder(hidden_size=8, n_heads=2, dropout=0.0)
    common = {"latent_size": 3, "context_size": 6, "has_companion": False, "dynamics": LinearField()}
    return LatentODE(**{"encoder": encoder, **common, **settings})


# Every kind of mean that a loss is made of.
CASES = {
    "score": latent,
    "members": lambda: latent(n_members=2, balance=1.0),
    "bound": lambda: latent(objective="elbo", kl_weight=0.3),
    "cost of a path": lambda: latent(dynamics=MLPField(hidden_size=8, kinetic_energy=0.5, step_size=0.25)),
    "segments": lambda: latent(dynamics=MultipleShooting(MLPField(hidden_size=8, step_size=0.25), n_segments=3)),
    "one state": lambda: latent(encoder=ODERNNEncoder(hidden_size=8)),
    "history": lambda: GRUODEBayes(hidden_size=6, prep_size=2, has_companion=False, history_weight=0.4),
    "hidden state": lambda: ODERNN(hidden_size=6, field_size=8, context_size=6, has_companion=False),
    "own": Own,
}


class Loss(nn.Module):
    """What DDP wraps."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def forward(self, batch):
        return self.task._loss(batch)


def as_double(batch):
    columns = {f.name: getattr(batch, f.name) for f in fields(batch)}
    floats = {k: x.double() for k, x in columns.items() if isinstance(x, torch.Tensor) and x.is_floating_point()}
    return replace(batch, **floats)


def make_task(make, data):
    torch.manual_seed(0)
    task = ForecastingTask(make())
    task.build(data)
    task.double().train()
    for part in task.network.modules():
        if hasattr(part, "at_progress"):
            part.at_progress(0.1)
    # Untrained, the residual is 0 and most gradients are.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in task.network.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return task


def gradient(task, module, batch):
    task.zero_grad()
    loss = module(batch)
    loss.backward()
    return float(loss.detach()), [None if p.grad is None else p.grad.clone() for p in task.network.parameters()]


def main(file):
    # Draws are each process' own, so that with them gradients are equal in the mean alone.
    Posterior.rsample = lambda self: self.mean
    trainer = pl.Trainer(strategy="ddp", devices=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.setup_environment()
    data = ForecastingDataModule(SETTINGS, make_table())
    data.setup("fit")
    found = {}
    for name, make in CASES.items():
        task = make_task(make, data)
        task.trainer = trainer
        together = DistributedDataParallel(Loss(task), find_unused_parameters=True)
        for n in SIZES:
            windows = data.examples.draw(np.random.default_rng(n))
            whole, share = (
                data.reader.read(windows.take(i)) for i in (np.arange(n), Share.of(trainer).take(np.arange(n)))
            )
            alone = gradient(task, task.network.loss, as_double(whole))
            found[f"{name}, {n} windows"] = (*alone, *gradient(task, together, as_double(share)))
    torch.save(found, f"{file}.{trainer.global_rank}")
    trainer.strategy.barrier()


if __name__ == "__main__":
    main(sys.argv[1])
