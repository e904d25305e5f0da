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
    table, queries = asked.table, asked.queries
    mean, std, found = asked.compute(levels)
    names = [table.schema.channels[i] for i in fitted.reader(table).target_channels]
    left_out = [name for name in table.schema.target_channels if name not in names]
    if left_out:
        notes.append(
            f"{count(len(left_out), 'channel had', 'channels had')} no value in training and "
            f"{'is' if len(left_out) == 1 else 'are'} not forecast: {quote_names(left_out)}."
        )
    return Forecast(
        table.schema,
        queries.series,
        queries.time,
        tuple(names),
        mean,
        std,
        levels,
        found,
        table,
        asked.draw,
        tuple(notes),
        asked.is_smoothed,
        asked.has_trajectories,
    )


def ask_about(
    fitted: FittedModel, history: str | Path | pd.DataFrame | Table, ask: Ask, device: torch.device | str
) -> tuple[Asked, list[str]]:
    """Read the history and what is asked of it; give both, and what is to be said of them, one sentence each.

    Raises:
        DataError, InputError: see `predict`.
    """
    _check_known_asked(fitted, ask)
    table = read_history(fitted, history)
    notes = list(table.report.notes)
    windows = _windows(fitted, table, ask, notes)
    queries = _queries(fitted, table, windows, ask)
    notes += queries.notes
    is_smoothed = _inside_history(table, windows, queries)
    _note_far_queries(fitted, table, windows, queries, notes)
    return Asked(fitted, table, windows, queries, is_smoothed, device), notes


def _check_known_asked(fitted: FittedModel, ask: Ask) -> None:
    names = fitted.schema.known_columns
    given = [name for name in ("at", "every") if getattr(ask, name) is not None]
    if names and given:
        raise InputError(
            f"the model takes {quote_names(names)}, known in the future too, which {given[0]} does not tell; "
            f"give --queries (`queries`): a table with {quote_names(names)} beside series and time."
        )


def _windows(fitted: FittedModel, table: Table, ask: Ask, notes: list[str]) -> Windows:
    if ask.origin is None:
        return forecast_windows(table, history=fitted.spans.history)
    origin = parse_time_list(ask.origin, table.schema, name="origin")
    if len(origin) != 1:
        raise InputError(f"origin names {len(origin)} times; give one time for all series.")
    n_later = int((table.time > origin[0]).sum())
    if n_later:
        notes.append(
            f"{count(n_later, 'row', 'rows')} after the origin {ask.origin} {'was' if n_later == 1 else 'were'} not read."
        )
    return forecast_windows(table, history=fitted.spans.history, origin=origin)


def _queries(fitted: FittedModel, table: Table, windows: Windows, ask: Ask) -> Queries:
    given = [name for name in ("at", "every", "queries") if getattr(ask, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        raise InputError(
            f"the times to forecast are given by one of at, every (with horizon) and queries; found {found}."
        )
    if ask.horizon is not None and given != ["every"]:
        raise InputError("horizon goes with every: origin + every, ..., origin + horizon; leave it out or give every.")
    every = np.arange(table.n_series)
    if ask.queries is not None:
        return read_queries(ask.queries, fitted.schema, table)
    if ask.at is not None:
        time = parse_time_list(ask.at, table.schema, name="at")
        note = zone_note(ask.at, table.schema, name="at")
        series = np.repeat(every, len(time))
        return Queries(series, np.tile(time, table.n_series), (note,) if note else ())
    assert ask.every is not None
    kind = table.schema.time_kind
    step = parse_duration(ask.every, kind, name="every")
    horizon = fitted.spans.horizon if ask.horizon is None else parse_duration(ask.horizon, kind, name="horizon")
    # The ratio of two floats may fall a rounding short of the whole number that was meant.
    n_steps = int(horizon // step) if kind == "datetime" else int(np.floor(horizon / step * (1 + 1e-12)))
    if n_steps < 1:
        raise InputError(
            f"every {format_duration(step, kind)} is longer than the horizon {format_duration(horizon, kind)}, "
            "so no time is asked for; give a shorter step."
        )
    after = np.arange(1, n_steps + 1).astype(table.time.dtype) * np.asarray(step, dtype=table.time.dtype)
    return Queries(np.repeat(every, n_steps), (windows.origin[:, None] + after).reshape(-1))


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


def _note_far_queries(fitted: FittedModel, table: Table, windows: Windows, queries: Queries, notes: list[str]) -> None:
    # One part in 10^9 for the rounding of origin + horizon.
    reach = windows.origin[queries.series] + np.asarray(fitted.spans.horizon * (1 + 1e-9), dtype=table.time.dtype)
    n_far = int((queries.time > reach).sum())
    if n_far:
        horizon = format_duration(fitted.spans.horizon, table.schema.time_kind)
        notes.append(
            f"{count(n_far, 'query lies', 'queries lie')} beyond the horizon {horizon} that the model was fitted for; "
            "expect less of them."
        )


@dataclass(frozen=True)
class Asked:
    """Queries and all that answering them takes.

    Attributes:
        fitted, table, windows, queries, device: the model, the history, one window per series, what is asked, where to compute.
        is_smoothed: which queries lie at or before their origin, bool `(P,)`.
    """

    fitted: FittedModel
    table: Table
    windows: Windows
    queries: Queries
    is_smoothed: np.ndarray
    device: torch.device | str

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
            torch.manual_seed(seed)
            for part in self._answers():
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
        for part in chunks(n_asked * len(reader.target_channels), n_tokens, most):
            here = which[n_asked[: part.start].sum() : n_asked[: part.stop].sum()]
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


def chunks(n_targets: np.ndarray, n_tokens: np.ndarray, most: int) -> list[slice]:
    """Cut the series into runs of at most `READ_AT_ONCE`, fewer where they ask for many targets or read many values: `most` in all."""
    widest = max(int(n_targets.max(initial=1)), int(n_tokens.max(initial=1)))
    size = max(min(READ_AT_ONCE, most // widest), 1)
    return [slice(start, min(start + size, len(n_targets))) for start in range(0, len(n_targets), size)]


def _check_finite(table: Table, queries: Queries, *figures: np.ndarray) -> None:
    finite = np.logical_and.reduce([np.isfinite(x).reshape(len(x), -1).all(1) for x in figures])
    bad = np.flatnonzero(~finite)
    if len(bad):
        series = table.series_ids[queries.series[bad[0]]]
        raise SolveError(
            f"the forecast of series '{series}' is not finite ({len(bad)} such queries); "
            "look for extreme values in its history, or fit the model again with a lower learning rate."
        )
