"""The facts of continuous depth that `notebooks/01_continuous_depth.ipynb` tells, as far as they are quick to check."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from latentode.ode import Backsolve, DriftWarning, FixedStep, PIDController, solve
from latentode.ode.steady_state import steady_state
from tests.ode.problems import lorenz, times, tolerance, van_der_pol_of

DOUBLE = torch.float64


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def slope(x, y):
    """The exponent p of a law y = C x**p."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def gradient_on_lorenz(adjoint, t1, *, method="tsit5", tol=1e-7):
    p = times(10.0, 28.0, 8 / 3).requires_grad_()
    y0 = times(1.0, 1.0, 20.0)[None].requires_grad_()
    ys = solve(
        lorenz, y0, times(0.0, t1), args=(p,), method=method, controller=tolerance(tol), adjoint=adjoint, max_steps=500
    ).ys
    return torch.cat([g.flatten() for g in torch.autograd.grad(ys[:, -1].sum(), (p, y0))])


def relative(a, b):
    return float((a - b).norm() / b.norm())


# --- depth and steps ---


def test_a_residual_network_with_steps_of_1_over_l_approaches_the_ode_at_rate_1_over_l():
    first, last = draw(8, 8, seed=1) / 3, draw(8, 8, seed=2) / 3
    y0 = draw(4, 8)

    def layer(t, y):
        return torch.tanh(y @ first) * torch.cos(t)[:, None] + torch.tanh(y @ last) * torch.sin(t)[:, None]

    def network(n_layers):
        y = y0
        for i in range(n_layers):
            y = y + layer(torch.full((4,), i / n_layers, dtype=DOUBLE), y) / n_layers
        return y

    limit = solve(layer, y0, times(0.0, 1.0), method="dopri8", controller=tolerance(1e-12)).ys[:, -1]
    depths = [16, 32, 64, 128]
    assert slope(depths, [relative(network(n), limit) for n in depths]) == pytest.approx(-1, abs=0.05)


def test_a_hard_sample_takes_more_steps_than_an_easy_one_of_the_same_batch_and_each_as_many_as_alone():
    mu = times(0.5, 2.0, 10.0)[:, None]
    y0 = times(2.0, 0.0).expand(3, 2)

    def steps(rows, mode="per_sample"):
        solution = solve(
            van_der_pol_of,
            y0[rows],
            times(0.0, 20.0),
            args=(mu[rows],),
            controller=tolerance(1e-5),
            step_mode=mode,
        )
        return solution.stats["n_steps"].tolist()

    every = slice(0, 3)
    own = steps(every)
    assert own == [steps(slice(i, i + 1))[0] for i in range(3)]
    assert own[0] < own[1] < own[2]
    assert min(steps(every, "joint")) >= max(own)


# --- gradients ---


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(draw(4, 4, seed=3))
        self.n_calls = 0

    def forward(self, t, y):
        self.n_calls += 1
        return torch.tanh(y @ self.weight)


@pytest.mark.parametrize("adjoint", ["direct", "checkpointed", "reversible", "backsolve"])
def test_every_route_but_direct_calls_the_field_on_the_way_back_and_none_more_than_a_small_multiple(adjoint):
    field = Counting()
    solution = solve(field, draw(5, 4), times(0.0, 1.0), controller=tolerance(1e-6), adjoint=adjoint, step_mode="joint")
    n_there = field.n_calls
    # One call more finds out which tensors the field draws on.
    assert int(solution.stats["nfe"][0]) <= n_there <= int(solution.stats["nfe"][0]) + 1
    solution.ys[:, -1].sum().backward()
    n_back = field.n_calls - n_there
    assert n_back == 0 if adjoint == "direct" else 0.5 * n_there < n_back < 4 * n_there


@pytest.mark.parametrize("t1", [0.5, 1.5])
@pytest.mark.parametrize("adjoint", ["checkpointed", "reversible"])
def test_checkpointed_and_reversible_stay_exact_on_lorenz(adjoint, t1):
    reference = gradient_on_lorenz("direct", t1, method="dopri8", tol=1e-11)
    assert relative(gradient_on_lorenz(adjoint, t1), reference) < 1e-4


def test_backsolve_drifts_on_lorenz_and_says_so():
    reference = gradient_on_lorenz("direct", 1.5, method="dopri8", tol=1e-11)
    with pytest.warns(DriftWarning, match="checkpointed"):
        found = gradient_on_lorenz(Backsolve(max_steps=400), 1.5)
    assert relative(found, reference) > 0.01


