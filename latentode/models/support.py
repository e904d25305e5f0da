"""Where the values of a channel can be, as distributions need it: the maps of `data.links` on tensors, and what is rounded or cut to what.

`z` is a value behind its link, on the whole line; `x` is in the user's units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from latentode.data.links import WIDER, Links

# A value that came through other units and back: so far off, in counts or in parts of the distance of the bounds, it still is one.
CLOSE = 1e-6


@dataclass(frozen=True)
class Support:
    """The links of single values; each tensor has the shape of the values.

    Attributes:
        is_log, is_count: bool.
        low, high: bounds, float64; NaN where there are none.
    """

    is_log: Tensor
    is_count: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, links: Links, channel: Tensor) -> Support:
        """Give the links of values of these channels."""
        columns: list[np.ndarray] = [links.is_log, links.is_count, links.low, links.high]
        return cls(*(torch.from_numpy(column).to(channel.device)[channel] for column in columns))

    @cached_property
    def is_bounded(self) -> Tensor:
        """Which values have bounds."""
        return ~self.low.isnan()

    @cached_property
    def has_mass(self) -> bool:
        """Whether some values can have a probability of their own: counts, and what can be at a bound."""
        return bool((self.is_count | self.is_bounded).any())

    @cached_property
    def is_plain(self) -> bool:
        """Whether no value has a link."""
        return not (self.has_mass or bool(self.is_log.any()))

    @cached_property
    def _bounds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Bounds, and how much wider the logit's are; 0, 1 and that of these where there are none."""
        low, high = torch.where(self.is_bounded, self.low, 0.0), torch.where(self.is_bounded, self.high, 1.0)
        return low, high, WIDER * (high - low)

    def original(self, z: Tensor) -> Tensor:
        """Bring `z` `(*more, *shape)` to the user's units: into the support."""
        x = torch.where(self.is_log, z.exp(), z)
        if not self.has_mass:
            return x
        # Plus 0, so that no count is written as -0.
        x = torch.where(self.is_count, z.expm1().round().clamp(min=0) + 0.0, x)
        low, high, edge = self._bounds
        inside = (low - edge + (high - low + 2 * edge) * z.sigmoid()).clamp(low, high)
        return torch.where(self.is_bounded, inside, x)

    def linked(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give `z` of values, the logarithm of `dz/dx`, and which values can be at all; the first two are finite in any case."""
        is_possible = torch.ones_like(x, dtype=torch.bool)
        positive = x.clamp(min=torch.finfo(torch.float64).tiny)
        z, log_slope = torch.where(self.is_log, positive.log(), x), torch.where(self.is_log, -positive.log(), 0.0)
        is_possible = ~self.is_log | (x > 0)
        if not self.has_mass:
            return z, log_slope, is_possible
        counted = x.clamp(min=0)
        is_whole = (x - x.round()).abs() <= CLOSE * (1 + x.abs())
        z = torch.where(self.is_count, counted.log1p(), z)
        log_slope = torch.where(self.is_count, -counted.log1p(), log_slope)
        low, high, edge = self._bounds
        inside = x.clamp(low, high)
        above, below = inside - low + edge, high - inside + edge
        z = torch.where(self.is_bounded, above.log() - below.log(), z)
        log_slope = torch.where(self.is_bounded, (1 / above + 1 / below).log(), log_slope)
        room = CLOSE * (high - low)
        is_inside = (x >= low - room) & (x <= high + room)
        is_possible = is_possible & (~self.is_count | (is_whole & (x > -0.5))) & (~self.is_bounded | is_inside)
        return z, log_slope, is_possible

    def cell(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give from where to where `z` is rounded or cut to `x`: -inf or inf at an end; the same twice for what has a density."""
        z, _, _ = self.linked(x)
        k = x.round().clamp(min=0)
        low, high, _ = self._bounds
        room = CLOSE * (high - low)
        is_low, is_high = self.is_bounded & (x <= low + room), self.is_bounded & (x >= high - room)
        start = torch.where(self.is_count, torch.where(k > 0, (k + 0.5).log(), -torch.inf), z)
        end = torch.where(self.is_count, (k + 1.5).log(), z)
        return torch.where(is_low, -torch.inf, start), torch.where(is_high, torch.inf, end)

    def top(self, x: Tensor) -> Tensor:
        """Give the largest `z` that comes to `x` or below; -inf or inf where none or all does."""
        z, _, _ = self.linked(x)
        z = torch.where(self.is_log & (x <= 0), -torch.inf, z)
        if not self.has_mass:
            return z
        k = (x + CLOSE * (1 + x.abs())).floor()
        z = torch.where(self.is_count, torch.where(k >= 0, (k.clamp(min=0) + 1.5).log(), -torch.inf), z)
        low, high, _ = self._bounds
        room = CLOSE * (high - low)
        z = torch.where(self.is_bounded & (x < low - room), -torch.inf, z)
        return torch.where(self.is_bounded & (x >= high - room), torch.inf, z)
