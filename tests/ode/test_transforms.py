"""A solve under `torch.func`: derivatives of linear fields are those of the matrix exponential, forward mode is the adjoint of reverse."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from latentode.errors import InputError, SolveError
from latentode.ode import ADJOINTS, FixedStep, PIDController, solve
from tests.ode.problems import LINEAR, forced, lotka_volterra

DOUBLE = torch.float64
T = torch.tensor([0.0, 0.4, 1.0], dtype=DOUBLE)
Y0 = torch.tensor([[1.0, 0.5], [2.0, 1.0]], dtype=DOUBLE)
ALONG = torch.tensor([[0.3, -1.0], [1.0, 2.0]], dtype=DOUBLE)
FINE = PIDController(rtol=1e-9, atol=1e-11)
WAYS = [("tsit5", FINE), ("dopri8", FINE), ("rk4", FixedStep(dt=0.02)), ("kvaerno5", FixedStep(dt=0.125))]
IDS = [name for name, _ in WAYS]


def solved(method, controller, **options):
    def ys(rates, y0):
        field = lambda t, y, rates: y @ rates.T  # noqa: E731
        return solve(field, y0, T, args=(rates,), method=method, controller=controller, **options).ys

    return ys


def closed(rates, y0):
    return torch.einsum("qij,bj->bqi", torch.stack([torch.linalg.matrix_exp(rates * t) for t in T]), y0)


def loss_of(ys):
    return lambda rates, y0: ys(rates, y0).square().sum()


def tangent(ys):
    with forward_ad.dual_level():
        said = ys(forward_ad.make_dual(LINEAR, ALONG), forward_ad.make_dual(Y0, ALONG.T))
        return forward_ad.unpack_dual(said).tangent


TRANSFORMS = {
    "forward_ad": tangent,
    "jvp": lambda ys: jvp(ys, (LINEAR, Y0), (ALONG, ALONG.T))[1],
    "vjp": lambda ys: vjp(ys, LINEAR, Y0)[1](closed(LINEAR, ALONG)),
    "grad": lambda ys: grad(loss_of(ys), (0, 1))(LINEAR, Y0),
    "jacrev": lambda ys: jacrev(ys, (0, 1))(LINEAR, Y0),
    "jacfwd": lambda ys: jacfwd(ys, (0, 1))(LINEAR, Y0),
}


@pytest.mark.parametrize(("method", "controller"), WAYS, ids=IDS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_a_linear_solve_are_those_of_the_matrix_exponential(name, method, controller):
    found, expected = (TRANSFORMS[name](ys) for ys in (solved(method, controller), closed))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("mode", ["per_sample", "joint"])
@pytest.mark.parametrize(("method", "controller"), WAYS, ids=IDS)
def test_second_derivatives_are_those_of_the_matrix_exponential(method, controller, mode):
    loss = loss_of(solved(method, controller, step_mode=mode))
    if method == "kvaerno5":
        with pytest.raises(InputError, match="take an explicit method"):
            hessian(loss)(LINEAR, Y0)
    else:
        torch.testing.assert_close(
            hessian(loss)(LINEAR, Y0), hessian(loss_of(closed))(LINEAR, Y0), rtol=2e-6, atol=1e-5
        )


@pytest.mark.parametrize("controller", [FixedStep(dt=0.25), PIDController(rtol=1e-4, atol=1e-5)], ids=["fixed", "pid"])
@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_forward_mode_is_the_transpose_of_reverse_mode(method, controller):
    # To rounding, whatever the error of the solve: both are derivatives of the same steps.
    def ys(y0):
        return solve(lotka_volterra, y0, T, method=method, controller=controller).ys

    image = jvp(ys, (Y0,), (ALONG,))[1]
    weight = torch.cos(torch.arange(image.numel(), dtype=DOUBLE)).view_as(image)
    (pulled,) = vjp(ys, Y0)[1](weight)
    assert float((image * weight).sum()) == pytest.approx(float((pulled * ALONG).sum()), rel=1e-12)


def test_forward_mode_does_not_care_whether_reverse_mode_is_on():
    def ys(y0):
        return solve(lotka_volterra, y0, T, method="kvaerno5", controller=FixedStep(dt=0.5)).ys

    with torch.no_grad():
        alone = jvp(ys, (Y0,), (ALONG,))[1]
    torch.testing.assert_close(alone, jvp(ys, (Y0,), (ALONG,))[1], rtol=1e-13, atol=0)


def end_of(t, t0):
    return solve(forced, 0.4 * Y0, torch.stack([T[0] + 0.1, t]), t0=t0, controller=FINE).ys[:, -1]


def test_the_derivative_by_a_query_is_the_field_there():
    slope = jacfwd(end_of)(T[2], T[0])
    torch.testing.assert_close(slope, jacrev(end_of)(T[2], T[0]), rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, forced(T[2:].expand(2), end_of(T[2], T[0])), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("controller", [FixedStep(dt=0.25), PIDController(rtol=1e-3, atol=1e-4)], ids=["fixed", "pid"])
def test_a_second_backward_pass_of_the_direct_route_is_exact(controller):
    y0, rate = (0.4 * Y0).requires_grad_(), torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)

    def ys(y0, rate):
        # Steps that a nudge of the input cannot change: those of the first guess.
        return solve(lambda t, y, rate: torch.sin(rate * y), y0, T, args=(rate,), controller=controller).ys[:, -1]

    if isinstance(controller, FixedStep):
        assert torch.autograd.gradgradcheck(ys, (y0, rate))
    (first,) = torch.autograd.grad(ys(y0, rate).square().sum(), rate, create_graph=True)
    (second,) = torch.autograd.grad(first, rate)
    by_transform = hessian(lambda rate: ys(y0.detach(), rate).square().sum())(rate.detach())
    assert float(second.detach()) == pytest.approx(float(by_transform), rel=1e-3)


@pytest.mark.parametrize("adjoint", [name for name in ADJOINTS if name != "direct"])
def test_other_routes_name_the_one_that_works_under_transforms(adjoint):
    with pytest.raises(InputError, match=r"choose adjoint='direct'"):
        grad(loss_of(solved("tsit5", FINE, adjoint=adjoint)))(LINEAR, Y0)


def test_the_derivative_by_the_start_is_the_same_in_both_modes():
    forward, reverse = (take(end_of, 1)(T[2], T[0]) for take in (jacfwd, jacrev))
    torch.testing.assert_close(forward, reverse, rtol=1e-12, atol=0)
    assert bool((forward != 0).all())


VMAPPED = {
    "states": lambda ys: vmap(ys, (None, 0))(LINEAR, torch.stack([Y0, ALONG])),
    "rates": lambda ys: vmap(ys, (0, None))(torch.stack([LINEAR, LINEAR + 0.3 * ALONG]), Y0),
    "gradients": lambda ys: vmap(grad(loss_of(ys), (0, 1)), (0, None))(torch.stack([LINEAR, LINEAR.T]), Y0),
}


@pytest.mark.parametrize("mode", ["per_sample", "joint"])
@pytest.mark.parametrize(("method", "controller"), WAYS, ids=IDS)
@pytest.mark.parametrize("name", VMAPPED)
def test_solves_side_by_side_are_those_of_the_matrix_exponential(name, method, controller, mode):
    found, expected = (VMAPPED[name](ys) for ys in (solved(method, controller, step_mode=mode), closed))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("controller", [FixedStep(dt=0.1), PIDController(rtol=1e-5, atol=1e-7)], ids=["fixed", "pid"])
def test_a_solve_side_by_side_with_others_is_the_solve_alone(controller):
    # Starts and ends of their own, one of them with nothing to solve; a number of steps each.
    times = torch.tensor([[0.2, 0.5, 1.0], [0.1, 0.3, 2.0], [0.4, 0.4, 0.4]], dtype=DOUBLE)

    def ys(times, y0):
        return solve(forced, y0, times, controller=controller).ys

    starts = torch.stack([0.4 * Y0, 0.2 * Y0, 0.1 * Y0])
    alone = torch.stack([ys(t, y0) for t, y0 in zip(times, starts, strict=True)])
    torch.testing.assert_close(vmap(ys)(times, starts), alone, rtol=1e-12, atol=0)


def test_a_solve_that_fails_leaves_those_beside_it_alone():
    def run(y0, on_failure):
        solution = solve(lambda t, y: y**2, y0, T * 0.6, on_failure=on_failure)
        return solution.ys, solution.status

    starts = torch.stack([0.5 * Y0, 5 * Y0])
    ys, status = vmap(lambda y0: run(y0, "return"))(starts)
    assert (status != 0).tolist() == [[False, False], [True, True]]
    torch.testing.assert_close(ys[0], run(starts[0], "raise")[0], rtol=1e-12, atol=0)
    assert bool(ys[1][status[1] != 0].isnan().all())
    with pytest.raises(SolveError, match=r"not known under torch\.func"):
        vmap(lambda y0: run(y0, "raise")[0])(starts)


def test_times_that_run_both_ways_are_refused_side_by_side_too():
    with pytest.raises(InputError, match="does not run one way"):
        vmap(lambda t: solve(forced, 0.4 * Y0, t).ys)(torch.stack([T, T[[0, 2, 1]]]))
