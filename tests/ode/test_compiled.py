"""Compiled steps give what the eager loop gives."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from latentode.errors import InputError
from latentode.ode import FixedStep, PIDController, compiled, solve

DOUBLE = torch.float64
CONTROLLER = PIDController(rtol=1e-6, atol=1e-6)

pytestmark = pytest.mark.slow


def run(n_samples, *, compile, step_mode="per_sample", adjoint="direct", controller=CONTROLLER, max_steps=1000):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    y0 = torch.randn(n_samples, 3, dtype=DOUBLE, requires_grad=True)
    rate = (0.1 * torch.randn(n_samples, 3, dtype=DOUBLE)).requires_grad_()
    solution = solve(
        lambda t, y, rate: net(y) * torch.cos(t)[:, None] + rate * y,
        y0,
        torch.linspace(0, 2, 7, dtype=DOUBLE),
        args=(rate,),
        controller=controller,
        adjoint=adjoint,
        step_mode=step_mode,
        compile=compile,
        max_steps=max_steps,
    )
    gradients = torch.autograd.grad(solution.ys.square().sum(), [y0, rate, *net.parameters()])
    return solution, gradients


@pytest.mark.parametrize("step_mode", ["per_sample", "joint"])
def test_states_counts_and_gradients_are_the_eager_ones_and_a_bucket_compiles_once(step_mode, caplog):
    caplog.set_level(logging.WARNING, logger="latentode.ode")
    # 5 is padded to 8; 8 and 6 share its code, and so does another max_steps.
    for n_samples, max_steps in ((5, 1000), (8, 1000), (6, 500)):
        eager, eager_gradients = run(n_samples, compile=False, step_mode=step_mode)
        fused, fused_gradients = run(n_samples, compile=True, step_mode=step_mode, max_steps=max_steps)
        torch.testing.assert_close(fused.ys, eager.ys, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(fused_gradients, eager_gradients, rtol=1e-10, atol=1e-12)
        for name, count in eager.stats.items():
            assert torch.equal(fused.stats[name], count)
    assert [record.getMessage() for record in caplog.records if "compiling" in record.getMessage()] == [
        "compiling the solver's step for a batch of 8 x 3; this takes some seconds, once"
    ]


@pytest.mark.parametrize(
    ("adjoint", "controller"),
    [
        ("direct", FixedStep(dt=0.1)),
        ("checkpointed", CONTROLLER),
        ("reversible", CONTROLLER),
        ("backsolve", CONTROLLER),
    ],
)
def test_what_cannot_be_fused_is_solved_with_a_compiled_field(adjoint, controller):
    eager, eager_gradients = run(4, compile=False, adjoint=adjoint, controller=controller)
    fused, fused_gradients = run(4, compile=True, adjoint=adjoint, controller=controller)
    torch.testing.assert_close(fused.ys, eager.ys, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fused_gradients, eager_gradients, rtol=1e-8, atol=1e-10)


def test_a_sample_that_fails_leaves_the_others_as_they_were():
    y0, t = torch.tensor([[2.0], [0.1]], dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    solution = solve(lambda t, y: y**2, y0, t, controller=CONTROLLER, compile=True, on_failure="return")
    assert solution.status[0] != 0 == solution.status[1]
    assert bool(solution.ys[0].isnan().all())
    assert float(solution.ys[1, -1, 0]) == pytest.approx(1 / 9, rel=1e-5)


def test_a_field_that_branches_on_values_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="compile=False"):
        solve(lambda t, y: y if y.sum().item() > 0 else -y, torch.ones(2, 1), torch.tensor([0.0, 1.0]), compile=True)


def test_without_a_compiler_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(compiled, "_has_compiler", lambda: False)
    with pytest.raises(InputError, match=r"C\+\+ compiler"):
        solve(lambda t, y: -y, torch.ones(2, 1), torch.tensor([0.0, 1.0]), compile=True)
