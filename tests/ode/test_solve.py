"""What a solve promises: order, agreement with SciPy and closed forms, both directions, gradients, errors that name a remedy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import nn

from latentode.errors import InputError, SolveError
from latentode.ode import SOLVERS, TABLEAUS, FixedStep, PIDController, solve
from tests.ode.problems import as_numpy, forced, forced_solution, linear, linear_solution, lotka_volterra, van_der_pol

DOUBLE = torch.float64
NAMES = sorted(SOLVERS)
ADAPTIVE = [name for name in NAMES if SOLVERS[name].b_hat is not None]
TIGHT = PIDController(rtol=1e-12, atol=1e-13)


def end_error(name, n_steps, t1=1.0):
    y0 = torch.tensor([[0.4, 0.7]], dtype=DOUBLE)
    t = torch.tensor([0.3, 0.3 + t1], dtype=DOUBLE)
    y = solve(forced, y0, t, method=name, controller=FixedStep(dt=t1 / n_steps)).ys[:, -1]
    exact = forced_solution(y0, 0.3, 0.3 + t1)
    return float((y - exact).abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_error_falls_at_the_order_of_the_tableau(name):
    # Enough steps for the leading term to rule, few enough for float64's rounding to stay away.
    n_steps, t1, slack = {4: (64, 1.0, 0.1), 5: (128, 4.0, 0.2), 8: (28, 8.0, 0.5)}.get(
        SOLVERS[name].order, (256, 1.0, 0.1)
    )
    slope = math.log2(end_error(name, n_steps, t1) / end_error(name, 2 * n_steps, t1))
    assert slope == pytest.approx(SOLVERS[name].order, abs=slack)


@pytest.mark.parametrize("name", NAMES)
def test_error_between_steps_falls_at_the_order_of_the_interpolant(name):
    y0 = torch.tensor([[2.0, 1.0]], dtype=DOUBLE)
    t = torch.linspace(0, 2, 41, dtype=DOUBLE)
    exact = linear_solution(y0, t[None])

    def error(n_steps):
        ys = solve(linear, y0, t, method=name, controller=FixedStep(dt=2 / n_steps)).ys
        return float((ys - exact).abs().max())

    # A method of high order is down to rounding after few steps.
    n_steps = 23 if SOLVERS[name].order < 8 else 5
    slope = math.log2(error(n_steps) / error(2 * n_steps))
    assert slope > min(SOLVERS[name].order, SOLVERS[name].dense_order) - 0.25


@pytest.mark.parametrize("field", [lotka_volterra, van_der_pol, linear])
@pytest.mark.parametrize("name", ["dopri5", "tsit5"])
@pytest.mark.parametrize("direction", [1, -1])
def test_agrees_with_scipy_at_step_ends_and_between(field, name, direction):
    y0 = torch.tensor([[1.0, 0.5], [2.0, 1.0]], dtype=DOUBLE)
    # Backward, the van der Pol oscillator runs away from its cycle: a shorter stretch.
    span = 3.0 if direction > 0 else 0.5
    t = torch.stack([torch.linspace(0, span, 7, dtype=DOUBLE), torch.linspace(0.1, span, 7, dtype=DOUBLE)]) * direction
    ys = solve(field, y0, t, method=name, controller=PIDController(rtol=1e-12, atol=1e-13), max_steps=100_000).ys
    for i in range(2):
        times = t[i].numpy()
        reference = solve_ivp(
            as_numpy(field), (times[0], times[-1]), y0[i].numpy(), method="DOP853", t_eval=times, rtol=1e-13, atol=1e-14
        )
        assert np.abs(ys[i].numpy() - reference.y.T).max() < 1e-9


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_adaptive_solves_agree_with_the_closed_form(name, direction):
    y0 = torch.tensor([[2.0, 1.0], [-1.0, 0.5]], dtype=DOUBLE)
    t = direction * torch.tensor([[0.0, 0.4, 1.0], [0.5, 0.5, 1.2]], dtype=DOUBLE)
    tolerance = 1e-6 if SOLVERS[name].order < 5 else 1e-10
    ys = solve(linear, y0, t, method=name, controller=PIDController(rtol=tolerance, atol=tolerance), max_steps=10**6).ys
    exact = linear_solution(y0, t - t[:, :1])
    # The tolerance bounds the estimate of one step's error; fehlberg2's is small for its order, and all steps add up.
    assert (ys - exact).abs().max() < (1000 if name == "fehlberg2" else 10) * tolerance


@pytest.mark.parametrize("name", ADAPTIVE)
def test_error_follows_the_tolerance(name):
    y0 = torch.tensor([[1.0, 0.5]], dtype=DOUBLE)
    t = torch.tensor([0.0, 3.0], dtype=DOUBLE)
    exact = solve(lotka_volterra, y0, t, method="dopri5", controller=TIGHT).ys

    def error(rtol):
        ys = solve(
            lotka_volterra, y0, t, method=name, controller=PIDController(rtol=rtol, atol=rtol), max_steps=10**6
        ).ys
        return float((ys - exact).abs().max())

    errors = [error(rtol) for rtol in (1e-3, 1e-4, 1e-5)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


# --- outputs and clocks ----------------------------------------------------------------------------------------------


def test_queries_never_shorten_a_step():
    y0 = torch.tensor([[1.0, 0.5]], dtype=DOUBLE)
    few = solve(lotka_volterra, y0, torch.tensor([0.0, 8.0], dtype=DOUBLE))
    many = solve(lotka_volterra, y0, torch.linspace(0, 8, 2_000, dtype=DOUBLE))
    assert torch.equal(few.stats["n_steps"], many.stats["n_steps"])
    assert torch.equal(few.stats["nfe"], many.stats["nfe"])
    assert torch.equal(few.ys[:, -1], many.ys[:, -1])


def test_every_sample_steps_on_its_own_clock():
    y0 = torch.ones(2, 1, dtype=DOUBLE)
    rate = torch.tensor([[0.1], [30.0]], dtype=DOUBLE)
    t = torch.tensor([0.0, 3.0], dtype=DOUBLE)
    own = solve(lambda t, y: -rate * y, y0, t).stats["n_steps"]
    joint = solve(lambda t, y: -rate * y, y0, t, step_mode="joint").stats["n_steps"]
    assert own[0] * 5 < own[1]
    assert joint[0] == joint[1] >= own[1]


def test_counts_add_up():
    stats = solve(van_der_pol, torch.tensor([[2.0, 0.0]], dtype=DOUBLE), torch.tensor([0.0, 10.0], dtype=DOUBLE)).stats
    assert torch.equal(stats["n_steps"], stats["n_accepted"] + stats["n_rejected"])
    assert stats["n_rejected"] > 0


@pytest.mark.parametrize("name", ["dopri5", "tsit5", "bosh3", "heun"])
def test_calls_of_the_field_are_counted(name):
    calls = 0

    def f(t, y):
        nonlocal calls
        calls += 1
        return -y

    stats = solve(f, torch.ones(1, 2, dtype=DOUBLE), torch.tensor([0.0, 3.0], dtype=DOUBLE), method=name).stats
    assert int(stats["nfe"]) == calls


def test_a_row_of_a_batch_equals_the_row_alone():
    y0 = torch.rand(5, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)) + 0.5
    t = torch.linspace(0, 1, 4, dtype=DOUBLE) * torch.arange(1, 6, dtype=DOUBLE)[:, None]
    together = solve(lotka_volterra, y0, t)
    for i in range(5):
        alone = solve(lotka_volterra, y0[i : i + 1], t[i : i + 1])
        assert torch.equal(alone.ys[0], together.ys[i])
        assert alone.stats["n_steps"][0] == together.stats["n_steps"][i]


def test_repeated_queries_give_the_same_state():
    t = torch.tensor([[0.0, 0.0, 0.7, 0.7, 2.0, 2.0]], dtype=DOUBLE)
    ys = solve(lotka_volterra, torch.tensor([[1.0, 0.5]], dtype=DOUBLE), t).ys[0]
    assert torch.equal(ys[0], ys[1])
    assert torch.equal(ys[2], ys[3])
    assert torch.equal(ys[4], ys[5])


def test_a_sample_whose_queries_are_all_its_start_stays_there():
    y0 = torch.tensor([[1.0, 0.5], [2.0, 1.0]], dtype=DOUBLE)
    t = torch.tensor([[0.0, 1.0, 2.0], [3.0, 3.0, 3.0]], dtype=DOUBLE)
    solution = solve(lotka_volterra, y0, t)
    assert torch.equal(solution.ys[1], y0[1].expand(3, 2))
    assert solution.stats["n_steps"][1] == 0


def test_shared_times_equal_times_per_sample():
    y0 = torch.tensor([[1.0, 0.5], [2.0, 1.0]], dtype=DOUBLE)
    t = torch.tensor([0.0, 0.5, 2.0], dtype=DOUBLE)
    assert torch.equal(solve(lotka_volterra, y0, t).ys, solve(lotka_volterra, y0, t.expand(2, 3)).ys)


def test_the_start_may_lie_before_the_first_query():
    y0 = torch.tensor([[2.0, 1.0]], dtype=DOUBLE)
    t = torch.tensor([[0.5, 1.0]], dtype=DOUBLE)
    ys = solve(linear, y0, t, t0=-0.5, controller=TIGHT).ys
    assert torch.allclose(ys, linear_solution(y0, t + 0.5), atol=1e-10)


def test_a_dense_solution_answers_at_any_time():
    y0 = torch.tensor([[2.0, 1.0]], dtype=DOUBLE)
    solution = solve(linear, y0, torch.tensor([0.0, 2.0], dtype=DOUBLE), controller=TIGHT, dense=True)
    t = torch.rand(1, 50, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)) * 2
    assert torch.allclose(solution(t), linear_solution(y0, t), atol=1e-9)
    with pytest.raises(InputError, match="outside the solve"):
        solution(torch.tensor([2.1], dtype=DOUBLE))


def test_single_states_of_a_dense_solution_are_those_of_its_rows():
    y0 = torch.tensor([[1.0], [2.0], [-0.5]], dtype=torch.float64, requires_grad=True)
    ends = torch.tensor([[1.0], [2.0], [-1.5]], dtype=torch.float64)
    solution = solve(lambda t, y: -y, y0, ends, t0=0.0, dense=True)
    sample = torch.tensor([2, 0, 1, 1, 2])
    t = torch.tensor([-1.5, 0.0, 0.3, 2.0, -0.2], dtype=torch.float64)
    rows = torch.stack([solution(ends * share)[:, 0] for share in (1.0, 0.0, 0.15, 1.0, 0.2 / 1.5)])
    single = solution.at(sample, t)
    assert torch.allclose(single, rows[torch.arange(5), sample], rtol=0, atol=1e-14)
    own = torch.autograd.grad(single.sum(), y0, retain_graph=True)[0]
    assert torch.allclose(own, torch.autograd.grad(rows[torch.arange(5), sample].sum(), y0)[0], atol=1e-14)


def test_a_dense_solution_keeps_the_samples_that_rest_early():
    """Most samples end long before the others; these must not go on alone where their interpolants are kept for all."""
    n = 4096
    end = torch.full((n, 1), 0.01, dtype=DOUBLE)
    end[::64] = 20.0
    y0 = torch.linspace(0.5, 2.0, 16 * n, dtype=DOUBLE).view(n, 16)
    with torch.no_grad():
        solution = solve(lambda t, y: -y, y0, end, t0=0.0, controller=TIGHT, dense=True)
    sample = torch.arange(n)
    t = 0.7 * end[:, 0]
    expected = y0 * torch.exp(-t)[:, None]
    assert torch.allclose(solution.at(sample, t), expected, atol=1e-8)
    assert torch.allclose(solution(t[:, None])[:, 0], expected, atol=1e-8)


def test_single_states_outside_the_solve_are_refused_and_the_sample_is_named():
    solution = solve(lambda t, y: -y, torch.ones(3, 1), torch.tensor([[1.0], [2.0], [3.0]]), t0=0.0, dense=True)
    with pytest.raises(InputError, match=r"samples 0\)"):
        solution.at(torch.tensor([0, 1]), torch.tensor([1.5, 1.5]))
    with pytest.raises(InputError, match=r"give two of \(P,\)"):
        solution.at(torch.tensor([0, 1]), torch.tensor([1.0]))


def test_a_failed_sample_has_no_single_states_and_the_others_have():
    y0 = torch.tensor([[1.0], [0.1]], dtype=torch.float64)
    solution = solve(
        lambda t, y: y**2,
        y0,
        torch.tensor([[2.0], [2.0]], dtype=torch.float64),
        dense=True,
        t0=0.0,
        on_failure="return",
    )
    single = solution.at(torch.tensor([0, 1]), torch.tensor([0.1, 0.1], dtype=torch.float64))
    assert bool(single[0].isnan().all())
    assert single[1].item() == pytest.approx(1 / (10 - 0.1), rel=1e-4)


def test_a_solution_without_dense_says_how_to_get_one():
    solution = solve(linear, torch.ones(1, 2, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE))
    with pytest.raises(InputError, match="dense=True"):
        solution(torch.tensor([0.5], dtype=DOUBLE))


def test_steps_end_at_jumps_of_the_field():
    jump = torch.tensor([1.0], dtype=DOUBLE)

    def f(t, y):
        return torch.where(t < 1.0, 1.0, -3.0).to(y)[:, None].expand_as(y)

    y0, t = torch.zeros(1, 1, dtype=DOUBLE), torch.tensor([0.0, 1.0, 2.0], dtype=DOUBLE)
    told = solve(f, y0, t, controller=PIDController(rtol=1e-6, atol=1e-9, jump_times=jump))
    blind = solve(f, y0, t, controller=PIDController(rtol=1e-6, atol=1e-9))
    assert told.ys[0, :, 0].tolist() == pytest.approx([0.0, 1.0, -2.0], abs=1e-12)
    assert told.stats["n_rejected"] == 0 < blind.stats["n_rejected"]


def test_states_of_several_parts_are_solved_together():
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    y0 = {"x": torch.ones(2, 3, 2, dtype=DOUBLE), "v": torch.zeros(2, 1, dtype=DOUBLE)}
    solution = solve(lambda t, y: {"x": -y["x"], "v": torch.ones_like(y["v"])}, y0, t, controller=TIGHT)
    assert solution.ys["x"].shape == (2, 2, 3, 2)
    assert torch.allclose(solution.ys["x"][:, 1], torch.full((2, 3, 2), math.exp(-1), dtype=DOUBLE), atol=1e-9)
    assert torch.allclose(solution.ys["v"][:, 1], torch.ones(2, 1, dtype=DOUBLE))
    pair = solve(lambda t, y: (-y[0], torch.ones_like(y[1])), (y0["x"], y0["v"]), t, controller=TIGHT)
    assert torch.equal(pair.ys[0], solution.ys["x"])


def test_half_precision_states_are_kept_in_float32():
    y0 = torch.ones(1, 1, dtype=torch.bfloat16)
    ys = solve(lambda t, y: -y, y0, torch.tensor([0.0, 1.0])).ys
    assert ys.dtype == torch.bfloat16
    assert float(ys[0, -1]) == pytest.approx(math.exp(-1), rel=1e-2)


def test_an_empty_batch_gives_an_empty_solution():
    solution = solve(linear, torch.zeros(0, 2, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE))
    assert solution.ys.shape == (0, 2, 2)


@given(shift=st.floats(-100, 100), length=st.floats(0.1, 3.0))
@settings(max_examples=15, deadline=None)
def test_the_start_of_time_means_nothing_to_an_autonomous_field(shift, length):
    y0 = torch.tensor([[1.0, 0.5]], dtype=DOUBLE)
    t = torch.linspace(0, length, 4, dtype=DOUBLE)
    here, there = (solve(lotka_volterra, y0, times, controller=TIGHT).ys for times in (t, t + shift))
    assert torch.allclose(here, there, atol=1e-8)


@given(part=st.floats(0.05, 0.95))
@settings(max_examples=15, deadline=None)
def test_two_solves_in_a_row_are_one(part):
    y0 = torch.tensor([[1.0, 0.5]], dtype=DOUBLE)
    whole = solve(lotka_volterra, y0, torch.tensor([0.0, 2.0], dtype=DOUBLE), controller=TIGHT).ys[:, -1]
    middle = solve(lotka_volterra, y0, torch.tensor([0.0, 2 * part], dtype=DOUBLE), controller=TIGHT).ys[:, -1]
    end = solve(lotka_volterra, middle, torch.tensor([2 * part, 2.0], dtype=DOUBLE), controller=TIGHT).ys[:, -1]
    assert torch.allclose(end, whole, atol=1e-8)


@given(span=st.floats(0.1, 2.0))
@settings(max_examples=15, deadline=None)
def test_there_and_back_again(span):
    y0 = torch.tensor([[1.0, 0.5]], dtype=DOUBLE)
    there = solve(lotka_volterra, y0, torch.tensor([0.0, span], dtype=DOUBLE), controller=TIGHT).ys[:, -1]
    back = solve(lotka_volterra, there, torch.tensor([span, 0.0], dtype=DOUBLE), controller=TIGHT).ys[:, -1]
    assert torch.allclose(back, y0, atol=1e-8)


# --- gradients ---------------------------------------------------------------------------------------------------------


def central_difference(function, x, eps=1e-6):
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x).flatten()
        step[i] = eps
        step = step.view_as(x)
        gradient.view(-1)[i] = (function(x + step) - function(x - step)) / (2 * eps)
    return gradient


@pytest.mark.parametrize("controller", [FixedStep(dt=0.1), PIDController(rtol=1e-10, atol=1e-12)])
@pytest.mark.parametrize("what", ["y0", "rate", "t_eval", "t0"])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_gradients_agree_with_finite_differences(controller, what, direction):
    inputs = {
        "y0": torch.tensor([[1.0, 0.5], [0.7, 0.2]], dtype=DOUBLE),
        "rate": torch.tensor([1.3, 0.4], dtype=DOUBLE),
        "t_eval": direction * torch.tensor([[0.35, 1.05], [0.5, 0.85]], dtype=DOUBLE),
        "t0": torch.tensor([0.02, -0.01], dtype=DOUBLE),
    }

    def loss(x):
        given = {**inputs, what: x}

        def f(t, y, rate):
            return torch.sin(rate * y) - 0.3 * y * torch.cos(t)[:, None]

        ys = solve(
            f,
            given["y0"],
            given["t_eval"],
            t0=given["t0"],
            args=(given["rate"],),
            method="dopri5",
            controller=controller,
        ).ys
        return (ys * torch.tensor([1.0, -0.5], dtype=DOUBLE)).square().sum()

    x = inputs[what].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    with torch.no_grad():
        reference = central_difference(loss, inputs[what])
    # Step sizes are constants to autograd: with a fixed grid a moved start or end moves the last step, which differs at the method's order.
    assert torch.allclose(gradient, reference, atol=2e-5 if what in ("t0", "t_eval") else 1e-7)


def test_gradients_reach_the_parameters_of_a_module():
    torch.manual_seed(0)
    field = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    y0, t = torch.rand(3, 2, dtype=DOUBLE), torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE)

    def loss():
        return solve(lambda t, y: field(y), y0, t, controller=PIDController(rtol=1e-9, atol=1e-11)).ys.square().sum()

    loss().backward()
    weight = field[0].weight
    with torch.no_grad():
        for index in ((0, 0), (3, 1)):
            before = weight[index].item()
            weight[index] = before + 1e-6
            up = loss()
            weight[index] = before - 1e-6
            down = loss()
            weight[index] = before
            assert weight.grad[index].item() == pytest.approx(float(up - down) / 2e-6, rel=1e-5, abs=1e-7)


def test_second_derivatives_exist():
    y0 = torch.tensor([[1.0, 0.5]], dtype=DOUBLE, requires_grad=True)
    t = torch.tensor([0.0, 0.5], dtype=DOUBLE)
    assert torch.autograd.gradgradcheck(lambda y: solve(lotka_volterra, y, t, controller=FixedStep(dt=0.25)).ys, (y0,))


def test_the_gradient_of_a_failed_sample_does_not_reach_the_others():
    y0 = torch.tensor([[1.0], [1.0]], dtype=DOUBLE, requires_grad=True)

    def f(t, y):
        return torch.where(torch.arange(2)[:, None] == 0, torch.nan, -y)

    ys = solve(f, y0, torch.tensor([0.0, 1.0], dtype=DOUBLE), on_failure="return").ys
    (gradient,) = torch.autograd.grad(ys[1, -1, 0], y0)
    assert gradient[1].item() == pytest.approx(math.exp(-1), rel=1e-3)


# --- failures ----------------------------------------------------------------------------------------------------------


def blow_up(t, y):
    return y**2


def test_too_many_steps_is_a_failure_that_names_its_remedy():
    with pytest.raises(SolveError, match="raise max_steps"):
        solve(
            van_der_pol, torch.tensor([[2.0, 0.0]], dtype=DOUBLE), torch.tensor([0.0, 10.0], dtype=DOUBLE), max_steps=3
        )


def test_a_failed_sample_leaves_the_others_intact():
    y0 = torch.tensor([[2.0], [0.1]], dtype=DOUBLE)
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    both = solve(blow_up, y0, t, on_failure="return")
    alone = solve(blow_up, y0[1:], t)
    assert both.status[0] != 0 == both.status[1]
    assert bool(both.ys[0].isnan().all())
    assert torch.equal(both.ys[1], alone.ys[0])
    with pytest.raises(SolveError, match=r"samples 0: .*t = 0\.[45]"):
        solve(blow_up, y0, t)


def test_a_field_that_turns_nan_is_named_as_such():
    with pytest.raises(SolveError, match="NaN or infinite"):
        solve(lambda t, y: torch.full_like(y, torch.nan), torch.ones(1, 1), torch.tensor([0.0, 1.0]))


y1, t1 = torch.ones(2, 2, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "tsit4"}, "did you mean 'tsit5'"),
        ({"method": "rk4"}, "FixedStep"),
        ({"adjoint": "magic"}, "direct"),
        ({"step_mode": "both"}, "per_sample"),
        ({"on_failure": "ignore"}, "raise"),
        ({"events": [lambda t, y: y]}, "event 0 gave"),
        ({"max_steps": 0}, "max_steps"),
        ({"dt0": -1.0}, "dt0"),
        ({"controller": 1e-3}, "PIDController"),
        ({"t_eval": torch.tensor([0.0, 2.0, 1.0])}, "does not run one way"),
        ({"t_eval": torch.tensor([0.0, math.nan])}, "finite"),
        ({"t_eval": torch.zeros(3, 2)}, "3 rows"),
        ({"t_eval": torch.zeros(0)}, "at least one query"),
        ({"t0": torch.zeros(5)}, "t0 has shape"),
        ({"y0": torch.ones(2, 2, dtype=torch.int64)}, "changes continuously"),
        ({"y0": torch.tensor(1.0)}, "batch axis"),
        ({"y0": ()}, "not empty"),
        ({"f": lambda t, y: y[:, :1]}, "shape"),
        ({"f": lambda t, y: y.float()}, "float32"),
        ({"f": lambda t, y: None}, "NoneType"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(change, words):
    given = {"f": linear, "y0": y1, "t_eval": t1, **change}
    f, y0, t_eval = given.pop("f"), given.pop("y0"), given.pop("t_eval")
    with pytest.raises(InputError, match=words):
        solve(f, y0, t_eval, **given)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PIDController(rtol=-1.0, atol=1e-6),
        lambda: PIDController(rtol=0.0, atol=0.0),
        lambda: PIDController(rtol=1e-3, atol=1e-6, safety=2.0),
        lambda: PIDController(rtol=1e-3, atol=1e-6, dtmin=1.0, dtmax=0.1),
        lambda: FixedStep(),
        lambda: FixedStep(dt=0.1, grid=t1),
        lambda: FixedStep(dt=-0.1),
    ],
)
def test_wrong_controllers_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_every_solver_is_in_the_table():
    assert set(TABLEAUS) <= set(SOLVERS)
    assert {"euler", "midpoint", "heun", "rk4", "bosh3", "dopri5", "tsit5"} <= set(SOLVERS)


# --- cases that were wrong once ----------------------------------------------------------------------------------------


def test_a_solve_that_ends_where_steps_are_read_off_loses_no_query():
    """Steps are read off in bundles of 64: the last bundle may be full while one sample rests and another has failed."""
    y0 = torch.ones(3, 1, dtype=DOUBLE)
    t = torch.tensor([[0.0, 0.5, 1.0], [2.0, 2.0, 2.0], [0.0, 50.0, 100.0]], dtype=DOUBLE)
    controller = FixedStep(dt=1 / 64)
    solution = solve(lambda t, y: -y, y0, t, method="rk4", controller=controller, max_steps=64, on_failure="return")
    assert solution.status.tolist() == [0, 0, 1]
    assert torch.allclose(solution.ys[0, :, 0], torch.exp(-t[0]), atol=1e-8)
    assert solution.ys[1, :, 0].tolist() == [1.0, 1.0, 1.0]


def test_a_start_given_as_a_python_number_has_the_precision_of_the_queries():
    t = torch.tensor([0.1, 1.0], dtype=DOUBLE)
    ys = solve(linear, torch.tensor([[2.0, 1.0]], dtype=DOUBLE), t, t0=0.1).ys
    assert ys[0, 0].tolist() == [2.0, 1.0]


def test_a_slope_that_is_not_finite_at_the_end_of_a_fixed_step_is_a_failure():
    def f(t, y):
        return torch.where(t[:, None] >= 1.0, torch.nan, -y)

    t = torch.tensor([0.0, 1.0, 2.0], dtype=DOUBLE)
    solution = solve(
        f, torch.ones(1, 1, dtype=DOUBLE), t, method="euler", controller=FixedStep(dt=0.5), on_failure="return"
    )
    assert solution.status.tolist() == [3]


def test_in_joint_steps_only_the_sample_that_fails_is_lost():
    y0 = torch.tensor([[2.0], [0.1]], dtype=DOUBLE)
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    solution = solve(blow_up, y0, t, step_mode="joint", on_failure="return")
    assert solution.status[0] != 0 == solution.status[1]
    assert float(solution.ys[1, -1, 0]) == pytest.approx(0.1 / (1 - 0.1), rel=1e-3)


def test_a_field_under_autocast_is_solved_in_float32():
    layer = nn.Linear(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ys = solve(lambda t, y: layer(y), torch.ones(1, 2), torch.tensor([0.0, 1.0])).ys
    assert ys.dtype == torch.float32
    assert bool(ys.isfinite().all())


def test_a_first_step_beside_fixed_steps_is_refused():
    with pytest.raises(InputError, match="dt0"):
        solve(linear, y1, t1, method="rk4", controller=FixedStep(dt=0.1), dt0=0.05)


def test_a_step_that_may_not_be_shortened_ends_the_solve_instead_of_being_tried_forever():
    """The clock's rounding makes some steps of 0.3 a little longer than 0.3."""
    y0, t = torch.ones(1, 2, dtype=DOUBLE), torch.tensor([0.2, 3.0], dtype=DOUBLE)
    controller = PIDController(rtol=1e-12, atol=1e-13, dtmin=0.3)
    solution = solve(linear, y0, t, controller=controller, max_steps=500, on_failure="return")
    assert solution.status.tolist() == [2]
    forced = solve(linear, y0, t, controller=PIDController(rtol=1e-12, atol=1e-13, dtmin=0.3, force_dtmin=True))
    assert torch.allclose(forced.ys[:, -1], linear_solution(y0, t[None] - 0.2)[:, -1], atol=1e-3)


def test_the_ends_of_steps_are_those_that_the_stats_count():
    y0, t1 = torch.tensor([[9.0], [0.3], [2.0]], dtype=torch.float64), torch.tensor([[1.0], [-2.0], [0.0]])
    solution = solve(lambda t, y: -y * y.abs(), y0, t1, t0=0.0, dense=True)
    ends = solution.step_ends()
    assert (~ends.isnan()).sum(1).tolist() == solution.stats["n_accepted"].tolist()
    assert ends[0][~ends[0].isnan()].diff().min() > 0
    assert ends[1][~ends[1].isnan()].diff().max() < 0
    assert ends[0][~ends[0].isnan()][-1] == 1
    with pytest.raises(InputError, match="dense=True"):
        solve(lambda t, y: -y, y0, t1, t0=0.0).step_ends()
