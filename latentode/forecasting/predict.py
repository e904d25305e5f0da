"""Ask a fitted model for its forecast at any time after the origin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from latentode.data.schema import Schema, count, quote_names
from latentode.data.tables import Queries, Table, read_queries, read_table
from latentode.data.times import format_duration, format_times, parse_duration, parse_time_list, zone_note
from latentode.data.windows import Windows, forecast_windows
from latentode.errors import DataError, InputError, SolveError
from latentode.forecasting.forecast import QUANTILES, Forecast, check_levels
from latentode.metrics.quantiles import quantile
from latentode.models.fitted import READ_AT_ONCE, FittedModel
from latentode.models.units import Mapped, in_user_units

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

    The origin is each series' own last observation, or `ask.origin` for all; later rows are then not read.

    Args:
        fitted: the model.
        history: a table, or what `read_table` reads.
        ask: `at`: times for every series; `every` and `horizon`: origin + every, ..., origin + horizon of each series (horizon left out:
            that of the fit); `queries`: a table of series, times and the known columns (needed where the model has such), whose order
            is kept.
        quantiles: levels of the quantiles.
        device: where to compute.

    Raises:
        DataError: a query lies at or before its origin, or names a series that the history does not hold.
        InputError: none or several of `at`, `every` and `queries` are given, or one is not of its form.
        SolveError: the forecast is not finite.
    """
    levels = check_levels(quantiles)
    _check_known_asked(fitted, ask)
    table = read_history(fitted, history)
    notes = list(table.report.notes)
    windows = _windows(fitted, table, ask, notes)
    queries = _queries(fitted, table, windows, ask)
    notes += queries.notes
    _check_after_origin(table, windows, queries)
    _note_far_queries(fitted, table, windows, queries, notes)
    mean, std, found = _compute(fitted, table, windows, queries, levels, device)
    names = [table.schema.channels[i] for i in fitted.reader(table).target_channels]
    draw = partial(_draw, fitted, table, windows, queries, device)
    left_out = [name for name in table.schema.target_channels if name not in names]
    if left_out:
        notes.append(
            f"{count(len(left_out), 'channel had', 'channels had')} no value in training and "
            f"{'is' if len(left_out) == 1 else 'are'} not forecast: {quote_names(left_out)}."
        )
    return Forecast(
        table.schema, queries.series, queries.time, tuple(names), mean, std, levels, found, table, draw, tuple(notes)
    )


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


def _check_after_origin(table: Table, windows: Windows, queries: Queries) -> None:
    late = np.flatnonzero(queries.time <= windows.origin[queries.series])
    if len(late) == 0:
        return
    first = late[0]
    series = queries.series[first]
    time, origin, start = (
        format_times(np.asarray([at]), table.schema)[0]
        for at in (queries.time[first], windows.origin[series], table.time[table.starts[series]])
    )
    name = f"series '{table.series_ids[series]}'" if table.schema.id_column else "the series"
    if queries.time[first] < table.time[table.starts[series]]:
        where = f"before the first observation of {name} ({start})"
    else:
        where = f"at or before the forecast origin of {name} ({origin})"
    raise DataError(
        f"{table.source}: the query at {time} lies {where}; {count(len(late), 'such query', 'such queries')}. "
        "Ask for later times, or set an earlier origin with --origin (`origin`)."
    )


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


def _compute(
    fitted: FittedModel,
    table: Table,
    windows: Windows,
    queries: Queries,
    levels: tuple[float, ...],
    device: torch.device | str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give mean, std `(P, K)` and quantiles `(P, K, L)` in the user's units."""
    shape = (len(queries.time), len(fitted.reader(table).target_channels))
    mean, std, quantiles = np.empty(shape), np.empty(shape), np.empty((*shape, len(levels)))
    for part in _answers(fitted, table, windows, queries, device):
        found = torch.stack([quantile(part.distribution, level) for level in levels], -1)
        mean[part.here], std[part.here] = part.pick(part.distribution.mean), part.pick(part.distribution.stddev)
        quantiles[part.here] = part.pick(found)
    _check_finite(table, queries, mean, std, quantiles)
    return mean, std, quantiles


def _draw(
    fitted: FittedModel,
    table: Table,
    windows: Windows,
    queries: Queries,
    device: torch.device | str,
    n_samples: int,
    seed: int,
) -> np.ndarray:
    """Draw from every forecast, `(P, K, n_samples)` in the user's units."""
    shape = (len(queries.time), len(fitted.reader(table).target_channels), n_samples)
    draws = np.empty(shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in _answers(fitted, table, windows, queries, device):
            draws[part.here] = part.pick(part.distribution.sample((n_samples,)).movedim(0, -1))
    return draws


@dataclass(frozen=True)
class _Answer:
    """The forecasts of some queries: positions `here` in their list, found at `row` and `column` of the distribution `(B, Q K)`."""

    distribution: Mapped
    here: np.ndarray
    row: np.ndarray
    column: np.ndarray
    n_channels: int

    def pick(self, figure: Tensor) -> np.ndarray:
        """Give a figure `(B, Q K, ...)` of the queries, `(P', K, ...)`."""
        shaped = figure.reshape(len(figure), -1, self.n_channels, *figure.shape[2:])
        return shaped.cpu().numpy()[self.row, self.column]


@torch.no_grad()
def _answers(
    fitted: FittedModel, table: Table, windows: Windows, queries: Queries, device: torch.device | str
) -> Iterator[_Answer]:
    """Ask the model part by part."""
    reader = fitted.reader(table)
    network = fitted.network.to(device).eval()
    n_channels = len(reader.target_channels)
    order = np.argsort(queries.series, kind="stable")
    asked, n_asked = np.unique(queries.series, return_counts=True)
    most = MAX_QUERIES_CPU if torch.device(device).type == "cpu" else MAX_QUERIES
    for part in chunks(n_asked * n_channels, reader.count_tokens(windows.take(asked)), most):
        here = order[n_asked[: part.start].sum() : n_asked[: part.stop].sum()]
        row = np.repeat(np.arange(part.stop - part.start), n_asked[part])
        known = None if queries.known is None else queries.known[here]
        batch, column = reader.read_queries(windows.take(asked[part]), row, queries.time[here], known)
        batch = batch.to(device)
        distribution = in_user_units(network(batch), batch.target_channel, fitted.scaler)
        yield _Answer(distribution, here, row, column, n_channels)


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
