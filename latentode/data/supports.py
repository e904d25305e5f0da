"""Values outside what their channel can hold are refused where a table is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentode.data.cells import Cells
from latentode.data.schema import count
from latentode.errors import DataError


@dataclass(frozen=True)
class Supports:
    """Which channels are positive, counts, or between bounds."""

    positive: Sequence[str]
    counts: Sequence[str]
    bounds: Mapping[str, Sequence[float]]

    def check(self, names: Sequence[str], values: Callable[[int], np.ndarray], cells: Cells) -> None:
        """Refuse what is outside its channel's support; `values` gives the column of a channel in the order of the file."""
        for name in {*self.positive, *self.counts, *self.bounds} & {*names}:
            value = values(names.index(name))
            bad = np.flatnonzero(self._is_outside(name, value))
            if len(bad):
                such = count(len(bad), "such row", "such rows")
                what, role = self._complaint(name)
                raise DataError(
                    f"{cells.at(int(bad[0]))}: channel '{name}' holds {value[bad[0]]:g}, which {what} ({such}); correct it, empty "
                    f"the cell if nothing was observed, or take the channel out of --data.{role} (`{role}`)."
                )

    def _is_outside(self, name: str, value: np.ndarray) -> np.ndarray:
        """Say it of each value; of one that is not observed it is False."""
        if name in self.positive:
            return value <= 0
        if name in self.counts:
            return (value < 0) | (np.isfinite(value) & (value != np.rint(value)))
        low, high = self.bounds[name]
        return (value < low) | (value > high)

    def _complaint(self, name: str) -> tuple[str, str]:
        if name in self.positive:
            return "has no logarithm", "log_channels"
        if name in self.counts:
            return "is no count", "count_channels"
        low, high = self.bounds[name]
        return f"is not between {low:g} and {high:g}", "bounded_channels"
