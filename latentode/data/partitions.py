"""A Parquet file or folder as partitions of whole series, read one at a time: a table that does not fit into memory.

The rows of a series must lie together, in the order of files (by name) and of row groups within a file. A row group is the least that is
read at once: a partition is as many of them as make `PARTITION_BYTES`, cut where a series begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pa_parquet

from latentode.data.arrow import is_string, pc
from latentode.data.cells import _list_folder, _starts_with, _version, check_names
from latentode.data.memory import available_memory
from latentode.data.schema import Schema, count, quote_names
from latentode.data.settings import DataSettings
from latentode.data.tables import Table, read_table
from latentode.errors import DataError, InputError

PARTITION_BYTES = 32 << 20


@dataclass(frozen=True)
class Groups:
    """The row groups of a file or folder, in order.

    Attributes:
        source: the path.
        fragments: one per row group.
        schema: of the columns that are read, the same for all files.
        first: number of the first row of each group, and of all rows, `(G + 1,)`.
        n_bytes: of each group once it is decoded, about, `(G,)`.
        versions: of each file when its metadata was read, by path.
    """

    source: str
    fragments: Sequence[Any]
    schema: pa.Schema
    first: np.ndarray
    n_bytes: np.ndarray
    versions: dict[str, tuple[int, ...] | None]

    @classmethod
    def of(cls, path: str | Path) -> Groups:
        """Read the metadata.

        Raises:
            DataError: there is no Parquet there, or its files do not agree.
        """
        path = Path(path)
        if not path.exists():
            raise DataError(f"{path}: no such data file; check the path.")
        if path.is_file() and not _starts_with(path, b"PAR1"):
            raise DataError(f"{path}: is no Parquet file; streaming reads Parquet, so write the table as such.")
        files = _list_folder(path)[0] if path.is_dir() else [path]
        versions = {str(file): _version(file) for file in files}
        try:
            schema = pa.unify_schemas([_parquet_schema(file) for file in files], promote_options="permissive")
            dataset = pa_dataset.dataset([str(file) for file in files], schema=schema, format=_FORMAT)
            fragments: list[Any] = [
                group for file in dataset.get_fragments() for group in file.split_by_row_group(schema=schema)
            ]
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise DataError(
                f"{path}: cannot be read as Parquet ({reason}); the files of the folder disagree on a column, write them again."
            ) from error
        # pandas writes an index that has no name as a column of this name.
        schema = pa.schema([column for column in schema if not column.name.startswith("__index_level_")])
        n_rows = np.asarray([fragment.row_groups[0].num_rows for fragment in fragments], dtype=np.int64)
        # Dictionaries make a group small in the file; in memory it is at least its numbers.
        encoded = np.asarray([fragment.row_groups[0].total_byte_size for fragment in fragments], dtype=np.int64)
        first = np.concatenate([[0], np.cumsum(n_rows)])
        if first[-1] == 0:
            raise DataError(f"{path}: has columns but no rows; add at least one.")
        return cls(str(path), fragments, schema, first, np.maximum(encoded, 8 * n_rows * len(schema)), versions)

    def read(self, first: int, last: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the rows `first:last`.

        Raises:
            DataError: a file is damaged, or is no longer the one whose metadata was read.
        """
        begin = int(np.searchsorted(self.first, first, side="right")) - 1
        end = int(np.searchsorted(self.first, last, side="left"))
        names = self.schema.names if columns is None else list(columns)
        try:
            parts = [group.to_table(schema=self.schema, columns=names) for group in self.fragments[begin:end]]
        except (pa.ArrowException, OSError) as error:
            self._refuse_changed(begin, end)
            reason = str(error).splitlines()[0].rstrip(".")
            raise DataError(f"{self.source}: cannot be read as Parquet ({reason}); write it again.") from error
        self._refuse_changed(begin, end)
        return pa.concat_tables(parts).slice(first - int(self.first[begin]), last - first)

    def _refuse_changed(self, begin: int, end: int) -> None:
        for name in dict.fromkeys(group.path for group in self.fragments[begin:end]):
            if _version(Path(name)) != self.versions[name]:
                raise DataError(f"{name}: changed while it was read; read it again when it is written.")


def _parquet_schema(file: Path) -> pa.Schema:
    schema = pa_parquet.read_schema(file)
    check_names(str(file), schema.names)
    return schema.remove_metadata()


