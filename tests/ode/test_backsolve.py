"""The continuous adjoint converges to the gradient as its tolerances tighten, and says where it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latentode.errors import InputError, SolveError
from latentode.ode import Backsolve, DriftWarning, FixedStep, PIDController, solve
from tests.ode.problems import lorenz

DOUBLE = torch.float64
T = torch.tensor([0.1, 0.7, 1.3, 2.0], dtype=DOUBLE)
TIGHT = PIDController(rtol=1e-11, atol=1e-12)


def gradients(adjoint, controller=TIGHT, dtype=DOUBLE):
    """Of state, parameters and an argument; the second component stays 0 and so does the gradient of its offset's twin."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double().to(dtype)
    y0 = torch.randn(4, 3, dtype=DOUBLE).to(dtype).requires_grad_()
    rate = torch.randn(4, 3, dtype=DOUBLE).to(dtype).requires_grad_()

    def f(t, y, rate):
        return net(y) * torch.cos(t)[:, None] + torch.sin(rate * y)

    ys = solve(f, y0, T, args=(rate,), controller=controller, adjoint=adjoint).ys
    return torch.autograd.grad(ys.square().sum(), [y0, rate, *net.parameters()])


def error(found, expected):
    return max(float((x.double() - y).abs().max() / y.abs().max()) for x, y in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def exact():
    return gradients("direct")


@pytest.mark.parametrize("seminorm", [True, False])
def test_the_gradient_converges_as_the_backward_tolerance_tightens(seminorm, exact):
    errors = [error(gradients(Backsolve(rtol=tol, atol=tol, seminorm=seminorm)), exact) for tol in (1e-3, 1e-5, 1e-7)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-5


def test_in_float32_the_gradient_is_as_good_as_the_tolerance(exact):
    assert error(gradients("backsolve", PIDController(rtol=1e-5, atol=1e-5), torch.float32), exact) < 1e-3


def integral(adjoint, controller):
    """A state that is constant beside a parameter whose gradient oscillates: only its own error can tell the step sizes."""
    weight = torch.zeros(2, dtype=DOUBLE, requires_grad=True)

    def f(t, y):
        return (weight * torch.sin(9 * t)[:, None]).sum(1, keepdim=True).expand_as(y)

    y0 = torch.ones(1, 1, dtype=DOUBLE, requires_grad=True)
    t = torch.tensor([0.0, 2.0], dtype=DOUBLE)
    n_calls = 0

    def counted(t, y):
        nonlocal n_calls
        n_calls += 1
        return f(t, y)

    ys = solve(counted, y0, t, controller=controller, adjoint=adjoint, dt0=0.01).ys
    n_forward = n_calls
    (gradient,) = torch.autograd.grad(ys[0, -1, 0], weight)
    exact = (1 - torch.cos(torch.tensor(18.0, dtype=DOUBLE))) / 9
    return float((gradient - exact).abs().max()), n_calls - n_forward


def test_without_the_seminorm_the_error_of_the_parameters_chooses_the_steps():
    loose, fine = (integral(Backsolve(seminorm=False), PIDController(rtol=tol, atol=tol)) for tol in (1e-4, 1e-8))
    blind, n_blind = integral(Backsolve(seminorm=True), PIDController(rtol=1e-8, atol=1e-8))
    assert fine[0] < 1e-6 < 1e-2 < blind
    assert fine[0] < loose[0] < 1e-2
    assert n_blind < loose[1] < fine[1]


@pytest.mark.parametrize("seminorm", [True, False])
def test_a_relative_tolerance_alone_is_enough(seminorm, exact):
    assert error(gradients(Backsolve(rtol=1e-5, atol=0.0, seminorm=seminorm)), exact) < 1e-3


@pytest.mark.parametrize("seminorm", [True, False])
def test_a_component_that_stays_0_is_no_drift_where_the_tolerance_is_relative(seminorm):
    y0 = torch.tensor([[1.0, 0.0]], dtype=DOUBLE, requires_grad=True)
    weight = torch.tensor([0.5, 2.0], dtype=DOUBLE, requires_grad=True)
    controller = PIDController(rtol=1e-9, atol=0.0)
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    ys = solve(lambda t, y: -weight * y, y0, t, controller=controller, adjoint=Backsolve(seminorm=seminorm)).ys
    by_state, by_weight = torch.autograd.grad(ys[:, -1].sum(), [y0, weight])
    torch.testing.assert_close(by_state, torch.exp(-weight.detach())[None], rtol=1e-7, atol=0)
    torch.testing.assert_close(by_weight, -ys.detach()[0, -1], rtol=1e-7, atol=0)


@pytest.mark.parametrize("seminorm", [True, False])
def test_tolerances_per_component_serve_state_and_gradient(seminorm, exact):
    rtol = torch.tensor([1e-6, 1e-5, 1e-7], dtype=DOUBLE)
    atol = torch.full((4, 3), 1e-7, dtype=DOUBLE)
    there = gradients(Backsolve(seminorm=seminorm), PIDController(rtol=rtol, atol=atol))
    back = gradients(Backsolve(rtol=rtol, atol=torch.tensor(1e-7), seminorm=seminorm))
    assert error(there, exact) < 1e-4
    assert error(back, exact) < 1e-4


def test_the_tighter_component_decides():
    def calls(rtol):
        weight = torch.ones(1, dtype=DOUBLE, requires_grad=True)
        n = 0

        def f(t, y):
            nonlocal n
            n += 1
            return weight * torch.stack([torch.sin(y[:, 0] + 5 * t), torch.cos(y[:, 1])], 1)

        y0 = torch.ones(1, 2, dtype=DOUBLE, requires_grad=True)
        ys = solve(
            f, y0, T, controller=PIDController(rtol=1e-6, atol=1e-6), adjoint=Backsolve(rtol=rtol, atol=1e-12)
        ).ys
        before = n
        ys.sum().backward()
        return n - before

    tight = calls(torch.tensor([1e-10, 1e-3], dtype=DOUBLE))
    assert calls(1e-3) < tight <= 1.2 * calls(1e-10)


def test_a_chaotic_system_is_told_apart_from_a_tame_one_by_its_drift():
    y0 = torch.tensor([[1.0, 1.0, 20.0]], dtype=DOUBLE, requires_grad=True)
    controller = PIDController(rtol=1e-8, atol=1e-8)
    with pytest.warns(DriftWarning, match=r"times the tolerance away from y0 \(sample 0;.*checkpointed"):
        solve(lorenz, y0, T[[0, 2]], controller=controller, adjoint="backsolve").ys[0, -1].sum().backward()
    # Warnings are errors: nothing is said here.
    solve(lorenz, y0, T[:1] + torch.tensor([0.0, 0.1]), controller=controller, adjoint="backsolve").ys.sum().backward()


@pytest.mark.parametrize("method", ["kvaerno5", "tsit5"])
def test_a_stiff_system_ends_in_a_sentence(method):
    """Backward in time what decays at rate 1e4 grows at that rate."""
    y0 = torch.tensor([[1.0, 0.5]], dtype=DOUBLE, requires_grad=True)

    def f(t, y):
        return torch.stack([-1e4 * (y[:, 0] - torch.cos(t)), y[:, 0] - y[:, 1]], 1)

    controller = PIDController(rtol=1e-5, atol=1e-6)
    ys = solve(
        f,
        y0,
        T[0] + torch.tensor([0.0, 0.05]),
        method=method,
        controller=controller,
        adjoint=Backsolve(method="tsit5", max_steps=100),
        max_steps=9000,
    ).ys
    with pytest.raises(SolveError, match=r"backward solve.*choose adjoint='checkpointed'"):
        ys.sum().backward()


def test_fixed_steps_backward_are_those_of_the_method(exact):
    errors = [error(gradients("backsolve", FixedStep(dt=dt)), exact) for dt in (0.1, 0.05)]
    assert errors[0] > 8 * errors[1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Backsolve(rtol=-1.0), "rtol is -1.0"),
        (lambda: Backsolve(atol=torch.tensor([1e-3, -1e-3])), "atol is tensor"),
        (lambda: Backsolve(rtol=0.0, atol=0.0), "both 0"),
        (lambda: Backsolve(method="kvaerno5"), "no explicit method 'kvaerno5'"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_an_implicit_method_needs_the_name_of_an_explicit_one_to_come_back():
    with pytest.raises(InputError, match=r"Backsolve\(method='tsit5'\)"):
        solve(lorenz, torch.ones(1, 3, dtype=DOUBLE, requires_grad=True), T, method="kvaerno3", adjoint="backsolve")
