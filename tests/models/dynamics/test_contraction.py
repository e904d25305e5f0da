"""A bound on the spectral norm holds for any matrix, and what it makes brings no two points further apart than it says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentode.models.dynamics.contraction import N_SQUARINGS, Contraction, spectral_bound

shapes = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(shapes, st.sampled_from([1e-6, 1.0, 1e6]), st.integers(0, 99), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_bound_lies_above_the_norm_and_close_to_it(shape, size, seed, is_orthogonal):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if is_orthogonal:
        # All singular values alike: where the bound is loosest.
        weight = torch.linalg.svd(weight, full_matrices=False).Vh
    bound, norm = spectral_bound(size * weight), size * torch.linalg.matrix_norm(weight, 2)
    assert norm * (1 - 1e-12) <= bound <= norm * min(weight.shape) ** (1 / 2 ** (N_SQUARINGS + 2)) * (1 + 1e-12)


def test_the_bound_is_the_schatten_norm_of_its_order():
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    p = 2 ** (N_SQUARINGS + 2)
    expected = torch.linalg.svdvals(weight).pow(p).sum() ** (1 / p)
    assert torch.allclose(spectral_bound(weight), expected, rtol=1e-12)
    ours, theirs = (torch.autograd.grad(x, weight)[0] for x in (spectral_bound(weight), expected))
    assert torch.allclose(ours, theirs, rtol=1e-9)


def test_a_matrix_of_zeros_has_a_bound_and_a_gradient():
    weight = torch.zeros(3, 4, requires_grad=True)
    bound = spectral_bound(weight)
    bound.backward()
    assert float(bound.detach()) < 1e-9
    assert weight.grad is not None
    assert bool(weight.grad.isfinite().all())


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_a_contraction_brings_points_no_further_apart_and_leaves_small_weights_alone(size):
    torch.manual_seed(0)
    layer = Contraction(6, 9, norm=0.9)
    with torch.no_grad():
        layer.linear.weight.mul_(size)
    assert torch.linalg.matrix_norm(layer.weight(), 2) <= 0.9 * (1 + 1e-6)
    if size < 1:
        assert torch.allclose(layer.weight(), layer.linear.weight)
    x, y = torch.randn(2, 50, 6)
    assert ((layer(x) - layer(y)).norm(dim=-1) <= 0.9 * (1 + 1e-5) * (x - y).norm(dim=-1)).all()
