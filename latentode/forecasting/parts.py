"""A forecast that is made part by part: runs of whole series, each answered for itself and kept in a file until all are there.

A part is a function of the model, its series and the question alone, whoever computes it and in whatever order: parts that an interrupted
forecast has left can be kept, and workers may share the rest among them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from latentode.data.tables import Queries
from latentode.data.times import finest_step
from latentode.files import write_whole
from latentode.forecasting.histories import Histories
from latentode.forecasting.predict import Ask, ask_table
from latentode.models.fitted import READ_AT_ONCE, FittedModel

# A part holds at most so many series, rows of history and figures, or one block of `READ_AT_ONCE` series.
PART_SERIES, PART_ROWS, PART_FIGURES = 4096, 2**20, 2**22


@dataclass(frozen=True)
class Part:
    """A run of series, and what a query table asks of them.

    Attributes:
        number: of the part.
        series: positions among all series, beginning at a multiple of `READ_AT_ONCE`.
        asked: positions in the query table, ascending; None where there is none.
        given: those queries, whose series are counted from the first of the part.
    """

    number: int
    series: slice
    asked: np.ndarray | None = None
    given: Queries | None = None


def cut(histories: Histories, n_asked: int | np.ndarray, n_figures: int, queries: Queries | None) -> list[Part]:
    """Cut histories into parts; series of which nothing is asked may be in none.

    Args:
        histories: the series.
        n_asked: queries of each series, `(S,)`, or of all alike.
        n_figures: figures per query.
        queries: of a query table.
    """
    n_series = len(histories.series_ids)
    bounds = [*range(0, n_series, READ_AT_ONCE), n_series]
    n_asked = np.broadcast_to(np.asarray(n_asked), n_series)
    rows, figures = histories.starts[bounds], np.concatenate([[0], np.cumsum(n_asked)])[bounds] * n_figures
    cuts = [0]
    for i in range(1, len(bounds) - 1):
        begin = cuts[-1]
        sizes = ((bounds, PART_SERIES), (rows, PART_ROWS), (figures, PART_FIGURES))
        if any(held[i + 1] - held[begin] > most for held, most in sizes):
            cuts.append(i)
    ends = [bounds[i] for i in cuts] + [n_series]
    runs = [slice(a, b) for a, b in pairwise(ends) if n_asked[a:b].any()]
    if queries is None:
        return [Part(i, run) for i, run in enumerate(runs)]
    order = np.argsort(queries.series, kind="stable")
    sorted_series = queries.series[order]
    parts = []
    for i, run in enumerate(runs):
        first, last = np.searchsorted(sorted_series, [run.start, run.stop])
        asked = np.sort(order[first:last])
        known = None if queries.known is None else queries.known[asked]
        given = Queries(queries.series[asked] - run.start, queries.time[asked], (), known)
        parts.append(Part(i, run, asked, given))
    return parts


@dataclass(frozen=True)
class Asking:
    """What is asked of every part, and where its answer goes; plain values and arrays, so that it can be sent to a worker.

    Attributes:
        histories: the series.
        ask: the question; a query table is cut into the parts.
        levels: of the quantiles.
        device: where to compute.
        n_samples, seed: draws per query, 0 for none, and their seed.
        folder: of the parts' files.
    """

    histories: Histories
    ask: Ask
    levels: tuple[float, ...]
    device: str
    n_samples: int
    seed: int
    folder: Path

    def path(self, number: int) -> Path:
        """Give the file of a part."""
        return self.folder / f"{number:06d}.arrow"

    def samples_path(self, number: int) -> Path:
        """Give the file of its draws."""
        return self.folder / f"{number:06d}.samples.arrow"

    def answer(self, fitted: FittedModel, part: Part) -> int:
        """Answer a part and write its file, that of the draws first; gives the number of its series.

        Raises:
            DataError, InputError, SolveError: see `predict`.
            OSError: the file cannot be written.
        """
        table = self.histories.read(part.series)
        asked, noted = ask_table(fitted, table, self.ask, part.given, self.device)
        asked = replace(asked, first_series=part.series.start)
        queries = asked.queries
        keys = {"series": pa.array(queries.series + part.series.start), "time": pa.array(queries.time)}
        if part.asked is not None:
            keys["asked"] = pa.array(part.asked)
        mean, std, quantiles = asked.compute(self.levels)
        if self.n_samples:
            draws = asked.draw(self.n_samples, self.seed, True)
            _write(self.samples_path(part.number), {**keys, "draws": _rows_of(draws)}, {})
        figures = np.concatenate([mean[..., None], std[..., None], quantiles], axis=-1)
        facts = {
            "n_later": noted.n_later,
            "n_far": noted.n_far,
            "notes": table.report.notes,
            "is_any_smoothed": bool(asked.is_smoothed.any()),
            "step": finest_step(queries.time, table.schema),
            "has_trajectories": asked.has_trajectories,
        }
        figures = {"is_smoothed": pa.array(asked.is_smoothed), "figures": _rows_of(figures)}
        _write(self.path(part.number), keys | figures, facts)
        return part.series.stop - part.series.start


def _rows_of(figures: np.ndarray) -> pa.Array:
    """Give `(P, ...)` as `P` rows of equally many numbers."""
    return pa.FixedSizeListArray.from_arrays(figures.reshape(-1), int(np.prod(figures.shape[1:])))


def _write(path: Path, columns: dict[str, pa.Array], facts: dict[str, Any]) -> None:
    table = pa.table(columns).replace_schema_metadata({"facts": json.dumps(facts)})

    def write(file: Path) -> None:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    write_whole(path, write)


def read_facts(path: Path) -> dict[str, Any]:
    """Give what a part says of itself."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        return json.loads(reader.schema.metadata[b"facts"])


def read_columns(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Give the columns of a part's file, or those of these names; lists of numbers are `(P, numbers)`."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        table = reader.read_all().combine_chunks()
    columns = {}
    for name in names or table.column_names:
        column = table.column(name).combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            columns[name] = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        else:
            columns[name] = column.to_numpy(zero_copy_only=False)
    return columns


def answer_here(asking: Asking, fitted: FittedModel, parts: Sequence[Part]) -> Iterator[int]:
    """Answer parts one after the other in this process; gives the number of series of each when it is done."""
    for part in parts:
        yield asking.answer(fitted, part)
