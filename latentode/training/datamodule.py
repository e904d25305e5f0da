"""Feeds the task: reads the table, cuts it, and draws new training windows every epoch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from latentode.data.batch import Batch, WindowReader
from latentode.data.partitions import suggest_streaming
from latentode.data.settings import DataSettings
from latentode.data.tables import Table, read_table
from latentode.data.windows import Windows
from latentode.errors import DataError, InputError
from latentode.models.fitted import READ_AT_ONCE, read_batches
from latentode.training.batching import like_lengths
from latentode.training.examples import Examples
from latentode.training.sharing import WHOLE, Share
from latentode.training.streaming import Stream

_log = logging.getLogger(__name__)

KEPT = 16  # validation batches that stay in memory; where there are more, they are made anew every time


class EpochBatches:
    """The training batches of one epoch after another, a function of seed and epoch only.

    Its state stands in Lightning's checkpoints: an epoch that was cut off goes on with the batch that would have come next.
    """

    def __init__(self, data: ForecastingDataModule) -> None:
        self.data = data
        self._epoch, self._position = 0, 0
        self._resumed: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self.data.n_batches

    def __iter__(self) -> Iterator[Batch]:
        trainer = self.data.trainer
        self._epoch = trainer.current_epoch if trainer else 0
        epoch, position = self._resumed or (0, 0)
        self._position = position if epoch == self._epoch and position < len(self) else 0
        self._resumed = None
        batches = self.data.epoch(self._epoch, first=self._position, share=Share.of(trainer))
        for batch in islice(batches, len(self) - self._position):
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Give the seed, the epoch and the number of its batches that were given."""
        return {"seed": self.data.seed, "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there; under another seed the batches are others, so that an epoch begins anew."""
        self._resumed = (state["epoch"], state["position"]) if state["seed"] == self.data.seed else None


class HeldoutBatches(Sequence[Batch]):
    """Batches of validation windows of like length, in an order that depends on nothing but the windows; few are made once.

    Of several processes each has its share of every batch, which may be empty.
    """

    def __init__(self, data: ForecastingDataModule, share: Share = WHOLE) -> None:
        self.data = data
        windows = data.validation
        order = np.argsort(data.reader.count_widths(windows), kind="stable")
        starts = range(0, len(order), READ_AT_ONCE)
        self.parts = [windows.take(share.take(order[i : i + READ_AT_ONCE])) for i in starts]
        self.made = [data.reader.read(part) for part in self.parts] if len(self.parts) <= KEPT else []

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, i: int) -> Batch:  # pyright: ignore[reportIncompatibleMethodOverride]  slices are not asked for
        return self.made[i] if self.made else self.data.reader.read(self.parts[i])


