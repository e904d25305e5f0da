"""A distribution moved and stretched, in the same family: how a residual becomes a forecast."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, Normal, StudentT

from latentode.errors import InputError


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


@singledispatch
def about(distribution: Distribution, mean: Tensor, factor: Tensor | None = None) -> Distribution:
    """Give the distribution with another mean, its deviations from it times a factor.

    Args:
        distribution: any that `affine` takes, with a mean.
        mean: of its batch shape.
        factor: likewise, positive; None: 1.
    """
    scale = torch.ones_like(mean) if factor is None else factor
    return affine(distribution, mean - scale * distribution.mean, scale)


@about.register
def _normal_about(distribution: Normal, mean: Tensor, factor: Tensor | None = None) -> Normal:
    scale = distribution.scale if factor is None else factor * distribution.scale
    return Normal(mean, scale, validate_args=False)
