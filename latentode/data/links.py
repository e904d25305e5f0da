r"""Channels whose values have a support: positive numbers, counts, numbers between two bounds.

A model sees such a channel through a link :math:`z = g(x)` on the whole line, and what it says of :math:`z` is brought back by a map
:math:`x = h(z)` that ends in the support, so that no forecast leaves it, whichever model, decoder, weight or calibration made it. :math:`h`
rises, so quantiles and draws go through it as they are.

| channel | `g(x)` | `h(z)` | what a value has |
| --- | --- | --- | --- |
| positive | `log x` | `exp z` | a density |
| count | `log(x + 1)` | `exp z - 1`, rounded, at least 0 | a probability, that of all `z` which are rounded to it |
| bounded | `logit` between bounds a hundredth wider | the same undone, cut at the bounds | a density; at a bound a probability |

Rounding a continuous distribution gives counts more or less dispersed than Poisson's, with as many zeros as there are (Canale and Dunson
2011, "Bayesian kernel mixtures for counts"). Cutting gives what is recorded as 100 % its own probability (Tobin 1958), where a beta
distribution would have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentode.data.schema import Schema

WIDER = (
    0.01  # of the bounds' distance, on either side: a value at a bound is 4.6 from the middle on the scale of the logit
)


@dataclass(frozen=True)
class Links:
    """How the channels are linked; what is neither positive, nor a count, nor bounded is seen as it is.

    Attributes:
        is_log, is_count: bool `(C,)`.
        low, high: bounds, float64 `(C,)`; NaN where there are none.
    """

    is_log: np.ndarray
    is_count: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def none(cls, n_channels: int) -> Links:
        """Give the links of channels that are seen as they are."""
        flags, bounds = np.zeros(n_channels, bool), np.full(n_channels, np.nan)
        return cls(flags, flags, bounds, bounds)

    @classmethod
    def of(cls, schema: Schema) -> Links:
        """Give the links of a table's channels."""
        bounds = dict(zip(schema.bounded_channels, schema.channel_bounds, strict=True))
        low, high = np.asarray([bounds.get(name, (np.nan, np.nan)) for name in schema.channels]).reshape(-1, 2).T
        is_log, is_count = (
            np.asarray([name in chosen for name in schema.channels], dtype=bool)
            for chosen in (schema.log_channels, schema.count_channels)
        )
        return cls(is_log, is_count, low, high)

    def to_dict(self) -> dict[str, Any]:
        """Give plain lists; bounds by channel, None where there are none."""
        bounds = zip(self.low.tolist(), self.high.tolist(), self.is_bounded, strict=True)
        return {
            "is_log": self.is_log.tolist(),
            "is_count": self.is_count.tolist(),
            "bounds": [[low, high] if is_bounded else None for low, high, is_bounded in bounds],
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Links:
        """Rebuild what `to_dict` gave, or an older version's, which knew logarithms alone."""
        is_log = np.asarray(d["is_log"], dtype=bool)
        bounds = [pair or (np.nan, np.nan) for pair in d.get("bounds", [None] * len(is_log))]
        low, high = np.asarray(bounds, dtype=np.float64).reshape(-1, 2).T
        return cls(is_log, np.asarray(d.get("is_count", [False] * len(is_log)), dtype=bool), low, high)

    @property
    def is_bounded(self) -> np.ndarray:
        """Which channels have bounds, bool `(C,)`."""
        return ~np.isnan(self.low)

    @property
    def is_plain(self) -> np.ndarray:
        """Which channels are seen as they are, bool `(C,)`."""
        return ~(self.is_log | self.is_count | self.is_bounded)

    def take(self, channel: np.ndarray) -> Links:
        """Give the links of single values, one channel each."""
        return Links(self.is_log[channel], self.is_count[channel], self.low[channel], self.high[channel])

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Give `g` of values `(..., C)`, float64; NaN stays."""
        z = np.array(values, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            np.log(z, out=z, where=self.is_log)
            np.log1p(z, out=z, where=self.is_count)
            if self.is_bounded.any():
                edge = WIDER * (self.high - self.low)
                logit = np.log(values - self.low + edge) - np.log(self.high - values + edge)
                z = np.where(self.is_bounded, logit, z)
        return z

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """Give `h` of scaled values `(..., C)`, float64."""
        x = np.array(z, dtype=np.float64)
        with np.errstate(over="ignore"):
            np.exp(x, out=x, where=self.is_log)
            x = np.where(self.is_count, np.maximum(np.rint(np.expm1(np.where(self.is_count, z, 0.0))), 0.0) + 0.0, x)
            if self.is_bounded.any():
                edge = WIDER * (self.high - self.low)
                share = 1 / (1 + np.exp(-np.where(self.is_bounded, z, 0.0)))
                inside = np.clip(self.low - edge + (self.high - self.low + 2 * edge) * share, self.low, self.high)
                x = np.where(self.is_bounded, inside, x)
        return x
