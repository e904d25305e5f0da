"""The reversible pair: its order, its drift, its renewals, and a gradient that is exact for all of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from latentode.ode import FixedStep, PIDController, Reversible, reversible, solve
from latentode.ode.loop import integrate
from latentode.ode.record import Record
from latentode.ode.reversible import Drift, ReversibleStepper
from tests.ode.problems import lorenz, times, tolerance, van_der_pol_of

DOUBLE = torch.float64


def relative(found, exact):
    found, exact = (torch.cat([g.flatten() for g in gradients]) for gradients in (found, exact))
    return float((found - exact).norm() / exact.norm())


def on_lorenz(t1):
    y0 = times(1.0, 1.0, 20.0) + 0.1 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    return lorenz, y0, times(0.0, t1), times(10.0, 28.0, 8 / 3)


def on_van_der_pol(n=8, t1=10.0):
    mu = torch.linspace(0.5, 10.0, n, dtype=DOUBLE)[:, None]
    return van_der_pol_of, times(2.0, 0.0).repeat(n, 1), times(0.0, t1), mu


def gradients(problem, adjoint, controller, method="tsit5"):
    """Gradients of the sum of squares at all queries to the start and the parameters; and the solution."""
    field, y0, t, p = problem
    y0, p = y0.clone().requires_grad_(), p.clone().requires_grad_()
    solution = solve(field, y0, t, args=(p,), method=method, controller=controller, adjoint=adjoint)
    return torch.autograd.grad(solution.ys.square().sum() / len(y0), (y0, p)), solution


class Watched(Record):
    """A record whose renewals autograd sees."""

    def before(self, i_step, tau, y):
        with torch.enable_grad():
            return super().before(i_step, tau, y)


class StraightThrough:
    """The same pair, steps and renewals, and nothing on the way back but autograd."""

    def __init__(self, **settings):
        self.like = Reversible(**settings)

    def integrate(self, problem, options):
        stepper = ReversibleStepper.of(options.stepper, self.like.coupling)
        drift = Drift.under(options.controller, problem.y0)
        record = Watched(self.like.store_every, None, drift)
        return integrate(problem, replace(options, stepper=stepper, compacts=False, record=record))


@pytest.fixture
def records(monkeypatch):
    """The records of all reversible solves."""
    kept = []

    def make(*args):
        kept.append(Record(*args))
        return kept[-1]

    monkeypatch.setattr(reversible, "Record", make)
    return kept


def renewals_per_sample(record):
    """How often a pair was renewed between two marks, mean over the samples; after the way back."""
    return sum(len(renewals.sample) for mark in record.marks for renewals in mark.renewals) / len(record.marks[0].y)


# --- the drift ---


@pytest.mark.parametrize("rate", [-3.0, 0.5])
def test_where_a_field_contracts_the_drift_grows_by_lambda_exp_m_h(rate):
    drifts = []

    class OneStep:
        def integrate(self, problem, options):
            stepper = ReversibleStepper.of(options.stepper, 0.9)
            pair = torch.cat([problem.y0, problem.y0 - 1e-3], 1)
            step = stepper.step(problem, torch.zeros_like(problem.t0), problem.span, pair, pair, None)
            drifts.append(step.y1[:, 0] - step.y1[:, 1])
            return integrate(problem, options)

    solve(lambda t, y: rate * y, torch.ones(1, 1, dtype=DOUBLE), times(0.0, 0.1), method="dopri8", adjoint=OneStep())
    assert drifts[0].item() == pytest.approx(1e-3 * 0.9 * math.exp(-rate * 0.1), rel=1e-6)


@pytest.mark.parametrize("controller", [tolerance(1e-5), FixedStep(dt=0.01)], ids=["adaptive", "fixed"])
def test_a_pair_that_is_renewed_before_every_step_takes_the_plain_steps_of_its_method(controller):
    found, solution = gradients(on_van_der_pol(3, 2.0), Reversible(store_every=1), controller)
    expected, plain = gradients(on_van_der_pol(3, 2.0), "direct", controller)
    assert torch.allclose(solution.ys, plain.ys, rtol=1e-10)
    assert relative(found, expected) < 1e-9


@pytest.mark.parametrize(("method", "order"), [("midpoint", 2), ("bosh3", 3), ("rk4", 4), ("dopri5", 5)])
def test_the_pair_with_its_renewals_has_the_order_of_its_method(method, order, records):
    problem = on_lorenz(0.5)
    exact, _ = gradients(problem, "direct", tolerance(1e-12), "dopri8")
    errors = []
    for n in (64, 128, 256, 512):
        found, _ = gradients(problem, Reversible(), FixedStep(dt=0.5 / n), method)
        errors.append(relative(found, exact))
    assert min(renewals_per_sample(record) for record in records) > 0
    assert math.log2(errors[0] / errors[-1]) / 3 == pytest.approx(order, abs=0.5)


# --- the gradient is that of the scheme with its renewals ---


def test_gradcheck_with_renewals_on_the_way(records):
    field, y0, t, mu = on_van_der_pol(2, 0.6)

    def ys(y0, mu):
        return solve(
            field, y0, t, args=(mu,), method="rk4", controller=FixedStep(dt=0.02), adjoint=Reversible(store_every=7)
        ).ys

    assert torch.autograd.gradcheck(ys, (y0.requires_grad_(), mu.requires_grad_()))
    assert max(map(renewals_per_sample, records)) > 0


@pytest.mark.parametrize("n_queries", [2, 6])
@pytest.mark.parametrize("adjoint", [Reversible(), Reversible(coupling=0.9, store_every=3)])
def test_gradcheck_with_queries_inside_the_steps(adjoint, n_queries):
    torch.manual_seed(1)
    mix = torch.randn(3, 3, dtype=DOUBLE)

    def ys(y0, rate):
        return solve(
            lambda t, y, rate: torch.tanh(y @ mix.T) * torch.cos(t)[:, None] + rate * y,
            y0,
            torch.linspace(0, 2, n_queries, dtype=DOUBLE),
            args=(rate,),
            controller=FixedStep(dt=0.1),
            adjoint=adjoint,
        ).ys

    y0 = torch.randn(2, 3, dtype=DOUBLE, requires_grad=True)
    rate = torch.randn(2, 3, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(ys, (y0, rate))


@pytest.mark.parametrize(("method", "store_every"), [("tsit5", 256), ("heun", 16)])
@pytest.mark.parametrize("controller", [tolerance(1e-4), FixedStep(dt=0.02)], ids=["adaptive", "fixed"])
@pytest.mark.parametrize("problem", [on_lorenz(1.0), on_van_der_pol(4, 3.0)], ids=["Lorenz", "van der Pol"])
def test_the_gradient_is_that_of_autograd_through_the_same_pair(problem, controller, method, store_every, records):
    found, solution = gradients(problem, Reversible(store_every=store_every), controller, method)
    expected, same = gradients(problem, StraightThrough(store_every=store_every), controller, method)
    assert len(records[0].marks) + renewals_per_sample(records[0]) > 1
    assert torch.allclose(solution.ys, same.ys, rtol=1e-9)
    assert relative(found, expected) < 1e-8


@pytest.mark.parametrize("jump_times", [None, times(0.5, -0.5)], ids=["smooth", "jumps"])
@pytest.mark.parametrize("store_every", [256, 5])
def test_so_it_is_in_either_direction_with_queries_inside_steps_jumps_and_samples_that_finish_early(
    store_every, jump_times, records
):
    t0, t = times(-0.1, 0.1, 0.0), torch.linspace(0, 1, 9, dtype=DOUBLE) * times(2.0, -0.7, 0.9)[:, None]
    y0, mu = times(2.0, 0.0).repeat(3, 1), times(8.0, -6.0, 3.0)[:, None]

    def field(t, y, mu):
        kick = 0.0 if jump_times is None else (t.abs() > 0.5).to(y)[:, None]
        return van_der_pol_of(t, y, mu) + kick + torch.sin(3 * t)[:, None]

    def found_by(adjoint):
        leaves = [x.clone().requires_grad_() for x in (y0, mu, t, t0)]
        controller = PIDController(rtol=1e-4, atol=1e-4, jump_times=jump_times)
        ys = solve(
            field, leaves[0], leaves[2], t0=leaves[3], args=(leaves[1],), controller=controller, adjoint=adjoint
        ).ys
        return ys.detach(), torch.autograd.grad(ys.square().sum(), leaves)

    ys, found = found_by(Reversible(store_every=store_every))
    same, expected = found_by(StraightThrough(store_every=store_every))
    assert renewals_per_sample(records[0]) > 1
    assert torch.allclose(ys, same, rtol=1e-9)
    for x, y in zip(found, expected, strict=True):
        assert relative([x], [y]) < 1e-8


# --- what renewals buy, and what they cost ---


@pytest.mark.parametrize(
    "problem", [on_lorenz(1.0), on_lorenz(3.0), on_van_der_pol()], ids=["Lorenz to 1", "Lorenz to 3", "van der Pol"]
)
@pytest.mark.parametrize(("tol", "off"), [(1e-6, 1e-3), (1e-8, 1e-5)])
def test_where_a_field_contracts_the_pair_takes_the_steps_of_direct_and_finds_its_gradient(problem, tol, off):
    found, solution = gradients(problem, "reversible", tolerance(tol))
    expected, direct = gradients(problem, "direct", tolerance(tol))
    assert bool((solution.stats["n_steps"] <= 1.1 * direct.stats["n_steps"] + 2).all())
    assert relative(found, expected) < off


def test_a_field_that_hardly_contracts_leaves_a_mark_per_256_steps_and_nothing_else(records):
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) / 4
    y0 = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    controller = FixedStep(dt=1 / 1024)
    t = torch.tensor([0.0, 1.0])
    ys = solve(lambda t, y: torch.tanh(y @ weight), y0, t, controller=controller, adjoint="reversible").ys
    ys[:, -1].sum().backward()
    assert len(records[-1].marks) == 4
    assert renewals_per_sample(records[-1]) == 0


@pytest.mark.parametrize("controller", [tolerance(1e-5), FixedStep(dt=0.02)], ids=["adaptive", "fixed"])
def test_a_sample_is_renewed_by_itself_so_that_it_equals_the_sample_alone(controller):
    field, y0, t, mu = on_van_der_pol(5, 4.0)

    def ys(rows):
        return solve(field, y0[rows], t, args=(mu[rows],), controller=controller, adjoint="reversible").ys

    every = ys(slice(None))
    for i in range(5):
        assert torch.equal(ys(slice(i, i + 1))[0], every[i])


@pytest.mark.parametrize("size", [1e-3, 1e-5])
def test_in_float32_rounding_is_a_small_part_of_the_error_of_the_gradient(size):
    field, y0, t, p = on_lorenz(1.0)
    single = (field, y0.float(), t.float(), p.float())
    expected, _ = gradients((field, y0, t, p), "direct", tolerance(1e-12), "dopri8")
    direct, found = (gradients(single, route, tolerance(size))[0] for route in ("direct", "reversible"))
    assert relative(found, expected) < 3 * relative(direct, expected) + 1e-5
