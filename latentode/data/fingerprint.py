"""Tells a table again: a digest that adds up over parts, so that neither the order of series nor a table's size matters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas.util

from latentode.data.schema import blocks

# pandas' stubs do not know it.
hash_array: Any = pandas.util.hash_array

_ABSENT = np.uint64(0x7FF8_0000_0000_0001)  # in place of all bit patterns of NaN, which differ between readers
_GOLDEN = 0x9E37_79B9_7F4A_7C15


@dataclass(frozen=True)
class Fingerprint:
    """Sum, modulo 2^64, of a hash of every row: of its series' name, its time and its values.

    A sum does not see the order of rows, and that of a table is the sum of those of its parts. It guards against mistaking one table
    for another, not against someone who makes two alike.
    """

    channels: tuple[str, ...]
    n_rows: int
    total: int

    @classmethod
    def of(
        cls,
        channels: Sequence[str],
        series_ids: np.ndarray,
        starts: np.ndarray,
        time: np.ndarray,
        values: np.ndarray,
        *,
        known: np.ndarray | None = None,
        statics: Sequence[str] | None = None,
    ) -> Fingerprint:
        """Hash the rows of a table, block by block; the arguments are attributes of `Table`, `statics` a text per series."""
        names = hash_names(series_ids)
        if statics is not None:
            names = _mix(names ^ _mix(hash_names(statics)))
        total = 0
        for rows in blocks(values):
            series = np.searchsorted(starts, np.arange(rows.start, rows.stop), side="right") - 1
            # Adding 0 turns -0 into 0.
            hashed = _mix(names[series] ^ _mix((time[rows] + 0).view(np.uint64)))
            for column in (*values[rows].T, *(() if known is None else known[rows].T)):
                bits = np.where(np.isnan(column), _ABSENT, (column + 0).view(np.uint64))
                hashed = _mix(hashed ^ _mix(bits))
            total += int(hashed.sum(dtype=np.uint64))
        return cls(tuple(channels), len(time), total % 2**64)

    def __add__(self, other: Fingerprint) -> Fingerprint:
        return Fingerprint(self.channels, self.n_rows + other.n_rows, (self.total + other.total) % 2**64)

    def hexdigest(self) -> str:
        """Give the SHA-256 of the sum, the number of rows and the channels."""
        return hashlib.sha256(repr((self.channels, self.n_rows, self.total)).encode()).hexdigest()


def hash_names(names: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Hash each name, as a text: uint64 `(S,)`, the same on every machine."""
    return hash_array(np.asarray([str(name) for name in names], dtype=object), categorize=False)


def _mix(bits: np.ndarray) -> np.ndarray:
    """Spread every bit over all 64: SplitMix64 of Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators"."""
    bits = bits + np.uint64(_GOLDEN)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return bits ^ (bits >> np.uint64(31))
