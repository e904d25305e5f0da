"""Run in two processes: a fit in which a solve fails in the second process alone.

`python -m tests.training.failing FILE` writes `FILE.<rank>`.
"""

from __future__ import annotations

import logging
import sys

import pytorch_lightning as pl
import torch

from latentode.errors import SolveError
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.fitting import TRAINER_DEFAULTS, quiet_lightning
from latentode.training.task import ForecastingTask
from tests.data.tables import make_table
from tests.training.gradients import SETTINGS
from tests.training.test_rescue import Level

FAILS_AT = 6  # of 4 steps per epoch


class Failing(Level):
    n_losses = 0

    def loss(self, batch):
        self.n_losses += 1
        if self.n_losses == FAILS_AT and torch.distributed.get_rank() == 1:
            raise SolveError("sample 3 took too many steps")
        return super().loss(batch)


class Listener(logging.Handler):
    def __init__(self):
        super().__init__()
        self.heard = []

    def emit(self, record):
        self.heard.append(record.getMessage())


def main(file):
    listener = Listener()
    logging.getLogger("latentode").addHandler(listener)
    with quiet_lightning():
        pl.seed_everything(0, verbose=False)
        task, data = ForecastingTask(Failing()), ForecastingDataModule(SETTINGS, make_table())
        options = {**TRAINER_DEFAULTS, "max_epochs": 3, "accelerator": "cpu", "devices": 2, "strategy": "ddp"}
        trainer = pl.Trainer(**options, enable_checkpointing=False)
        task.build(data)
        trainer.fit(task, datamodule=data)
    level = task.network.level.detach()
    found = {
        "level": level,
        "n_rollbacks": task.rescue.n_rollbacks,
        "heard": listener.heard,
        "rate": task.rescue.rate_factor,
    }
    torch.save(found, f"{file}.{trainer.global_rank}")
    trainer.strategy.barrier()


if __name__ == "__main__":
    main(sys.argv[1])
