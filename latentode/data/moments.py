"""Mean and deviation of channels, part by part: of a table in blocks, or of a folder that is never in memory as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChannelMoments:
    """Count, mean and deviation of the observed values of each channel, `(C,)` each; `largest` is the largest size of a value.

    Two parts add up by the formulas of Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for computing sample
    variances", equation 2.1, in units of the largest value, so that squares of values near 1e300 do not overflow.
    """

    n_values: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    largest: np.ndarray

    @classmethod
    def zero(cls, n_channels: int) -> ChannelMoments:
        """Give those of no value at all."""
        return cls(np.zeros(n_channels, np.int64), *(np.zeros(n_channels) for _ in range(3)))

    @classmethod
    def of(cls, values: np.ndarray) -> ChannelMoments:
        """Give those of values `(N, C)`, NaN where not observed."""
        seen = ~np.isnan(values)
        n_values = seen.sum(axis=0)
        largest = np.where(seen, np.abs(values), 0.0).max(axis=0, initial=0.0)
        size = np.where(largest > 0, largest, 1.0)
        values = np.where(seen, values / size, 0.0)
        mean = values.sum(axis=0) / np.maximum(n_values, 1)
        variance = np.where(seen, (values - mean) ** 2, 0.0).sum(axis=0) / np.maximum(n_values, 1)
        return cls(n_values.astype(np.int64), mean * size, np.sqrt(variance) * size, largest)

    def __add__(self, other: ChannelMoments) -> ChannelMoments:
        """Give those of the values of both parts."""
        n_values, largest = self.n_values + other.n_values, np.maximum(self.largest, other.largest)
        size = np.where(largest > 0, largest, 1.0)
        share = other.n_values / np.maximum(n_values, 1)
        step = other.mean / size - self.mean / size
        variance = (
            (1 - share) * (self.std / size) ** 2 + share * (other.std / size) ** 2 + share * (1 - share) * step**2
        )
        # A part without values changes nothing, not even a last bit.
        mean, std = (
            np.where(other.n_values == 0, ours, np.where(self.n_values == 0, theirs, both))
            for ours, theirs, both in (
                (self.mean, other.mean, (self.mean / size + share * step) * size),
                (self.std, other.std, np.sqrt(variance) * size),
            )
        )
        return ChannelMoments(n_values, mean, std, largest)
