"""Histories to forecast, read a run of whole series at a time: a table in memory, or a Parquet file or folder larger than it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from latentode.data.partitions import Groups, find_series, read_part
from latentode.data.schema import Schema
from latentode.data.tables import Table
from latentode.errors import DataError
from latentode.forecasting.predict import read_history
from latentode.models.fitted import FittedModel

# Of a table that cannot be read in parts and is larger than this, it is said why.
SAID_BYTES = 256 << 20


class Histories(Protocol):
    """Series in a fixed order, read in runs."""

    @property
    def source(self) -> str:
        """The path, or "DataFrame"."""
        ...

    @property
    def schema(self) -> Schema:
        """What the columns mean."""
        ...

    @property
    def series_ids(self) -> np.ndarray:
        """Names of all series, `(S,)`."""
        ...

    @property
    def starts(self) -> np.ndarray:
        """Rows before each series, about as many as are read, and rows in all; int64 `(S + 1,)`."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the reading of what is in memory already, one sentence each."""
        ...

    def read(self, series: slice) -> Table:
        """Read a run of series; `DataError` where they break the contract of a table."""
        ...

    def pick(self, series: Sequence[int]) -> Table:
        """Read single series, in this order."""
        ...

    def digest(self) -> str:
        """Give what tells these histories again: the same series in the same order with the same values."""
        ...


@dataclass(frozen=True)
class WholeHistories:
    """A table in memory; see `Histories`."""

    table: Table

    @property
    def source(self) -> str:  # noqa: D102
        return self.table.source

    @property
    def schema(self) -> Schema:  # noqa: D102
        return self.table.schema

    @property
    def series_ids(self) -> np.ndarray:  # noqa: D102
        return self.table.series_ids

    @property
    def starts(self) -> np.ndarray:  # noqa: D102
        return self.table.starts

    @property
    def notes(self) -> tuple[str, ...]:  # noqa: D102
        return self.table.report.notes

    def read(self, series: slice) -> Table:  # noqa: D102
        return self.pick(range(*series.indices(self.table.n_series)))

    def pick(self, series: Sequence[int]) -> Table:  # noqa: D102
        return self.table.select(np.asarray(series, dtype=np.int64))

    def digest(self) -> str:  # noqa: D102
        # The digest of a table does not see the order of its series, which is that of the forecast.
        names = "\n".join(map(str, self.series_ids.tolist()))
        return hashlib.sha256(f"{self.table.digest()}\n{names}".encode()).hexdigest()


@dataclass(frozen=True)
class ParquetHistories:
    """A Parquet file or folder in which the rows of a series lie together; see `Histories`.

    Attributes:
        groups: where the rows are.
        reading: keywords of `read_table`.
    """

    groups: Groups
    series_ids: np.ndarray
    starts: np.ndarray
    schema: Schema
    reading: dict[str, Any]
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, fitted: FittedModel, path: str | Path) -> ParquetHistories:
        """Find where each series lies, one column and one row group at a time.

        Raises:
            DataError: it is no Parquet, the rows of a series do not lie together, or the table breaks its contract.
        """
        settings, schema = fitted.settings, fitted.schema
        reading = {
            "schema": schema,
            "layout": settings.layout,
            "duplicates": settings.duplicates,
            "time_zone": settings.time_zone,
            "role": "history",
        }
        groups = Groups.of(path)
        names, first = find_series(groups, schema.id_column)
        starts = np.append(first, groups.first[-1])
        head = read_part(groups.read(0, int(starts[1])), groups.source, 0, reading).schema
        if head.id_kind == "integer":
            names = np.asarray([int(name) for name in names.tolist()], dtype=object)
        return cls(groups, names, starts, head, reading)

    @property
    def source(self) -> str:  # noqa: D102
        return self.groups.source

    def read(self, series: slice) -> Table:  # noqa: D102
        first, last = (int(self.starts[at]) for at in (series.start, series.stop))
        return self.read_rows(first, last)

    def read_rows(self, first: int, last: int) -> Table:
        """Read rows of whole series."""
        return read_part(self.groups.read(first, last), self.source, first, self.reading)

    def pick(self, series: Sequence[int]) -> Table:  # noqa: D102
        rows = [self.groups.read(int(self.starts[one]), int(self.starts[one + 1])) for one in series]
        return read_part(pa.concat_tables(rows), self.source, 0, self.reading)

    def digest(self) -> str:  # noqa: D102
        found = hashlib.sha256()
        for file in dict.fromkeys(group.path for group in self.groups.fragments):
            with Path(file).open("rb") as content:
                found.update(hashlib.file_digest(content, "sha256").digest())
        return found.hexdigest()


def open_histories(fitted: FittedModel, source: str | Path) -> Histories:
    """Open a history: Parquet in parts where its rows allow it, anything else whole.

    Raises:
        DataError: it breaks the contract of a table.
    """
    try:
        return ParquetHistories.open(fitted, source)
    except DataError as error:
        table = read_history(fitted, source)
        if table.values.nbytes < SAID_BYTES:
            return WholeHistories(table)
        notes = (*table.report.notes, f"the history was read whole into memory: {error}")
        return WholeHistories(replace(table, report=replace(table.report, notes=notes)))
