"""Moving and stretching is what it says, in every family."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Laplace, MixtureSameFamily, Normal

from latentode.errors import InputError
from latentode.metrics import METRICS, PitCounts, Totals, crps, cumulative, quantile
from latentode.models.distributions import about, affine

from .draws import FAMILIES, SHAPE, anchored_mixture, normal

LEVELS = (0.01, 0.1, 0.5, 0.8, 0.99)
SHIFT = torch.tensor([[0.5, -2.0], [3.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
SCALE = torch.tensor([[0.3, 2.0], [1.0, 5.0], [0.1, 1.0]], dtype=torch.float64)


def plain_mixture():
    parts = anchored_mixture()
    return MixtureSameFamily(
        Categorical(logits=parts.log_share), Normal(parts.component_distribution.mean, parts.scale)
    )


ALL = {**FAMILIES, "mixture": plain_mixture}


@pytest.mark.parametrize("name", ALL)
def test_moments_quantiles_density_and_score_follow_the_map(name):
    one = ALL[name]()
    moved = affine(one, SHIFT, SCALE)
    assert type(moved) is type(one)
    assert torch.allclose(moved.mean, SHIFT + SCALE * one.mean)
    assert torch.allclose(moved.stddev, SCALE * one.stddev)
    for level in LEVELS:
        assert torch.allclose(quantile(moved, level), SHIFT + SCALE * quantile(one, level))
    value = one.mean + 0.7 * one.stddev
    assert torch.allclose(moved.log_prob(SHIFT + SCALE * value), one.log_prob(value) - SCALE.log())
    assert torch.allclose(cumulative(moved, SHIFT + SCALE * value), cumulative(one, value))
    assert torch.allclose(crps(moved, SHIFT + SCALE * value), SCALE * crps(one, value))


@pytest.mark.parametrize("name", ALL)
def test_about_another_mean_the_shape_stays_and_the_mean_is_exact(name):
    one = ALL[name]()
    moved = about(one, SHIFT)
    assert type(moved) is type(one)
    assert torch.allclose(moved.mean, SHIFT, atol=1e-12) if name == "mixture" else torch.equal(moved.mean, SHIFT)
    if name != "anchored mixture":
        assert torch.allclose(about(one, SHIFT, SCALE).stddev, SCALE * one.stddev)
        assert torch.allclose(moved.log_prob(SHIFT + 0.3), one.log_prob(one.mean + 0.3))


@pytest.mark.parametrize("name", ALL)
def test_about_its_own_mean_a_distribution_is_itself(name):
    one = ALL[name]()
    again = about(one, one.mean, torch.ones(SHAPE, dtype=torch.float64))
    assert torch.allclose(again.log_prob(SHIFT), one.log_prob(SHIFT))


@pytest.mark.parametrize("name", ALL)
def test_every_metric_takes_it(name):
    one = ALL[name]()
    channel, observed = torch.tensor([[0, 1]] * 3), torch.ones(SHAPE, dtype=torch.bool)
    totals, pit = Totals.zero(2, naive_error=torch.ones(2)), PitCounts.zero(2)
    totals.add(one, SHIFT, channel, observed)
    pit.add(one, SHIFT, channel, observed)
    assert all(totals.per_channel(metric).isfinite().all() for metric in METRICS)
    assert pit.count.sum() == 6


def test_a_family_without_a_map_is_refused():
    with pytest.raises(InputError, match=r"Laplace cannot be moved.*affine\.register"):
        affine(Laplace(SHIFT, SCALE), SHIFT, SCALE)


def test_the_mean_carries_the_gradient():
    mean = SHIFT.clone().requires_grad_()
    about(normal(), mean).mean.sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))
