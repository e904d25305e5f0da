"""A fitted model as a function of plain tensors: values and times in the user's units in, forecasts in the user's units out."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from latentode.data.scaling import Spread
from latentode.errors import InputError
from latentode.metrics.quantiles import quantile
from latentode.models.baselines import Seasonal
from latentode.models.dynamics.unrolled import unroll
from latentode.models.fitted import FittedModel
from latentode.models.grid import GridBatch
from latentode.models.residual import ResidualModel

N_STEPS = 32  # of every solve; a method of order 5 is then far more exact than the adaptive solves of the fit


class ExportableForecast(nn.Module):
    """Forecasts every target channel at every query time; `torch.export` takes it where it takes the model.

    Legend: `B` windows, `N` observations, `Q` query times, `C` channels, `K` target channels, `L` levels, `F` known figures, `S` static
    numbers, `P` static categories.

    Args:
        fitted: the model; it is copied.
        levels: of the quantiles, ascending in (0, 1); none: mean and deviation alone.
        n_steps: of every solve, where a field is solved.

    Attributes:
        n_solved: how many parts are solved by fixed steps in place of adaptive ones.

    Raises:
        InputError: channels have a support (log, count or bounded), or a solve has no explicit steps.
    """

    def __init__(self, fitted: FittedModel, levels: Sequence[float], *, n_steps: int = N_STEPS) -> None:
        super().__init__()
        scaler, channels = fitted.scaler, fitted.schema.channels
        if scaler.channel_map is not None and not scaler.channel_map.links.is_plain.all():
            raise InputError(
                "the run has log, count or bounded channels, whose means are worked out by steps that depend on the values; "
                "only models of plain channels can be exported."
            )
        self.network = copy.deepcopy(fitted.network).cpu().eval()
        self.n_solved = unroll(self.network, n_steps)
        net = self.network
        if isinstance(net, ResidualModel) and net.companion is not None and not bool(net.companion_share.any()):
            # What has no say is not to be asked.
            net.companion = None
        for part in self.network.modules():
            if isinstance(part, Seasonal):
                part.hold()
        self.levels = tuple(levels)
        self.n_channels = len(channels)
        self.time_scale = float(scaler.time_scale)
        self.limit = float(scaler.limit)
        self.n_columns = len(fitted.schema.known_columns)
        is_seen = torch.from_numpy(scaler.n_values > 0)
        targets = fitted.target_channels
        if targets is None:
            names = fitted.schema.target_channels
            targets = tuple(channels.index(name) for name in names if bool(is_seen[channels.index(name)]))
        self.register_buffer("target", torch.tensor(targets, dtype=torch.int64))
        self.register_buffer("is_seen", is_seen)
        for name, spread in (("channel", scaler.spread()), ("known", scaler.known), ("static", scaler.statics)):
            self._keep(name, spread)
        _unregister_empty(self)

    target: Tensor
    is_seen: Tensor
    channel_centre: Tensor
    channel_size: Tensor

    def _keep(self, name: str, spread: Spread) -> None:
        self.register_buffer(f"{name}_centre", torch.from_numpy(np.array(spread.centre)))
        self.register_buffer(f"{name}_size", torch.from_numpy(np.array(spread.size)))

    def forward(
        self,
        time: Tensor,
        channel: Tensor,
        value: Tensor,
        observed: Tensor,
        origin: Tensor,
        query_time: Tensor,
        known: Tensor | None = None,
        query_known: Tensor | None = None,
        statics: Tensor | None = None,
        categories: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Forecast.

        Args:
            time: of the observations, in table time, float64 or, of dates, int64 nanoseconds since 1970, `(B, N)`; in any order.
            channel: of each, int64 `(B, N)`.
            value: of each, in the user's units, float64 `(B, N)`.
            observed: bool `(B, N)`; False is padding.
            origin: after which is forecast; observations lie at or before it, `(B,)`.
            query_time: after the origin, `(B, Q)`.
            known: what the known columns held at each observation, in the user's units, and behind them what the calendar says of it,
                float64 `(B, N, F)`; None where there is nothing of it.
            query_known: the same of each query time, `(B, Q, F)`.
            statics: static numbers in the user's units, NaN where not known, float64 `(B, S)`.
            categories: static categories by number, from 1, 0 where not known, int64 `(B, P)`.

        Returns:
            mean and std `(B, Q, K)` and, where there are levels, quantiles `(B, Q, K, L)`, float64 in the user's units.
        """
        lead = (time - origin[:, None]).double() / self.time_scale
        # Ascending, with the padding at the end: what models ask of a batch.
        order = torch.where(observed, lead, torch.inf).argsort(dim=1, stable=True)
        seen = observed.gather(1, order)
        token_channel = torch.where(seen, channel.gather(1, order), 0)
        scaled = self._scaled("channel", value.gather(1, order), token_channel)
        is_known_channel = seen & self.is_seen[token_channel]
        n_batch, n_queries = query_time.shape
        n_targets = self.target.shape[0]
        row = torch.arange(n_queries)[:, None].expand(-1, n_targets).flatten()
        target_channel = self.target.expand(n_queries, -1).flatten().expand(n_batch, -1)
        shape = (n_batch, n_queries * n_targets)
        batch = GridBatch(
            token_time=torch.where(seen, lead.gather(1, order), 0.0).float(),
            token_value=torch.where(is_known_channel, scaled, 0.0).float(),
            token_channel=token_channel,
            token_observed=seen,
            query_time=((query_time - origin[:, None]).double() / self.time_scale).float(),
            query_observed=torch.ones(n_batch, n_queries, dtype=torch.bool),
            target_row=row.expand(n_batch, -1),
            target_channel=target_channel,
            target_value=torch.zeros(shape),
            target_observed=torch.ones(shape, dtype=torch.bool),
            origin=origin,
            series=torch.arange(n_batch),
            n_channels=self.n_channels,
            time_scale=self.time_scale,
            token_known=self._known(known, (*time.shape, 0), order, seen),
            known=self._known(query_known, (n_batch, n_queries, 0)),
            **self._statics(statics, categories, n_batch),
        )
        said = self.network(batch)
        centre, size = (x[target_channel] for x in (self.channel_centre, self.channel_size))
        mean, std = centre + size * said.mean.double(), size * said.stddev.double()
        grid = (n_batch, n_queries, n_targets)
        if not self.levels:
            return mean.view(grid), std.view(grid)
        found = torch.stack([quantile(said, level).double() for level in self.levels], -1)
        quantiles = centre[..., None] + size[..., None] * found
        return mean.view(grid), std.view(grid), quantiles.view(*grid, len(self.levels))

    def _scaled(self, name: str, value: Tensor, column: Tensor | None = None) -> Tensor:
        """Bring values to what models see: of columns `column`, or the last axis has one entry per column."""
        centre, size = getattr(self, f"{name}_centre"), getattr(self, f"{name}_size")
        if column is not None:
            centre, size = centre[column], size[column]
        return ((value - centre) / size).clamp(-self.limit, self.limit)

    def _known(
        self, known: Tensor | None, empty: tuple[int, ...], order: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        if known is None:
            return torch.zeros(empty)
        scaled = torch.cat([self._scaled("known", known[..., : self.n_columns]), known[..., self.n_columns :]], -1)
        if order is None or seen is None:
            return scaled.float()
        scaled = scaled.gather(1, order[..., None].expand(-1, -1, scaled.shape[-1]))
        return torch.where(seen[..., None], scaled, 0.0).float()

    def _statics(self, statics: Tensor | None, categories: Tensor | None, n_batch: int) -> dict[str, Tensor]:
        scaled = torch.zeros(n_batch, 0) if statics is None else self._scaled("static", statics).float()
        return {
            "statics": torch.where(scaled.isnan(), 0.0, scaled),
            "statics_observed": ~scaled.isnan(),
            "categories": torch.zeros(n_batch, 0, dtype=torch.int64) if categories is None else categories,
        }


def _unregister_empty(module: nn.Module) -> None:
    """Make buffers without an element plain attributes: torch 2.13 cannot write them."""
    for part in module.modules():
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and buffer.numel() == 0:
                delattr(part, name)
                setattr(part, name, buffer)
