"""Ask a fitted model for any time from the first observation on: a forecast after the origin, a smoothed value at or before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from latentode.data.batch import Batch, WindowReader
from latentode.data.schema import Schema, count, quote_names
from latentode.data.tables import Queries, Table, read_queries, read_table
from latentode.data.times import format_duration, format_times, parse_duration, parse_time_list, zone_note
from latentode.data.windows import Windows, begin_history, forecast_windows
from latentode.errors import DataError, InputError, SolveError
from latentode.forecasting.forecast import QUANTILES, Forecast, check_levels
from latentode.metrics.quantiles import quantile
from latentode.models.fitted import READ_AT_ONCE, FittedModel
from latentode.models.units import Mapped, in_user_units
from latentode.progress import track

# Targets, and values of histories, per forward pass, which bounds the memory of long lists of times; on a CPU, what stays in its caches
# takes a third less time.
MAX_QUERIES, MAX_QUERIES_CPU = 2**18, 2**15


@dataclass(frozen=True)
class Ask:
    """Which times are asked for: one of `at`, `every` with `horizon`, or `queries`; see `predict`."""

    at: Any = None
    every: str | float | None = None
    horizon: str | float | None = None
    queries: str | Path | pd.DataFrame | None = None
    origin: Any = None


MAX_STEPS = 1_000_000  # of `every`, per series: the horizon may be that of a run, and nobody has read what stands there


def read_history(fitted: FittedModel, source: str | Path | pd.DataFrame | Table) -> Table:
    """Read a history by the columns that the model was fitted on.

    Raises:
        DataError: a column is missing, or a table that was read before has other channels or other columns beside them.
    """
    if isinstance(source, Table):
        same = source.schema.channels == fitted.schema.channels and source.schema.time_kind == fitted.schema.time_kind
        if not same:
            raise DataError(
                f"{source.source}: has the channels {quote_names(source.schema.channels)}, but the model was fitted on "
                f"{quote_names(fitted.schema.channels)}; read the table with these."
            )
        if (source.schema.time_zone is None) != (fitted.schema.time_zone is None):
            have, had = ("no offset", "an offset") if source.schema.time_zone is None else ("an offset", "none")
            raise DataError(
                f"{source.source}: its times have {have}, but those that the model was fitted on have {had}; give the file or frame "
                "itself, whose times are then read as the model's, or write them alike."
            )
        check_roles(source, fitted.schema)
        # Categories have the numbers that they had in training.
        return replace(source, schema=replace(source.schema, categories=fitted.schema.categories))
    settings = fitted.settings
    return read_table(
        source,
        schema=fitted.schema,
        layout=settings.layout,
        duplicates=settings.duplicates,
        time_zone=settings.time_zone,
        role="history",
    )


ROLES = (
    "static_numbers",
    "static_categories",
    "known_columns",
    "log_channels",
    "count_channels",
    "bounded_channels",
    "channel_bounds",
)


def check_roles(table: Table, schema: Schema) -> None:
    """Refuse a table that was read with other static or known columns, or other supports of channels, than those of a schema.

    Raises:
        DataError: see above; the message names the columns.
    """
    for role in ROLES:
        found, wanted = getattr(table.schema, role), getattr(schema, role)
        if set(found) != set(wanted):
            raise DataError(
                f"{table.source}: was read with {role} {quote_names(found) or 'none'}, but the model was fitted with "
                f"{quote_names(wanted) or 'none'}; read the table as the model's was (`read_table`)."
            )


def predict(
    fitted: FittedModel,
    history: str | Path | pd.DataFrame | Table,
    ask: Ask,
    *,
    quantiles: Sequence[float] = QUANTILES,
    device: torch.device | str = "cpu",
) -> Forecast:
    """Forecast every series of a history.

    The origin is each series' own last observation, or `ask.origin` for all; later rows are then not read. A query at or before it is
    answered from all of the history, on either side of the query: `Forecast.is_smoothed`.

    Args:
        fitted: the model.
        history: a table, or what `read_table` reads.
        ask: `at`: times for every series; `every` and `horizon`: origin + every, ..., origin + horizon of each series (horizon left out:
            that of the fit); `queries`: a table of series, times and the known columns (needed where the model has such), whose order
            is kept.
        quantiles: levels of the quantiles.
        device: where to compute.

    Raises:
        DataError: a query lies before the first observation of its series, or names a series that the history does not hold.
        InputError: none or several of `at`, `every` and `queries` are given, or one is not of its form; or a query lies inside the
            history and the model only forecasts.
        SolveError: the forecast is not finite.
    """
    levels = check_levels(quantiles)
    asked, notes = ask_about(fitted, history, ask, device)
    notes += note_left_out(asked.table.schema, forecast_channels(fitted, asked.table))
    return asked.forecast(levels, notes)


def forecast_channels(fitted: FittedModel, table: Table) -> tuple[str, ...]:
    """Give the names of the channels that are forecast."""
    return tuple(table.schema.channels[i] for i in fitted.reader(table).target_channels)


def note_left_out(schema: Schema, names: Sequence[str]) -> list[str]:
    """Say which target channels are not among those that are forecast."""
    left_out = [name for name in schema.target_channels if name not in names]
    if not left_out:
        return []
    return [
        f"{count(len(left_out), 'channel had', 'channels had')} no value in training and "
        f"{'is' if len(left_out) == 1 else 'are'} not forecast: {quote_names(left_out)}."
    ]


def ask_about(
    fitted: FittedModel, history: str | Path | pd.DataFrame | Table, ask: Ask, device: torch.device | str
) -> tuple[Asked, list[str]]:
    """Read the history and what is asked of it; give both, and what is to be said of them, one sentence each.

    Raises:
        DataError, InputError: see `predict`.
    """
    check_ask(fitted, ask)
    table = read_history(fitted, history)
    given = None if ask.queries is None else read_queries(ask.queries, fitted.schema, table)
    asked, noted = ask_table(fitted, table, ask, given, device)
    notes = [*table.report.notes, *(given.notes if given else ())]
    return asked, notes + noted.sentences(fitted, ask)


@dataclass(frozen=True)
class Noted:
    """Counts of what is to be said of the queries of a table; those of its parts add up.

    Attributes:
        n_later: rows after the origin that was asked for.
        n_far: queries beyond the horizon of the fit.
    """

    n_later: int = 0
    n_far: int = 0

    def __add__(self, other: Noted) -> Noted:
        return Noted(self.n_later + other.n_later, self.n_far + other.n_far)

    def sentences(self, fitted: FittedModel, ask: Ask) -> list[str]:
        """Say it."""
        notes = []
        if self.n_later:
            were = "was" if self.n_later == 1 else "were"
            notes.append(f"{count(self.n_later, 'row', 'rows')} after the origin {ask.origin} {were} not read.")
        zone = None if ask.at is None else zone_note(ask.at, fitted.schema, name="at")
        notes += [zone] if zone else []
        if self.n_far:
            horizon = format_duration(fitted.spans.horizon, fitted.schema.time_kind)
            notes.append(
                f"{count(self.n_far, 'query lies', 'queries lie')} beyond the horizon {horizon} that the model was fitted for; "
                "expect less of them."
            )
        return notes


def ask_table(
    fitted: FittedModel, table: Table, ask: Ask, given: Queries | None, device: torch.device | str
) -> tuple[Asked, Noted]:
    """Give what is asked of a table, or of a part of one.

    Args:
        fitted, table, ask, device: as for `predict`; the table is read.
        given: the queries of `ask.queries` that are about the table's series.

    Raises:
        DataError, InputError: see `predict`.
    """
    origin = _origin(ask, table)
    windows = forecast_windows(table, history=fitted.spans.history, origin=origin)
    queries = _queries(fitted, table, windows, ask) if given is None else given
    is_smoothed = _inside_history(table, windows, queries)
    n_later = 0 if origin is None else int((table.time > origin[0]).sum())
    asked = Asked(fitted, table, windows, queries, is_smoothed, device)
    return asked, Noted(n_later, _count_far(fitted, table, windows, queries))


def check_ask(fitted: FittedModel, ask: Ask) -> None:
    """Refuse a question that is no question to this model.

    Raises:
        InputError: none or several of `at`, `every` and `queries` are given, or one that does not tell what the model needs.
    """
    names = fitted.schema.known_columns
    given = [name for name in ("at", "every", "queries") if getattr(ask, name) is not None]
    told = [name for name in given if name != "queries"]
    if names and told:
        raise InputError(
            f"the model takes {quote_names(names)}, known in the future too, which {told[0]} does not tell; "
            f"give --queries (`queries`): a table with {quote_names(names)} beside series and time."
        )
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        raise InputError(
            f"the times to forecast are given by one of at, every (with horizon) and queries; found {found}."
        )
    if ask.horizon is not None and given != ["every"]:
        raise InputError("horizon goes with every: origin + every, ..., origin + horizon; leave it out or give every.")


def _origin(ask: Ask, table: Table) -> np.ndarray | None:
    if ask.origin is None:
        return None
    origin = parse_time_list(ask.origin, table.schema, name="origin")
    if len(origin) != 1:
        raise InputError(f"origin names {len(origin)} times; give one time for all series.")
    return origin


def _queries(fitted: FittedModel, table: Table, windows: Windows, ask: Ask) -> Queries:
    every = np.arange(table.n_series)
    after = times_per_series(fitted, table.schema, ask)
    if ask.at is not None:
        return Queries(np.repeat(every, len(after)), np.tile(after, table.n_series))
    after = after.astype(table.time.dtype)
    return Queries(np.repeat(every, len(after)), (windows.origin[:, None] + after).reshape(-1))


def times_per_series(fitted: FittedModel, schema: Schema, ask: Ask) -> np.ndarray:
    """Give the times that `at` asks of every series, or how far after its origin those of `every` lie.

    Raises:
        InputError: one is not of its form.
    """
    if ask.at is not None:
        return parse_time_list(ask.at, schema, name="at")
    assert ask.every is not None
    kind = schema.time_kind
    step = parse_duration(ask.every, kind, name="every")
    horizon = fitted.spans.horizon if ask.horizon is None else parse_duration(ask.horizon, kind, name="horizon")
    # The ratio of two floats may fall a rounding short of the whole number that was meant.
    n_steps = int(horizon // step) if kind == "datetime" else int(np.floor(horizon / step * (1 + 1e-12)))
    if n_steps < 1:
        raise InputError(
            f"every {format_duration(step, kind)} is longer than the horizon {format_duration(horizon, kind)}, "
            "so no time is asked for; give a shorter step."
        )
    if n_steps > MAX_STEPS:
        raise InputError(
            f"every {format_duration(step, kind)} up to the horizon {format_duration(horizon, kind)} asks for {n_steps:,} times of each "
            f"series; give a longer step or a shorter horizon, so that there are at most {MAX_STEPS:,}."
        )
    dtype = np.int64 if kind == "datetime" else np.float64
    return np.arange(1, n_steps + 1).astype(dtype) * np.asarray(step, dtype=dtype)


def _inside_history(table: Table, windows: Windows, queries: Queries) -> np.ndarray:
    """Say which queries lie at or before their origin, bool `(P,)`.

    Raises:
        DataError: one lies before the first observation of its series, where nothing is known on one side.
    """
    start = table.time[table.starts[queries.series]]
    early = np.flatnonzero(queries.time < start)
    if len(early):
        first = early[0]
        series = queries.series[first]
        time, begin = (format_times(np.asarray([at]), table.schema)[0] for at in (queries.time[first], start[first]))
        name = f"series '{table.series_ids[series]}'" if table.schema.id_column else "the series"
        raise DataError(
            f"{table.source}: the query at {time} lies before the first observation of {name} ({begin}); "
            f"{count(len(early), 'such query', 'such queries')}. Ask for later times."
        )
    return queries.time <= windows.origin[queries.series]


def _count_far(fitted: FittedModel, table: Table, windows: Windows, queries: Queries) -> int:
    # One part in 10^9 for the rounding of origin + horizon.
    reach = windows.origin[queries.series] + np.asarray(fitted.spans.horizon * (1 + 1e-9), dtype=table.time.dtype)
    return int((queries.time > reach).sum())


@dataclass(frozen=True)
class Asked:
    """Queries and all that answering them takes.

    Attributes:
        fitted, table, windows, queries, device: the model, the history, one window per series, what is asked, where to compute.
        is_smoothed: which queries lie at or before their origin, bool `(P,)`.
        first_series: where the table is a part of another one, the position of its first series there, a multiple of `READ_AT_ONCE`.
    """

    fitted: FittedModel
    table: Table
    windows: Windows
    queries: Queries
    is_smoothed: np.ndarray
    device: torch.device | str
    first_series: int = 0

    def forecast(self, levels: tuple[float, ...], notes: Sequence[str] = ()) -> Forecast:
        """Answer.

        Raises:
            SolveError: the forecast is not finite.
        """
        mean, std, quantiles = self.compute(levels)
        return Forecast(
            self.table.schema,
            self.queries.series,
            self.queries.time,
            forecast_channels(self.fitted, self.table),
            mean,
            std,
            levels,
            quantiles,
            self.table,
            self.draw,
            tuple(notes),
            self.is_smoothed,
            self.has_trajectories,
            self.windows.origin,
        )

    def compute(self, levels: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give mean, std `(P, K)` and quantiles `(P, K, L)` in the user's units.

        Raises:
            SolveError: one of them is not finite.
        """
        shape = (len(self.queries.time), len(self.fitted.reader(self.table).target_channels))
        mean, std, quantiles = np.empty(shape), np.empty(shape), np.empty((*shape, len(levels)))
        with track("forecasting", len(self.queries.time), "times") as advance:
            for part in self._answers():
                found = torch.stack([quantile(part.distribution, level) for level in levels], -1)
                mean[part.here], std[part.here] = part.pick(part.distribution.mean), part.pick(part.distribution.stddev)
                quantiles[part.here] = part.pick(found)
                advance(len(part.here))
        _check_finite(self.table, self.queries, mean, std, quantiles)
        return mean, std, quantiles

    def draw(self, n_samples: int, seed: int, is_joint: bool) -> np.ndarray:
        """Draw from every answer, `(P, K, n_samples)` in the user's units.

        Args:
            n_samples: draws of each.
            seed: of the draws.
            is_joint: whether a draw of all answers of a series is one trajectory, where the model knows how they hang together.
        """
        shape = (len(self.queries.time), len(self.fitted.reader(self.table).target_channels), n_samples)
        draws = np.empty(shape)
        with torch.random.fork_rng():
            for part in self._answers():
                # Of its own for every batch, so that a part of a table is drawn as it is within the whole.
                first = self.first_series + int(self.queries.series[part.here[0]])
                torch.manual_seed(int(np.random.SeedSequence([seed, first, part.is_smoothed]).generate_state(1)[0]))
                copula = self.fitted.network.dependence(is_smoothed=part.is_smoothed) if is_joint else None
                if copula is None:
                    drawn = part.distribution.sample((n_samples,))
                else:
                    drawn = part.distribution.at_score(copula.draw(part.batch, n_samples))
                draws[part.here] = part.pick(drawn.movedim(0, -1))
        return draws

    @property
    def has_trajectories(self) -> bool:
        """Whether the model knows how its answers hang together."""
        kinds = np.unique(self.is_smoothed).tolist()
        return all(self.fitted.network.dependence(is_smoothed=kind) is not None for kind in kinds)

    @torch.no_grad()
    def _answers(self) -> Iterator[_Answer]:
        """Ask the model part by part: what is forecast, then what is smoothed."""
        network = self.fitted.network.to(self.device).eval()
        for is_smoothed in (False, True):
            which = np.flatnonzero(self.is_smoothed == is_smoothed)
            if len(which):
                reader, windows = self.fitted.reader(self.table), self.windows
                if is_smoothed:
                    # All of the history tells what lies inside it; `smooth` lets the network read as much of it as in the fit.
                    reader = self.fitted.reader(self.table, max_history=self.table.values.size)
                    windows = replace(windows, history_from=begin_history(windows.origin, None, self.table))
                for batch, part in self.parts(which, windows, reader):
                    said = network.smooth(batch) if is_smoothed else network(batch)
                    distribution = in_user_units(said, batch.target_channel, self.fitted.scaler)
                    yield _Answer(distribution, batch, is_smoothed, *part, len(reader.target_channels))

    def parts(
        self, which: np.ndarray, windows: Windows, reader: WindowReader
    ) -> Iterator[tuple[Batch, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        """Give the queries `which` in batches, and of each batch `here`, `row` and `column` of `_Answer`."""
        queries = self.queries
        which = which[np.argsort(queries.series[which], kind="stable")]
        series, n_asked = np.unique(queries.series[which], return_counts=True)
        most = MAX_QUERIES_CPU if torch.device(self.device).type == "cpu" else MAX_QUERIES
        n_tokens = reader.count_tokens(windows.take(series))
        begin = np.concatenate([[0], np.cumsum(n_asked)])
        for part in chunks(series, n_asked * len(reader.target_channels), n_tokens, most):
            here = which[begin[part.start] : begin[part.stop]]
            row = np.repeat(np.arange(part.stop - part.start), n_asked[part])
            known = None if queries.known is None else queries.known[here]
            batch, column = reader.read_queries(windows.take(series[part]), row, queries.time[here], known)
            yield batch.to(self.device), (here, row, column)


@dataclass(frozen=True)
class _Answer:
    """What is said of some queries: positions `here` in their list, found at `row` and `column` of the distribution `(B, Q K)`."""

    distribution: Mapped
    batch: Batch
    is_smoothed: bool
    here: np.ndarray
    row: np.ndarray
    column: np.ndarray
    n_channels: int

    def pick(self, figure: Tensor) -> np.ndarray:
        """Give a figure `(B, Q K, ...)` of the queries, `(P', K, ...)`."""
        shaped = figure.reshape(len(figure), -1, self.n_channels, *figure.shape[2:])
        return shaped.cpu().numpy()[self.row, self.column]


def chunks(series: np.ndarray, n_targets: np.ndarray, n_tokens: np.ndarray, most: int) -> list[slice]:
    """Cut ascending series into batches: those of one block of `READ_AT_ONCE` positions, fewer where they ask for or read more than `most`.

    The blocks lie at fixed positions, so that a table gives the same batches, and so the same figures to the last bit, as its parts.
    """
    ends = np.flatnonzero(np.append(np.diff(series // READ_AT_ONCE), 1)) + 1
    found = []
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        widest = max(int(n_targets[start:stop].max()), int(n_tokens[start:stop].max()))
        size = max(most // max(widest, 1), 1)
        found += [slice(at, min(at + size, stop)) for at in range(start, stop, size)]
    return found


def _check_finite(table: Table, queries: Queries, *figures: np.ndarray) -> None:
    finite = np.logical_and.reduce([np.isfinite(x).reshape(len(x), -1).all(1) for x in figures])
    bad = np.flatnonzero(~finite)
    if len(bad):
        series = table.series_ids[queries.series[bad[0]]]
        raise SolveError(
            f"the forecast of series '{series}' is not finite ({len(bad)} such queries); "
            "look for extreme values in its history, or fit the model again with a lower learning rate."
        )
