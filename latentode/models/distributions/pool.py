"""Several forecasts of one value as one: what an ensemble says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal, StudentT

from latentode.errors import InputError

from .affine import about
from .anchored_mixture import AnchoredMixture
from .quantile_function import QuantileFunction
from .scalar_flow import ScalarFlow, stack


def pool(members: Sequence[Distribution]) -> Distribution:
    """Give one distribution, of the same family, for several of one batch shape; its mean is the mean of theirs.

    Families with a location and a scale, and quantile functions, are averaged quantile by quantile, which keeps their sharpness (Vincent
    1912; Lichtendahl, Grushka-Cockayne and Winkler 2013 on when that beats averaging densities); mixtures keep all parts of all members.

    Raises:
        InputError: the family is another one. An own family is entered by `pool_family.register`.
    """
    return members[0] if len(members) == 1 else pool_family(members[0], members)


def mix(members: Sequence[Distribution]) -> Distribution:
    """Give one distribution, of the same family, of a value that follows any of several with equal chance.

    Where members are opinions (`pool`), what they differ by is left out of the width; here it is a part of it. Mean and variance are those
    of the mixture (law of total variance), the shape is that of the pool: mixtures keep all parts, others are stretched about the mean.

    Raises:
        InputError: as in `pool`.
    """
    if len(members) == 1:
        return members[0]
    pooled = pool(members)
    within = torch.stack([member.variance for member in members]).mean(0)
    between = torch.stack([member.mean for member in members]).var(0, unbiased=False)
    return about(pooled, pooled.mean, ((within + between) / pooled.variance).sqrt())


@singledispatch
def pool_family(first: Distribution, members: Sequence[Distribution]) -> Distribution:
    """Pool members of the family of `first`, which is one of them."""
    raise InputError(
        f"several forecasts of the family {type(first).__name__} cannot be made one; let the decoder give another distribution, "
        "or enter it with latentode.models.distributions.pool_family.register."
    )


def _average(members: Sequence[Distribution], *names: str) -> list[Tensor]:
    return [torch.stack([getattr(member, name) for member in members]).mean(0) for name in names]


def _join(members: Sequence[Distribution], *names: str) -> list[Tensor]:
    return [torch.cat([getattr(member, name) for member in members], -1) for name in names]


@pool_family.register
def _normal(first: Normal, members: Sequence[Normal]) -> Normal:
    return Normal(*_average(members, "loc", "scale"), validate_args=False)


@pool_family.register
def _student_t(first: StudentT, members: Sequence[StudentT]) -> StudentT:
    return type(first)(*_average(members, "df", "loc", "scale"), validate_args=False)


@pool_family.register
def _quantile_function(first: QuantileFunction, members: Sequence[QuantileFunction]) -> QuantileFunction:
    return QuantileFunction(first.levels, *_average(members, "loc", "gaps", "tails"))


@pool_family.register
def _mixture(first: MixtureSameFamily, members: Sequence[MixtureSameFamily]) -> MixtureSameFamily:
    logits = torch.cat([member.mixture_distribution.logits for member in members], -1)
    parts = [member.component_distribution for member in members]
    if not all(isinstance(part, Normal) for part in parts):
        raise InputError("several mixtures can be made one where their parts are normals.")
    return MixtureSameFamily(
        Categorical(logits=logits, validate_args=False),
        Normal(*_join(parts, "loc", "scale"), validate_args=False),
        validate_args=False,
    )


@pool_family.register
def _scalar_flow(first: ScalarFlow, members: Sequence[ScalarFlow]) -> MixtureSameFamily:
    # A mean of quantile functions would be inverted by search; a mixture keeps every density as it is, but joins no values.
    alike = torch.zeros(*first.batch_shape, len(members), dtype=first.loc.dtype, device=first.loc.device)
    return MixtureSameFamily(Categorical(logits=alike, validate_args=False), stack(members), validate_args=False)


@pool_family.register
def _anchored_mixture(first: AnchoredMixture, members: Sequence[AnchoredMixture]) -> AnchoredMixture:
    n_anchored = first.anchor.shape[-1]
    sizes = [n_anchored, first.log_share.shape[-1] - n_anchored]
    # With every free part at its own place the mean of the means asks for no move.
    places = [member.place[..., n_anchored:] for member in members]
    log_share, scale = (
        torch.cat([x for i in (0, 1) for x in (getattr(member, name).split(sizes, -1)[i] for member in members)], -1)
        for name in ("log_share", "scale")
    )
    (loc,) = _average(members, "loc")
    (anchor,) = _join(members, "anchor")
    return AnchoredMixture(loc, log_share - math.log(len(members)), anchor, torch.cat(places, -1), scale)
