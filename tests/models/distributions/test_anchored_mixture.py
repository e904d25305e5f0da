"""The mean is met, the anchors stay."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MixtureSameFamily

from latentode.models.distributions import AnchoredMixture, affine

from .draws import SHAPE, anchored_mixture


@given(seed=st.integers(0, 1000), mean=st.floats(-5, 5), factor=st.floats(0.1, 10))
@settings(max_examples=40, deadline=None)
def test_the_parts_add_up_to_the_given_mean(seed, mean, factor):
    wanted, stretch = (torch.full(SHAPE, x, dtype=torch.float64) for x in (mean, factor))
    for one in (
        anchored_mixture(seed),
        anchored_mixture(seed).about(wanted),
        anchored_mixture(seed).about(wanted, stretch),
    ):
        added_up = MixtureSameFamily.mean.fget(one)
        assert torch.allclose(one.mean, added_up, atol=1e-9)


def test_about_another_mean_the_anchors_stay_and_the_free_parts_move_together():
    one = anchored_mixture()
    mean, factor = torch.full(SHAPE, 3.0, dtype=torch.float64), torch.full(SHAPE, 2.0, dtype=torch.float64)
    moved = one.about(mean, factor)
    before, after = one.component_distribution, moved.component_distribution
    assert torch.equal(after.loc[..., :3], before.loc[..., :3])
    assert torch.equal(after.scale[..., :3], before.scale[..., :3])
    assert torch.allclose(after.scale[..., 3:], 2 * before.scale[..., 3:])
    assert torch.allclose(after.loc[..., 3:].diff(dim=-1), 2 * before.loc[..., 3:].diff(dim=-1))


def test_stretched_it_takes_its_anchors_along():
    one = anchored_mixture()
    shift, scale = torch.full(SHAPE, -1.0, dtype=torch.float64), torch.full(SHAPE, 0.5, dtype=torch.float64)
    moved = affine(one, shift, scale)
    assert torch.allclose(moved.component_distribution.loc, -1 + 0.5 * one.component_distribution.loc)
    assert torch.allclose(moved.anchor, -1 + 0.5 * one.anchor)


def test_the_variance_is_that_about_the_given_mean():
    one = anchored_mixture()
    parts, share = one.component_distribution, one.log_share.exp()
    expected = (share * (parts.scale.square() + (parts.loc - one.mean[..., None]).square())).sum(-1)
    assert torch.allclose(one.variance, expected)


def test_gradients_are_those_of_differences():
    one = anchored_mixture()
    value = one.mean + 0.3
    inputs = [x.clone().requires_grad_() for x in (one.loc, one.log_share, one.anchor, one.offset, one.scale)]
    assert torch.autograd.gradcheck(lambda *p: AnchoredMixture(*p).log_prob(value), inputs)
