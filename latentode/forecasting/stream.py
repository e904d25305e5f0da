"""A forecast written to a file while it runs: part by part into a hidden folder beside it, put together and moved into place at the end.

The folder outlives a kill, a full disk or a loss of power, and `resume` goes on with the parts that are whole in it. What is written is
the same to the last byte as without the interruption, since a part is the same whenever and wherever it is made (`parts.py`).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import torch

import latentode
from latentode.data.schema import count
from latentode.data.tables import Queries, read_queries
from latentode.data.times import format_times
from latentode.errors import InputError
from latentode.files import LOCK, guard_text, hold_folder, write_json, write_whole
from latentode.forecasting.forecast import QUANTILES, Forecast, Rows, check_levels
from latentode.forecasting.histories import Histories
from latentode.forecasting.parts import Asking, Part, answer_here, cut, read_columns, read_facts
from latentode.forecasting.predict import (
    Ask,
    Noted,
    ask_table,
    check_ask,
    forecast_channels,
    note_left_out,
    times_per_series,
)
from latentode.models.fitted import FittedModel

MANIFEST = "manifest.json"
Engine = Callable[[Asking, FittedModel, Sequence[Part]], Iterator[int]]


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        n_rows, n_times, n_series: rows of the table, asked times, and series asked about.
        n_kept: parts that an earlier start had left.
        notes: what was assumed or is unusual, one sentence each.
        has_trajectories: whether draws of a series belong together, see `Forecast`.
        samples: file of the draws; None where there are none.
        n_guarded: texts that got an apostrophe.
    """

    n_rows: int
    n_times: int
    n_series: int
    n_kept: int
    notes: tuple[str, ...]
    has_trajectories: bool
    samples: Path | None
    n_guarded: int = 0


def write_forecast(
    fitted: FittedModel,
    histories: Histories,
    ask: Ask,
    out: str | Path,
    *,
    quantiles: Sequence[float] = QUANTILES,
    layout: str = "long",
    n_samples: int = 0,
    device: str = "cpu",
    resume: bool = False,
    is_safe: bool = False,
    engine: Engine = answer_here,
    advance: Callable[[int], object] = lambda _: None,
) -> Written:
    """Forecast every series of a history into a file: the table of `predict(...).to_frame(layout)`, whole or not at all.

    Args:
        fitted: the model.
        histories: see `open_histories`.
        ask: as for `predict`.
        out: the file, Parquet by its suffix, else CSV (compressed where it ends in .gz).
        quantiles, device: as for `predict`.
        layout: as for `Forecast.to_frame`.
        n_samples: trajectories to draw into `<out>.samples.parquet`; 0: none.
        resume: whether to go on with what an interrupted call has left.
        is_safe: whether texts of a CSV that a spreadsheet takes for formulas get an apostrophe (`files.guard_text`).
        engine: who answers the parts.
        advance: is told the number of series of each part that is done.

    Raises:
        DataError, InputError, SolveError: see `predict`; or an interrupted forecast is there and is not to be, or cannot be, resumed.
        RunError: another process is writing this very file.
        WriteError: the disk is full, or the folder cannot be written into.
    """
    out, levels = Path(out), check_levels(quantiles)
    check_ask(fitted, ask)
    head = histories.read(slice(0, 1))
    channels = forecast_channels(fitted, head)
    queries = _read_queries(fitted, histories, ask)
    n_figures = len(channels) * (2 + len(levels) + n_samples)
    n_asked = (
        len(times_per_series(fitted, head.schema, ask))
        if queries is None
        else np.bincount(queries.series, minlength=len(histories.series_ids))
    )
    asking = Asking(
        histories,
        replace(ask, queries=None),
        levels,
        device,
        n_samples,
        fitted.seed,
        out.with_name(f".{out.name}.parts"),
    )
    parts = cut(histories, n_asked, n_figures, queries)
    with hold_folder(asking.folder):
        n_kept = _begin(asking.folder, out, _manifest(fitted, asking, parts, queries), resume=resume)
        left = [part for part in parts if not asking.path(part.number).exists()]
        kept = {part.number for part in parts} - {part.number for part in left}
        advance(sum(part.series.stop - part.series.start for part in parts if part.number in kept))
        for n_series in engine(asking, fitted, left):
            advance(n_series)
        facts = [read_facts(asking.path(part.number)) for part in parts]
        notes = [*histories.notes, *merge_notes(fact["notes"] for fact in facts), *(queries.notes if queries else ())]
        noted = sum((Noted(fact["n_later"], fact["n_far"]) for fact in facts), Noted())
        notes += [*noted.sentences(fitted, ask), *note_left_out(head.schema, channels)]
        assembly = _Assembly(
            asking,
            [part.number for part in parts],
            channels,
            any(fact["is_any_smoothed"] for fact in facts),
            min((fact["step"] for fact in facts), default=1),
            queries is not None,
        )
        samples = None
        if n_samples:
            samples = out.with_name(f"{out.name}.samples.parquet")
            _put(samples, asking.folder, assembly.samples())
        guarded = Guarded()
        rows = assembly.rows(layout)
        if is_safe and out.suffix != ".parquet":
            rows = ((guarded.guard(part), series) for part, series in rows)
        n_rows, n_times, n_series = _put(out, asking.folder, rows)
        shutil.rmtree(asking.folder)
        return Written(
            n_rows,
            n_times,
            n_series,
            n_kept,
            tuple(notes),
            all(fact["has_trajectories"] for fact in facts),
            samples,
            guarded.n_texts,
        )


