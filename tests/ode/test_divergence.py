"""What the divergence promises: the trace of the Jacobian, an unbiased estimate of it, and densities that flow by it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from latentode.errors import InputError
from latentode.ode import PIDController, solve
from latentode.ode.divergence import FlowField, divergence, rademacher_like

DOUBLE = torch.float64
MATRIX = torch.tensor([[-0.3, 2.0, 0.4], [-2.0, 0.5, 0.1], [0.7, -0.2, -1.1]], dtype=DOUBLE)


def linear(t, y):
    return y @ MATRIX.T


def twisted(t, y):
    """Not linear, of each row's own time, every component in every other."""
    return torch.sin(y @ MATRIX.T) * (1 + t[:, None]) + y * y.sum(-1, keepdim=True)


def twisted_trace(t, y):
    return (torch.cos(y @ MATRIX.T) * MATRIX.diagonal()).sum(-1) * (1 + t) + (y.shape[-1] + 1) * y.sum(-1)


class OnlyBackward(torch.autograd.Function):
    """A cube without forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad * ctx.saved_tensors[0] ** 2


def states(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE, **options)


def test_the_divergence_of_a_linear_field_is_the_trace_of_its_matrix():
    y = states(5, 3)
    dy, trace = divergence(linear, 0.0, y)
    assert torch.equal(dy, linear(0.0, y))
    assert torch.allclose(trace, MATRIX.trace().expand(5), rtol=1e-14)


def test_each_sample_has_its_own_trace_at_its_own_time():
    t, y = torch.tensor([0.0, 0.5, 2.0], dtype=DOUBLE), states(3, 3)
    dy, trace = divergence(twisted, t, y)
    assert torch.equal(dy, twisted(t, y))
    assert torch.allclose(trace, twisted_trace(t, y), rtol=1e-13)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2, 3)])
def test_states_of_any_shape_have_one_number_per_sample(shape):
    y = states(*shape)
    dy, trace = divergence(lambda t, y: y**2, 0.0, y)
    assert dy.shape == y.shape
    assert torch.allclose(trace, (2 * y).reshape(4, -1).sum(1))


def test_a_field_that_does_not_depend_on_the_state_has_no_divergence():
    assert torch.equal(divergence(lambda t, y: torch.ones_like(y), 0.0, states(4, 3))[1], torch.zeros(4, dtype=DOUBLE))
    noise = rademacher_like(states(4, 3))
    trace = divergence(lambda t, y: torch.ones_like(y), 0.0, states(4, 3), method="hutchinson", noise=noise)[1]
    assert torch.equal(trace, torch.zeros(4, dtype=DOUBLE))


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_a_field_without_forward_mode_falls_back_to_backward_passes(method):
    y = states(4, 3, requires_grad=True)
    noise = rademacher_like(y) if method == "hutchinson" else None
    with torch.no_grad():
        dy, trace = divergence(lambda t, y: OnlyBackward.apply(y), 0.0, y, method=method, noise=noise)
    assert not dy.requires_grad
    assert not trace.requires_grad
    assert torch.allclose(trace, (3 * y.detach() ** 2).sum(1))
    dy, trace = divergence(lambda t, y: OnlyBackward.apply(y), 0.0, y, method=method, noise=noise)
    assert torch.allclose(torch.autograd.grad(trace.sum() + dy.sum(), y)[0], 6 * y + 3 * y**2)


@pytest.mark.parametrize("cube", [lambda x: x**3, OnlyBackward.apply])
def test_arguments_that_come_from_the_state_are_no_part_of_the_derivative(cube):
    y = states(4, 3, requires_grad=True)
    trace = divergence(lambda t, y, x: cube(y) * x, 0.0, y, y.sin())[1]
    assert torch.allclose(trace, (3 * y**2 * y.sin()).sum(1))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_gradients_are_there_where_they_are_on(mode, method):
    y = states(3, 3)
    weight = MATRIX.clone().requires_grad_()
    noise = rademacher_like(y) if method == "hutchinson" else None
    with mode():
        trace = divergence(lambda t, y: torch.tanh(y @ weight.T), 0.0, y, method=method, noise=noise)[1]
    assert trace.requires_grad == (mode is torch.enable_grad)


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_gradients_through_the_divergence_are_those_of_finite_differences(method):
    y, weight = states(3, 3, requires_grad=True), MATRIX.clone().requires_grad_()
    t, shift = states(3, seed=1, requires_grad=True), states(3, 3, seed=2, requires_grad=True)
    noise = rademacher_like(y) if method == "hutchinson" else None

    def of(t, y, weight, shift):
        def f(t, y, shift):
            return torch.tanh(y @ weight.T + shift) * (1 + t[:, None] ** 2)

        return divergence(f, t, y, shift, method=method, noise=noise)

    assert torch.autograd.gradcheck(of, (t, y, weight, shift))


def test_hutchinson_is_exact_where_the_jacobian_is_diagonal():
    y = states(4, 3)
    noise = rademacher_like(y, torch.Generator().manual_seed(5))
    assert set(noise.unique().tolist()) == {-1.0, 1.0}
    trace = divergence(lambda t, y: torch.sin(y), 0.0, y, method="hutchinson", noise=noise)[1]
    assert torch.allclose(trace, torch.cos(y).sum(1), rtol=1e-14)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinson_is_right_on_average(kind):
    n = 20_000
    y = states(1, 3).expand(n, 3)
    generator = torch.Generator().manual_seed(7)
    noise = (
        rademacher_like(y, generator) if kind == "rademacher" else torch.randn(n, 3, generator=generator, dtype=DOUBLE)
    )
    t = torch.full((n,), 0.3, dtype=DOUBLE)
    estimates = divergence(twisted, t, y, method="hutchinson", noise=noise)[1]
    exact = divergence(twisted, t[:1], y[:1])[1]
    assert estimates.std() > 0.1
    assert (estimates.mean() - exact).abs() < 3 * estimates.std() / math.sqrt(n)


def test_a_linear_flow_carries_a_gaussian_to_a_gaussian():
    # y(1) = exp(A) y(0), so N(0, I) becomes N(0, exp(A) exp(A)^T).
    y0 = states(6, 3)
    base = MultivariateNormal(torch.zeros(3, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE))
    flow = FlowField(linear)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE)
    for logp0 in (base.log_prob(y0), base.log_prob(y0)[:, None]):
        y, logp = solve(flow, (y0, logp0), t, controller=PIDController(rtol=1e-8, atol=1e-10)).ys
        assert logp.shape == (6, 3, *logp0.shape[1:])
        for i, time in enumerate(t):
            spread = torch.linalg.matrix_exp(time * MATRIX)
            pushed = MultivariateNormal(torch.zeros(3, dtype=DOUBLE), spread @ spread.T)
            assert torch.allclose(logp[:, i].reshape(6), pushed.log_prob(y[:, i]), atol=1e-6)


def test_a_nonlinear_flow_keeps_the_probability():
    # The density of y(1) from a grid of points at t = 0: the integral of exp(logp) over the image is that over the grid.
    x = torch.linspace(-6, 6, 2_001, dtype=DOUBLE)[:, None]
    logp0 = -0.5 * (x**2).squeeze(1) - 0.5 * math.log(2 * math.pi)
    flow = FlowField(lambda t, y: torch.sin(2 * y) + 0.3)
    tight = PIDController(rtol=1e-7, atol=1e-9)
    y, logp = solve(flow, (x, logp0), torch.tensor([0.0, 1.0], dtype=DOUBLE), controller=tight).ys
    assert torch.trapezoid(logp[:, -1].exp(), y[:, -1, 0]) == pytest.approx(1.0, abs=1e-4)


def test_training_a_flow_reaches_the_parameters_of_its_field():
    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))

        def forward(self, t, y):
            return self.net(torch.cat([y, t[:, None]], 1))

    torch.manual_seed(0)
    field = Field().double()
    y0, t = states(4, 2), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    flow = FlowField(field, method="hutchinson", noise=rademacher_like(y0))
    assert set(flow.parameters()) == set(field.parameters())
    assert not any("noise" in name for name in flow.state_dict())
    controller = PIDController(rtol=1e-9, atol=1e-11)

    def loss():
        y, logp = solve(flow, (y0, torch.zeros(4, dtype=DOUBLE)), t, controller=controller).ys
        return (logp[:, -1] + y[:, -1].square().sum(-1)).mean()

    loss().backward()
    weight = field.net[0].weight
    eps, direction = 1e-5, states(*weight.shape, seed=3)
    with torch.no_grad():
        weight += eps * direction
        above = loss()
        weight -= 2 * eps * direction
        below = loss()
    assert (weight.grad * direction).sum() == pytest.approx(float(above - below) / (2 * eps), rel=1e-6)


def test_float32_stays_float32():
    dy, trace = divergence(lambda t, y: y * t[:, None], 2.0, torch.ones(2, 3))
    assert dy.dtype == trace.dtype == torch.float32
    assert torch.equal(trace, torch.full((2,), 6.0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: divergence(linear, 0.0, states(2, 3), method="hutchison"), "did you mean 'hutchinson'"),
        (lambda: divergence(linear, 0.0, states(2, 3), method="hutchinson"), "noise=rademacher_like"),
        (lambda: divergence(linear, 0.0, states(2, 3), noise=states(2, 3)), "leave it out"),
        (lambda: divergence(linear, 0.0, states(2, 3), method="hutchinson", noise=states(3)), r"like y, \(2, 3\)"),
        (
            lambda: divergence(linear, 0.0, states(2, 3), method="hutchinson", noise=torch.ones(2, 3)),
            "torch.float64",
        ),
        (lambda: divergence(linear, 0.0, torch.ones(2, 3, dtype=torch.int64)), "torch.int64"),
        (lambda: divergence(linear, 0.0, torch.tensor(1.0)), "floating-point states"),
        (lambda: divergence(linear, 0.0, (states(2, 3),)), "y is tuple"),
        (lambda: divergence(linear, torch.zeros(3), states(2, 3)), r"t has shape \(3,\)"),
        (lambda: divergence(lambda t, y: y[:, :2], 0.0, states(2, 3)), r"f returned \(2, 2\)"),
        (lambda: divergence(lambda t, y: y.float(), 0.0, states(2, 3)), "of torch.float32"),
        (lambda: divergence(lambda t, y: (y, y), 0.0, states(2, 3)), "f returned tuple"),
        (lambda: FlowField(linear)(torch.zeros(2), states(2, 3)), r"pair \(y, logp\)"),
        (lambda: FlowField(linear)(torch.zeros(2), (states(2, 3), states(2, 3))), r"logp has shape \(2, 3\)"),
    ],
)
def test_a_wrong_argument_is_named_in_a_sentence(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
