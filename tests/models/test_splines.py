"""Paths through observations, beside torchcde and by what they promise."""

from __future__ import annotations

import pytest
import torch
import torchcde

from latentode.models.splines import CubicPath, fill_forward, fill_linear, hermite_path

B, T, C = 3, 11, 4


def draw(seed=0):
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(B, T, generator=generator, dtype=torch.float64).cumsum(1)
    value = torch.randn(B, T, C, generator=generator, dtype=torch.float64)
    observed = torch.rand(B, T, C, generator=generator) < 0.5
    observed[0, :, 1] = False  # never seen
    observed[1, :4, 2] = False  # seen late
    observed[1, -3:, 3] = False  # and not to the end
    return t, value, observed


def read(path: CubicPath, b, times, what):
    """Give one sample's value or slope at many times."""
    single = CubicPath(path.t[b : b + 1], path.coefficients[b : b + 1])
    return torch.cat([getattr(single, what)(s[None]) for s in times])


@pytest.mark.parametrize("share_seen", ["all", "half"])
def test_splines_are_those_of_torchcde(share_seen):
    t, value, observed = draw()
    if share_seen == "all":
        observed = torch.ones_like(observed)
    path = hermite_path(t, fill_linear(t, value, observed))
    for b in range(B):
        with_gaps = value[b].masked_fill(~observed[b], torch.nan)
        coefficients = torchcde.hermite_cubic_coefficients_with_backward_differences(with_gaps, t[b])
        theirs = torchcde.CubicSpline(coefficients, t[b])
        times = torch.linspace(float(t[b, 0]), float(t[b, -1]), 40, dtype=torch.float64)
        expected = torch.stack([theirs.evaluate(s) for s in times])
        slope = torch.stack([theirs.derivative(s) for s in times])
        torch.testing.assert_close(read(path, b, times, "value"), expected, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(read(path, b, times, "slope"), slope, rtol=1e-10, atol=1e-9)


def test_a_path_is_smooth_and_its_slope_is_its_derivative():
    t, value, _ = draw()
    path = hermite_path(t, value)
    for i in range(1, T - 1):
        knot = t[:, i]
        eps = 1e-9
        torch.testing.assert_close(path.value(knot), value[:, i])
        torch.testing.assert_close(path.slope(knot - eps), path.slope(knot), rtol=0, atol=1e-3)
        backward = (value[:, i] - value[:, i - 1]) / (t[:, i] - t[:, i - 1])[:, None]
        torch.testing.assert_close(path.slope(knot), backward)
    between = (t[:, 4] * 0.3 + t[:, 5] * 0.7).requires_grad_()
    slope = torch.stack([torch.autograd.grad(x.sum(), between, retain_graph=True)[0] for x in path.value(between).T], 1)
    torch.testing.assert_close(path.slope(between), slope)


def test_a_straight_line_stays_one():
    t, _, _ = draw()
    path = hermite_path(t, 2 * t[..., None] - 1)
    at = t[:, 3] + 0.1
    torch.testing.assert_close(path.value(at), 2 * at[:, None] - 1)
    torch.testing.assert_close(path.slope(at), torch.full((B, 1), 2.0, dtype=torch.float64))


def test_what_comes_later_changes_nothing_before():
    t, value, observed = draw()
    n = 6
    whole = hermite_path(t, fill_forward(value, observed))
    early = hermite_path(t[:, :n], fill_forward(value[:, :n], observed[:, :n]))
    assert torch.equal(whole.coefficients[:, : n - 1], early.coefficients)


def test_forward_filled_values_are_the_last_ones():
    value = torch.tensor([[5.0, 1.0, 9.0, 2.0, 9.0]])[..., None]
    observed = torch.tensor([[False, True, False, True, False]])[..., None]
    assert fill_forward(value, observed, -3.0)[0, :, 0].tolist() == [-3.0, 1.0, 1.0, 2.0, 2.0]
    t = torch.tensor([[0.0, 1.0, 1.5, 3.0, 4.0]])
    assert fill_linear(t, value, observed)[0, :, 0].tolist() == [1.0, 1.0, 1.25, 2.0, 2.0]


def test_a_channel_that_was_never_seen_stays_at_its_start():
    t, value, observed = draw()
    for filled in (fill_forward(value, observed, 7.0), fill_linear(t, value, observed, 7.0)):
        assert bool((filled[0, :, 1] == 7.0).all())


def test_equal_knots_hold_the_path():
    t = torch.tensor([[0.0, 1.0, 1.0, 1.0]], requires_grad=False)
    value = torch.tensor([[0.0, 2.0, 2.0, 2.0]])[..., None].requires_grad_()
    path = hermite_path(t, value)
    assert path.value(torch.tensor([1.0])).item() == 2.0
    assert path.slope(torch.tensor([1.0])).item() == 0.0
    path.coefficients.square().sum().backward()
    assert value.grad is not None
    assert bool(value.grad.isfinite().all())
