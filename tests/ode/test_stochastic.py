"""Paths of stochastic equations: closed-form moments, strong orders, the same Wiener path in torchsde, gradients."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torchsde

from latentode.errors import InputError
from latentode.ode import SCHEMES, Noise, solve_sde

DOUBLE = torch.float64
ORDERS = {"euler_maruyama": 0.5, "milstein": 1.0, "heun": 1.0}


def make_noise(n_steps, n_samples, n_states=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Noise(*torch.randn(2, n_steps, n_samples, n_states, generator=generator, dtype=DOUBLE))


def solve(f, g, y0, noise, *, span=1.0, method="milstein"):
    one = torch.ones(len(y0), dtype=DOUBLE)
    return solve_sde(f, g, y0, noise, t0=0 * one, dt=span / len(noise.step) * one, method=method)


def assert_moments(draws, mean, variance, bias=0.0):
    """Demand mean and variance of `(N, 1)` up to four standard errors and what the steps leave."""
    n = len(draws)
    fourth = float((draws - draws.mean()).pow(4).mean())
    assert float(draws.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n) + bias)
    assert float(draws.var()) == pytest.approx(variance, abs=4 * math.sqrt((fourth - variance**2) / n) + bias)


@pytest.mark.statistical
@pytest.mark.parametrize("method", SCHEMES)
def test_an_ornstein_uhlenbeck_process_has_its_mean_and_variance(method):
    a, level, s, n = 1.5, 0.4, 0.7, 10_000
    y0 = torch.ones(n, 1, dtype=DOUBLE)
    path = solve(lambda t, y: a * (level - y), lambda t, y: s + 0 * y, y0, make_noise(64, n), method=method)
    # The first time lies within a step.
    for t in (0.3, 1.0):
        mean = level + (1 - level) * math.exp(-a * t)
        variance = s**2 * (1 - math.exp(-2 * a * t)) / (2 * a)
        assert_moments(path.at(torch.arange(n), torch.full((n,), t, dtype=DOUBLE)), mean, variance, bias=6e-3)


@pytest.mark.statistical
@pytest.mark.parametrize("method", SCHEMES)
def test_a_geometric_brownian_motion_has_its_mean_and_variance(method):
    a, s, n = 0.3, 0.5, 10_000
    path = solve(
        lambda t, y: a * y, lambda t, y: s * y, torch.ones(n, 1, dtype=DOUBLE), make_noise(64, n), method=method
    )
    # Stratonovich's equation is Ito's with another drift.
    growth = a + s**2 / 2 if method == "heun" else a
    assert_moments(path.y[-1], math.exp(growth), math.exp(2 * growth) * (math.exp(s**2) - 1), bias=1e-2)


@pytest.mark.statistical
def test_the_wiener_process_has_its_variance_within_a_step_too():
    n = 20_000
    path = solve(
        lambda t, y: 0 * y, lambda t, y: 1 + 0 * y, torch.zeros(n, 1, dtype=DOUBLE), make_noise(2, n), method="heun"
    )
    for t in (0.1, 0.25, 0.5, 0.9):
        assert_moments(path.at(torch.arange(n), torch.full((n,), t, dtype=DOUBLE)), 0.0, t)


@pytest.mark.parametrize("method", SCHEMES)
def test_errors_along_one_wiener_path_fall_at_the_strong_order(method):
    a, s, n = 0.5, 1.0, 2_000
    finest = make_noise(1024, n)
    w = finest.step.sum(0) / 32
    exact = torch.exp((a if method == "heun" else a - s**2 / 2) + s * w)
    errors = []
    for n_steps in (64, 256):
        steps = finest.step.view(n_steps, -1, n, 1)
        noise = Noise(steps.sum(1) / steps.shape[1] ** 0.5, finest.bridge[:n_steps])
        path = solve(lambda t, y: a * y, lambda t, y: s * y, torch.ones(n, 1, dtype=DOUBLE), noise, method=method)
        errors.append(float((path.y[-1] - exact).abs().mean()))
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(ORDERS[method], abs=0.1)


class Twisted(torch.nn.Module):
    """An equation that moves with time, each component of whose diffusion depends on its own state."""

    noise_type = "diagonal"

    def __init__(self, sde_type="ito"):
        super().__init__()
        self.sde_type = sde_type

    def f(self, t, y):
        t = torch.as_tensor(t, dtype=y.dtype).reshape(-1, 1)
        return torch.sin(y @ y.new_tensor([[-0.3, 2.0], [-2.0, 0.5]]).T) + torch.cos(3 * t)

    def h(self, t, y):
        return -y

    def g(self, t, y):
        return 0.3 + 0.2 * torch.sin(2 * y)


@pytest.mark.parametrize(
    ("method", "theirs"), [("euler_maruyama", "euler"), ("milstein", "milstein"), ("heun", "heun")]
)
def test_along_one_wiener_path_the_states_are_those_of_torchsde(method, theirs):
    n, n_steps = 5, 16
    y0 = torch.linspace(-1, 1, 2 * n, dtype=DOUBLE).view(n, 2)
    ts = torch.linspace(0, 1, n_steps + 1, dtype=DOUBLE)
    wiener = torchsde.BrownianInterval(0.0, 1.0, size=(n, 2), dtype=DOUBLE, entropy=0)
    sde = Twisted("stratonovich" if method == "heun" else "ito")
    options = {"grad_free": True} if theirs == "milstein" else None
    expected = torchsde.sdeint(sde, y0, ts, bm=wiener, method=theirs, dt=1 / n_steps, options=options)
    steps = torch.stack([wiener(a, b) for a, b in pairwise(ts)]) * n_steps**0.5
    path = solve(sde.f, sde.g, y0, Noise(steps, torch.zeros_like(steps)), method=method)
    assert torch.allclose(path.y, expected, rtol=0, atol=1e-12)


def test_every_sample_has_its_own_clock():
    sde, noise = Twisted(), make_noise(6, 3, 2)
    y0 = torch.linspace(-1, 1, 6, dtype=DOUBLE).view(3, 2)
    t0, dt = torch.tensor([0.0, -2.0, 5.0], dtype=DOUBLE), torch.tensor([0.1, 0.3, -0.2], dtype=DOUBLE)
    path = solve_sde(sde.f, sde.g, y0, noise, t0=t0, dt=dt)
    for i in range(3):
        one = Noise(*(x[:, i : i + 1] for x in (noise.step, noise.bridge)))
        alone = solve_sde(sde.f, sde.g, y0[i : i + 1], one, t0=t0[i : i + 1], dt=dt[i : i + 1])
        assert torch.allclose(alone.y[:, 0], path.y[:, i], rtol=0, atol=1e-14)
        t = t0[i] + dt[i] * torch.tensor([-1.0, 0.0, 2.4, 5.999, 6.0, 7.0], dtype=DOUBLE)
        i_T = torch.full((6,), i)
        assert torch.allclose(alone.at(0 * i_T, t), path.at(i_T, t), rtol=0, atol=1e-14)
        # Before the start the start, after the end the end.
        assert torch.allclose(path.at(i_T, t)[[0, 1, 4, 5]], path.y[[0, 0, -1, -1], i], rtol=0, atol=1e-14)


def test_without_noise_time_runs_back_to_where_it_came_from():
    sde, silent = Twisted(), Noise(*torch.zeros(2, 256, 1, 2, dtype=DOUBLE))
    y0, one = torch.tensor([[0.3, -0.5]], dtype=DOUBLE), torch.ones(1, dtype=DOUBLE)
    there = solve_sde(sde.f, sde.g, y0, silent, t0=0 * one, dt=one / 256, method="heun")
    back = solve_sde(sde.f, sde.g, there.y[-1], silent, t0=one, dt=-one / 256, method="heun")
    assert torch.allclose(back.y[-1], y0, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", SCHEMES)
def test_gradients_reach_start_drift_diffusion_and_times(method):
    noise = make_noise(4, 2, 2)

    def end(y0, a, s, t):
        path = solve(lambda t, y: a * torch.sin(y), lambda t, y: s * torch.cos(y), y0, noise, method=method)
        # The bridge's share of a time's gradient has no limit at the ends of a step, and is left out.
        silent = Noise(noise.step, 0 * noise.bridge)
        still = solve(lambda t, y: a * torch.sin(y), lambda t, y: s * torch.cos(y), y0, silent, method=method)
        fixed = torch.tensor([0.3, 0.8], dtype=DOUBLE)
        return path.at(torch.tensor([0, 1]), fixed), still.at(torch.tensor([0, 1]), t)

    y0 = torch.tensor([[0.3, -0.5], [1.0, 0.2]], dtype=DOUBLE)
    a, s = torch.tensor([1.3, -0.4], dtype=DOUBLE), torch.tensor([0.5, 0.8], dtype=DOUBLE)
    t = torch.tensor([0.3, 0.8], dtype=DOUBLE)
    assert torch.autograd.gradcheck(end, [x.requires_grad_() for x in (y0, a, s, t)])


def test_wrong_settings_are_refused():
    y0 = torch.zeros(1, 1, dtype=DOUBLE)
    with pytest.raises(InputError, match="method is 'euler'"):
        solve(lambda t, y: y, lambda t, y: y, y0, make_noise(2, 1), method="euler")
    one = torch.ones(1, dtype=DOUBLE)
    with pytest.raises(InputError, match="holds no step"):
        solve_sde(lambda t, y: y, lambda t, y: y, y0, make_noise(0, 1), t0=one, dt=one)
