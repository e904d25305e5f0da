"""The training mean of each channel, whatever the history says."""

from __future__ import annotations

import torch
from torch import Tensor

from latentode.models.baselines.linear import LinearBaseline


class Constant(LinearBaseline):
    """Forecasts the training mean."""

    def initial_weight(self) -> Tensor:
        """Give no weight to the history."""
        return torch.tensor([0.0, 0.0])