class ForecastingDataModule(pl.LightningDataModule):
    """Reads a table by its settings and gives batches of windows.

    Args:
        settings: which columns, which windows, which split.
        data: a table that was read before, or the examples of a benchmark; left out, `settings.path` is read.
        seed: of the drawn windows.
    """

    def __init__(self, settings: DataSettings, data: Table | Examples | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        self.seed = seed
        self._given = data
        self.notes: list[str] = []
        self._batches = EpochBatches(self)

    def setup(self, stage: str) -> None:
        """Read and cut the table, fit the scaler.

        Raises:
            DataError: nothing trainable remains.
        """
        if hasattr(self, "reader"):
            return
        self.examples = self._read()
        self.reader = WindowReader(
            self.examples.table,
            self.examples.scaler,
            max_history=self.examples.settings.max_history,
            target_channels=self.examples.target_channels,
        )
        first = self._draw_first()
        if len(first) == 0 or len(self.reader.target_channels) == 0:
            raise DataError(
                f"{self.examples.table.source}: the training part holds no window with a value to read and a value to forecast; "
                "choose another horizon (--data.horizon) or hold out less (--data.val_fraction, --data.test_fraction)."
            )
        stream, settings = self.examples.stream, self.examples.settings
        self.n_windows = settings.windows_per_epoch if stream else len(first)
        self.n_batches = -(-self.n_windows // settings.batch_size)
        self.validation = self.examples.validation
        self._note(first)
        self._heldout = HeldoutBatches(self)

    def _read(self) -> Examples:
        if isinstance(self._given, Examples):
            return self._given
        if self._given is None and self.settings.streaming:
            return Examples.of_stream(Stream.of(self.settings))
        return Examples.of_table(
            self._given if self._given is not None else read_settings(self.settings), self.settings
        )

    def _note(self, first: Windows) -> None:
        """Say what a user would want to know before trusting the fit."""
        schema = self.examples.table.schema
        self.notes += [*self.examples.table.report.notes, *self.examples.notes]
        channels = schema.target_channels
        seen = {schema.channels[i] for i in self.reader.target_channels}
        left_out = [name for name in channels if name not in seen]
        if left_out:
            self.notes.append(
                f"{len(left_out)} channel(s) without a value in the training part are not forecast: {', '.join(left_out)}."
            )
        if len(self.validation) == 0:
            self.notes.append(
                "The validation part holds no window, so training windows stand in for it; hold out more."
            )
            self.validation = first

    def _draw_first(self) -> Windows:
        return self.examples.draw(np.random.default_rng(self.seed))

    def epoch(self, epoch: int, *, first: int = 0, share: Share = WHOLE) -> Iterator[Batch]:
        """Give the training batches of an epoch from number `first` on; those before it are not made, unless they are streamed.

        The shares of several processes are together the batches of one; of a stream they are other windows, since each process reads
        other partitions.
        """
        if self.examples.stream is not None:
            batches = self.examples.stream.batches(self.seed, epoch, share)
            if share.size > 1:
                # Partitions may give less than was hoped for, but processes go in step.
                batches = chain(batches, repeat(self.reader.read(self.validation.take(np.arange(0)))))
            return islice(batches, first, self.n_batches)
        rng = np.random.default_rng([self.seed, epoch])
        windows = self.examples.draw(rng)
        parts = like_lengths(self.reader.count_widths(windows), self.examples.settings.batch_size, rng)
        return (self.reader.read(windows.take(share.take(index))) for index in parts[first:])

    def preparation_batches(self) -> Iterable[Batch]:
        """Give the training windows from which a model takes what it fits before training."""
        if self.examples.stream is not None:
            return self.examples.stream.batches(self.seed, 0)
        laid = self.examples.laid
        return read_batches(self.reader, self._draw_first() if laid is None else laid, READ_AT_ONCE)

    def validation_batches(self) -> Sequence[Batch]:
        """Give all validation windows."""
        return self._heldout

    def release(self) -> None:
        """Give up what batches are made with; of a large table it takes half as much memory as the table."""
        del self.reader, self._heldout

    def train_dataloader(self) -> EpochBatches:
        """Give the batches of an epoch.

        Raises:
            InputError: they have fewer windows than processes train together.
        """
        Share.of(self.trainer).check(min(self.examples.settings.batch_size, self.n_windows))
        return self._batches

    def state_dict(self) -> dict[str, int]:
        """Give where the epoch stands."""
        return self._batches.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on from there."""
        # Lightning itself hands a loader its state only where the loader was not asked for before the checkpoint was read, but the
        # schedule of the learning rate has asked it for its length by then.
        self._batches.load_state_dict(state_dict)

    def val_dataloader(self) -> Sequence[Batch]:
        """Give this process' share of the validation batches (in no loader of torch's, which Lightning would deal out anew)."""
        share = Share.of(self.trainer)
        return self._heldout if share.size == 1 else HeldoutBatches(self, share)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch."""
        return batch.to(device, non_blocking=True)


def read_settings(settings: DataSettings) -> Table:
    """Read the table that the settings name.

    Raises:
        InputError: they name none.
    """
    if settings.path is None:
        raise InputError("no table was named; give one with --data.path data.csv.")
    remark = suggest_streaming(settings.path)
    if remark is not None:
        # At once: a note among the others would come after the memory has run out.
        _log.warning(remark)
    return read_table(Path(settings.path), **settings.reading())
