"""Scaling of values and times, fitted on training rows only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from latentode.data.moments import ChannelMoments
from latentode.data.schema import blocks
from latentode.data.tables import Table
from latentode.data.windows import Split


@dataclass(frozen=True)
class Scaler:
    """Mean and deviation of each channel over the training rows, and the unit of model time.

    Attributes:
        mean: `(C,)`, float64; 0 for a channel without training values.
        std: `(C,)`, float64, positive; 1 for a channel that is constant or without training values.
        n_values: training values per channel, int64 `(C,)`.
        time_scale: one unit of model time (the horizon) in the unit of `Table.time`.
    """

    mean: np.ndarray
    std: np.ndarray
    n_values: np.ndarray
    time_scale: float

    @classmethod
    def fit(cls, table: Table, split: Split, horizon: float) -> Scaler:
        """Take mean and deviation from the training rows of `table`."""
        return cls.of_moments(training_moments(table, split), horizon)

    @classmethod
    def of_moments(cls, moments: ChannelMoments, horizon: float) -> Scaler:
        """Take mean and deviation of the training rows as they are."""
        # Rounding leaves a constant channel a deviation of some 1e-16 of its size, by which nobody may divide.
        is_flat = moments.std <= 1e-10 * np.maximum(np.abs(moments.mean), np.finfo(np.float64).tiny)
        return cls(moments.mean, np.where(is_flat, 1.0, moments.std), moments.n_values, float(horizon))

    def transform(self, values: np.ndarray, channel: np.ndarray) -> np.ndarray:
        """Bring values of channels `channel` (same shape) to training deviations around the training mean."""
        return (values - self.mean[channel]) / self.std[channel]

    def inverse(self, values: np.ndarray, channel: np.ndarray) -> np.ndarray:
        """Bring scaled values back to the user's units."""
        return values * self.std[channel] + self.mean[channel]

    def to_dict(self) -> dict[str, Any]:
        """Give plain lists and numbers."""
        return {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "n_values": self.n_values.tolist(),
            "time_scale": self.time_scale,
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Scaler:
        """Rebuild a scaler from what `to_dict` gave."""
        mean, std = (np.asarray(d[name], dtype=np.float64) for name in ("mean", "std"))
        return cls(mean, std, np.asarray(d["n_values"], dtype=np.int64), float(d["time_scale"]))


def training_moments(table: Table, split: Split) -> ChannelMoments:
    """Give count, mean and deviation of each channel over the training rows, in one pass."""
    is_seen, moments = split.train_rows(table), ChannelMoments.zero(table.values.shape[1])
    for rows in blocks(table.values, size=1 << 22):
        moments += ChannelMoments.of(table.values[rows][is_seen[rows]])
    return moments