def forecast_some(
    fitted: FittedModel,
    histories: Histories,
    ask: Ask,
    *,
    quantiles: Sequence[float] = QUANTILES,
    device: str = "cpu",
    n_series: int = 1,
) -> Forecast:
    """Forecast the first few series that are asked about, in memory; arguments as for `write_forecast`."""
    queries, levels = _read_queries(fitted, histories, ask), check_levels(quantiles)
    if queries is None:
        series = np.arange(min(n_series, len(histories.series_ids)))
        given = None
    else:
        series = pd.unique(queries.series)[:n_series]
        which = np.flatnonzero(np.isin(queries.series, series))
        place = pd.Index(series).get_indexer(queries.series[which])
        known = None if queries.known is None else queries.known[which]
        given = Queries(place, queries.time[which], (), known)
    table = histories.pick(series.tolist())
    asked, _ = ask_table(fitted, table, ask, given, device)
    return asked.forecast(levels)


def _read_queries(fitted: FittedModel, histories: Histories, ask: Ask) -> Queries | None:
    if ask.queries is None:
        return None
    # What it takes of the history is the names of the series, and how times are written.
    head = replace(histories.read(slice(0, 1)), series_ids=histories.series_ids, source=histories.source)
    return read_queries(ask.queries, fitted.schema, head)


def _manifest(fitted: FittedModel, asking: Asking, parts: list[Part], queries: Queries | None) -> dict[str, Any]:
    """Give what parts have to have in common to be put together."""
    asked = hashlib.sha256()
    if queries is not None:
        for array in (queries.series, queries.time, queries.known):
            asked.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    ask = asking.ask
    return {
        "version": latentode.__version__,
        "torch": torch.__version__,
        "run": _digest(fitted),
        "history": asking.histories.digest(),
        "times": [*(None if x is None else str(x) for x in (ask.at, ask.every, ask.horizon)), asked.hexdigest()],
        "origin": None if ask.origin is None else str(ask.origin),
        "quantiles": list(asking.levels),
        "samples": asking.n_samples,
        "device": asking.device,
        "parts": [part.series.start for part in parts],
    }


def _digest(fitted: FittedModel) -> str:
    found = hashlib.sha256(json.dumps(fitted.to_plain(), sort_keys=True, default=str).encode())
    for name, value in fitted.network.state_dict().items():
        found.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


