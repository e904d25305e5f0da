"""A distribution moved and stretched, in the same family: how a residual becomes a forecast."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, Normal, StudentT

from latentode.errors import InputError

from .anchored_mixture import AnchoredMixture
from .quantile_function import QuantileFunction
from .scalar_flow import ScalarFlow


@singledispatch
def affine(distribution: Distribution, shift: Tensor, scale: Tensor) -> Distribution:
    """Give the distribution of `shift + scale * x`, in the family of the distribution of `x`.

    Args:
        distribution: a normal, a Student t, a mixture of either, or one of this folder.
        shift, scale: of its batch shape; `scale` positive.

    Raises:
        InputError: the family is another one. An own family is entered by `affine.register`.
    """
    raise InputError(
        f"a {type(distribution).__name__} cannot be moved and stretched; "
        "let the decoder give another distribution, or enter it with latentode.models.distributions.affine.register."
    )


@affine.register
def _normal(distribution: Normal, shift: Tensor, scale: Tensor) -> Normal:
    return Normal(shift + scale * distribution.loc, scale * distribution.scale, validate_args=False)


@affine.register
def _student_t(distribution: StudentT, shift: Tensor, scale: Tensor) -> StudentT:
    loc = shift + scale * distribution.loc
    return type(distribution)(distribution.df, loc, scale * distribution.scale, validate_args=False)


@affine.register
def _mixture(distribution: MixtureSameFamily, shift: Tensor, scale: Tensor) -> MixtureSameFamily:
    parts = affine(distribution.component_distribution, shift[..., None], scale[..., None])
    return MixtureSameFamily(distribution.mixture_distribution, parts, validate_args=False)


@affine.register
def _anchored_mixture(distribution: AnchoredMixture, shift: Tensor, scale: Tensor) -> AnchoredMixture:
    return distribution.moved(shift, scale)


@affine.register
def _quantile_function(distribution: QuantileFunction, shift: Tensor, scale: Tensor) -> QuantileFunction:
    gaps, tails = (scale[..., None] * x for x in (distribution.gaps, distribution.tails))
    return QuantileFunction(distribution.levels, shift + scale * distribution.loc, gaps, tails)


@affine.register
def _scalar_flow(distribution: ScalarFlow, shift: Tensor, scale: Tensor) -> ScalarFlow:
    return distribution.moved(shift + scale * distribution.loc, scale * distribution.scale)


@singledispatch
def about(distribution: Distribution, mean: Tensor, factor: Tensor | None = None) -> Distribution:
    """Give the distribution with another mean, its deviations from it times a factor; what is anchored stays where it is.

    Args:
        distribution: any that `affine` takes, with a mean.
        mean: of its batch shape.
        factor: likewise, positive; None: 1.
    """
    scale = torch.ones_like(mean) if factor is None else factor
    return affine(distribution, mean - scale * distribution.mean, scale)


# Those with a location get exactly the mean, which a shift would miss by rounding: the untrained forecast is the base to the last digit.
@about.register
def _normal_about(distribution: Normal, mean: Tensor, factor: Tensor | None = None) -> Normal:
    return Normal(mean, _times(distribution.scale, factor), validate_args=False)


@about.register
def _student_t_about(distribution: StudentT, mean: Tensor, factor: Tensor | None = None) -> StudentT:
    return type(distribution)(distribution.df, mean, _times(distribution.scale, factor), validate_args=False)


@about.register
def _quantile_function_about(
    distribution: QuantileFunction, mean: Tensor, factor: Tensor | None = None
) -> QuantileFunction:
    stretch = None if factor is None else factor[..., None]
    gaps, tails = (_times(x, stretch) for x in (distribution.gaps, distribution.tails))
    return QuantileFunction(distribution.levels, mean, gaps, tails)


@about.register
def _anchored_about(distribution: AnchoredMixture, mean: Tensor, factor: Tensor | None = None) -> AnchoredMixture:
    return distribution.about(mean, factor)


@about.register
def _scalar_flow_about(distribution: ScalarFlow, mean: Tensor, factor: Tensor | None = None) -> ScalarFlow:
    return distribution.moved(mean, _times(distribution.scale, factor))


def _times(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else factor * x
