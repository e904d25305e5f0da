"""Training objectives: formulas with their papers, as functions of tensors.

Every function averages over the targets that are observed, weighted, and leaves padding out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution


@dataclass(frozen=True)
class Mean:
    """A mean as what it is made of, so that processes that train together can take it over what all of them hold.

    Attributes:
        total: sum, 0-d, with gradient.
        count: what it is divided by, 0-d, without; 0: nothing was there to take a mean of.
    """

    total: Tensor
    count: Tensor

    @classmethod
    def of(cls, value: Tensor) -> Mean:
        """Give the mean of all of `value`."""
        return cls(value.sum(), value.new_tensor(float(value.numel())))

    @classmethod
    def weighted(cls, value: Tensor, weight: Tensor, observed: Tensor) -> Mean:
        """Give the weighted mean of `value` over what is observed."""
        weight = torch.where(observed, weight, 0.0)
        return cls((torch.where(observed, value, 0.0) * weight).sum(), weight.sum())

    @property
    def value(self) -> Tensor:
        """The mean, 0-d; where nothing was there its total, which is 0 of an empty sum."""
        return self.total / torch.where(self.count > 0, self.count, 1.0)


def sum_of_means(means: Iterable[Mean]) -> Tensor:
    """Add means up, 0-d."""
    return torch.stack([mean.value for mean in means]).sum()


def gaussian_nll(mean: Tensor, std: Tensor, value: Tensor) -> Tensor:
    """Give the negative log-density of `value` under `Normal(mean, std)`, element-wise, in nats."""
    return 0.5 * ((value - mean) / std).square() + std.log() + 0.5 * math.log(2 * math.pi)


def beta_nll(mean: Tensor, std: Tensor, value: Tensor, beta: float) -> Tensor:
    """Weight the Gaussian likelihood by `std^(2 beta)` held constant (Seitzer et al. 2022, equation 4).

    With `beta = 0` it is the likelihood, with `beta = 1` the mean sees the gradient of the squared error; between them a point
    that the model calls noisy still teaches the mean.
    """
    return std.detach().pow(2 * beta) * gaussian_nll(mean, std, value)


def beta_square(forecast: Distribution, value: Tensor, beta: float) -> Tensor:
    """Give half the squared error of the mean, weighted as `beta_nll` weights it, for any distribution.

    With `beta = 1` the weight is 1, else it is `std^(2 beta - 2)` held constant.
    """
    square = 0.5 * (forecast.mean - value).square()
    return square if beta == 1 else square * forecast.stddev.detach().pow(2 * beta - 2)


def kl_to_standard_normal(mean: Tensor, std: Tensor) -> Tensor:
    """Give the divergence of `Normal(mean, std)` from `Normal(0, 1)` summed over the last axis (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(-1)


def gaussian_kl(mean0: Tensor, std0: Tensor, mean1: Tensor, std1: Tensor) -> Tensor:
    """Give the divergence of `Normal(mean0, std0)` from `Normal(mean1, std1)`, element-wise, in nats (Kullback and Leibler 1951)."""
    return (std1 / std0).log() + (std0.square() + (mean0 - mean1).square()) / (2 * std1.square()) - 0.5


def gaussian_product(mean0: Tensor, std0: Tensor, mean1: Tensor, std1: Tensor | float) -> tuple[Tensor, Tensor]:
    """Give mean and deviation of the normalised product of two normal densities: of a prior and what was observed, Bayes' posterior."""
    precision0, precision1 = std0**-2, std1**-2
    total = precision0 + precision1
    return (precision0 * mean0 + precision1 * mean1) / total, total**-0.5


def elbo(log_likelihood: Tensor, kl: Tensor, kl_weight: float) -> Tensor:
    """Give the evidence lower bound, averaged over the batch (Rubanova et al. 2019, equation 9).

    Args:
        log_likelihood: `(B,)`, of each series' targets given one posterior draw.
        kl: `(B,)`, divergence of the posterior from the prior.
        kl_weight: weight of the divergence, raised in training by those who anneal it, see `annealing`.
    """
    return (log_likelihood - kl_weight * kl).mean()


def annealing(warmup: float, fraction: float) -> float:
    """Give how much of the divergence's weight counts when a fraction of training is behind, from 0 up (Bowman et al. 2016, section 3.1).

    The curve is the `1 - 0.99^epoch` of the code of Rubanova et al. (2019), which has 99 % after 458 epochs; here after the share `warmup`
    of the planned training, however many epochs that is. 0: all of it from the start.
    """
    return 1.0 if warmup == 0 else 1 - 0.01 ** (fraction / warmup)
