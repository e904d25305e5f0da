"""What a model's latent state does: its path at any time after the origin, and the vector field that it follows, as arrays for plots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from latentode.data.tables import Table
from latentode.data.times import format_times
from latentode.errors import DataError, InputError
from latentode.forecasting.predict import Ask, ask_about
from latentode.models.fitted import FittedModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN = 0.25  # of a path's extent, by which the field is drawn beyond it


@dataclass(frozen=True)
class Plane:
    """A plane through the latent space, the paths in it, and the field along it.

    Attributes:
        centre: of the plane, `(D,)`.
        axes: two orthonormal directions, `(2, D)`.
        paths: of each series, in its order of times, `(Q, 2)`.
        x, y: the grid's coordinates, `(n,)` each.
        field: how fast a state at `(x[j], y[i])` moves along the axes, per horizon, `(n, n, 2)`.
        share: of the paths' variance, what lies in the plane.
    """

    centre: np.ndarray
    axes: np.ndarray
    paths: list[np.ndarray]
    x: np.ndarray
    y: np.ndarray
    field: np.ndarray
    share: float


@dataclass(frozen=True, repr=False)
class Latent:
    """Latent states at `P` times, of `K` channels, or of one that stands for all.

    Attributes:
        series: position of each time's series in `history`, int64 `(P,)`.
        time: as in `Table.time`, `(P,)`.
        channels: names, `K` of them; empty where a series has one state for all channels (`K` is then 1).
        state: `(P, K, D)`, float64.
        context: what does not move, of each time's series, `(P, K, E)`.
        history: what was read.
        velocity: gives how fast states `(G, D)` with contexts `(G, E)` move, per horizon.
        step_ends: where the solver's steps ended, in horizons after the origin, `(S, K, N)` for the `S` series asked for, by their
            position in `history`; NaN behind the last. None where nothing is solved by steps.
    """

    series: np.ndarray
    time: np.ndarray
    channels: tuple[str, ...]
    state: np.ndarray
    context: np.ndarray
    history: Table
    velocity: Callable[[np.ndarray, np.ndarray], np.ndarray]
    step_ends: np.ndarray | None = None

    def __repr__(self) -> str:
        n_series = len(np.unique(self.series))
        return f"Latent path of {n_series} series, {len(self.time)} times, {self.state.shape[-1]} numbers per state"

    def to_frame(self) -> pd.DataFrame:
        """Give the states as a table: `series_id, time`, `channel` where each has a state of its own, and `z1`, `z2`, ..."""
        n_states = max(len(self.channels), 1)
        names = [f"z{i + 1}" for i in range(self.state.shape[-1])]
        keys = {"series_id": self.history.series_ids[self.series], "time": format_times(self.time, self.history.schema)}
        frame = pd.DataFrame({name: np.repeat(value, n_states) for name, value in keys.items()})
        if self.channels:
            frame["channel"] = np.tile(np.asarray(self.channels, dtype=object), len(self.time))
        return pd.concat([frame, pd.DataFrame(self.state.reshape(-1, len(names)), columns=names)], axis=1)

    def plane(self, channel: str | None = None, *, series: Any = None, n_grid: int = 20) -> Plane:
        """Give the plane in which the paths vary most (their first two principal components), and the field on a grid over it.

        The field is that of one series, whose context it has; the paths of the others are drawn as they are, under fields of their own.

        Args:
            channel: whose states; left out, the first. Where a series has one state for all channels there is nothing to choose.
            series: whose field, by id; left out, the first.
            n_grid: points along each axis.

        Raises:
            InputError: there is no such channel or series here, or the state is a single number.
        """
        k, first = self._channel(channel), self._series(series)
        state = self.state[:, k]
        if state.shape[-1] < 2:
            raise InputError("the latent state is a single number: there is no plane to draw it in.")
        centre = state.mean(0)
        _, size, axes = np.linalg.svd(state - centre, full_matrices=True)
        axes = axes[:2] * np.where(axes[:2].sum(1, keepdims=True) < 0, -1.0, 1.0)
        inside = (state - centre) @ axes.T
        low, high = inside.min(0), inside.max(0)
        margin = MARGIN * np.maximum(high - low, 1e-6)
        x, y = (np.linspace(low[i] - margin[i], high[i] + margin[i], n_grid) for i in range(2))
        grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2) @ axes + centre
        context = np.broadcast_to(self.context[first, k], (len(grid), self.context.shape[-1]))
        field = (self.velocity(grid, context) @ axes.T).reshape(n_grid, n_grid, 2)
        power = np.square(size)
        share = float(power[:2].sum() / power.sum()) if power.sum() > 0 else 1.0
        paths = [inside[self.series == one] for one in np.unique(self.series)]
        return Plane(centre, axes, paths, x, y, field, share)

    def plot(self, channel: str | None = None, *, series: Any = None, n_grid: int = 20) -> Figure:
        """Draw the phase portrait: the paths, and arrows of the field; see `plane`."""
        from latentode.plots import plot_latent

        plane = self.plane(channel, series=series, n_grid=n_grid)
        names = self.history.series_ids[np.unique(self.series)].tolist()
        title = f"latent state{f' of {self.channels[self._channel(channel)]}' if self.channels else ''}"
        return plot_latent(plane.paths, plane.x, plane.y, plane.field, names=names, share=plane.share, title=title)

    def plot_effort(self, channel: str | None = None) -> Figure:
        """Draw where the solver takes short steps, and how many it takes per channel.

        Args:
            channel: whose steps are drawn over time; left out, the first.

        Raises:
            InputError: there is no such channel, or the dynamics is no field that is solved by steps.
        """
        from latentode.plots import plot_effort

        if self.step_ends is None:
            raise InputError(
                "nothing is solved by steps here: the model carries its state in closed form, or in parts."
            )
        names = self.history.series_ids[np.unique(self.series)].tolist()
        k = self._channel(channel)
        title = f"steps of the solver{f', {self.channels[k]}' if self.channels else ''}"
        return plot_effort(self.step_ends, k, names=names, channels=self.channels, title=title)

    def _channel(self, channel: str | None) -> int:
        if channel is None or not self.channels:
            return 0
        if channel not in self.channels:
            raise InputError(f"channel '{channel}' is not here; it has {', '.join(self.channels[:10])}.")
        return self.channels.index(channel)

    def _series(self, series: Any) -> int:
        if series is None:
            return 0
        found = np.flatnonzero(self.history.series_ids[self.series].astype(str) == str(series))
        if len(found) == 0:
            raise InputError(f"series '{series}' is not among those that were asked for.")
        return int(found[0])


def latent(fitted: FittedModel, history: Any, ask: Ask, *, device: torch.device | str = "cpu") -> Latent:
    """Give the latent path of every series of a history, at times after the origin.

    Args:
        fitted: the model.
        history, ask: as for `predict`.
        device: where to compute.

    Raises:
        DataError: a time lies at or before the origin, where no state stands, or names a series that the history does not hold.
        InputError: the model has no latent state, or the times are not given as `predict` takes them.
    """
    asked, _ = ask_about(fitted, history, ask, device)
    if asked.is_smoothed.any():
        raise DataError(
            f"{asked.table.source}: {int(asked.is_smoothed.sum())} of the times lie at or before the forecast origin, where the latent "
            "path begins; ask for later times, or set an earlier origin."
        )
    reader = fitted.reader(asked.table)
    positions = reader.target_channels
    network = fitted.network.to(device).eval()
    found: dict[str, np.ndarray] = {}
    steps: list[Tensor] = []
    velocity, is_per_channel = None, True
    for batch, (here, row, column) in asked.parts(np.arange(len(asked.queries.time)), asked.windows, reader):
        states = network.latent(batch)
        velocity, is_per_channel = states.velocity, states.is_per_channel
        n_states = len(positions) if is_per_channel else 1
        state = states.state.reshape(len(batch), -1, len(positions), states.state.shape[-1])[:, :, :n_states]
        parts = {
            "state": state.double().cpu().numpy()[row, column],
            "context": states.context[:, positions[:n_states]].double().cpu().numpy()[row],
        }
        if states.step_ends is not None:
            steps += states.step_ends[:, positions[:n_states]].cpu().unbind(0)
        for name, part in parts.items():
            found.setdefault(name, np.empty((len(asked.queries.time), *part.shape[1:])))[here] = part
    assert velocity is not None
    names = tuple(asked.table.schema.channels[i] for i in positions) if is_per_channel else ()
    return Latent(
        asked.queries.series,
        asked.queries.time,
        names,
        found["state"],
        found["context"],
        asked.table,
        partial(_velocity, velocity, torch.device(device)),
        _stack(steps) if steps else None,
    )


def _stack(steps: list[Tensor]) -> np.ndarray:
    """Give the step ends `(K, N)` of each series as one array `(S, K, N)`, padded with NaN."""
    longest = max(part.shape[1] for part in steps)
    padded = [torch.nn.functional.pad(part, (0, longest - part.shape[1]), value=torch.nan) for part in steps]
    return torch.stack(padded).double().numpy()


@torch.no_grad()
def _velocity(
    field: Callable[[Tensor, Tensor], Tensor], device: torch.device, state: np.ndarray, context: np.ndarray
) -> np.ndarray:
    tensors = (torch.from_numpy(x.astype(np.float32)).to(device) for x in (state, context))
    return field(*tensors).double().cpu().numpy()
