"""Scaling of values and times, fitted on training rows only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

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
        values = table.values[split.train_rows(table)]
        seen = ~np.isnan(values)
        n_values = seen.sum(axis=0)
        # In units of the largest value, so that squares of values near 1e300 do not overflow.
        largest = np.where(seen, np.abs(values), 0.0).max(axis=0, initial=0.0)
        size = np.where(largest > 0, largest, 1.0)
        values = np.where(seen, values / size, 0.0)
        mean = values.sum(axis=0) / np.maximum(n_values, 1)
        variance = np.where(seen, (values - mean) ** 2, 0.0).sum(axis=0) / np.maximum(n_values, 1)
        mean, std = mean * size, np.sqrt(variance) * size
        # Rounding leaves a constant channel a deviation of some 1e-16 of its size, by which nobody may divide.
        is_flat = std <= 1e-10 * np.maximum(np.abs(mean), np.finfo(np.float64).tiny)
        return cls(mean, np.where(is_flat, 1.0, std), n_values.astype(np.int64), float(horizon))

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
