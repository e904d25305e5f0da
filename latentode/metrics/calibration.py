"""Calibration as counts: how often the truth falls where the forecast said that it would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentode.errors import InputError

from .point import fill_unobserved
from .probabilistic import pit_values


@dataclass
class PitCounts:
    """A histogram of the probability integral transform per channel, as counts: parts add up.

    Attributes:
        count: values per channel and equal bin of [0, 1], `(C, K)`, float64, K even.
    """

    count: Tensor

    @classmethod
    def zero(cls, n_channels: int, n_bins: int = 20) -> PitCounts:
        """Give the histogram of nothing.

        Raises:
            InputError: the number of bins is odd: central intervals are then no sums of bins.
        """
        if n_bins < 2 or n_bins % 2:
            raise InputError(f"a PIT histogram takes an even number of bins, not {n_bins}.")
        return cls(torch.zeros(n_channels, n_bins, dtype=torch.float64))

    def add(self, forecast: Distribution, value: Tensor, channel: Tensor, observed: Tensor) -> None:
        """Add where values `(B, M)` fall in their forecasts, where `observed`; a forecast that is not a number has no place."""
        n_bins = self.count.shape[1]
        pit = pit_values(forecast, fill_unobserved(forecast, value, observed))[observed].detach().to(self.count)
        # A value at the very top belongs to the last bin.
        place = (pit * n_bins).nan_to_num().long().clamp(0, n_bins - 1)
        place = place + n_bins * channel[observed].to(self.count.device)
        self.count.view(-1).index_add_(0, place, (~pit.isnan()).to(self.count))

    def __add__(self, other: PitCounts) -> PitCounts:
        """Give the histogram of both parts."""
        if self.count.shape != other.count.shape:
            raise InputError("PIT histograms add up only where channels and bins are the same.")
        return PitCounts(self.count + other.count)

    def without(self, left_out: Tensor) -> PitCounts:
        """Give the histogram of the other channels; `left_out` is bool `(C,)`."""
        return PitCounts(torch.where(left_out[:, None].to(self.count.device), 0.0, self.count))

    def histogram(self) -> Tensor:
        """Give the density per channel `(C, K)`: 1 everywhere where forecasts are calibrated, NaN without values."""
        return self.count / self.count.sum(1, keepdim=True) * self.count.shape[1]

    def reliability(self) -> tuple[Tensor, Tensor]:
        """Give the nominal levels of the central intervals that the bins can tell, `(K / 2,)`, and the actual coverage `(C, K / 2)`."""
        half = self.count.shape[1] // 2
        # Bins in pairs about the middle, from the innermost out.
        pairs = self.count[:, half:] + self.count[:, :half].flip(1)
        nominal = torch.arange(1, half + 1, dtype=pairs.dtype, device=pairs.device) / half
        return nominal, pairs.cumsum(1) / pairs.sum(1, keepdim=True)

    def summary(self) -> dict[str, Any]:
        """Give nominal and actual coverage and the counts, pooled over channels, as plain values."""
        pooled = PitCounts(self.count.sum(0, keepdim=True))
        nominal, actual = pooled.reliability()
        counts = [int(n) for n in pooled.count[0].tolist()]
        return {"nominal": nominal.tolist(), "actual": actual[0].tolist(), "pit_counts": counts}
