"""Step sizes follow the textbook's formulas, within their bounds."""

from __future__ import annotations

import pytest
import torch

from latentode.errors import InputError
from latentode.ode import FixedStep, PIDController, solve
from latentode.ode.control import initial_step


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def proposed(controller, ratio, *, dt=1.0, accepted=None, memory=None, order=5):
    accepted = ratio <= 1 if accepted is None else accepted
    step, memory = controller.next_step(vector(dt), vector(ratio), torch.tensor([accepted]), memory, order)
    return float(step), memory


def test_the_classical_rule_is_the_power_of_the_error_with_the_order():
    for ratio in (1e-2, 0.3, 1.0, 2.0, 40.0):
        assert proposed(PIDController(1e-3, 1e-6), ratio)[0] == pytest.approx(0.9 * ratio**-0.2, rel=5e-3)


def test_the_pid_rule_reads_the_errors_of_the_two_accepted_steps_before():
    p, i, d, q = 0.2, 0.4, 0.1, 5
    controller = PIDController(1e-3, 1e-6, pcoeff=p, icoeff=i, dcoeff=d, safety=1.0)
    memory = None
    for ratio in (0.5, 0.2):
        _, memory = proposed(controller, ratio, memory=memory)
    step, _ = proposed(controller, 0.8, memory=memory)
    expected = 0.8 ** (-(p + i + d) / q) * 0.2 ** ((p + 2 * d) / q) * 0.5 ** (-d / q)
    assert step == pytest.approx(expected, rel=5e-3)


def test_a_rejected_step_is_not_remembered_and_its_successor_is_shorter():
    controller = PIDController(1e-3, 1e-6, pcoeff=0.4, icoeff=0.3)
    _, memory = proposed(controller, 0.5)
    step, after = proposed(controller, 1.01, memory=memory)
    assert step <= 0.9
    assert float(after[0]) == float(memory[0])


def test_a_step_grows_and_shrinks_no_more_than_allowed():
    controller = PIDController(1e-3, 1e-6, factor_min=0.25, factor_max=4.0)
    assert proposed(controller, 0.0)[0] == 4.0
    assert proposed(controller, 1e9)[0] == 0.25
    assert proposed(controller, float("nan"))[0] == 0.25
    assert proposed(controller, float("inf"))[0] == 0.25


def test_steps_stay_between_dtmin_and_dtmax():
    controller = PIDController(1e-3, 1e-6, dtmin=0.5, dtmax=2.0)
    assert proposed(controller, 0.0)[0] == 2.0
    assert proposed(controller, 1e9)[0] == 0.5


def test_the_error_ratio_is_the_root_mean_square_over_tolerance_unless_a_norm_is_given():
    y0, y1 = torch.tensor([[1.0, -3.0]]), torch.tensor([[2.0, 1.0]])
    error = torch.tensor([[-0.5, 1.0]])
    scaled = torch.tensor([-0.5 / (0.1 * 2 + 0.2), 1.0 / (0.1 * 3 + 0.2)])
    got = PIDController(0.1, 0.2).error_ratio(error, y0, y1)
    torch.testing.assert_close(got, scaled.square().mean().sqrt()[None])
    widest = PIDController(0.1, 0.2, norm=lambda x: x.abs().amax(-1)).error_ratio(error, y0, y1)
    torch.testing.assert_close(widest, scaled.abs().amax()[None])


def test_a_component_that_stays_zero_has_no_error_without_an_absolute_tolerance():
    zero = torch.zeros(1, 1)
    assert float(PIDController(1e-3, 0.0).error_ratio(zero, zero, zero)) == 0.0


def guess(field, y0, span, controller=None, order=5):
    y0, n = torch.tensor(y0, dtype=torch.float64), len(y0)
    controller = controller or PIDController(1e-3, 1e-6)
    ones = torch.ones(n, dtype=torch.float64)
    return initial_step(field, 0 * ones, y0, field(0 * ones, y0), span * ones, ones, order, controller)


def test_the_first_step_of_decay_is_the_book_s():
    # scale s = atol + rtol, d0 = d1 = d2 = 1/s: h0 = 0.01, h1 = (0.01 s)^(1/6)
    assert float(guess(lambda t, y: -y, [[1.0]], 10.0)) == pytest.approx((0.01 * 1.001e-3) ** (1 / 6), rel=1e-2)


def test_the_first_step_of_a_field_at_rest_is_a_part_of_the_span():
    assert float(guess(lambda t, y: 0 * y, [[1.0]], 10.0)) == pytest.approx(0.1, rel=1e-2)


def test_a_guess_is_finite_whatever_the_field_does():
    for field in (lambda t, y: y * float("inf"), lambda t, y: y * float("nan"), lambda t, y: 1e300 * y):
        step = guess(field, [[1.0], [0.0]], 1.0)
        assert bool(step.isfinite().all())
        assert bool((step >= 0).all())


def test_equal_steps_end_at_multiples_and_at_the_last_query():
    solution = solve(lambda t, y: -y, torch.ones(1, 1), vector(0, 1), controller=FixedStep(dt=0.3))
    assert int(solution.stats["n_steps"]) == 4
    # ten times 0.1 is one rounding off 1: no sliver of a step may follow
    solution = solve(lambda t, y: -y, torch.ones(1, 1), vector(0, 1), controller=FixedStep(dt=0.1))
    assert int(solution.stats["n_steps"]) == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rtol": -1e-3}, "rtol is -0.001"),
        ({"atol": float("nan")}, "atol is nan"),
        ({"rtol": 0.0, "atol": 0.0}, "both 0"),
        ({"safety": 0.0}, "safety is 0.0"),
        ({"factor_min": 1.5}, "factor_min is 1.5"),
        ({"factor_max": 0.5}, "factor_max 0.5"),
        ({"dtmin": 0.0}, "dtmin is 0.0"),
        ({"dtmax": -1.0}, "dtmax is -1.0"),
        ({"dtmin": 2.0, "dtmax": 1.0}, "exchange them"),
    ],
)
def test_a_controller_that_cannot_work_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        PIDController(**{"rtol": 1e-3, "atol": 1e-6, **options})


@pytest.mark.parametrize("options", [{}, {"dt": 0.1, "grid": torch.ones(1)}, {"dt": 0.0}, {"dt": float("inf")}])
def test_fixed_steps_take_one_length_or_one_grid(options):
    with pytest.raises(InputError, match="FixedStep"):
        FixedStep(**options)
