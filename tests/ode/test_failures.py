"""A solve that cannot go on says which sample, when and what to do; the other samples never notice."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from latentode.errors import InputError, SolveError
from latentode.ode import Backsolve, Checkpointed, FixedStep, PIDController, Reversible, solve
from latentode.ode.status import MAX_STEPS, NOT_CONVERGED, NOT_FINITE, STEP_TOO_SMALL

DOUBLE = torch.float64
T = torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE)
Y0 = torch.tensor([[0.5, 0.2], [1.0, -0.3], [0.7, 0.4]], dtype=DOUBLE)
SICK = 1
HEALTHY = [0, 2]


def field(illness):
    """Acts element by element; the sample `SICK` gets what `illness` makes of its slope after `t = 0.3`."""

    def f(t, y, rate):
        slope = torch.cos(t)[:, None] * rate - y**2
        if illness is None:
            return slope
        is_sick = (torch.arange(len(y)) == SICK) & (t > 0.3)
        return torch.where(is_sick[:, None], illness(t[:, None], y), slope)

    return f


ILLNESSES = {
    "NaN": (lambda t, y: torch.full_like(y, math.nan), NOT_FINITE),
    "infinity": (lambda t, y: torch.full_like(y, math.inf), NOT_FINITE),
    "blow-up": (lambda t, y: 30 * (1 + y**2), STEP_TOO_SMALL),
}
WAYS = {
    "explicit": {"method": "tsit5"},
    "implicit": {"method": "kvaerno3"},
    "fixed": {"method": "rk4", "controller": FixedStep(dt=0.05)},
    "fixed implicit": {"method": "kvaerno3", "controller": FixedStep(dt=0.05)},
}


# Many implicit steps up to a blow-up take long and say nothing new.
@pytest.mark.parametrize(
    ("way", "illness"), [(way, ill) for way in WAYS for ill in ILLNESSES if ill != "blow-up" or "implicit" not in way]
)
def test_the_others_are_the_same_to_the_last_bit_as_beside_a_healthy_sample(illness, way):
    sick, code = ILLNESSES[illness]
    rate = torch.full_like(Y0, 0.6)
    mixed = solve(field(sick), Y0, T, args=(rate,), on_failure="return", **WAYS[way])
    well = solve(field(None), Y0, T, args=(rate,), **WAYS[way])
    if way != "fixed" or illness != "blow-up":
        # A fixed step that has not met infinity yet stands.
        assert mixed.status[HEALTHY].tolist() == [0, 0]
        assert int(mixed.status[SICK]) in ({code} if way in ("explicit", "fixed") else {code, NOT_CONVERGED})
        assert bool(mixed.ys[SICK].isnan().all())
    assert torch.equal(mixed.ys[HEALTHY], well.ys[HEALTHY])
    for name in ("n_accepted", "n_rejected", "n_steps"):
        assert torch.equal(mixed.stats[name][HEALTHY], well.stats[name][HEALTHY])


@pytest.mark.parametrize("method", ["tsit5", "kvaerno3"])
def test_in_joint_steps_the_others_are_right_to_the_tolerance(method):
    rate = torch.full_like(Y0, 0.6)
    controller = PIDController(rtol=1e-7, atol=1e-9)
    given = {"args": (rate,), "method": method, "controller": controller, "step_mode": "joint"}
    mixed = solve(field(ILLNESSES["NaN"][0]), Y0, T, on_failure="return", **given)
    well = solve(field(None), Y0, T, **given)
    assert mixed.status[HEALTHY].tolist() == [0, 0] != mixed.status.tolist()[:2]
    # One step for all: the sick sample's last steps are the others', too.
    torch.testing.assert_close(mixed.ys[HEALTHY], well.ys[HEALTHY], rtol=1e-6, atol=1e-7)


ROUTES = {
    "direct": ("direct", "tsit5"),
    "checkpointed": (Checkpointed(), "tsit5"),
    "checkpointed twice over": (Checkpointed(max_checkpoints=2), "tsit5"),
    "reversible": (Reversible(), "tsit5"),
    "backsolve": (Backsolve(), "tsit5"),
    "direct implicit": ("direct", "kvaerno3"),
    "checkpointed implicit": (Checkpointed(), "kvaerno3"),
}


@pytest.mark.parametrize(
    ("name", "illness"),
    [(name, ill) for name in ROUTES for ill in ILLNESSES if ill == "NaN" or "implicit" not in name],
)
def test_gradients_of_the_others_are_those_beside_a_healthy_sample(name, illness):
    adjoint, method = ROUTES[name]

    def gradients(sick):
        y0, rate = Y0.clone().requires_grad_(), torch.full_like(Y0, 0.6).requires_grad_()
        ys = solve(
            field(sick),
            y0,
            T,
            args=(rate,),
            method=method,
            adjoint=adjoint,
            on_failure="return",
            controller=PIDController(rtol=1e-5, atol=1e-6),
        ).ys
        # The loss is NaN, and so is what it sends back to the row that failed.
        return torch.autograd.grad(ys.square().sum(), [y0, rate]), ys

    (mixed, ys), (well, _) = gradients(ILLNESSES[illness][0]), gradients(None)
    assert bool(ys[SICK].isnan().all())
    for found, expected in zip(mixed, well, strict=True):
        assert bool(found.isfinite().all())
        assert not found[SICK].any()
        if name == "backsolve":
            torch.testing.assert_close(found[HEALTHY], expected[HEALTHY], rtol=1e-4, atol=1e-5)
        else:
            # Replayed, Newton's method may round its way to another of the solutions that are all within its tolerance.
            rtol = 1e-9 if name == "checkpointed implicit" else 1e-13
            torch.testing.assert_close(found[HEALTHY], expected[HEALTHY], rtol=rtol, atol=0)


@pytest.mark.parametrize("where", ["from the start", "later"])
@pytest.mark.parametrize("method", ["tsit5", "kvaerno3"])
def test_a_shared_parameter_keeps_a_finite_gradient_beside_a_sample_that_fails(method, where):
    weight = torch.tensor(0.6, dtype=DOUBLE, requires_grad=True)

    def f(t, y):
        if where == "from the start":
            # Of a negative state there is no logarithm.
            return weight * (-y + 0 * torch.log(y + 0.25))
        is_sick = ((torch.arange(3) == SICK) & (t > 0.3))[:, None]
        return weight * torch.where(is_sick, math.inf, -y)

    ys = solve(f, Y0, T, method=method, on_failure="return").ys
    (gradient,) = torch.autograd.grad(ys[HEALTHY, -1].sum(), weight)
    # y(1) = exp(-w) y0.
    assert float(gradient) == pytest.approx(-math.exp(-0.6) * float(Y0[HEALTHY].sum()), rel=1e-2)


@pytest.mark.parametrize(
    ("f", "options", "words"),
    [
        (
            lambda t, y: torch.where(t[:, None] > 0.3, math.nan, -y),
            {},
            r"samples 0, 1, 2: .*NaN or infinite.*t = 0\.[23]",
        ),
        (lambda t, y: torch.full_like(y, -math.inf), {}, r"NaN or infinite.*t = 0, step"),
        (lambda t, y: 10 * (1 + y**2), {}, r"fell below dtmin or the rounding of t: .*float64.*after \d+ steps"),
        (lambda t, y: -3e3 * y, {"max_steps": 20}, r"max_steps: .*or raise max_steps \(a stiff field.*after 20 steps"),
    ],
)
def test_the_sentence_names_samples_time_step_and_remedy(f, options, words):
    with pytest.raises(SolveError, match=words) as caught:
        solve(f, Y0, T, **options)
    assert "\n" not in str(caught.value)


def test_a_stiff_system_without_a_bound_on_steps_ends_by_itself():
    """Explicit steps are held to some 3 / 1e6 by stability: a solve of length 100 would take 3e7 of them."""
    y0, t = torch.ones(1, 1, dtype=DOUBLE), torch.tensor([0.0, 100.0], dtype=DOUBLE)
    solution = solve(lambda t, y: -1e6 * (y - torch.cos(t)[:, None]), y0, t, max_steps=1000, on_failure="return")
    assert solution.status.tolist() == [MAX_STEPS]
    assert solution.stats["n_steps"].tolist() == [1000]
    # The default is a bound, too.
    assert inspect.signature(solve).parameters["max_steps"].default == 10_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"f": lambda t, y: y[:, :1]}, r"f returned shape \(3, 1\).*shape of y, \(B, 2\)"),
        ({"f": lambda t, y: y[:1]}, "f returned 1 samples for a state of 3"),
        ({"f": lambda t, y: y.float()}, r"f returned torch\.float32 for a state of torch\.float64"),
        ({"t_eval": T[[0, 2, 1]]}, r"does not run one way from t0 \(samples 0, 1, 2\): sort"),
        ({"t_eval": torch.stack([T, T[[0, 2, 1]], -T])}, r"\(samples 1\)"),
        ({"t_eval": torch.tensor([0.0, math.nan, 1.0])}, "t_eval holds NaN or infinity"),
        ({"t_eval": torch.tensor([0.0, math.inf])}, "t_eval holds NaN or infinity"),
        ({"t0": math.nan}, "t0 holds NaN or infinity"),
        ({"t0": 0.7}, "all on one side of t0"),
        ({"y0": torch.ones(3, 2, dtype=torch.int64)}, r"y0 has dtype torch\.int64.*y0\.double\(\)"),
        ({"method": "dopri"}, "there is no method 'dopri'"),
        ({"adjoint": "backsolv"}, "did you mean 'backsolve'"),
        ({"dt0": math.nan}, "dt0 is nan"),
        ({"max_steps": True}, "max_steps is True"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_the_door(change, words):
    given = {"f": lambda t, y: -y, "y0": Y0, "t_eval": T, **change}
    f, y0, t_eval = (given.pop(name) for name in ("f", "y0", "t_eval"))
    with pytest.raises(InputError, match=words):
        solve(f, y0, t_eval, **given)


@pytest.mark.parametrize("options", [{"rtoll": 1e-3}, {"options": {}}, {"rtol": 1e-3}])
def test_an_option_that_does_not_exist_is_an_error_not_a_warning(options):
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        solve(lambda t, y: -y, Y0, T, **options)


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("value", [-1e-3, math.nan, math.inf, torch.tensor([1e-3, -1e-3]), torch.tensor(math.nan)])
def test_tolerances_that_are_none_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name} is .*a tolerance is a number from 0 up"):
        PIDController(**{"rtol": 1e-3, "atol": 1e-6, name: value})


# --- the clock of a float32 state ---------------------------------------------------------------------------------------


def cosine(n_steps):
    """Integrate `cos t` with a state in float32; gives the solution and the times at which the field was called."""
    y0, t = torch.zeros(1, 1), torch.tensor([0.0, 10.0], dtype=DOUBLE)
    controller = FixedStep(dt=10.0 / n_steps)
    times = []

    def f(t, y):
        times.append(t)
        return torch.cos(t)[:, None]

    solution = solve(f, y0, t, method="euler", controller=controller, max_steps=n_steps + 1)
    return solution, times


@pytest.mark.parametrize("n_steps", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_the_clock_of_a_float32_state_stays_accurate_over_many_steps(n_steps):
    solution, times = cosine(n_steps)
    assert solution.stats["n_accepted"].tolist() == [n_steps]
    # Every time is the float32 next to its own multiple of dt; a running sum in float32 would be off by many times that.
    expected = (torch.arange(n_steps + 1, dtype=DOUBLE) * (10.0 / n_steps)).float()
    found = torch.cat(times)
    assert float((found - expected[: len(found)]).abs().max()) <= 2 * torch.finfo(torch.float32).eps * 10
    # The state is the user's float32: what is left is the rounding of its own sum.
    assert float(solution.ys[0, -1]) == pytest.approx(math.sin(10.0), abs=5 * 10.0 / n_steps + 6e-8 * n_steps**0.5 * 4)
