"""Up to when a fit has seen each series: what keeps a later evaluation from scoring a model on what it learned from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentode.data.fingerprint import hash_names
from latentode.data.tables import Table
from latentode.data.windows import TEST, Split, Windows, lowest_time


@dataclass(frozen=True)
class Seen:
    """The series of a fit, by a hash of their names, and the time up to which training or validation has read each.

    Attributes:
        names: ascending, int64 `(S,)`.
        until: dtype of `Table.time`, `(S,)`.
    """

    names: np.ndarray
    until: np.ndarray

    @classmethod
    def of(cls, table: Table, split: Split) -> Seen:
        """Take it from the split of a fit: up to the test cut of each series, or all of a series that is not held out."""
        until = split.test_from
        if split.kind == "series":
            until = np.where(split.role == TEST, lowest_time(table), table.time[table.starts[1:] - 1])
        names = _hashed(table)
        order = np.argsort(names, kind="stable")
        return cls(names[order], until.astype(table.time.dtype)[order])

    def is_unseen(self, table: Table, windows: Windows) -> np.ndarray:
        """Say which windows of a table have nothing but unseen targets, bool `(W,)`; a series that the fit did not have is unseen."""
        names = _hashed(table)
        place = np.searchsorted(self.names, names).clip(max=max(len(self.names) - 1, 0))
        is_known = self.names[place] == names
        until = np.where(is_known, self.until[place], lowest_time(table))
        return windows.origin >= until[windows.series]


def _hashed(table: Table) -> np.ndarray:
    # Signed, as torch stores them in a checkpoint.
    return hash_names(table.series_ids).view(np.int64)
