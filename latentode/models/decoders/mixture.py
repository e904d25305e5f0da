"""A mixture per target, for values that repeat, are rounded or are skewed.

Legend: `F` free parts, `K` atoms of a channel, `A = 2 + K` anchored parts: the last value, near the last value, the atoms.

Where values are recorded on a scale of thirteen steps, or copied from the last reading, most of the likelihood lies in saying *which*
value comes, and a Gaussian cannot say it. The parts at the channel's last value and at its commonest values (atoms, counted in training)
can be as narrow as `min_std`. The density at such a value is bounded by that setting alone, so likelihoods compare under one `min_std`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.distributions import AnchoredMixture
from latentode.models.history import at_targets, summarise
from latentode.models.interfaces import Frame

from .atoms import ValueCounter
from .trunk import TrunkDecoder, softplus_inverse

MIN_FREE = 0.02  # share of the free parts, which have to meet the mean
MIN_ATOM_SHARE = 5e-3  # of a channel's values: what comes more seldom is no atom
MIN_ATOM_COUNT = 5
ABSENT = -100.0  # logarithm of the share of what is not there; finite, since training averages buffers
RARE = -8.0  # untrained, one value in three thousand is a repeat
N_FEATURES = 8  # by which an atom is told from the others of its channel
NARROW, NEAR = 3e-3, 0.3  # untrained widths of a repeat and of the part about the last value
# An optimiser such as Adam moves a parameter by its learning rate in a step; a width has to change by factors.
WIDTH_GAIN = 5.0


class MixtureDecoder(TrunkDecoder):
    """Decodes a state into an `AnchoredMixture` per target: free normals, and narrow ones at the last value and at the channel's atoms.

    The mean is an output of its own that learns by squared error. The anchored parts cannot pull at it: the free parts together stand
    where the mean asks for it. So squared error is that of a Gaussian decoder, while the shape learns by the likelihood.

    Args:
        n_components: free parts.
        n_atoms: most atoms of a channel; 0: none.
        hidden_size: width of the two hidden layers.
        dropout: share of hidden units dropped in training.
        min_std: least deviation of a part, in the unit of the output; it bounds the density.

    Raises:
        InputError: there is no free part.
    """

    atom: Tensor
    atom_log_share: Tensor
    anchor_start: Tensor

    def __init__(
        self,
        n_components: int = 4,
        n_atoms: int = 12,
        *,
        hidden_size: int = 64,
        dropout: float = 0.0,
        min_std: float = 1e-3,
    ) -> None:
        super().__init__(hidden_size, dropout)
        if n_components < 1 or n_atoms < 0:
            raise InputError(
                f"n_components is {n_components} and n_atoms {n_atoms}; give at least one component and at least 0 atoms."
            )
        self.n_components = n_components
        self.n_atoms = n_atoms
        self.min_std = min_std

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers and the tables of each channel; there are no atoms until training data was watched."""
        super().setup(schema, latent_size, context_size)
        shape = (len(schema.channels), self.n_atoms)
        self.register_buffer("atom", torch.zeros(shape))
        self.register_buffer("atom_log_share", torch.full(shape, ABSENT))
        self.atom_preference = nn.Parameter(torch.zeros(shape))
        self.atom_feature = nn.Parameter(0.3 * torch.randn(*shape, N_FEATURES))
        self.group_preference = nn.Parameter(torch.zeros(shape[0], 4))
        self.register_buffer("anchor_start", torch.tensor([NARROW, NEAR] + [NARROW] * self.n_atoms))
        self.anchor_width = nn.Parameter(torch.zeros(shape[0], 2 + self.n_atoms))

    def watch(self, training: Iterable[Batch]) -> Iterator[Batch]:
        """Count the targets' values; the commonest of a channel become its atoms."""
        counter = ValueCounter()
        for batch in training:
            counter.add(batch)
            yield batch
        for c in range(len(self.atom)):
            value, share = counter.common(c, self.n_atoms, least=MIN_ATOM_COUNT, least_share=MIN_ATOM_SHARE)
            self.atom[c, : len(value)] = torch.from_numpy(value)
            self.atom_log_share[c] = ABSENT
            self.atom_log_share[c, : len(value)] = torch.from_numpy(share).log()

    def initial_shape(self) -> Tensor:
        """Give the shape outputs of the untrained decoder: four groups, the atoms' place, and the free parts."""
        # Parts of several widths from the start, so that they can part; together of deviation 1.
        std = torch.logspace(-2.0, 1.0, self.n_components, base=2.0, dtype=torch.float64)
        std = std / std.square().mean().sqrt()
        width = torch.tensor([softplus_inverse(x - self.min_std) for x in std.tolist()])
        groups = torch.tensor([0.0, RARE, RARE, RARE])
        atoms = torch.zeros(2 + N_FEATURES)
        return torch.cat([groups, atoms, torch.zeros(2 * self.n_components), width])

    def forward(self, z_BMD: Tensor, batch: Batch, channel_context_BCE: Tensor, frame: Frame) -> AnchoredMixture:
        """Give the distribution of every target `(B, M)`."""
        mean, shape = self.outputs(z_BMD, batch, channel_context_BCE)
        n_free, channel = self.n_components, batch.target_channel
        groups, atoms, share, offset, width = shape.split([4, 2 + N_FEATURES, n_free, n_free, n_free], -1)
        summary = summarise(batch)
        last = frame.residual(at_targets(summary.last, batch))[..., None]
        place_BMK = frame.residual(self.atom[channel])
        log_atoms = self._log_atoms(atoms, place_BMK - mean.detach()[..., None], channel)
        groups = groups + self.group_preference[channel]
        is_there = torch.stack([at_targets(summary.count, batch) > 0] * 2 + [self._has_atoms(channel)], -1)
        groups = torch.cat([groups[..., :1], torch.where(is_there, groups[..., 1:], ABSENT)], -1)
        log_groups = groups.log_softmax(-1) + math.log1p(-MIN_FREE)
        log_free = torch.logaddexp(log_groups[..., :1], log_groups.new_full((), math.log(MIN_FREE)))
        anchor_log_share = torch.cat([log_groups[..., 1:3], log_groups[..., 3:] + log_atoms], -1)
        log_share = torch.cat([anchor_log_share, log_free + share.log_softmax(-1)], -1)
        anchor_scale = (self.anchor_start * (WIDTH_GAIN * self.anchor_width).exp())[channel]
        scale = self.min_std + torch.cat([anchor_scale, nn.functional.softplus(width)], -1)
        return AnchoredMixture(mean, log_share, torch.cat([last, last, place_BMK], -1), offset, scale)

    def _has_atoms(self, channel: Tensor) -> Tensor:
        if self.n_atoms == 0:
            return torch.zeros_like(channel, dtype=torch.bool)
        return (self.atom_log_share.amax(-1) > ABSENT / 2)[channel]

    def _log_atoms(self, outputs: Tensor, from_mean_BMK: Tensor, channel: Tensor) -> Tensor:
        """Give the logarithms of the atoms' shares among themselves: how common they are, how near, and what the state says of each."""
        centre, spread, query = outputs.split([1, 1, N_FEATURES], -1)
        common = self.atom_log_share + self.atom_preference
        # Heavier tails than a normal's: far from all atoms the nearest must still stand out from what is absent.
        near = -3 * (((from_mean_BMK - centre) * (-spread).exp()).square() / 6).log1p()
        told = (self.atom_feature[channel] @ query[..., None])[..., 0]
        return (common[channel] + near + told).log_softmax(-1)
