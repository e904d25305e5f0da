"""In which bin of lead time a target lies: what widths and calibration depend on beside the channel."""

from __future__ import annotations

import torch
from torch import Tensor

from latentode.data.batch import Batch

# In horizons: where the shape of the error may change; beyond the last edge is one more bin.
LEAD_EDGES = (0.1, 0.25, 0.5, 0.75, 1.0)
N_LEADS = len(LEAD_EDGES) + 1


def lead_bin(batch: Batch) -> Tensor:
    """Give the bin of each target's lead time, int64 `(B, M)`."""
    time = batch.lead_time()
    return torch.bucketize(time, time.new_tensor(LEAD_EDGES))
