"""How far ahead a target lies, and in which bin of lead time: what widths and calibration depend on beside the channel."""

from __future__ import annotations

import torch
from torch import Tensor

from latentode.data.batch import Batch

# In horizons: where the shape of the error may change; beyond the last edge is one more bin.
LEAD_EDGES = (0.1, 0.25, 0.5, 0.75, 1.0)
N_LEADS = len(LEAD_EDGES) + 1


def lead_time(batch: Batch) -> Tensor:
    """Give how far each target lies from the origin, in horizons, `(B, M)`."""
    return batch.query_time.gather(1, batch.target_row)


def lead_bin(batch: Batch) -> Tensor:
    """Give the bin of each target's lead time, int64 `(B, M)`."""
    time = lead_time(batch)
    return torch.bucketize(time, time.new_tensor(LEAD_EDGES))
