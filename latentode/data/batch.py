"""`Batch`, the one thing that models read, and the reader that makes batches from a table.

Legend: `B` windows, `N` observation tokens, `Q` query times, `M` targets, `T` distinct history stamps, `C` channels, `K` known figures,
`S` static numbers, `P` static categories. Every window has its own times: nothing is brought to the union of a batch's time stamps.
Times are `(t - origin) / time_scale`, subtracted in the table's own float64 or int64, so that a date far from 1970 loses nothing; history
is at or below 0, queries above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from latentode.data.calendar import calendar_features
from latentode.data.row_counts import bisect_rows, index_type, running_count, steps
from latentode.data.scaling import Scaler
from latentode.data.schema import blocks
from latentode.data.tables import Table
from latentode.data.windows import Windows

T = TypeVar("T")


@dataclass(frozen=True)
class DenseRows:
    """A history by time stamp: what a recurrent network reads.

    Attributes:
        time: ascending, padded at the end with 0, `(B, T)`.
        value: `(B, T, C)`, 0 where not observed.
        observed: bool `(B, T, C)`.
        row_observed: bool `(B, T)`; False is padding.
        known: what the known columns held and the calendar said, `(B, T, K)`.
    """

    time: Tensor
    value: Tensor
    observed: Tensor
    row_observed: Tensor
    known: Tensor


@dataclass(frozen=True)
class ChannelQueries:
    """The targets of a batch by channel: what a model reads that gives every channel of every window a latent state of its own.

    `P` pairs of a window and one of its channels that has a target, `T` targets of the batch, padding left out.

    Attributes:
        series, channel: of each pair, int64 `(P,)`; the window is told by its row in the batch.
        place: where each target stands in the flattened `(B, M)`, int64 `(T,)`.
        pair: which pair each target belongs to, int64 `(T,)`; those of one pair ascend in time.
        time: of each target, `(T,)`.
    """

    series: Tensor
    channel: Tensor
    place: Tensor
    pair: Tensor
    time: Tensor


@dataclass(frozen=True, repr=False)
class Batch:
    """Histories, queries and targets of `B` windows, float32.

    Attributes:
        token_time, token_value: of each observed value of the history, `(B, N)`; ascending in time, padded at the end with 0.
        token_channel: int64 `(B, N)`.
        token_observed: bool `(B, N)`; False is padding, or a value that a model must not read (`thinning.py` hides some in training).
        query_time: distinct ascending times, padded by repeating the last, `(B, Q)`.
        query_observed: bool `(B, Q)`; True is a query.
        target_row: which query time each target stands at, int64 `(B, M)`.
        target_channel: int64 `(B, M)`.
        target_value: as models see it, `(B, M)`; 0 where it is not known.
        target_observed: bool `(B, M)`; True is a known value (training) or an asked one (forecasting).
        origin: float64 or int64 `(B,)`, in table time.
        series: int64 `(B,)`.
        n_channels: `C`.
        time_scale: one unit of model time in table time: `origin + time_scale * query_time` is when a query stands in the calendar.
        token_known: what the known columns held at the time of each token, scaled, and behind them what the calendar said, in sines and
            cosines (`Schema.calendar`), `(B, N, K)`. They are features of the tokens and not
            tokens of their own: a model then reads a value beside what it was due to, and they take up none of `max_history`.
        known: the same at each query time, `(B, Q, K)`.
        statics: static numbers, scaled, `(B, S)`; 0 where not known.
        statics_observed: bool `(B, S)`.
        categories: int64 `(B, P)`, counted from 1; 0 is one that training never saw, or that is not known.
        target_error_units: what errors are told of: float64 training deviations around the training mean, `(B, M)`; None where that is
            `target_value`, as it is unless the scaling is robust or by logarithms.
    """

    token_time: Tensor
    token_value: Tensor
    token_channel: Tensor
    token_observed: Tensor
    query_time: Tensor
    query_observed: Tensor
    target_row: Tensor
    target_channel: Tensor
    target_value: Tensor
    target_observed: Tensor
    origin: Tensor
    series: Tensor
    n_channels: int
    time_scale: float = 1.0
    token_known: Tensor = None  # type: ignore[assignment]  (left out: no columns)
    known: Tensor = None  # type: ignore[assignment]
    statics: Tensor = None  # type: ignore[assignment]
    statics_observed: Tensor = None  # type: ignore[assignment]
    categories: Tensor = None  # type: ignore[assignment]
    target_error_units: Tensor | None = None

    def __post_init__(self) -> None:
        for name, of_time in (("token_known", self.token_time), ("known", self.query_time)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, of_time.new_empty((*of_time.shape, 0)))
        for name, dtype in (("statics", None), ("statics_observed", torch.bool), ("categories", torch.int64)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.query_time.new_empty((len(self), 0), dtype=dtype))

    def __len__(self) -> int:
        return len(self.series)

    def derived(self, name: str, make: Callable[[Batch], T]) -> T:
        """Give what `make` makes of this batch, made once: several parts of a model read the same figures of a history."""
        # Not a field: a copy, on another device or of some rows, starts without.
        held = self.__dict__.setdefault("_derived", {})
        if name not in held:
            held[name] = make(self)
        return held[name]

    def __repr__(self) -> str:
        sizes = {"N": self.token_time, "Q": self.query_time, "M": self.target_row}
        return (
            f"Batch(B={len(self)}, {', '.join(f'{key}={x.shape[1]}' for key, x in sizes.items())}, C={self.n_channels})"
        )

    def _map(self, function: str, *args: object, **kwargs: object) -> Batch:
        tensors = {f.name: x for f in fields(self) if isinstance(x := getattr(self, f.name), Tensor)}
        return replace(self, **{name: getattr(x, function)(*args, **kwargs) for name, x in tensors.items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Give the batch on a device."""
        return self._map("to", device, non_blocking=non_blocking)

    def take(self, windows: Tensor) -> Batch:
        """Give some of the windows: bool `(B,)` or int64 positions; the padding stays as wide."""
        return self._map("__getitem__", windows)

    def pin_memory(self) -> Batch:
        """Give the batch in page-locked memory, from which copies to a GPU can overlap."""
        return self._map("pin_memory")

    def error_target(self) -> Tensor:
        """Give the targets in the units in which errors are told, `(B, M)`."""
        return self.target_value if self.target_error_units is None else self.target_error_units

    def rows(self) -> DenseRows:
        """Give the histories by distinct time stamp."""
        seen, time = self.token_observed, self.token_time
        # Against the last value before that is seen: one in between may be hidden.
        before = torch.where(seen, time, -torch.inf).cummax(1).values
        is_new = seen & torch.cat([torch.ones_like(seen[:, :1]), time[:, 1:] != before[:, :-1]], dim=1)
        row = (is_new.cumsum(1) - 1).clamp(min=0)
        # The one number that must leave the device: how wide the result is.
        n_rows = max(int(is_new.sum(1).max()), 1)
        n_batch, n_channels = len(self), self.n_channels
        # Padding writes into a row behind the real ones, which is cut off.
        row = torch.where(seen, row, n_rows)
        cell = row * n_channels + self.token_channel
        value = time.new_zeros(n_batch, (n_rows + 1) * n_channels).scatter(1, cell, self.token_value)
        observed = torch.zeros_like(value, dtype=torch.bool).scatter(1, cell, seen)
        stamp = time.new_zeros(n_batch, n_rows + 1).scatter(1, row, time)
        shape = (n_batch, n_rows + 1, n_channels)
        observed = observed.view(shape)[:, :-1]
        n_known = self.token_known.shape[-1]
        known = time.new_zeros(n_batch, n_rows + 1, n_known)
        known = known.scatter(1, row[..., None].expand(-1, -1, n_known), self.token_known)
        return DenseRows(stamp[:, :-1], value.view(shape)[:, :-1], observed, observed.any(-1), known[:, :-1])

    def lead_time(self) -> Tensor:
        """Give how far each target lies from the origin, in model time, `(B, M)`."""
        return self.query_time.gather(1, self.target_row)

    def channel_queries(self) -> ChannelQueries:
        """Give the targets by channel. What leaves the device is how many targets and how many pairs there are."""
        place = self.target_observed.flatten().nonzero()[:, 0]
        row = torch.div(place, self.target_row.shape[1], rounding_mode="floor")
        channel = self.target_channel.flatten().index_select(0, place)
        cell, pair = torch.unique(row * self.n_channels + channel, return_inverse=True)
        return ChannelQueries(
            series=torch.div(cell, self.n_channels, rounding_mode="floor"),
            channel=cell % self.n_channels,
            place=place,
            pair=pair,
            time=self.lead_time().flatten().index_select(0, place),
        )


