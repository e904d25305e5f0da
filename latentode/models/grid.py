"""A batch whose queries are a grid: every channel is asked for at every query time of every window, so that no size depends on the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from latentode.data.batch import Batch, ChannelQueries


@dataclass(frozen=True, repr=False)
class GridBatch(Batch):
    """A batch with targets `(q, i)` of target channel number `i` at `q * K + i`, none of them padding.

    Its channel queries are the same as `Batch` would find, without looking for them: a program that is exported must not ask how many
    there are.
    """

    def channel_queries(self) -> ChannelQueries:
        """Give the targets by channel."""
        n_batch, n_targets = self.target_row.shape
        n_queries = self.query_time.shape[1]
        n_channels = n_targets // n_queries
        device = self.target_row.device
        series = torch.arange(n_batch, device=device)[:, None].expand(-1, n_channels)
        number = torch.arange(n_channels, device=device).expand(n_batch, -1)
        pair = torch.arange(n_batch * n_channels, device=device).view(n_batch, 1, n_channels)
        return ChannelQueries(
            series=series.flatten(),
            # Those of the first query stand for all.
            channel=self.target_channel[:, :n_channels].gather(1, number).flatten(),
            place=torch.arange(n_batch * n_targets, device=device),
            pair=pair.expand(-1, n_queries, -1).flatten(),
            time=self.lead_time().flatten(),
        )
