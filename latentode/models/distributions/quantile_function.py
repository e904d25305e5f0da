r"""A distribution by its quantiles: straight lines between them, exponential tails beyond the outermost.

Legend: `L` levels :math:`p_1 < \dots < p_L` with quantiles :math:`q_1 < \dots < q_L`. Between two of them the quantile function is linear
and the density constant; below :math:`q_1` the distance to it is exponential with scale :math:`\beta_1`, above :math:`q_L` with scale
:math:`\beta_L`: :math:`Q(p) = q_1 + \beta_1 \log(p / p_1)` and :math:`Q(p) = q_L - \beta_L \log((1 - p) / (1 - p_L))` (Park et al. 2022,
"Learning quantile functions without quantile crossing", whose incremental quantile functions have these tails). So moments, density,
distribution function and CRPS all have closed forms.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Distribution


class QuantileFunction(Distribution):
    """A distribution given by its mean, the gaps between its quantiles and its tails; quantiles cannot cross.

    The mean is given and not derived: quantiles are the mean plus offsets that the gaps and tails determine. What a squared error asks
    for (the mean) and an absolute one (the median) are then figures of one distribution, and moving it loses no digits of the gaps.

    Args:
        levels: ascending in (0, 1), `(L,)`, at least two.
        loc: the mean, of the batch shape.
        gaps: positive, `(*batch_shape, L - 1)`.
        tails: positive scales of the lower and the upper tail, `(*batch_shape, 2)`.
    """

    has_rsample = True

    def __init__(self, levels: Tensor, loc: Tensor, gaps: Tensor, tails: Tensor) -> None:
        super().__init__(loc.shape, validate_args=False)
        self.levels, self.loc, self.gaps, self.tails = levels, loc, gaps, tails

    @cached_property
    def _steps(self) -> Tensor:
        """Probability between neighbouring levels, `(L - 1,)`."""
        return self.levels.diff()

    @cached_property
    def _shares(self) -> tuple[Tensor, Tensor]:
        """Probability of the lower and the upper tail, 0-d."""
        return self.levels[0], 1 - self.levels[-1]

    @cached_property
    def offsets(self) -> Tensor:
        """Give the quantiles at the levels less the mean, `(*batch_shape, L)`."""
        from_first = torch.cat([torch.zeros_like(self.gaps[..., :1]), self.gaps.cumsum(-1)], -1)
        low, high = self._shares
        middle = (self._steps * (from_first[..., 1:] + from_first[..., :-1]) / 2).sum(-1)
        mean = middle - low * self.tails[..., 0] + high * (from_first[..., -1] + self.tails[..., 1])
        return from_first - mean[..., None]

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance: the second moment of the offsets, piece by piece."""
        low, high = self.offsets[..., :-1], self.offsets[..., 1:]
        middle = (self._steps * (low.square() + low * high + high.square()) / 3).sum(-1)
        first, last, (below, above) = self.offsets[..., 0], self.offsets[..., -1], self._shares
        # Of an exponential distance: E(q - b e)^2 = (q - b)^2 + b^2.
        lower = (first - self.tails[..., 0]).square() + self.tails[..., 0].square()
        upper = (last + self.tails[..., 1]).square() + self.tails[..., 1].square()
        return middle + below * lower + above * upper

    def icdf(self, value: Tensor) -> Tensor:
        """Give the quantiles of levels that broadcast with the batch shape."""
        level = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        inside = ((level[..., None] - self.levels[:-1]) / self._steps).clamp(0, 1)
        below, above = self._shares
        tiny = torch.finfo(level.dtype).tiny
        lower = (level.clamp(min=tiny) / below).log().clamp(max=0)
        upper = ((1 - level).clamp(min=tiny) / above).log().clamp(max=0)
        middle = self.offsets[..., 0] + (self.gaps * inside).sum(-1)
        return self.loc + middle + self.tails[..., 0] * lower - self.tails[..., 1] * upper

    def cdf(self, value: Tensor) -> Tensor:
        """Give the probability of a value at or below `value`."""
        at, inside = self._places(value)
        below, above = self._shares
        lower = below * self._beyond_first(at).clamp(max=0).exp()
        upper = -above * torch.expm1(-self._beyond_last(at).clamp(min=0))
        return lower + (self._steps * inside).sum(-1) + upper

    def log_prob(self, value: Tensor) -> Tensor:
        """Give the logarithm of the density; at a quantile, where it jumps, that of the piece above (of the last: below)."""
        at, _ = self._places(value)
        below, above = self._shares
        density = (self._steps / self.gaps).log()
        is_above = at[..., None] >= self.offsets[..., 1:-1]
        piece = is_above.sum(-1, keepdim=True)
        middle = density.expand(*piece.shape[:-1], -1).gather(-1, piece)[..., 0]
        # Clamped to its own side: where another piece holds, no gradient of a tail may overflow.
        lower = (below / self.tails[..., 0]).log() + self._beyond_first(at).clamp(max=0)
        upper = (above / self.tails[..., 1]).log() - self._beyond_last(at).clamp(min=0)
        found = torch.where(at < self.offsets[..., 0], lower, middle)
        return torch.where(at > self.offsets[..., -1], upper, found)

    def crps(self, value: Tensor) -> Tensor:
        r"""Give the CRPS, :math:`\int (F(x) - 1[x \geq y])^2 dx` (Gneiting and Raftery 2007, equation 20), piece by piece."""
        at, inside = self._places(value)
        level = self.levels[:-1] + self._steps * inside
        # On a straight piece the integral of F^2 from a to b is a third of its length times F(a)^2 + F(a) F(b) + F(b)^2.
        under = inside * _thirds(self.levels[:-1], level)
        over = (1 - inside) * _thirds(1 - level, 1 - self.levels[1:])
        middle = (self.gaps * (under + over)).sum(-1)
        below, above = self._shares
        lower = _tail_crps(below, self.tails[..., 0], -self._beyond_first(at))
        upper = _tail_crps(above, self.tails[..., 1], self._beyond_last(at))
        return middle + lower + upper

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw values `(*sample_shape, *batch_shape)` by the quantile function at uniform levels."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device))

    def _places(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Give the value less the mean, and what share of each gap lies below it, in [0, 1]."""
        at = value - self.loc
        return at, ((at[..., None] - self.offsets[..., :-1]) / self.gaps).clamp(0, 1)

    def _beyond_first(self, at: Tensor) -> Tensor:
        return (at - self.offsets[..., 0]) / self.tails[..., 0]

    def _beyond_last(self, at: Tensor) -> Tensor:
        return (at - self.offsets[..., -1]) / self.tails[..., 1]


def _thirds(a: Tensor, b: Tensor) -> Tensor:
    return (a.square() + a * b + b.square()) / 3


def _tail_crps(share: Tensor, scale: Tensor, beyond: Tensor) -> Tensor:
    """Give the tail's part of the CRPS; `beyond` says how many scales past the outermost quantile the value lies, below 0: not in it.

    From the value outwards the integrand is the square of the probability still outside, `G = share exp(-x)`; from the quantile to the
    value it is `(1 - G)^2`.
    """
    x = beyond.clamp(min=0)
    outside = share * (-x).exp()
    return scale * (outside.square() / 2 + x - 2 * (share - outside) + (share.square() - outside.square()) / 2)
