"""One random distribution of each family that a decoder gives, batch shape `(3, 2)`, float64."""

from __future__ import annotations

import torch
from torch.distributions import Normal

from latentode.models.distributions import AnchoredMixture, FiniteStudentT, QuantileFunction, ScalarField, ScalarFlow

SHAPE = (3, 2)


def uniform(generator, *shape, low=0.2, high=1.5):
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def quantile_function(seed=0, levels=(0.05, 0.2, 0.5, 0.6, 0.95)):
    g = torch.Generator().manual_seed(seed)
    loc = torch.randn(SHAPE, generator=g, dtype=torch.float64)
    level = torch.tensor(levels, dtype=torch.float64)
    return QuantileFunction(level, loc, uniform(g, *SHAPE, len(levels) - 1), uniform(g, *SHAPE, 2))


def anchored_mixture(seed=0):
    g = torch.Generator().manual_seed(seed)
    loc, log_share, anchor, offset = (
        torch.randn(*SHAPE, *k, generator=g, dtype=torch.float64) for k in ((), (5,), (3,), (2,))
    )
    return AnchoredMixture(loc, log_share.log_softmax(-1), anchor, offset, uniform(g, *SHAPE, 5))


def student_t(seed=0):
    g = torch.Generator().manual_seed(seed)
    loc = torch.randn(SHAPE, generator=g, dtype=torch.float64)
    return FiniteStudentT(uniform(g, *SHAPE, low=2.5, high=20), loc, uniform(g, *SHAPE))


def normal(seed=0):
    g = torch.Generator().manual_seed(seed)
    return Normal(torch.randn(SHAPE, generator=g, dtype=torch.float64), uniform(g, *SHAPE))


def scalar_flow(seed=0):
    g = torch.Generator().manual_seed(seed)
    loc = torch.randn(SHAPE, generator=g, dtype=torch.float64)
    bend, sharpness, place = uniform(g, *SHAPE, 3, low=-1), uniform(g, *SHAPE, 3), uniform(g, *SHAPE, 3, low=-1.5)
    return ScalarFlow(loc, uniform(g, *SHAPE), ScalarField(bend, sharpness, place))


FAMILIES = {
    "normal": normal,
    "student t": student_t,
    "anchored mixture": anchored_mixture,
    "quantile function": quantile_function,
    "scalar flow": scalar_flow,
}
