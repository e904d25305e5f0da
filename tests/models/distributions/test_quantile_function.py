"""The closed forms of a quantile function against quadrature."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from latentode.metrics import crps, quantile
from latentode.metrics.probabilistic import crps_from_quantiles
from latentode.models.distributions import QuantileFunction

from .draws import SHAPE, quantile_function

# In the lower tail, at each level, between levels, in the upper tail.
PLACES = (1e-6, 0.03, 0.05, 0.1, 0.2, 0.35, 0.5, 0.55, 0.6, 0.8, 0.95, 0.97, 1 - 1e-6)


def single(seed, levels=(0.05, 0.2, 0.5, 0.6, 0.95)):
    """One distribution of no batch shape."""
    g = torch.Generator().manual_seed(seed)
    loc = torch.randn((), generator=g, dtype=torch.float64)
    gaps, tails = (0.1 + torch.rand(n, generator=g, dtype=torch.float64) for n in (len(levels) - 1, 2))
    return QuantileFunction(torch.tensor(levels, dtype=torch.float64), loc, gaps, tails)


def integrate(f, breaks):
    """Integrate over each piece, on which `f` is smooth."""
    return sum(quad(f, a, b, epsabs=1e-12, epsrel=1e-12, limit=200)[0] for a, b in pairwise(breaks))


def of(method, x):
    return float(method(torch.tensor(x, dtype=torch.float64)))


@pytest.mark.parametrize("seed", range(3))
def test_mean_and_variance_are_those_of_the_quantile_function(seed):
    one = single(seed)
    breaks = [0.0, *one.levels.tolist(), 1.0]
    mean = integrate(lambda p: of(one.icdf, p), breaks)
    assert mean == pytest.approx(float(one.mean), abs=1e-7)
    square = integrate(lambda p: (of(one.icdf, p) - mean) ** 2, breaks)
    assert square == pytest.approx(float(one.variance), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_density_is_that_of_the_distribution_function(seed):
    one = single(seed)
    edges = (one.loc + one.offsets).tolist()
    breaks = [edges[0] - 40, *edges, edges[-1] + 40]
    assert integrate(lambda x: math.exp(of(one.log_prob, x)), breaks) == (pytest.approx(1, abs=1e-9))
    for a, b in pairwise(breaks):
        middle = (a + b) / 2
        x = torch.tensor(middle, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(one.cdf(x), x)
        assert torch.allclose(slope, one.log_prob(x).exp(), rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("level", PLACES)
def test_the_crps_is_its_integral(seed, level):
    one = single(seed)
    value = of(one.icdf, level)
    edges = (one.loc + one.offsets).tolist()
    breaks = sorted([edges[0] - 40, *edges, value, edges[-1] + 40])
    expected = integrate(lambda x: (of(one.cdf, x) - (x >= value)) ** 2, breaks)
    assert float(crps(one, torch.tensor(value, dtype=torch.float64))) == pytest.approx(expected, rel=1e-7)


def test_the_crps_is_twice_the_pinball_loss_over_all_levels():
    one = quantile_function()
    value = one.mean + 0.4
    assert torch.allclose(crps(one, value), crps_from_quantiles(one, value, 1000), rtol=3e-3)


@given(seed=st.integers(0, 1000), level=st.floats(1e-9, 1 - 1e-9))
@settings(max_examples=60, deadline=None)
def test_probability_undoes_the_quantile(seed, level):
    one = quantile_function(seed)
    assert torch.allclose(one.cdf(quantile(one, level)), torch.full(SHAPE, level, dtype=torch.float64), atol=1e-12)


@given(seed=st.integers(0, 1000), level=st.lists(st.floats(1e-9, 1 - 1e-9), min_size=2, max_size=8, unique=True))
@settings(max_examples=60, deadline=None)
def test_quantiles_never_cross(seed, level):
    one = quantile_function(seed)
    found = torch.stack([quantile(one, p) for p in sorted(level)])
    assert (found.diff(dim=0) >= 0).all()


def test_at_its_levels_the_quantiles_are_the_mean_and_the_offsets():
    one = quantile_function()
    for i, level in enumerate(one.levels.tolist()):
        assert torch.allclose(quantile(one, level), one.loc + one.offsets[..., i])
    assert torch.allclose(one.offsets.diff(dim=-1), one.gaps)


def test_gradients_are_those_of_differences():
    one = quantile_function()
    value = one.mean + torch.tensor([[-9.0, -0.6], [-0.1, 0.2], [0.9, 9.0]], dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for x in (one.loc, one.gaps, one.tails)]
    for name in ("log_prob", "crps", "icdf"):
        given_ = torch.rand(SHAPE, dtype=torch.float64) if name == "icdf" else value
        assert torch.autograd.gradcheck(
            lambda *p, n=name, v=given_: getattr(QuantileFunction(one.levels, *p), n)(v), inputs
        )


def test_far_values_have_finite_scores_and_gradients_in_single_precision():
    one = quantile_function()
    for value in (-1e4, 1e4):
        parts = [x.float().requires_grad_() for x in (one.loc, one.gaps, one.tails)]
        found = QuantileFunction(one.levels.float(), *parts)
        (found.crps(torch.full(SHAPE, value)) - found.log_prob(torch.full(SHAPE, value))).sum().backward()
        assert all(x.grad is not None and x.grad.isfinite().all() for x in parts)


@pytest.mark.statistical
def test_draws_have_its_moments_and_quantiles():
    torch.manual_seed(0)
    one = quantile_function()
    draws = one.sample((200_000,))
    assert torch.allclose(draws.mean(0), one.mean, atol=0.02)
    assert torch.allclose(draws.std(0), one.stddev, rtol=0.02)
    assert torch.allclose(draws.quantile(0.8, 0), quantile(one, 0.8), atol=0.02)
