"""What processes that train together make of one batch: each reads its share of the windows, and all lower the loss of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import Strategy
from torch import Tensor

from latentode.errors import InputError
from latentode.models.objectives import Mean

MOST_MEANS = 8  # of one loss; processes exchange as many numbers, whether they have so many or not


@dataclass(frozen=True)
class Share:
    """The part of every batch that one process reads.

    Attributes:
        rank: of the process.
        size: how many processes there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, trainer: pl.Trainer | None) -> Share:
        """Give the share of this process; all of it without a trainer."""
        return WHOLE if trainer is None else cls(trainer.global_rank, trainer.world_size)

    def take(self, windows: np.ndarray) -> np.ndarray:
        """Give every `size`-th of a batch's windows, so that the wide ones of a batch go to all; none where there are too few."""
        return windows[self.rank :: self.size]

    def count(self, n: int) -> int:
        """Give how many of `n` windows `take` gives."""
        return len(range(self.rank, n, self.size))

    def check(self, n: int) -> None:
        """Refuse batches of fewer windows than there are processes.

        Raises:
            InputError: some process would never have anything to do.
        """
        if n < self.size:
            raise InputError(
                f"batches of {n} window(s) cannot be divided among {self.size} processes; raise --data.batch_size "
                "(and --data.windows_per_epoch), or train on fewer (--trainer.devices, --trainer.num_nodes)."
            )


WHOLE = Share()


def joint_loss(means: Sequence[Mean], strategy: Strategy, n_processes: int) -> Tensor:
    """Give the loss of the batch that all processes hold together.

    Its value is the same in all of them. Its gradient is that of this process' part times `n_processes`: strategies average gradients over
    processes, and the average is then the gradient of the joint batch, however many values each holds. Every process must call this once
    per step.

    Args:
        means: of this process' share; none where the share is empty.
        strategy: adds numbers up.
        n_processes: that train together.

    Returns:
        0-d; without gradient where `means` is empty.
    """
    assert len(means) <= MOST_MEANS
    sums = torch.zeros(2, MOST_MEANS, device=strategy.root_device, dtype=means[0].total.dtype if means else None)
    for i, mean in enumerate(means):
        sums[0, i], sums[1, i] = mean.total.detach(), mean.count
    sums = strategy.reduce(sums, reduce_op="sum")
    assert isinstance(sums, Tensor)
    joint = [Mean(total, count) for total, count in sums.unbind(1)]
    value = torch.stack([mean.value for mean in joint]).sum()
    if not means:
        return value
    own = torch.stack([Mean(mine.total, ours.count).value for mine, ours in zip(means, joint, strict=False)]).sum()
    return n_processes * own + (value - n_processes * own).detach()