@dataclass(frozen=True)
class _Ragged:
    """Positions `first:last` of each window in a flat array, as a padded index."""

    index: np.ndarray  # (B, L), 0 where padded
    inside: np.ndarray  # (B, L)

    @classmethod
    def of(cls, first: np.ndarray, last: np.ndarray) -> _Ragged:
        width = max(int(np.max(last - first, initial=0)), 1)
        index = first[:, None] + np.arange(width)
        inside = index < last[:, None]
        return cls(np.where(inside, index, 0), inside)

    def gather(self, flat: np.ndarray) -> np.ndarray:
        if len(flat) == 0:
            return np.zeros((*self.index.shape, *flat.shape[1:]), flat.dtype)
        inside = self.inside.reshape(*self.inside.shape, *(1 for _ in flat.shape[1:]))
        return np.where(inside, flat[self.index], np.zeros((), flat.dtype))


class WindowReader:
    """Makes batches from a table: finds its observed values once, then gathers any windows without a loop.

    It keeps where the values stand, in 32 bits each, and no second copy of them: they are scaled as they are read.

    Args:
        table: the data.
        scaler: of the training rows.
        max_history: most observed values read per window, the latest ones.
        target_channels: positions of the channels that are forecast; left out, those of the table's schema that were seen in training.
    """

    def __init__(
        self, table: Table, scaler: Scaler, *, max_history: int, target_channels: Sequence[int] | None = None
    ) -> None:
        if target_channels is None:
            target_channels = target_positions(table, scaler)
        self.table = table
        self.scaler = scaler
        self.max_history = max_history
        self.target_channels = np.asarray(target_channels, dtype=np.int64)
        self._known = _scaled_known(scaler, table.known, table.n_rows)
        self._statics = _scaled_statics(table, scaler)
        self._token_from = running_count(table.values, lambda seen: seen.sum(axis=1))
        self._cell = _observed_cells(table.values, int(self._token_from[-1]))
        is_target = np.zeros(table.values.shape[1], dtype=bool)
        is_target[self.target_channels] = True
        # Where every channel is forecast, targets are counted like values.
        self._target_from, self._target_token = self._token_from, None
        if not is_target.all():
            self._target_from = running_count(table.values, lambda seen: (seen & is_target).sum(axis=1))
            self._target_token = np.flatnonzero(is_target[self._cell % len(is_target)]).astype(self._cell.dtype)
        self._query_row = steps(self._target_from)
        self._query_from = running_count(table.values, lambda seen: (seen & is_target).any(axis=1))

    def count_tokens(self, windows: Windows) -> np.ndarray:
        """Give how many observed values each window reads, int64 `(W,)`."""
        first, last = self._history(windows)
        return last - first

    def count_targets(self, windows: Windows) -> np.ndarray:
        """Give how many values each window forecasts, int64 `(W,)`."""
        begin, end = (self._target_from[self._rows_until(windows, at)] for at in (windows.origin, windows.until))
        return end.astype(np.int64) - begin

    def count_widths(self, windows: Windows) -> np.ndarray:
        """Give how wide a batch each window asks for, int64 `(W,)`: its tokens or its targets, whichever are more."""
        return np.maximum(self.count_tokens(windows), self.count_targets(windows))

    def read(self, windows: Windows) -> Batch:
        """Make a batch whose targets are the observed values in `(origin, until]`."""
        begin, end = self._rows_until(windows, windows.origin), self._rows_until(windows, windows.until)
        queries = _Ragged.of(self._query_from[begin], self._query_from[end])
        query_row = queries.gather(self._query_row)
        query_time = self._model_time(windows, self.table.time[query_row])
        targets = _Ragged.of(self._target_from[begin], self._target_from[end])
        token = targets.index if self._target_token is None else targets.gather(self._target_token)
        row, channel, value = self._read(token, targets.inside)
        target_row = np.where(targets.inside, self._query_from[row] - self._query_from[begin][:, None], 0)
        return self._batch(
            windows,
            query_time=_repeat_last(query_time, queries.inside),
            query_observed=queries.inside,
            target_row=target_row.astype(np.int64),
            target_channel=channel,
            target_value=value,
            target_observed=targets.inside,
            **self._known_at("known", query_row, queries.inside),
            **self._errors_at(row, channel, targets.inside),
        )

    def read_queries(
        self, windows: Windows, row: np.ndarray, time: np.ndarray, known: np.ndarray | None = None
    ) -> tuple[Batch, np.ndarray]:
        """Make a batch that asks for every target channel at given times.

        Args:
            windows: one per batch row.
            row: which window each query belongs to, `(Nq,)`.
            time: the times asked for, `(Nq,)`, in table time; in any order, repeats allowed.
            known: what the known columns hold there, in the user's units, `(Nq, K)`; None where there are no such columns.

        Returns:
            The batch, and for each query its column of `query_time`, `(Nq,)`. Target `(q, i)` of target channel number `i`
            stands at position `q * len(target_channels) + i`.
        """
        held = _scaled_known(self.scaler, known, len(row))
        order = np.lexsort((*held.T, time, row))
        sorted_row, sorted_time, held = row[order], time[order], held[order]
        is_first = np.append(True, sorted_row[1:] != sorted_row[:-1])[: len(row)]
        is_new = is_first | np.append(True, sorted_time[1:] != sorted_time[:-1])[: len(row)]
        # Asked twice at one time, with other known columns each: two queries.
        is_new |= np.append(True, (held[1:] != held[:-1]).any(axis=1))[: len(row)]
        n_queries = np.bincount(sorted_row[is_new], minlength=len(windows))
        starts = _starts(n_queries)
        column = np.empty(len(row), dtype=np.int64)
        column[order] = np.cumsum(is_new) - 1 - starts[sorted_row]
        queries = _Ragged.of(starts[:-1], starts[1:])
        query_time = self._model_time(windows, queries.gather(sorted_time[is_new]))
        n_targets = len(self.target_channels)
        n_batch, width = queries.inside.shape
        shape = (n_batch, width * n_targets)
        batch = self._batch(
            windows,
            query_time=_repeat_last(query_time, queries.inside),
            query_observed=queries.inside,
            target_row=np.broadcast_to(np.repeat(np.arange(width), n_targets), shape),
            target_channel=np.broadcast_to(np.tile(self.target_channels, width), shape),
            target_value=np.zeros(shape, np.float32),
            target_observed=np.repeat(queries.inside, n_targets, axis=1),
            known=self._with_calendar(
                queries.gather(held[is_new]), queries.gather(sorted_time[is_new]), queries.inside
            ),
        )
        return batch, column

    def _known_at(self, name: str, row: np.ndarray, inside: np.ndarray) -> dict[str, np.ndarray]:
        """Give, under this name, what is known at table rows `(B, L)`, 0 where padded: `(B, L, K)`; nothing where that is nothing."""
        if self.table.schema.n_known == 0:
            return {}
        held = np.where(inside[..., None], self._known[row], np.float32(0))
        return {name: self._with_calendar(held, self.table.time[row], inside)}

    def _with_calendar(self, held: np.ndarray, time: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Put what the calendar says of times `(B, L)` behind the known columns `(B, L, K)`; 0 where padded."""
        schema = self.table.schema
        if not schema.calendar:
            return held
        said = calendar_features(time, schema.calendar, schema.time_zone)
        return np.concatenate([held, np.where(inside[..., None], said, np.float32(0))], axis=-1)

    def _errors_at(self, row: np.ndarray, channel: np.ndarray, inside: np.ndarray) -> dict[str, np.ndarray]:
        """Give values in the units of errors, where models see them in others."""
        if self.scaler.channel_map is None:
            return {}
        # float64: beside an outlier in the deviation, all other values are one in float32.
        held = self.scaler.error_units(self.table.values[row, channel], channel) if len(self._cell) else 0.0
        return {"target_error_units": np.where(inside, held, 0.0)}

    def _rows_until(self, windows: Windows, time: np.ndarray) -> np.ndarray:
        return bisect_rows(
            self.table.time, self.table.starts[windows.series], self.table.starts[windows.series + 1], time
        )

    def _history(self, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
        first, last = (
            self._token_from[self._rows_until(windows, at)].astype(np.int64)
            for at in (windows.history_from, windows.origin)
        )
        return np.maximum(first, last - self.max_history), last

    def _read(self, token: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give the row, the channel and the scaled value of observed values; channel and value are 0 where they are not `inside`."""
        if len(self._cell) == 0:
            zero = np.zeros(token.shape, np.int64)
            return zero, zero, zero.astype(np.float32)
        row, channel = np.divmod(self._cell[token].astype(np.int64), self.table.values.shape[1])
        value = self.scaler.transform(self.table.values[row, channel], channel).astype(np.float32)
        return row, np.where(inside, channel, 0), np.where(inside, value, np.float32(0))

    def _model_time(self, windows: Windows, time: np.ndarray) -> np.ndarray:
        return ((time - windows.origin[:, None]) / self.scaler.time_scale).astype(np.float32)

    def _batch(self, windows: Windows, **targets: np.ndarray) -> Batch:
        tokens = _Ragged.of(*self._history(windows))
        row, channel, value = self._read(tokens.index, tokens.inside)
        # In which unit a channel comes that training never saw, nobody knows: it was observed, and that is all.
        value = np.where(self.scaler.n_values[channel] > 0, value, np.float32(0))
        time = self._model_time(windows, self.table.time[row])
        arrays = {
            "token_time": np.where(tokens.inside, time, np.float32(0)),
            "token_value": value,
            "token_channel": channel,
            "token_observed": tokens.inside,
            **self._known_at("token_known", row, tokens.inside),
            **{name: held[windows.series] for name, held in self._statics.items()},
            **targets,
            "origin": windows.origin,
            "series": windows.series,
        }
        tensors = {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in arrays.items()}
        return Batch(**tensors, n_channels=self.table.values.shape[1], time_scale=self.scaler.time_scale)


def target_positions(table: Table, scaler: Scaler) -> list[int]:
    """Give the positions of the target channels of which training saw at least one value."""
    channels = table.schema.channels
    return [channels.index(name) for name in table.schema.target_channels if scaler.n_values[channels.index(name)] > 0]


def _scaled_known(scaler: Scaler, known: np.ndarray | None, n_rows: int) -> np.ndarray:
    """Give known columns as models see them, float32 `(n_rows, K)`."""
    if known is None:
        return np.zeros((n_rows, 0), np.float32)
    return scaler.known.transform(known, scaler.limit).astype(np.float32)


def _scaled_statics(table: Table, scaler: Scaler) -> dict[str, np.ndarray]:
    """Give the statics of each series as the fields of a batch."""
    if table.statics is None:
        return {}
    numbers = scaler.statics.transform(table.statics.numbers, scaler.limit).astype(np.float32)
    observed = ~np.isnan(numbers)
    return {
        "statics": np.where(observed, numbers, np.float32(0)),
        "statics_observed": observed,
        "categories": table.statics.codes(table.schema.categories),
    }


def _observed_cells(values: np.ndarray, n: int) -> np.ndarray:
    """Give the places of the `n` observed values in the flat matrix, ascending."""
    cells, place = np.empty(n, dtype=index_type(values.size)), 0
    for rows in blocks(values):
        here = np.flatnonzero(~np.isnan(values[rows]))
        cells[place : place + len(here)] = here + rows.start * values.shape[1]
        place += len(here)
    return cells


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _repeat_last(time: np.ndarray, inside: np.ndarray) -> np.ndarray:
    last = np.maximum(inside.sum(axis=1) - 1, 0)
    return np.where(inside, time, np.take_along_axis(time, last[:, None], axis=1)).astype(np.float32)
