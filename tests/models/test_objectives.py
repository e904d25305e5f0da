"""Objectives against torch's distributions."""

from __future__ import annotations

import torch
from torch.distributions import Normal, kl_divergence

from latentode.models.objectives import Mean, beta_nll, elbo, gaussian_nll, kl_to_standard_normal, sum_of_means


def draw(*shape):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_likelihood_and_divergence_are_those_of_the_normal():
    mean, log_std, value = draw(5, 3)
    std = log_std.exp()
    assert torch.allclose(gaussian_nll(mean, std, value), -Normal(mean, std).log_prob(value))
    expected = kl_divergence(Normal(mean, std), Normal(torch.zeros_like(mean), torch.ones_like(std))).sum(-1)
    assert torch.allclose(kl_to_standard_normal(mean, std), expected)


def test_with_beta_1_the_mean_sees_the_squared_error_and_the_width_the_likelihood():
    mean, log_std, value = (x.requires_grad_() for x in draw(6))
    std = log_std.exp()
    beta_nll(mean, std, value.detach(), 1.0).sum().backward()
    assert torch.allclose(mean.grad, (mean - value).detach())
    assert torch.allclose(log_std.grad, (std.square() - (mean - value).square()).detach())


def test_with_beta_0_it_is_the_likelihood():
    mean, log_std, value = draw(6)
    assert torch.equal(beta_nll(mean, log_std.exp(), value, 0.0), gaussian_nll(mean, log_std.exp(), value))


def test_the_bound_is_likelihood_less_divergence():
    likelihood, divergence, _ = draw(4)
    assert torch.allclose(elbo(likelihood, divergence, 0.3), (likelihood - 0.3 * divergence).mean())


def test_what_is_not_observed_counts_for_nothing():
    value = torch.tensor([1.0, float("nan"), 3.0])
    observed = torch.tensor([True, False, True])
    mean = Mean.weighted(value, torch.tensor([1.0, 5.0, 3.0]), observed)
    assert mean.value == 2.5
    assert mean.count == 4
    nothing = Mean.weighted(value, torch.ones(3), torch.zeros(3, dtype=torch.bool))
    assert nothing.value == Mean.of(value[:0]).value == 0
    assert sum_of_means([mean, nothing, Mean.of(torch.tensor([1.0, 3.0]))]) == 4.5
