"""Several forecasts as one: means of means, averages of quantiles, all parts of all mixtures."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Gamma, MixtureSameFamily, Normal

from latentode.errors import InputError
from latentode.metrics.quantiles import quantile
from latentode.models.distributions import AnchoredMixture, FiniteStudentT, QuantileFunction, mix, pool

SHAPE = (2, 3)


def draw(*sizes, positive=False, seed=[0]):  # noqa: B006 (a counter)
    seed[0] += 1
    x = torch.randn(*SHAPE, *sizes, generator=torch.Generator().manual_seed(seed[0]), dtype=torch.float64)
    return x.exp() if positive else x


def anchored():
    return AnchoredMixture(draw(), draw(5).log_softmax(-1), draw(2), draw(3), draw(5, positive=True))


def mixture():
    return MixtureSameFamily(Categorical(logits=draw(4)), Normal(draw(4), draw(4, positive=True)))


def quantiles():
    levels = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    return QuantileFunction(levels, draw(), draw(3, positive=True), draw(2, positive=True))


def normal():
    return Normal(draw(), draw(positive=True))


def student_t():
    return FiniteStudentT(3 + draw(positive=True), draw(), draw(positive=True))


FAMILIES = [normal, student_t, quantiles, mixture, anchored]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_is_the_mean_of_the_means(family):
    members = [family() for _ in range(3)]
    pooled = pool(members)
    assert type(pooled) is type(members[0])
    assert torch.allclose(pooled.mean, torch.stack([m.mean for m in members]).mean(0), atol=1e-12)


@pytest.mark.parametrize("family", [normal, quantiles])
def test_quantiles_are_averaged(family):
    members = [family() for _ in range(3)]
    for level in (0.02, 0.3, 0.5, 0.97):
        expected = torch.stack([quantile(m, level) for m in members]).mean(0)
        assert torch.allclose(quantile(pool(members), level), expected, atol=1e-10)


@pytest.mark.parametrize("family", [mixture, anchored])
def test_mixtures_average_their_densities(family):
    members = [family() for _ in range(3)]
    value = draw()
    expected = torch.stack([m.log_prob(value) for m in members]).logsumexp(0) - torch.tensor(3.0).log()
    assert torch.allclose(pool(members).log_prob(value), expected, atol=1e-10)


def test_the_anchors_of_a_pool_stay_under_another_mean():
    members = [anchored() for _ in range(2)]
    moved = pool(members).about(draw())
    assert torch.equal(moved.place[..., :4], torch.cat([m.anchor for m in members], -1))


def test_one_member_is_itself_and_an_unknown_family_is_refused():
    single = normal()
    assert pool([single]) is single
    with pytest.raises(InputError, match="Gamma"):
        pool([Gamma(torch.ones(1), torch.ones(1))] * 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_members_differ_by_is_part_of_the_width_of_a_mixture(family):
    members = [family() for _ in range(4)]
    mixed = mix(members)
    means = torch.stack([m.mean for m in members])
    total = torch.stack([m.variance for m in members]).mean(0) + means.var(0, unbiased=False)
    assert type(mixed) is type(members[0])
    assert torch.allclose(mixed.mean, means.mean(0), atol=1e-12)
    assert torch.allclose(mixed.variance, total, rtol=1e-9)
    assert mix(members[:1]) is members[0]