_WHAT = {
    "version": "by another version of latentode",
    "torch": "by another version of torch",
    "run": "with another run",
    "history": "from another history",
    "times": "for other times",
    "origin": "from another origin",
    "quantiles": "with other quantiles",
    "samples": "with another number of samples",
    "device": "on another device",
    "parts": "in other parts",
}


def _begin(folder: Path, out: Path, manifest: dict[str, Any], *, resume: bool) -> int:
    """Begin in the folder of parts, which is held, or look at what is in it; gives how many parts are there."""
    found = folder / MANIFEST
    n_parts = len([path for path in folder.glob("*.arrow") if "samples" not in path.name])
    if n_parts and found.is_file():
        held = json.loads(found.read_text(encoding="utf-8"))
        if not resume:
            raise InputError(
                f"{out} was begun before: {count(n_parts, 'part', 'parts')} of {len(held['parts'])} are in {folder}; go on with --resume, "
                "or remove that folder to begin anew."
            )
        other = [said for name, said in _WHAT.items() if held.get(name) != manifest[name]]
        if other:
            raise InputError(
                f"{out} was begun {other[0]} and cannot be gone on with; remove {folder} to begin anew, or ask as before."
            )
        return n_parts
    for path in folder.iterdir():
        if path.name != LOCK:
            path.unlink()
    try:
        write_json(found, manifest)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)  # nothing is in it that one could go on with
        raise
    return 0


def merge_notes(notes: Iterable[Sequence[str]]) -> list[str]:
    """Say once what several parts say of themselves, but for its numbers."""
    found: dict[str, list[str]] = {}
    for note in (note for of_part in notes for note in of_part):
        found.setdefault(re.sub(r"[\d,.]*\d", "0", note), []).append(note)
    return [
        said[0] if len(said) == 1 else f"{said[0]} (So in one part; {count(len(said) - 1, 'other', 'others')} alike.)"
        for said in found.values()
    ]