# Without these the bytes of a file are in memory beside what is read from them.
_FORMAT = pa_dataset.ParquetFileFormat(pre_buffer=False, use_buffered_stream=True)


@dataclass(frozen=True)
class Partitions:
    """Whole series of a Parquet file or folder, in parts that fit into memory.

    Attributes:
        groups: where the rows are.
        series_ids: names of all series, as text, in the order of the files, `(S,)`.
        first_series: the first series of each partition, and the number of series, `(P + 1,)`.
        first_row: the same in rows, `(P + 1,)`.
        reading: keywords of `read_table`.
        schema: what the columns mean.
    """

    groups: Groups
    series_ids: np.ndarray
    first_series: np.ndarray
    first_row: np.ndarray
    reading: dict[str, Any]
    schema: Schema

    @classmethod
    def of(cls, settings: DataSettings, *, partition_bytes: int = PARTITION_BYTES) -> Partitions:
        """Read where each series of `settings.path` lies, one column and one row group at a time.

        Raises:
            DataError: the rows of a series do not lie together, or the table breaks its contract otherwise.
            InputError: the settings name no path, or the long layout without its channels.
        """
        if settings.path is None:
            raise InputError("streaming reads a Parquet file or folder; name it with --data.path (`fit(path)`).")
        if settings.layout == "long" and settings.channels is None:
            raise InputError(
                "streaming the long layout sees a part of the channels at a time; name them with --data.channels (`channels`)."
            )
        _refuse_whole_table_options(settings)
        groups = Groups.of(settings.path)
        names, first = find_series(groups, settings.id_column)
        first_series = _cut(groups, first, partition_bytes)
        ends = np.append(first, groups.first[-1])
        head = groups.read(0, int(ends[first_series[1]]))
        schema = read_part(head, groups.source, 0, settings.reading()).schema
        return cls(groups, names, first_series, ends[first_series], settings.reading(), schema)

    def __len__(self) -> int:
        return len(self.first_row) - 1

    @property
    def n_rows(self) -> int:
        """Number of rows of all partitions."""
        return int(self.first_row[-1])

    @property
    def n_series(self) -> int:
        """Number of series of all partitions."""
        return len(self.series_ids)

    def series(self, i: int) -> slice:
        """Give the positions of a partition's series among all."""
        return slice(int(self.first_series[i]), int(self.first_series[i + 1]))

    def read(self, i: int) -> Table:
        """Read a partition.

        Raises:
            DataError: it breaks the contract of a table.
        """
        first, last = int(self.first_row[i]), int(self.first_row[i + 1])
        return read_part(
            self.groups.read(first, last), self.groups.source, first, {**self.reading, "schema": self.schema}
        )

    def __iter__(self) -> Iterator[Table]:
        """Read one partition after another."""
        return (self.read(i) for i in range(len(self)))


def _refuse_whole_table_options(settings: DataSettings) -> None:
    """Refuse what streaming cannot do: a pass over the parts takes sums, which tell neither medians nor categories.

    Raises:
        InputError: an option asks for it.
    """
    roles = ("static_columns", "known_columns", "log_channels", "count_channels", "bounded_channels")
    asked = [name for name in roles if getattr(settings, name)]
    asked += ["scaling"] if settings.scaling == "robust" else []
    if asked:
        raise InputError(
            f"streaming does not take {asked[0]} yet; leave it out, or read the table whole by leaving out --data.streaming."
        )


def read_part(part: pa.Table, source: str, first: int, reading: dict[str, Any]) -> Table:
    """Read rows that begin at row `first` of a source as a table; `reading` holds keywords of `read_table`.

    Raises:
        DataError: they break the contract of a table.
    """
    try:
        return replace(read_table(part, **reading), source=source)
    except DataError as error:
        raise DataError(f"{source}, in the part that begins at row {first + 1}: {error}") from error


