"""What validation overrules, and what it has no evidence against."""

from __future__ import annotations

import pytest
import torch

from latentode.models import LatentODE
from latentode.models.baselines.linear import Moments
from latentode.models.validation import _choose_weights, block_of, choose_companion
from tests.data.tables import make_table

MANY, FEW = 5_000, 40


@pytest.fixture
def model():
    network = LatentODE()
    network.setup(make_table(n_channels=3).schema)
    network.base_weight.copy_(torch.tensor([0.5, 0.2]).repeat(3, 1))
    return network


def choose(model, features, value, channel):
    xx = torch.zeros(3, 3, 3, dtype=torch.float64).index_add(0, channel, features[:, :, None] * features[:, None])
    xy = torch.zeros(3, 3, dtype=torch.float64).index_add(0, channel, features * value[:, None])
    yy, count = (torch.zeros(3, dtype=torch.float64).index_add(0, channel, x) for x in (value**2, value**0))
    return _choose_weights(Moments(xx, xy, yy, count), model, features, value, channel)


def draw(shares, outlier=0.0, seed=0):
    """Values of which the residual tells a share; the last of the second channel is far off against it."""
    generator = torch.Generator().manual_seed(seed)
    channel = torch.repeat_interleave(torch.arange(3), torch.tensor([MANY, FEW, MANY]))
    features = torch.randn(len(channel), 3, generator=generator, dtype=torch.float64)
    noise = 0.5 * torch.randn(len(channel), generator=generator, dtype=torch.float64)
    base = features[:, :2] @ torch.tensor([0.5, 0.2], dtype=torch.float64)
    value = base + torch.tensor(shares, dtype=torch.float64)[channel] * features[:, 2] + noise
    last = MANY + FEW - 1
    value[last] = base[last] - outlier * features[last, 2].sign()
    return features, value, channel


def test_one_value_far_off_among_few_takes_no_residual_away(model):
    weight = choose(model, *draw([0.8, 0.8, 0.8], outlier=25.0))
    assert (weight[:, 2] > 0.5).all()
    # By the squared error of the few alone the residual would have been left out.
    features, value, channel = draw([0.8, 0.8, 0.8], outlier=25.0)
    own = channel == 1
    error = value[own] - features[own, :2] @ torch.tensor([0.5, 0.2], dtype=torch.float64)
    assert (error - weight[1, 2] * features[own, 2]).square().mean() > error.square().mean()


def test_evidence_against_a_residual_takes_it_away(model):
    weight = choose(model, *draw([0.8, 0.8, -0.8]))
    assert weight[2, 2] < 0.05
    assert weight[0, 2] > 0.7


def test_over_all_channels_it_is_never_worse_than_without_the_residual(model):
    features, value, channel = draw([0.0, 0.0, 0.0], outlier=400.0)
    weight = choose(model, features, value, channel)

    def mean_error(chosen):
        square = (value - (features * chosen[channel]).sum(-1)).square()
        return torch.stack([square[channel == c].mean() for c in range(3)]).mean()

    without = torch.tensor([0.5, 0.2, 0.0], dtype=torch.float64).repeat(3, 1)
    assert mean_error(weight) <= mean_error(without) + 1e-9


N_BLOCKS, IN_BLOCK = 40, 30


def draw_errors(gain, seed=0):
    """Errors of a companion, and of a network that takes a share `gain` of them off and has noise of its own."""
    generator = torch.Generator().manual_seed(seed)
    n = N_BLOCKS * IN_BLOCK
    block = torch.arange(N_BLOCKS).repeat_interleave(IN_BLOCK)
    channel = torch.arange(n) % 3
    other = torch.randn(n, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return (1 - gain) * other + 0.5 * noise, other, channel, block


def test_a_network_with_evidence_takes_the_share_of_least_squared_error():
    error, other, channel, block = draw_errors(1.0)
    share = choose_companion(error, other, channel, block, 3)
    assert ((share > 0) & (share < 1)).all()

    def mean_error(share):
        return float(torch.lerp(error, other, share[channel]).square().mean())

    assert mean_error(share) < min(mean_error(torch.zeros(3).double()), mean_error(torch.ones(3).double()))
    for shift in (-0.05, 0.05):
        assert mean_error(share) < mean_error((share + shift).clamp(0, 1))


def test_without_evidence_the_companion_stands_alone():
    error, other, channel, block = draw_errors(0.0)
    assert (choose_companion(error, other, channel, block, 3) == 1).all()


def test_evidence_is_counted_in_stretches_and_not_in_values():
    """What was gained in one stretch of forty, however much, may be luck; the same over all of them is not."""
    generator = torch.Generator().manual_seed(0)
    block = torch.arange(N_BLOCKS).repeat_interleave(IN_BLOCK)
    channel = torch.zeros_like(block)
    other = torch.randn(len(block), generator=generator, dtype=torch.float64)
    once = torch.where(block == 0, 0.0, other)
    assert (choose_companion(once, other, channel, block, 1) == 1).all()
    spread = torch.where(torch.arange(len(block)) % N_BLOCKS == 0, 0.0, other)
    assert (choose_companion(spread, other, channel, block, 1) < 1).all()
    # Nor is anything known of a single stretch.
    assert (choose_companion(spread, other, channel, torch.zeros_like(block), 1) == 1).all()


def test_stretches_are_a_horizon_of_one_series(prepared):
    batch = prepared.batch
    block = block_of(batch)[:, 0]
    for i in range(len(batch)):
        for j in range(i):
            stretch = [torch.floor(batch.origin[k].double() / batch.time_scale) for k in (i, j)]
            same = batch.series[i] == batch.series[j] and stretch[0] == stretch[1]
            assert bool(block[i] == block[j]) == bool(same)