@dataclass(frozen=True)
class _Assembly:
    """Reads the parts in order, as rows of the table."""

    asking: Asking
    numbers: list[int]
    channels: tuple[str, ...]
    is_any_smoothed: bool
    step: int
    by_table: bool

    def rows(self, layout: str) -> Iterator[tuple[Rows, np.ndarray]]:
        """Give the rows, and the series of each query."""
        for columns in self._in_order(self.asking.path):
            series = columns["series"]
            figures = columns["figures"].reshape(len(series), len(self.channels), -1)
            is_smoothed = columns["is_smoothed"] if self.is_any_smoothed else None
            ids, time = self._keys(columns)
            yield Rows.of(ids, time, self.channels, is_smoothed, self.asking.levels, figures, layout), series

    def samples(self) -> Iterator[tuple[Rows, np.ndarray]]:
        """Give the draws, one a row, and the series of each query."""
        n = self.asking.n_samples
        for columns in self._in_order(self.asking.samples_path):
            ids, time = self._keys(columns)
            keys = Rows.of(ids, time, self.channels, None, (), np.empty((len(ids), len(self.channels), 2)), "long").keys
            keys = {name: np.repeat(key, n) for name, key in keys.items()}
            keys["sample"] = np.tile(np.arange(n), len(ids) * len(self.channels))
            yield Rows(keys, ["value"], columns["draws"].reshape(-1, 1)), columns["series"]

    def _keys(self, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        histories = self.asking.histories
        return histories.series_ids[columns["series"]], format_times(columns["time"], histories.schema, step=self.step)

    def _in_order(self, path: Callable[[int], Path]) -> Iterator[dict[str, np.ndarray]]:
        """Read the parts one by one; those of a query table that has another order than the series, together in its order."""
        parts = (read_columns(path(number)) for number in self.numbers)
        if not self.by_table:
            yield from parts
            return
        asked = np.concatenate([read_columns(path(number), ["asked"])["asked"] for number in self.numbers])
        if (np.diff(asked) > 0).all():
            yield from parts
            return
        held, order = list(parts), np.argsort(asked)
        yield {name: np.concatenate([part[name] for part in held])[order] for name in held[0]}


class Guarded:
    """Puts apostrophes before what a spreadsheet takes for formulas, and counts them; of names of columns once."""

    def __init__(self) -> None:
        self.n_texts = 0
        self._names: list[str] | None = None

    def guard(self, rows: Rows) -> Rows:
        """Give rows whose texts are no formulas."""
        if self._names is None:
            self._names = [guard_text(name) for name in rows.names]
            self.n_texts += sum(new != old for new, old in zip(self._names, rows.names, strict=True))
        return Rows({guard_text(name): self._cells(key) for name, key in rows.keys.items()}, self._names, rows.figures)

    def _cells(self, key: np.ndarray) -> np.ndarray:
        if key.dtype != object:
            return key
        codes, distinct = pd.factorize(key)
        safe = np.asarray([guard_text(text) if isinstance(text, str) else text for text in distinct], dtype=object)
        self.n_texts += int((safe != distinct)[codes].sum())
        return safe[codes]


def _put(path: Path, folder: Path, parts: Iterator[tuple[Rows, np.ndarray]]) -> tuple[int, int, int]:
    """Write a table whole, by way of the folder; gives its rows, the queries and the series in it."""
    counts = [0, 0]
    seen: list[np.ndarray] = []

    def counted() -> Iterator[Rows]:
        for rows, series in parts:
            counts[0] += len(rows.figures)
            counts[1] += len(series)
            seen.append(np.unique(series))
            yield rows

    write = _write_parquet if path.suffix == ".parquet" else _write_csv
    # First in the folder, which a killed call leaves anyway, and nothing half written beside it.
    whole = folder / f"whole{path.suffix}"
    write_whole(whole, lambda part: write(part, counted(), is_compressed=path.suffix == ".gz"))
    whole.replace(path)
    return counts[0], counts[1], len(np.unique(np.concatenate(seen))) if seen else 0


def _write_parquet(path: Path, parts: Iterator[Rows], *, is_compressed: bool) -> None:
    del is_compressed  # it is in any case
    writer = None
    try:
        for rows in parts:
            table = pa.Table.from_pandas(rows.to_frame(), preserve_index=False)
            writer = writer or pa_parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _write_csv(path: Path, parts: Iterator[Rows], *, is_compressed: bool) -> None:
    with path.open("wb") as raw:
        # No name and no time in what is compressed: the same table gives the same bytes.
        packed = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if is_compressed else raw
        with io.TextIOWrapper(packed, encoding="utf-8", newline="", write_through=False) as file:
            for i, rows in enumerate(parts):
                if i == 0:
                    csv.writer(file, lineterminator="\n").writerow([*rows.keys, *rows.names])
                _write_lines(file, rows)


def _write_lines(file: TextIO, rows: Rows) -> None:
    """Write rows as CSV, in a tenth of the time that pandas takes for them."""
    # Nine digits: more than float32 holds, so that nothing is lost, and less noise than a float64's seventeen.
    template = "".join(["%s,"] * len(rows.keys) + ["%.9g,"] * (len(rows.names) - 1) + ["%.9g\n"])
    keys = [_cells(key) for key in rows.keys.values()]
    figures = rows.figures.tolist()
    file.writelines(template % (*key, *row) for *key, row in zip(*keys, figures, strict=True))


def _cells(key: np.ndarray) -> list[str]:
    """Write keys as the cells of a CSV, with quotes where they take some; a number keeps all of its digits."""
    if key.dtype != object:
        short = [f"{number:.9g}" for number in key.tolist()]
        return [
            text if float(text) == number else repr(number) for text, number in zip(short, key.tolist(), strict=True)
        ]
    codes, distinct = pd.factorize(key)
    text = io.StringIO()
    # What ends a line takes quotes, too, whichever way it is written.
    end = "\r\n"
    writer, cells = csv.writer(text, lineterminator=end), []
    for name in distinct.tolist():
        text.seek(text.truncate(0))
        writer.writerow([name])
        cells.append(text.getvalue().removesuffix(end))
    return [cells[code] for code in codes.tolist()]
