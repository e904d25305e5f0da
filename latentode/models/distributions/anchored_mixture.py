r"""A mixture of normals of which some stand at given places, whatever the mean of the whole.

Legend: `A` anchored parts, `F` free ones, `K = A + F`, anchored first.

Values that repeat need parts at exactly those values. Were the mean what comes out of the parts, squared error would pull them off; were
all parts moved to meet a mean, they would miss the values. So the mean is given, the anchors stay, and the free parts stand together
where the mean asks for it: at :math:`c + o_f` with :math:`c = (m - \sum_a w_a l_a - \sum_f w_f o_f) / \sum_f w_f`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal


class AnchoredMixture(MixtureSameFamily):
    """A mixture of normals with a given mean; its free parts stand where that mean asks for it.

    Args:
        loc: the mean, of the batch shape.
        log_share: logarithms of the parts' shares, which add up to 1, `(*batch_shape, K)`. The free ones need a floor, since their place
            is a ratio to their share.
        anchor: places of the anchored parts, `(*batch_shape, A)`.
        offset: places of the free parts relative to each other, `(*batch_shape, F)`.
        scale: deviations of the parts, `(*batch_shape, K)`.

    Attributes:
        place: where each part stands, `(*batch_shape, K)`.
    """

    def __init__(self, loc: Tensor, log_share: Tensor, anchor: Tensor, offset: Tensor, scale: Tensor) -> None:
        self.loc, self.log_share, self.anchor, self.offset, self.scale = loc, log_share, anchor, offset, scale
        n_anchored = anchor.shape[-1]
        anchored, free = log_share.exp().split([n_anchored, log_share.shape[-1] - n_anchored], -1)
        off = (anchored * (anchor - loc[..., None])).sum(-1) + (free * offset).sum(-1)
        centre = loc - off / free.sum(-1)
        self.place = torch.cat([anchor, centre[..., None] + offset], -1)
        super().__init__(
            Categorical(logits=log_share, validate_args=False),
            Normal(self.place, scale, validate_args=False),
            validate_args=False,
        )

    @property
    def mean(self) -> Tensor:
        """The mean, as it was given: what the parts add up to but for rounding."""
        return self.loc

    def moved(self, shift: Tensor, scale: Tensor) -> AnchoredMixture:
        """Give the mixture of `shift + scale * x`, anchors and all."""
        stretch = scale[..., None]
        return AnchoredMixture(
            shift + scale * self.loc,
            self.log_share,
            shift[..., None] + stretch * self.anchor,
            stretch * self.offset,
            stretch * self.scale,
        )

    def about(self, mean: Tensor, factor: Tensor | None = None) -> AnchoredMixture:
        """Give the mixture with another mean: anchors and their deviations stay, only the free parts move, and stretch by the factor."""
        if factor is None:
            return AnchoredMixture(mean, self.log_share, self.anchor, self.offset, self.scale)
        stretch = factor[..., None]
        anchored, free = self.scale.split([self.anchor.shape[-1], self.offset.shape[-1]], -1)
        scale = torch.cat([anchored, stretch * free], -1)
        return AnchoredMixture(mean, self.log_share, self.anchor, stretch * self.offset, scale)
