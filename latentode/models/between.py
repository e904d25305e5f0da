"""What stands around a query that lies inside a history: the values before and after it, and what a forecast made just before it says.

Legend: as in `data.batch`, and `T` asked values, `R` rows of which each is a window read up to just before one of its queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentode.data.batch import Batch

SIDE = 4  # values on either side of a query that are looked at
SOON = 1e-6  # horizons: where other channels were observed at the very time of a query, the forecast is asked for just after it
MAX_ROWS = (
    64  # per forward pass: as many as a batch of training has, so that fitting takes no more memory than training did
)


@dataclass(frozen=True)
class Around:
    """The values of the same channel next to every target, in the order of time: `SIDE` at or before it, `SIDE` behind it.

    Attributes:
        token: position of each in the tokens of its window, int64 `(B, M, 2 SIDE)`; 0 where there is none.
        exists: bool `(B, M, 2 SIDE)`.
        is_seen: whether the channel was observed at the very time that is asked for, bool `(B, M)`; that value is then the last before.
    """

    token: Tensor
    exists: Tensor
    is_seen: Tensor

    def of(self, per_token_BN: Tensor) -> Tensor:
        """Give a figure of the tokens around every target, `(B, M, 2 SIDE)`; 0 where there is none."""
        found = per_token_BN.gather(1, self.token.flatten(1)).view(self.token.shape)
        return torch.where(self.exists, found, 0.0)


def look_around(batch: Batch) -> Around:
    """Find the values before and behind every target, by binary search: no memory grows with tokens times targets."""
    time, asked = batch.token_time.double(), batch.lead_time().double()
    seen = batch.token_observed
    # One ascending list per window: channel after channel, each in a range of its own.
    reach = 1 + torch.maximum(time.abs().amax(), asked.abs().amax()) if time.numel() and asked.numel() else 1.0
    start = 2 * reach * torch.arange(batch.n_channels + 1, dtype=time.dtype, device=time.device)
    channel = torch.where(seen, batch.token_channel, batch.n_channels)
    key, order = (start[channel] + time).sort(dim=1, stable=True)
    wanted = (start[batch.target_channel] + asked).contiguous()
    place = torch.searchsorted(key, wanted, right=True)[..., None] + torch.arange(-SIDE, SIDE, device=time.device)
    inside = (place >= 0) & (place < key.shape[1])
    token = order.gather(1, place.clamp(0, key.shape[1] - 1).flatten(1)).view(place.shape)
    found = channel.gather(1, token.flatten(1)).view(place.shape)
    exists = inside & (found == batch.target_channel[..., None])
    at = time.gather(1, token[..., SIDE - 1])
    return Around(torch.where(exists, token, 0), exists, exists[..., SIDE - 1] & (at == asked))


@dataclass(frozen=True)
class Ahead:
    """What forecasts from the last stamp before a target say of it, and of the next value of its channel behind it.

    Attributes:
        mean, std: at the time that is asked for, `(B, M)`.
        mean_next, std_next: at the time of the next value; as at the asked time where there is none.
        is_told: whether something was observed before, and all this lies within reach of a forecast, bool `(B, M)`.
    """

    mean: Tensor
    std: Tensor
    mean_next: Tensor
    std_next: Tensor
    is_told: Tensor


@dataclass(frozen=True)
class _Stops:
    """The queries of a batch that have a target, `R` of them, and their targets, `T`, query by query.

    Attributes:
        window, query: of each, int64 `(R,)`.
        end: how many tokens of its window stand up to the last one that is seen at or before it, int64 `(R,)`; 0: none is.
        place: of each target in the flattened `(B, M)`, int64 `(T,)`.
        stop: to which query each target belongs, ascending, int64 `(T,)`.
        slot: its number among those of its query, int64 `(T,)`.
        first: where the targets of each query begin, with their end, `(R + 1,)`.
    """

    window: Tensor
    query: Tensor
    end: Tensor
    place: Tensor
    stop: Tensor
    slot: Tensor
    first: Tensor

    @classmethod
    def of(cls, batch: Batch) -> _Stops:
        n_targets, n_queries = batch.target_row.shape[1], batch.query_time.shape[1]
        place = batch.target_observed.flatten().nonzero()[:, 0]
        window = torch.div(place, n_targets, rounding_mode="floor")
        cell, stop = torch.unique(window * n_queries + batch.target_row.flatten()[place], return_inverse=True)
        order = stop.argsort(stable=True)
        place, stop = place[order], stop[order]
        first = torch.searchsorted(stop, torch.arange(len(cell) + 1, device=stop.device))
        slot = torch.arange(len(stop), device=stop.device) - first[stop]
        window, query = torch.div(cell, n_queries, rounding_mode="floor"), cell % n_queries
        return cls(window, query, _ends(batch)[window, query], place, stop, slot, first)


def _ends(batch: Batch) -> Tensor:
    """Give, for every query `(B, Q)`, how many tokens stand up to the last one that is seen at or before it."""
    seen = batch.token_observed
    # Hidden tokens lie in between, padding behind: both stand at the last one that is seen.
    stamp = torch.where(seen, batch.token_time, -torch.inf).cummax(1).values
    place = torch.where(seen, torch.arange(1, seen.shape[1] + 1, device=seen.device), 0).cummax(1).values
    n_before = torch.searchsorted(stamp, batch.query_time.contiguous(), right=True)
    return torch.where(n_before > 0, place.gather(1, (n_before - 1).clamp(min=0)), 0)


@torch.no_grad()
def look_ahead(
    forecast: Callable[[Batch], Distribution], batch: Batch, around: Around, *, n_read: int, age: float, reach: float
) -> Ahead:
    """Forecast every target from the last stamp before it, and the next value of its channel with it.

    Args:
        forecast: of every target of a batch, whose queries are above 0.
        batch: queries anywhere among its tokens.
        around: of its targets.
        n_read: most values that are read.
        age: how old they may be, in horizons.
        reach: how far a forecast goes, in horizons.
    """
    stops, following = _Stops.of(batch), _Following.of(batch, around)
    shape = batch.target_row.shape
    found = torch.zeros(5, shape.numel(), dtype=batch.target_value.dtype, device=batch.target_value.device)
    for begin in range(0, len(stops.window), MAX_ROWS):
        end = min(begin + MAX_ROWS, len(stops.window))
        part, here = _cut(batch, following, stops, begin, end, n_read, age)
        said = forecast(part)
        has_past = part.token_observed.any(1)
        row, slot = stops.stop[here] - begin, stops.slot[here]
        half = part.target_row.shape[1] // 2
        columns = torch.stack([figure[row, at + slot] for at in (0, half) for figure in (said.mean, said.stddev)])
        is_told = has_past[row] & (part.lead_time()[row, half + slot] <= reach) & columns.isfinite().all(0)
        found[:, stops.place[here]] = torch.cat([columns, is_told[None]]).to(found.dtype)
    mean, std, mean_next, std_next, is_told = found.view(5, *shape)
    return Ahead(mean, std, mean_next, std_next, is_told > 0)


@dataclass(frozen=True)
class _Following:
    """The next value of the channel of each target, in the flattened `(B, M)`: its time, its token, and whether there is one."""

    time: Tensor
    token: Tensor
    exists: Tensor

    @classmethod
    def of(cls, batch: Batch, around: Around) -> _Following:
        token, exists = around.token[..., SIDE], around.exists[..., SIDE]
        return cls(batch.token_time.gather(1, token).flatten(), token.flatten(), exists.flatten())


def _cut(
    batch: Batch, following: _Following, stops: _Stops, begin: int, end: int, n_read: int, age: float
) -> tuple[Batch, slice]:
    """Give one window per query `begin:end`, read up to the last stamp at or before it, and which targets belong to them.

    The targets of a window are those of its query, and behind these, as many again, the next values of their channels.
    """
    here = slice(int(stops.first[begin]), int(stops.first[end]))
    window, row = stops.window[begin:end], stops.stop[here] - begin
    asked = batch.query_time[window, stops.query[begin:end]]
    tokens, origin = _until(batch, window, stops.end[begin:end], asked, n_read, age)
    width = int(stops.slot[here].max()) + 1
    place, slot = stops.place[here], stops.slot[here]
    # Per row: the asked time, and the next value's of each target; those that are missing stand for the asked time.
    next_time = (asked - origin)[:, None].repeat(1, width)
    next_token = torch.zeros(next_time.shape, dtype=torch.int64, device=window.device)
    has = torch.zeros_like(next_token, dtype=torch.bool)
    has[row, slot] = following.exists[place]
    next_time[row, slot] = torch.where(has[row, slot], following.time[place] - origin[row], next_time[row, slot])
    next_token[row, slot] = following.token[place]
    times = torch.cat([(asked - origin)[:, None], next_time], 1).clamp(min=SOON)
    query_time, order = times.sort(dim=1, stable=True)
    rank = order.argsort(1)
    at_asked = batch.known[window, stops.query[begin:end]][:, None]
    at_next = _rows_of(batch.token_known, window, next_token)
    known = torch.cat([at_asked, torch.where(has[..., None], at_next, at_asked)], 1)
    channel = torch.zeros_like(next_token)
    channel[row, slot] = batch.target_channel.flatten()[place]
    is_target = torch.zeros_like(has)
    is_target[row, slot] = True
    # What a row does not keep is not copied for it: a history may be long, and asked about at many times.
    part = replace(
        _without_times(batch).take(window),
        **tokens,
        query_time=query_time,
        query_observed=torch.ones_like(query_time, dtype=torch.bool),
        target_row=torch.cat([rank[:, :1].expand(-1, width), rank[:, 1:]], 1),
        target_channel=channel.repeat(1, 2),
        target_value=torch.zeros_like(next_time).repeat(1, 2),
        target_observed=is_target.repeat(1, 2),
        origin=_moved(batch.origin[window], origin, batch.time_scale),
        known=known.gather(1, order[..., None].expand_as(known)),
        target_error_units=None,
    )
    return part, here


def _moved(origin: Tensor, by: Tensor, time_scale: float) -> Tensor:
    shift = by.double() * time_scale
    return origin + (shift if origin.is_floating_point() else shift.round().to(origin.dtype))


def _without_times(batch: Batch) -> Batch:
    names = (
        "token_time",
        "token_value",
        "token_channel",
        "token_observed",
        "token_known",
        "query_time",
        "query_observed",
        "known",
    )
    targets = ("target_row", "target_channel", "target_value", "target_observed")
    slim = {name: getattr(batch, name)[:, :1] for name in (*names, *targets)}
    return replace(batch, **slim, target_error_units=None)


def _rows_of(x_BN: Tensor, window_R: Tensor, index_RK: Tensor) -> Tensor:
    """Give what stands at positions of windows, `(R, K, ...)`, without copying the windows."""
    return x_BN.flatten(0, 1)[window_R[:, None] * x_BN.shape[1] + index_RK]


def _until(
    batch: Batch, window: Tensor, stop: Tensor, asked: Tensor, n_read: int, age: float
) -> tuple[dict[str, Tensor], Tensor]:
    """Give the last tokens of each window up to number `stop`, counted in time from the last of them, and where that lies.

    Where there is none, that is the asked time.
    """
    last = _rows_of(batch.token_time, window, (stop - 1).clamp(min=0)[:, None])[:, 0]
    origin = torch.where(stop > 0, last, asked)
    width = max(min(n_read, int(stop.max())), 1)
    index = (stop - width).clamp(min=0)[:, None] + torch.arange(width, device=stop.device)
    inside, index = index < stop[:, None], index.clamp(max=batch.token_time.shape[1] - 1)
    time, value, channel, seen, known = (
        _rows_of(x, window, index)
        for x in (batch.token_time, batch.token_value, batch.token_channel, batch.token_observed, batch.token_known)
    )
    after = torch.where(inside, time - origin[:, None], 0.0)
    tokens = {
        "token_time": after,
        "token_value": torch.where(inside, value, 0.0),
        "token_channel": torch.where(inside, channel, 0),
        "token_observed": inside & seen & (after >= -age),
        "token_known": known,
    }
    return tokens, origin