def find_series(groups: Groups, id_column: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Give the name, as text, and the first row of each series, in order.

    Raises:
        DataError: there is no such column, or the rows of a series do not lie together.
    """
    if id_column is None or id_column not in groups.schema.names:
        raise DataError(
            f"{groups.source}: has no column '{id_column}' of series ids (it has {quote_names(groups.schema.names)}), and a "
            "single series is not streamed; name the column with --data.id_column (`id_column`) or leave streaming out."
        )
    kind = groups.schema.field(id_column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (is_string(kind) or pa.types.is_integer(kind)):
        raise DataError(
            f"{groups.source}: column '{id_column}' is of type {kind}; for streaming write ids as text or whole numbers."
        )
    names, firsts = [np.empty(0, dtype=object)], [np.empty(0, dtype=np.int64)]
    last: object = names  # nothing that a cell could hold
    for start, stop in zip(groups.first[:-1], groups.first[1:], strict=True):
        codes = groups.read(int(start), int(stop), [id_column]).column(0).combine_chunks()
        codes = codes if pa.types.is_dictionary(codes.type) else codes.dictionary_encode()
        index = pc.fill_null(codes.indices, -1).to_numpy(zero_copy_only=False)
        here = np.flatnonzero(np.append(True, index[1:] != index[:-1]))
        texts = codes.take(pa.array(here)).cast(kind).cast(pa.large_string()).to_numpy(zero_copy_only=False)
        # A series may go on from one row group, or file, to the next.
        joins = int(texts[0] == last)
        names.append(texts[joins:])
        firsts.append(here[joins:] + int(start))
        last = texts[-1]
    found, first = np.concatenate(names), np.concatenate(firsts)
    _refuse_return(groups, found, first, id_column)
    return found, first


def _refuse_return(groups: Groups, names: np.ndarray, first: np.ndarray, id_column: str) -> None:
    is_return = pd.Index(names).duplicated()
    if is_return.any():
        again = int(np.flatnonzero(is_return)[0])
        places = count(int(is_return.sum()), "such place", "such places")
        raise DataError(
            f"{groups.source}: series '{names[again]}' comes back at row {int(first[again]) + 1} after rows of another one ({places}); "
            f"streaming needs the rows of a series together, so sort the table before it is written: "
            f"frame.sort_values('{id_column}').to_parquet(...)."
        )


def _cut(groups: Groups, first: np.ndarray, partition_bytes: int) -> np.ndarray:
    """Give the first series of each partition, and the number of series: cuts at the last series to begin where enough groups are full."""
    full = np.cumsum(groups.n_bytes)
    cuts, begun = [0], 0
    while begun < full[-1]:
        # The first group that fills the partition; what begins after it belongs to the next one.
        group = min(int(np.searchsorted(full, begun + partition_bytes)), len(full) - 1)
        begun = int(full[group])
        n_series = int(np.searchsorted(first, groups.first[group + 1], side="left"))
        # A series that goes on in the next group is left to the next partition.
        goes_on = groups.first[group + 1] < (first[n_series] if n_series < len(first) else groups.first[-1])
        if n_series - goes_on > cuts[-1]:
            cuts.append(n_series - goes_on)
    if cuts[-1] < len(first):
        cuts.append(len(first))
    return np.asarray(cuts, dtype=np.int64)


def join(tables: Sequence[Table]) -> Table:
    """Give the series of several tables of one schema as one table."""
    if len(tables) == 1:
        return tables[0]
    n_rows = np.cumsum([0, *(table.n_rows for table in tables)])
    starts = [table.starts[:-1] + before for table, before in zip(tables, n_rows[:-1], strict=True)]
    head = tables[0]
    report = type(head.report)(
        int(n_rows[-1]),
        sum(table.n_series for table in tables),
        sum(table.report.n_values for table in tables),
        n_repeats=sum(table.report.n_repeats for table in tables),
    )
    return Table(
        head.schema,
        np.concatenate([table.series_ids for table in tables]),
        np.concatenate([*starts, n_rows[-1:]]),
        np.concatenate([table.time for table in tables]),
        np.concatenate([table.values for table in tables]),
        report,
        head.source,
    )


def suggest_streaming(path: str | Path) -> str | None:
    """Say, of a Parquet file or folder that takes more than half of the memory there is, that it can be streamed; None of any other."""
    try:
        groups = Groups.of(path)
    except DataError:
        return None
    n_bytes, available = int(groups.n_bytes.sum()), available_memory()
    if available is None or n_bytes <= available / 2:
        return None
    return (
        f"{path}: the table takes some {n_bytes / 1e9:.1f} GB, and {available / 1e9:.1f} GB of memory are available; "
        "train from the files with --data.streaming true (`streaming=True`)."
    )
