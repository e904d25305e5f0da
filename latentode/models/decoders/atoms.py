"""Which values of a channel come again and again."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from latentode.data.batch import Batch

MAX_COUNTED = 2_000_000  # observations; 24 bytes each
SAME_TIME = 0.01  # horizons: times are differences in single precision, and of one observation they differ from window to window


class ValueCounter:
    """Counts the values of targets, each observation once, in however many windows it is a target."""

    def __init__(self) -> None:
        # Channel and value as one complex number, which sorts by the first and then the second; where and when.
        self._value = np.empty(0, np.complex128)
        self._place = np.empty(0, np.int64)

    def add(self, batch: Batch) -> None:
        """Count the targets of a batch, unless enough have been counted."""
        if len(self._value) >= MAX_COUNTED:
            return
        seen = batch.target_observed
        origin = batch.origin.double() / batch.time_scale
        time = origin[:, None] + batch.lead_time().double()
        channel, value, when = (_flat(x, seen) for x in (batch.target_channel, batch.target_value, time))
        series = _flat(batch.series[:, None].expand_as(seen), seen)
        # Series apart by more than any span of time: a place is a number of hundredths of a horizon.
        place = np.round(when / SAME_TIME).astype(np.int64) + (series.astype(np.int64) << 40)
        value = np.concatenate([self._value, channel + 1j * value.astype(np.float64)])
        place = np.concatenate([self._place, place])
        order = np.lexsort((place, value))
        value, place = value[order], place[order]
        # A time on the edge of a hundredth falls to either side of it.
        is_new = np.append(True, (value[1:] != value[:-1]) | (np.diff(place) > 1))[: len(value)]
        self._value, self._place = value[is_new], place[is_new]

    def common(self, channel: int, n_most: int, *, least: int, least_share: float) -> tuple[np.ndarray, np.ndarray]:
        """Give the commonest values of a channel, float64, and their shares of all its values; ties go to the lesser value.

        Args:
            channel: its position.
            n_most: how many.
            least: observations of a value.
            least_share: of a channel's observations.
        """
        own = self._value.imag[self._value.real == channel]
        value, count = np.unique(own, return_counts=True)
        first = np.argsort(-count, kind="stable")[:n_most]
        first = first[(count[first] >= least) & (count[first] >= least_share * len(own))]
        return value[first], count[first] / max(len(own), 1)


def _flat(x: Tensor, seen: Tensor) -> np.ndarray:
    return x[seen].cpu().numpy()
