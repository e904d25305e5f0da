"""Every gradient route gives the gradient of its own forward pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from latentode.errors import InputError, SolveError
from latentode.ode import (
    ADJOINTS,
    Backsolve,
    Checkpointed,
    DriftWarning,
    FixedStep,
    PIDController,
    Reversible,
    solve,
)
from tests.ode.problems import lorenz

DOUBLE = torch.float64
FINE, FIXED = PIDController(rtol=1e-6, atol=1e-6), FixedStep(dt=0.05)


def gradients(adjoint, controller, method="tsit5", n_queries=7):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    y0 = torch.randn(4, 3, dtype=DOUBLE, requires_grad=True)
    rate = (0.1 * torch.randn(4, 3, dtype=DOUBLE)).requires_grad_()
    scale = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=DOUBLE)[:, None]
    t = (torch.linspace(0.3, 2, n_queries, dtype=DOUBLE) * scale).requires_grad_()
    t0 = torch.tensor([0.1, 0.2, -0.1, 0.05], dtype=DOUBLE, requires_grad=True)

    def f(t, y, rate):
        return net(y) * torch.cos(t)[:, None] + rate * y

    ys = solve(f, y0, t, t0=t0, args=(rate,), method=method, controller=controller, adjoint=adjoint).ys
    return torch.autograd.grad(ys.square().sum(), [y0, rate, t, t0, *net.parameters()])


def greatest_difference(found, expected):
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("controller", [FINE, FIXED], ids=["adaptive", "fixed"])
@pytest.mark.parametrize("method", ["tsit5", "dopri5", "heun"])
@pytest.mark.parametrize("adjoint", ["checkpointed", Checkpointed(1), Checkpointed(3)])
def test_checkpoints_give_the_gradient_of_the_direct_route(adjoint, method, controller):
    difference = greatest_difference(gradients(adjoint, controller, method), gradients("direct", controller, method))
    assert difference < 1e-11


@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
def test_the_other_routes_follow_the_direct_one_within_the_tolerance(method):
    direct = gradients("direct", FINE, method)
    for adjoint in ("reversible", "backsolve"):
        assert greatest_difference(gradients(adjoint, FINE, method), direct) < 1e-4


@pytest.mark.parametrize(
    "make",
    [
        lambda: Checkpointed(0),
        lambda: Reversible(coupling=0.0),
        lambda: Reversible(coupling=0.5, store_every=64),
        lambda: Backsolve(rtol=-1.0),
    ],
)
def test_settings_that_cannot_work_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_an_implicit_method_has_exact_gradients_through_checkpoints():
    direct = gradients("direct", FINE, "kvaerno5", 3)
    assert greatest_difference(gradients("checkpointed", FINE, "kvaerno5", 3), direct) < 1e-9


def test_the_continuous_adjoint_says_where_it_has_lost_its_way():
    y0 = torch.tensor([[1.0, 1.0, 20.0]], dtype=DOUBLE, requires_grad=True)
    t = torch.tensor([0.0, 1.5], dtype=DOUBLE)
    controller = PIDController(rtol=1e-8, atol=1e-8)
    with pytest.warns(DriftWarning, match="checkpointed"):
        solve(lorenz, y0, t, controller=controller, adjoint="backsolve").ys[0, -1].sum().backward()


def test_a_backward_solve_that_never_ends_is_an_error_with_a_remedy():
    y0 = torch.tensor([[1.0, 1.0, 1.0]], dtype=DOUBLE, requires_grad=True)
    t = torch.tensor([0.0, 3.0], dtype=DOUBLE)
    end = solve(lorenz, y0, t, controller=FINE, adjoint=Backsolve(max_steps=500)).ys[0, -1].sum()
    with pytest.raises(SolveError, match=r"backward solve.*checkpointed"):
        end.backward()


@pytest.mark.parametrize("adjoint", [name for name in ADJOINTS if name != "direct"])
def test_a_tensor_that_was_computed_outside_is_found(adjoint):
    weight = torch.ones(1, dtype=DOUBLE, requires_grad=True)
    doubled = 2 * weight
    y0, t = torch.ones(2, 1, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    solve(lambda t, y: -doubled * y, y0, t, controller=FINE, adjoint=adjoint).ys[:, -1].sum().backward()
    assert weight.grad.item() == pytest.approx(-4 * math.exp(-2.0), rel=1e-3)


class Hidden:
    """Keeps a tensor where no search of a field's code comes upon it."""

    kept: torch.Tensor


@pytest.mark.parametrize("adjoint", [name for name in ADJOINTS if name != "direct"])
def test_a_tensor_that_cannot_be_found_is_refused_with_a_remedy(adjoint):
    Hidden.kept = 2 * torch.ones(1, dtype=DOUBLE, requires_grad=True)
    y0, t = torch.ones(2, 1, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    with pytest.raises(InputError, match="args="):
        solve(lambda t, y: -Hidden.kept * y, y0, t, controller=FINE, adjoint=adjoint)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_state_without_components_has_a_gradient_without_components(adjoint):
    y0, t0 = torch.zeros(2, 0, requires_grad=True), torch.zeros(2, requires_grad=True)
    rate = torch.ones((), requires_grad=True)
    ys = solve(lambda t, y: -rate * y, y0, torch.tensor([0.5, 1.0]), t0=t0, adjoint=adjoint).ys
    assert ys.shape == (2, 2, 0)
    g_y0, g_t0 = torch.autograd.grad(ys.sum(), (y0, t0), allow_unused=True)
    assert g_y0.shape == (2, 0)
    assert g_t0 is None or torch.equal(g_t0, torch.zeros(2))
