"""What a fit reads: a table, its windows, and a scaler that has seen the training part alone.

A user's table is cut by its settings and its training windows are drawn anew every epoch; a benchmark's `Task` comes with its windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from latentode.data.calendar import with_calendar
from latentode.data.protocols import Task
from latentode.data.scaling import Scaler
from latentode.data.seen import Seen
from latentode.data.settings import DataSettings
from latentode.data.tables import Table
from latentode.data.windows import Between, Rows, Spans, Split, TrainingOrigins, Windows, heldout_windows, make_split
from latentode.errors import DataError
from latentode.training.streaming import Stream

# Windows that every epoch is validated on: enough to tell models apart, however long the table.
MAX_VALIDATION = 1 << 15
# Of a benchmark's epoch: with fewer steps the schedule would be over before anything is learned.
MIN_BATCHES, MIN_BATCH = 64, 16


@dataclass(frozen=True)
class Examples:
    """Training, validation and test of one fit.

    Attributes:
        table: all of the data.
        settings: of the data, as they hold for these windows.
        spans: horizon and history.
        scaler: of the training part.
        draw: gives the training windows of an epoch, in random order.
        validation, test: their windows, the same in every epoch.
        target_channels: positions of the channels that are forecast; None: those that training saw.
        notes: what is to be said about the windows.
        stream: where training batches come from, of a table that is not in memory; `table` is then a sample of its series.
        seen: up to when the fit reads each series; None: of a stream or a benchmark, where nobody keeps it.
        laid: training windows that bases and baselines are fitted on; None: those of a first epoch.
    """

    table: Table
    settings: DataSettings
    spans: Spans
    scaler: Scaler
    draw: Callable[[np.random.Generator], Windows]
    validation: Windows
    test: Windows
    target_channels: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    stream: Stream | None = None
    seen: Seen | None = None
    laid: Windows | None = None

    @classmethod
    def of_table(cls, table: Table, settings: DataSettings) -> Examples:
        """Cut a table by its settings."""
        spans, split = Spans.of(table, settings), make_split(table, settings)
        train_rows = split.train_rows(table)
        table = with_calendar(table.with_categories_of(train_rows), settings.calendar, train_rows)
        scaler = Scaler.of_rows(table, train_rows, spans.horizon, scaling=settings.scaling)
        return replace(cls._cut(table, settings, spans, split, scaler), seen=Seen.of(table, split))

    @classmethod
    def of_stream(cls, stream: Stream) -> Examples:
        """Take validation and test from the sample of a partitioned table that is in memory."""
        table, split = stream.sample()
        examples = cls._cut(table, stream.settings, stream.spans, split, stream.scaler)
        return replace(examples, stream=stream)

    @classmethod
    def _cut(cls, table: Table, settings: DataSettings, spans: Spans, split: Split, scaler: Scaler) -> Examples:
        rows = Rows.of(table)
        origins = TrainingOrigins.of(table, split, spans, rows)

        def draw(rng: np.random.Generator) -> Windows:
            return origins.draw(rng, settings.windows_per_epoch)

        validation, test = (heldout_windows(table, split, part, spans, rows=rows) for part in ("val", "test"))
        validation, notes = _at_most(MAX_VALIDATION, validation)
        return cls(table, settings, spans, scaler, draw, validation, test, notes=notes)

    def digest(self) -> str:
        """Give the digest of the whole table."""
        return self.table.digest() if self.stream is None else self.stream.survey.fingerprint.hexdigest()

    @classmethod
    def of_task(cls, task: Task, settings: DataSettings) -> Examples:
        """Take the windows of a benchmark: all training windows in every epoch, where they are few several times, at moved origins.

        Raises:
            DataError: the task has no training window.
        """
        if len(task.train) == 0:
            raise DataError(f"{task.table.source}: the protocol leaves no training window; look at the data it reads.")

        between = Between.of(task.table, task.train)
        batch_size = _batch_size(len(task.train), settings.batch_size)
        n_windows = max(len(task.train), MIN_BATCHES * batch_size)

        def draw(rng: np.random.Generator) -> Windows:
            return between.draw(rng, n_windows)

        return cls(
            task.table,
            replace(settings, max_history=task.max_history, windows_per_epoch=n_windows, batch_size=batch_size),
            Spans(task.scaler.time_scale, None, is_chosen=False),
            task.scaler,
            draw,
            task.validation,
            task.test,
            task.target_channels,
            task.notes,
            laid=task.train,
        )


def _batch_size(n_windows: int, at_most: int) -> int:
    """Give batches of few windows where there are few: `MIN_BATCHES` in one pass, but not below `MIN_BATCH` windows."""
    return min(at_most, max(MIN_BATCH, -(-n_windows // MIN_BATCHES)))


def _at_most(n: int, windows: Windows) -> tuple[Windows, tuple[str, ...]]:
    """Give `n` of the windows where there are more, drawn by a constant seed, so that every run on a table is judged on the same ones."""
    if len(windows) <= n:
        return windows, ()
    drawn = np.sort(np.random.default_rng(0).permutation(len(windows))[:n])
    return windows.take(drawn), (f"Validation is on {n:,} of its {len(windows):,} windows, drawn once for all runs.",)