# --- what an ODE cannot do ---


def test_trajectories_on_a_line_never_cross():
    weights = [draw(1, 16, seed=1), draw(16, seed=2), draw(16, 1, seed=3)]

    def field(t, y):
        return torch.tanh(y @ weights[0] + weights[1] + t[:, None]) @ weights[2]

    y0 = torch.linspace(-2, 2, 31, dtype=DOUBLE)[:, None]
    ys = solve(field, y0, torch.linspace(0, 3, 20, dtype=DOUBLE), controller=tolerance(1e-8)).ys[..., 0]
    assert bool((ys.diff(dim=0) > 0).all())


def test_the_image_of_a_circle_goes_on_winding_around_the_image_of_its_centre():
    angle = torch.linspace(0, 2 * math.pi, 801, dtype=DOUBLE)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    weights = [draw(2, 16, seed=4), draw(16, 2, seed=5) / 2]
    points = torch.cat([circle, torch.zeros(1, 2, dtype=DOUBLE)])
    ys = solve(
        lambda t, y: torch.tanh(y @ weights[0]) @ weights[1],
        points,
        torch.linspace(0, 0.5, 5, dtype=DOUBLE),
        controller=tolerance(1e-8),
    ).ys
    x, y = (ys[:-1] - ys[-1:]).unbind(-1)
    turn = torch.remainder(torch.atan2(y, x).diff(dim=0) + math.pi, 2 * math.pi) - math.pi
    assert torch.allclose(turn.sum(0), torch.full((5,), 2 * math.pi, dtype=DOUBLE))


def test_a_square_root_has_two_solutions_from_zero_and_a_gradient_without_limit_there():
    def field(t, y):
        return y.abs().sqrt()

    resting = solve(field, torch.zeros(1, 1, dtype=DOUBLE), times(0.0, 4.0)).ys[0, -1, 0]
    assert float(resting) == 0.0
    y0 = times(1e-14, 1e-8, 1e-2)[:, None].requires_grad_()
    ends = solve(field, y0, times(0.0, 4.0), controller=PIDController(rtol=1e-8, atol=1e-16)).ys[:, -1]
    assert torch.allclose(ends, (2 + y0.sqrt()) ** 2, rtol=1e-5)
    assert torch.allclose(torch.autograd.grad(ends.sum(), y0)[0], (ends / y0).sqrt(), rtol=1e-3)


@pytest.mark.parametrize("method", ["rk4", "dopri5", "dopri8"])
def test_the_kink_of_relu_leaves_order_2_of_any_method_unless_a_step_ends_there(method):
    kinks = torch.linspace(0.3, 0.7, 41, dtype=DOUBLE)[:40, None]
    exact = torch.expm1(1.5 - kinks)

    def error(controller):
        ys = solve(lambda t, y: 1 + torch.relu(y), -kinks, times(0.0, 1.5), method=method, controller=controller).ys[
            :, -1
        ]
        return float((ys - exact).abs().mean())

    numbers = [8, 16, 32, 64]
    assert slope(numbers, [error(FixedStep(dt=1.5 / n)) for n in numbers]) == pytest.approx(-2, abs=0.4)

    def grid(n):
        part = torch.linspace(0, 1, n // 2 + 1, dtype=DOUBLE)[1:]
        return torch.cat([kinks * part, kinks + (1.5 - kinks) * part], 1)

    few, more = error(FixedStep(grid=grid(4))), error(FixedStep(grid=grid(8)))
    assert math.log2(few / more) > 3.5


# --- the end of depth ---


def test_a_contraction_settles_at_the_steady_state_and_their_gradients_agree():
    w = draw(6, 6, seed=5)
    w = (0.6 * w / torch.linalg.matrix_norm(w, 2)).requires_grad_()
    x, y0, weight = draw(3, 6, seed=6), draw(3, 6, seed=7), draw(3, 6, seed=8)

    def field(t, y):
        return torch.tanh(y @ w.T + x) - y

    end = solve(field, y0, times(0.0, 50.0), controller=PIDController(rtol=1e-8, atol=1e-10), adjoint="checkpointed").ys
    point = steady_state(field, y0, rtol=1e-11, atol=1e-12).y
    assert torch.allclose(end[:, -1], point, atol=1e-8)
    by_solve, by_point = (torch.autograd.grad((weight * y).sum(), w)[0] for y in (end[:, -1], point))
    assert relative(by_solve, by_point) < 1e-6
