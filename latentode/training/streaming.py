"""Training on a table that is larger than memory: its statistics in one pass, then each epoch some of its partitions.

What is validated and tested on, and what chooses the horizon, is a sample of whole series that stays in memory; of a table that fits
into the sample it is everything, so that a small folder is fitted on the same windows whether it is streamed or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentode.data.batch import Batch, WindowReader, target_positions
from latentode.data.calendar import Stamps, schema_with_calendar
from latentode.data.fingerprint import Fingerprint
from latentode.data.horizon import horizon_of, spans_and_gaps
from latentode.data.moments import ChannelMoments
from latentode.data.partitions import Partitions, join
from latentode.data.row_counts import Rows
from latentode.data.scaling import Scaler, moments_of_rows
from latentode.data.settings import DataSettings
from latentode.data.tables import Table
from latentode.data.windows import Spans, Split, TrainingOrigins, count_teaching, draw_roles, make_split
from latentode.errors import DataError
from latentode.training.batching import like_lengths
from latentode.training.sharing import WHOLE, Share

SAMPLE_ROWS = 1 << 20  # rows of the series that stay in memory
BATCHES_PER_VISIT = 4  # at least, on average: a partition is not read for a handful of windows
BUFFERED_WINDOWS = 4096  # windows whose batches are shuffled together
# What a generator is for; a stream of numbers of its own for each.
_ROUND, _VISIT, _BUFFER, _SAMPLE = range(4)


@dataclass(frozen=True)
class Survey:
    """What one pass over all partitions tells.

    Attributes:
        moments: of the values of the training rows.
        stamps: of the training rows.
        fingerprint: of the table.
        n_values: observed values.
        n_long: series of two rows or more.
        n_teaching: rows of each partition from which something can be trained, `(P,)`.
        sample: whole series, at most `SAMPLE_ROWS` rows of them (one series at least).
        sampled: their positions among all series.
    """

    moments: ChannelMoments
    stamps: Stamps
    fingerprint: Fingerprint
    n_values: int
    n_long: int
    n_teaching: np.ndarray
    sample: Table
    sampled: np.ndarray

    @classmethod
    def of(cls, partitions: Partitions, settings: DataSettings, role: np.ndarray | None) -> Survey:
        """Read every partition once; `role` as for `split_of`."""
        n_channels = len(partitions.schema.channels)
        moments, fingerprint = ChannelMoments.zero(n_channels), Fingerprint(partitions.schema.channels, 0, 0)
        stamps, n_values, n_long, n_teaching = Stamps.none(), 0, 0, []
        looks_at_dates = settings.calendar == "auto" and partitions.schema.time_kind == "datetime"
        # Drawn by a constant seed, so that every run on a table is judged on the same series: those with the least keys.
        key = np.random.default_rng([0, _SAMPLE]).random(partitions.n_series)
        sample = _Sample(key)
        for i, table in enumerate(partitions):
            split = split_of(table, settings, role, partitions.series(i))
            train_rows = split.train_rows(table)
            moments += moments_of_rows(table, train_rows)
            if looks_at_dates:
                stamps += Stamps.of(table, train_rows)
            fingerprint += table.fingerprint()
            n_values += table.report.n_values
            n_long += int((np.diff(table.starts) > 1).sum())
            n_teaching.append(count_teaching(table, split, Rows.of(table)))
            sample.add(table, np.arange(partitions.n_series)[partitions.series(i)])
        kept, sampled = sample.table()
        return cls(moments, stamps, fingerprint, n_values, n_long, np.asarray(n_teaching), kept, sampled)


class _Sample:
    """Keeps the series with the least keys, as many as `SAMPLE_ROWS` rows hold."""

    def __init__(self, key: np.ndarray) -> None:
        self.key = key
        self.parts: list[tuple[Table, np.ndarray]] = []

    def add(self, table: Table, series: np.ndarray) -> None:
        """Add the series of a table, and give up those that are no longer among the least."""
        self.parts.append((table, series))
        n_rows = np.concatenate([np.diff(part.starts) for part, _ in self.parts])
        key = self.key[np.concatenate([series for _, series in self.parts])]
        order = np.argsort(key, kind="stable")
        is_kept = np.zeros(len(key), dtype=bool)
        is_kept[order[np.cumsum(n_rows[order]) <= SAMPLE_ROWS]] = True
        is_kept[order[0]] = True
        bounds = np.cumsum([len(series) for _, series in self.parts])[:-1]
        kept = [np.flatnonzero(part) for part in np.split(is_kept, bounds)]
        self.parts = [
            (part if len(at) == part.n_series else part.select(at), series[at])
            for (part, series), at in zip(self.parts, kept, strict=True)
            if len(at)
        ]

    def table(self) -> tuple[Table, np.ndarray]:
        """Give the series as one table, and their positions."""
        return join([table for table, _ in self.parts]), np.concatenate([series for _, series in self.parts])


def _generator(seed: int, use: int, epoch: int, share: Share) -> np.random.Generator:
    # That of the first process is that of a single one.
    return np.random.default_rng([seed, use, epoch, *([share.rank] if share.rank else [])])


def split_of(table: Table, settings: DataSettings, role: np.ndarray | None, series: slice | np.ndarray) -> Split:
    """Cut a part of a table as the whole table is cut.

    Args:
        table: the part.
        settings: of the split.
        role: of every series of the whole, where whole series are held out.
        series: positions of the part's series.
    """
    return make_split(table, settings, role=None if role is None else role[series])


@dataclass(frozen=True)
class Stream:
    """The training batches of a partitioned table: a function of seed and epoch.

    Attributes:
        partitions: of the table.
        survey: of the table.
        settings: of the data.
        spans: horizon and history.
        scaler: of the training rows.
        role: of every series, where whole series are held out.
    """

    partitions: Partitions
    survey: Survey
    settings: DataSettings
    spans: Spans
    scaler: Scaler
    role: np.ndarray | None

    @classmethod
    def of(cls, settings: DataSettings, **kwargs: Any) -> Stream:
        """Go through the table once; `kwargs` are of `Partitions.of`.

        Raises:
            DataError: the table cannot be streamed, or nothing trainable is in it.
        """
        partitions = Partitions.of(settings, **kwargs)
        source = partitions.groups.source
        role = None
        if settings.split == "series":
            role = draw_roles(partitions.series_ids, settings, source)
        survey = Survey.of(partitions, settings, role)
        if not survey.n_teaching.any():
            raise DataError(
                f"{source}: the training part holds no value to read that is followed by a value to forecast; hold out less "
                "(--data.val_fraction, --data.test_fraction)."
            )
        spans = Spans.given(
            partitions.schema,
            settings,
            lambda: horizon_of(*spans_and_gaps(survey.sample), survey.n_long, partitions.schema, source),
        )
        scaler = Scaler.of_moments(survey.moments, spans.horizon)
        schema = schema_with_calendar(partitions.schema, settings.calendar, survey.stamps, source=source)
        partitions = replace(partitions, schema=schema)
        survey = replace(survey, sample=replace(survey.sample, schema=schema))
        return cls(partitions, survey, settings, spans, scaler, role)

    @property
    def n_batches(self) -> int:
        """Batches of an epoch; all are full, so it may hold some windows more than `windows_per_epoch`."""
        return -(-self.settings.windows_per_epoch // self.settings.batch_size)

    def visits(self, seed: int, epoch: int, share: Share = WHOLE) -> np.ndarray:
        """Give the partitions that a process draws from in an epoch, in order.

        The visits of all epochs and processes go through one shuffle of the partitions after another, so that each is visited equally
        often, although an epoch of few windows visits few.
        """
        teaching = np.flatnonzero(self.survey.n_teaching)
        n = max(min(len(teaching), self.n_batches // BATCHES_PER_VISIT) // share.size, 1)
        place = np.arange(n) + (epoch * share.size + share.rank) * n
        rounds = {
            r: np.random.default_rng([seed, _ROUND, r]).permutation(teaching) for r in np.unique(place // len(teaching))
        }
        return np.asarray([rounds[at // len(teaching)][at % len(teaching)] for at in place])

    def batches(self, seed: int, epoch: int, share: Share = WHOLE) -> Iterator[Batch]:
        """Give a process' share of the batches of an epoch; those of several partitions are shuffled in a buffer.

        A share has as many batches as the whole and its part of the windows of each, from its part of the partitions.
        """
        rng = _generator(seed, _BUFFER, epoch, share)
        room = max(BUFFERED_WINDOWS // self.settings.batch_size, 1)
        buffer: list[Batch] = []
        for batch in self._in_order(seed, epoch, share):
            buffer.append(batch)
            if len(buffer) > room:
                yield buffer.pop(rng.integers(len(buffer)))
        while buffer:
            yield buffer.pop(rng.integers(len(buffer)))

    def _in_order(self, seed: int, epoch: int, share: Share = WHOLE) -> Iterator[Batch]:
        visits, missing = self.visits(seed, epoch, share), 0
        rng = _generator(seed, _VISIT, epoch, share)
        size = share.count(self.settings.batch_size)
        weight = self.survey.n_teaching[visits]
        n_batches = rng.multinomial(self.n_batches, weight / weight.sum())
        for partition, n in zip(visits, n_batches, strict=True):
            # What a partition could not give is asked of the next one.
            n += missing
            missing = n
            if n:
                for batch in self._visit(int(partition), int(n), size, rng):
                    missing -= 1
                    yield batch

    def _visit(self, partition: int, n_batches: int, size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Draw windows in a partition and give `n_batches` batches of `size`, none where nothing can be drawn."""
        table = self.partitions.read(partition)
        split = split_of(table, self.settings, self.role, self.partitions.series(partition))
        origins = TrainingOrigins.of(table, split, self.spans)
        windows = origins.draw(rng, n_batches * size)
        if len(windows) == 0:
            return
        # A short history leaves some origins without a value to read: those that were drawn stand in, each as often as it takes.
        windows = windows.take(np.resize(np.arange(len(windows)), n_batches * size))
        reader = self.reader(table)
        for index in like_lengths(reader.count_widths(windows), size, rng):
            yield reader.read(windows.take(index))

    def reader(self, table: Table) -> WindowReader:
        """Give the reader of a part of the table."""
        return WindowReader(
            table,
            self.scaler,
            max_history=self.settings.max_history,
            target_channels=target_positions(table, self.scaler),
        )

    def sample(self) -> tuple[Table, Split]:
        """Give the sampled series and how they are cut."""
        sample = self.survey.sample
        source = self.partitions.groups.source
        report = replace(sample.report, notes=(self.describe(),))
        return replace(sample, source=source, report=report), split_of(
            sample, self.settings, self.role, self.survey.sampled
        )

    def describe(self) -> str:
        """Say what was streamed, and what validation and test are on."""
        n_all, n_sampled = self.partitions.n_series, len(self.survey.sampled)
        judged = "all series" if n_all == n_sampled else f"a sample of {n_sampled:,} of the series, kept in memory"
        return (
            f"Streamed {self.partitions.n_rows:,} rows of {n_all:,} series in {len(self.partitions):,} parts; "
            f"validation and test are on {judged}."
        )
