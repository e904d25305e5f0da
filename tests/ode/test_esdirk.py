"""An implicit step has its order, solves what is stiff, keeps samples apart, and its gradient is that of its equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.utils._python_dispatch import TorchDispatchMode

from latentode.errors import InputError
from latentode.ode import FixedStep, solve
from latentode.ode.esdirk import EsdirkTableau, esdirk_step
from latentode.ode.tableaus import ESDIRK_TABLEAUS

from .problems import as_numpy, forced, forced_solution, linear

NAMES = sorted(ESDIRK_TABLEAUS)
KVAERNO5 = ESDIRK_TABLEAUS["kvaerno5"]


def vector(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def step(field, t, y, k, h, tableau, tolerance=1e-10, **options):
    """One step of length `h` for all samples, or `(B,)`."""
    dt = torch.as_tensor(h, dtype=y.dtype).expand(len(y))
    times, scale = [t + c * dt for c in tableau.c], tolerance * (1 + y.abs())
    return esdirk_step(field, times, y, k, dt[:, None], tableau, scale=scale, **options)


@torch.no_grad()
def solve_fixed(field, t0, t1, y, tableau, n, tolerance=1e-13):
    h = (t1 - t0) / n
    t = torch.full_like(y[:, 0], t0)
    k = field(t, y)
    for i in range(n):
        tried = step(field, t0 + t * 0 + i * h, y, k, h, tableau, tolerance)
        assert bool(tried.is_converged.all())
        y, k = tried.y1, tried.k1
    return y


@torch.no_grad()
def solve_adaptive(field, t1, y, tableau, rtol, atol, h=1e-6):
    """A plain controller for one sample; the numbers of tries and of Newton iterations come with the end."""
    t, n, n_iterations = 0.0, 0, 0
    k = field(torch.zeros_like(y[:, 0]), y)
    weights = vector(*tableau.error_weights).to(y)
    while t < t1:
        h = min(h, t1 - t)
        times = [torch.full_like(y[:, 0], t + c * h) for c in tableau.c]
        dt = torch.full_like(y[:, :1], h)
        tried = esdirk_step(field, times, y, k, dt, tableau, scale=atol + rtol * y.abs())
        n, n_iterations = n + 1, n_iterations + int(tried.n_calls) - y.shape[1]
        scaled = torch.einsum("k,kbd->bd", weights, tried.increments) / (atol + rtol * y.abs())
        error = float(scaled.square().mean().sqrt()) if tried.is_converged else 1e3
        if error <= 1:
            t, y, k = (t1 if h == t1 - t else t + h), tried.y1, tried.k1
        h *= min(5.0, max(0.2, 0.9 * max(error, 1e-8) ** (-1 / tableau.order)))
    return y, n, n_iterations


def van_der_pol_1000(t, y):
    x, v = y.unbind(-1)
    return torch.stack([v, 1000.0 * (1 - x**2) * v - x], -1)


def robertson(t, y):
    a, b, c = y.unbind(-1)
    first, second, third = 0.04 * a, 3e7 * b * b, 1e4 * b * c
    return torch.stack([third - first, first - second - third, second], -1)


def kinetics(rates):
    """Stiff, nonlinear, with parameters, time in it, and rows of their own."""

    def field(t, y):
        a, b = y.unbind(-1)
        return torch.stack([-rates[0] * a + rates[1] * b**2 + torch.sin(t), rates[0] * a - rates[2] * b**3 - b], -1)

    return field


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("name", NAMES)
def test_the_error_falls_at_the_order_of_the_tableau_in_both_directions_of_time(name, direction):
    tableau, y0 = ESDIRK_TABLEAUS[name], vector([0.6], [0.4])
    t0, t1 = (0.3, 2.3) if direction == 1 else (2.3, 0.3)
    errors = [
        float((solve_fixed(forced, t0, t1, y0, tableau, n) - forced_solution(y0, t0, t1)).abs().amax())
        for n in (16, 32)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(tableau.order, abs=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_the_error_estimate_falls_at_the_order_of_the_embedded_method(name):
    tableau, y0, t = ESDIRK_TABLEAUS[name], vector([0.6]), vector(0.3)
    weights = vector(*tableau.error_weights)
    sizes = [
        float((weights @ step(forced, t, y0, forced(t, y0), h, tableau, 1e-14).increments[:, 0]).abs())
        for h in (0.025, 0.0125)
    ]
    assert math.log2(sizes[0] / sizes[1]) == pytest.approx(tableau.order, abs=0.4)


@pytest.mark.parametrize(
    ("name", "field", "y0", "t1", "rtol", "n_most"),
    [
        ("kvaerno3", robertson, [1.0, 0.0, 0.0], 1e2, 1e-3, 60),
        ("kvaerno5", robertson, [1.0, 0.0, 0.0], 1e4, 1e-5, 50),
        # Shortly before a fast transition and far beyond it: explicit methods would need some hundred thousand steps.
        ("kvaerno5", van_der_pol_1000, [1.1, -0.0052], 300.0, 1e-4, 150),
    ],
)
def test_stiff_systems_end_where_radau_does(name, field, y0, t1, rtol, n_most):
    expected = solve_ivp(as_numpy(field), (0, t1), y0, method="Radau", rtol=1e-6, atol=1e-10).y[:, -1]
    y, n_steps, n_iterations = solve_adaptive(field, t1, vector(y0), ESDIRK_TABLEAUS[name], rtol, 1e-4 * rtol)
    assert y[0].numpy() == pytest.approx(expected, rel=100 * rtol)
    assert n_steps < n_most
    assert n_iterations < 3 * n_steps * (ESDIRK_TABLEAUS[name].n_stages - 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_fast_component_is_gone_after_one_step_of_any_length(name):
    tableau, y0, t = ESDIRK_TABLEAUS[name], vector([5.0]), vector(0.0)

    def field(t, y):
        return -1e9 * (y - torch.cos(t)[:, None])

    tried = step(field, t, y0, field(t, y0), 0.1, tableau, 1e-6)
    torch.testing.assert_close(tried.y1, torch.cos(vector([0.1])), rtol=0, atol=1e-5)
    # The slope at the end is the one that the step needs there, not what rounding in y1 makes of it.
    assert float(tried.k1.abs()) < 1e3


@pytest.mark.parametrize("name", NAMES)
def test_newton_finds_the_stages_though_the_slope_at_the_start_says_nothing_of_them(name):
    # dt k0 is 20 times what is to come; guessed from it, the cubic term would overwhelm all.
    y0, t = vector([1.0, 0.3]), vector(0.1)
    field = kinetics(vector(2000.0, 3.0, 2.0))
    tried = step(field, t, y0, field(t, y0), 0.01, ESDIRK_TABLEAUS[name], 1e-6)
    assert tried.is_converged.all()
    torch.testing.assert_close(tried.y1.sum(1), y0.sum(1), rtol=0, atol=0.05)


def test_newton_takes_one_jacobian_and_few_iterations_and_counts_what_it_calls():
    n_calls = 0

    def field(t, y):
        nonlocal n_calls
        n_calls += 1
        return van_der_pol_1000(t, y)

    y0, t = vector([2.0, -0.000666]), vector(0.0)
    with torch.no_grad():
        tried = step(field, t, y0, van_der_pol_1000(t, y0), 0.5, KVAERNO5, 1e-6)
    # All columns of the Jacobian are one call with D tangents.
    assert int(tried.n_calls) == 2 + (n_calls - 1)
    assert n_calls - 1 <= 2.5 * (KVAERNO5.n_stages - 1)


def test_the_host_waits_for_the_device_at_most_once_per_iteration():
    class Waits(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.n += func._schema.name in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero")
            return func(*args, **(kwargs or {}))

    y0, t = vector([2.0, -0.000666]), vector(0.0)
    with torch.no_grad(), Waits() as waits:
        tried = step(van_der_pol_1000, t, y0, van_der_pol_1000(t, y0), 0.5, KVAERNO5, 1e-6)
    assert 0 < waits.n <= int(tried.n_calls) - 2


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_a_batch_is_the_row_alone(name):
    y0 = vector([2.0, 0.0], [1.2, -1.0], [-1.5, 0.3])
    t, h = vector(0.0, 0.1, 0.2), vector(1e-3, 2e-2, -1e-3)
    k0 = van_der_pol_1000(t, y0)
    batch = step(van_der_pol_1000, t, y0, k0, h, ESDIRK_TABLEAUS[name])
    for i in range(3):
        alone = step(van_der_pol_1000, t[i : i + 1], y0[i : i + 1], k0[i : i + 1], h[i : i + 1], ESDIRK_TABLEAUS[name])
        torch.testing.assert_close(batch.y1[i], alone.y1[0], rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(batch.increments[:, i], alone.increments[:, 0], rtol=1e-13, atol=1e-13)
        assert batch.n_calls[i] == alone.n_calls[0]
        assert batch.is_converged[i] == alone.is_converged[0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["at the start", "in a later stage"])
def test_a_sample_that_meets_no_number_fails_alone(bad, where):
    is_bad = torch.tensor([False, True, False])

    def field(t, y):
        is_late = t > 0.005 if where == "in a later stage" else t > -1.0
        return torch.where((is_bad & is_late)[:, None], bad, van_der_pol_1000(t, y))

    y0, t = vector([2.0, 0.0], [1.0, 0.5], [-1.5, 0.3]), vector(0.0, 0.0, 0.0)
    k0 = field(t, y0)
    tried = step(field, t, y0, k0, 0.01, KVAERNO5)
    healthy = step(van_der_pol_1000, t, y0, van_der_pol_1000(t, y0), 0.01, KVAERNO5)
    assert tried.is_converged.tolist() == [True, False, True]
    for i in (0, 2):
        assert torch.equal(tried.y1[i], healthy.y1[i])
        assert torch.equal(tried.k1[i], healthy.k1[i])
        assert torch.equal(tried.increments[:, i], healthy.increments[:, i])
    assert torch.equal(tried.y1[1], y0[1])
    assert not tried.increments[:, 1].any()


def test_a_sample_whose_newton_iterations_diverge_fails_alone_and_is_given_up_early():
    def field(t, y):
        # Exact Jacobian at the start, useless a little way off.
        return torch.sin(300.0 * y) * y**3

    y0, t = vector([1e-3], [40.0]), vector(0.0, 0.0)
    tried = step(field, t, y0, field(t, y0), 0.5, KVAERNO5)
    assert tried.is_converged.tolist() == [True, False]
    assert int(tried.n_calls[1]) < 10
    assert torch.equal(tried.y1[1], y0[1])


def test_a_sample_whose_newton_iterations_would_take_too_many_is_given_up_early():
    rate = 0.8 / (KVAERNO5.gamma * 0.1)

    def field(t, y):
        # The Jacobian at the start is 0: each iteration leaves 0.8 of the error.
        return torch.where(t > 0, -rate, 0.0)[:, None] * y

    y0, t = vector([1.0]), vector(0.0)
    tried = step(field, t, y0, field(t, y0), 0.1, KVAERNO5)
    assert not tried.is_converged
    assert int(tried.n_calls) == 1 + 2
    patient = step(field, t, y0, field(t, y0), 0.1, KVAERNO5, max_iterations=200)
    assert patient.is_converged
    torch.testing.assert_close(patient.increments[-1], 0.1 * field(t + 0.1, patient.y1), rtol=0, atol=1e-9)


def test_a_singular_matrix_fails_alone():
    rates = vector(-1.0, 1.0 / (KVAERNO5.gamma * 0.5))

    def field(t, y):
        return rates[:, None] * y

    y0, t = vector([1.0], [1.0]), vector(0.0, 0.0)
    tried = step(field, t, y0, field(t, y0), 0.5, KVAERNO5)
    assert tried.is_converged.tolist() == [True, False]
    assert float(tried.y1[0]) == pytest.approx(math.exp(-0.5), abs=1e-5)


@pytest.mark.parametrize("value", [0.5, math.nan])
def test_a_step_of_length_0_rests_whatever_the_field_says(value):
    def field(t, y):
        return torch.where(y == value, torch.nan, torch.cos(t)[:, None] * y**2)

    y0, t = vector([0.6], [0.5], [0.7]), vector(0.3, 0.3, 0.4)
    k0 = forced(t, y0)
    tried = step(field, t, y0, k0, vector(0.1, 0.0, 0.0), KVAERNO5)
    assert tried.is_converged.all()
    assert torch.equal(tried.y1[1:], y0[1:])
    assert torch.equal(tried.k1[1:], k0[1:])
    assert not tried.increments[:, 1:].any()
    assert tried.n_calls[1:].tolist() == [0, 0]
    torch.testing.assert_close(tried.y1[0], forced_solution(y0[0], 0.3, 0.4), rtol=0, atol=1e-7)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-9])
def test_float32_works_down_to_tolerances_below_its_rounding(tolerance):
    # The second components, from 0 on, take no part in what rounding can resolve; most are far from the slow manifold.
    y0 = torch.stack([torch.linspace(1.5, 2.5, 64), torch.linspace(0.0, -1e-3, 64)], -1)
    t, y64 = torch.zeros(64), y0.double()
    tried = step(van_der_pol_1000, t, y0, van_der_pol_1000(t, y0), 0.3, KVAERNO5, tolerance)
    exact = step(van_der_pol_1000, t.double(), y64, van_der_pol_1000(t.double(), y64), 0.3, KVAERNO5, 1e-12)
    assert tried.y1.dtype == tried.k1.dtype == tried.increments.dtype == torch.float32
    assert tried.is_converged.all()
    torch.testing.assert_close(tried.y1.double(), exact.y1, rtol=1e-6 + tolerance, atol=1e-6)


def loss(y0, t, length, rates, tableau):
    field, dt = kinetics(rates), 0.004 * length
    times = [t + c * dt[:, 0] for c in tableau.c]
    tried = esdirk_step(field, times, y0, field(t, y0), dt, tableau, scale=torch.full_like(y0, 1e-15))
    assert tried.is_converged.all()
    # The increments, too: interpolants and error estimates are made of them.
    return (tried.y1 * vector([1.0, -2.0])).sum() + tried.increments.square().sum() + (tried.k1 * 1e-2).sum()


def example():
    y0 = vector([1.0, 0.3], [0.5, 0.8]).requires_grad_()
    rates = vector(2000.0, 3.0, 2.0).requires_grad_()
    return y0, vector(0.1, 0.2).requires_grad_(), vector([1.0], [-0.1]).requires_grad_(), rates


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(name):
    torch.autograd.gradcheck(
        lambda *inputs: loss(*inputs, ESDIRK_TABLEAUS[name]), example(), eps=1e-6, atol=1e-7, rtol=1e-7
    )


def test_a_second_derivative_is_refused():
    y0, t, length, rates = example()
    (gradient,) = torch.autograd.grad(loss(y0, t, length, rates, KVAERNO5), y0, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_the_same_to_the_last_bit_whether_or_not_autograd_watches(name):
    y0, t, length, rates = example()
    dt = 0.004 * length
    tableau, field = ESDIRK_TABLEAUS[name], kinetics(rates)
    times = [t + c * dt[:, 0] for c in tableau.c]
    args = (field, times, y0, field(t, y0), dt, tableau)
    watched = esdirk_step(*args, scale=torch.full_like(y0, 1e-6))
    with torch.no_grad():
        unwatched = esdirk_step(*args, scale=torch.full_like(y0, 1e-6))
    assert watched.is_converged.all()
    for one, other in zip(watched, unwatched, strict=True):
        assert torch.equal(one, other)


def test_the_gradient_of_a_stiff_component_stays_bounded():
    rate = vector(-1e8).requires_grad_()
    y0 = vector([1.0]).requires_grad_()

    def field(t, y):
        return rate * (y - torch.cos(t)[:, None])

    t = vector(0.0)
    tried = step(field, t, y0, field(t, y0), 0.1, KVAERNO5, 1e-8)
    assert tried.is_converged.all()
    by_state, by_rate = torch.autograd.grad(tried.y1.sum(), [y0, rate])
    assert abs(float(by_state)) < 1e-6
    assert abs(float(by_rate)) < 1e-6


def test_a_sample_that_fails_or_rests_leaves_the_gradients_of_the_others_alone():
    def gradients(ends):
        rate = vector(2.0).requires_grad_()
        y0 = vector([0.5], [0.5], [0.5]).requires_grad_()

        def field(t, y):
            # Beyond its end the root has no value, and at it no slope.
            return rate * torch.sqrt(ends - y - t[:, None])

        t = vector(0.0, 0.0, 0.0)
        tried = step(field, t, y0, field(t, y0), vector(0.2, 0.2, 0.0), KVAERNO5, 1e-10)
        (tried.y1.sum() + tried.increments.square().sum()).backward()
        return tried.is_converged.tolist(), y0.grad, rate.grad

    converged, by_state, by_rate = gradients(vector([9.0], [0.6], [9.0]))
    assert converged == [True, False, True]
    assert gradients(vector([9.0], [8.0], [9.0]))[0] == [True, True, True]
    expected = gradients(vector([9.0], [8.0], [9.0]))[1]
    assert torch.equal(by_state[[0, 2]], expected[[0, 2]])
    assert float(by_state[1]) == 1.0
    assert torch.isfinite(by_rate)


def test_where_nothing_takes_a_gradient_nothing_is_recorded():
    n_calls = 0

    def field(t, y):
        nonlocal n_calls
        n_calls += 1
        return linear(t, y)

    y0, t = vector([1.0, 0.5]), vector(0.0)
    with torch.no_grad():
        step(field, t, y0, linear(t, y0), 0.1, KVAERNO5)
    n_unwatched, n_calls = n_calls, 0
    tried = step(field, t, y0, linear(t, y0), 0.1, KVAERNO5)
    assert not tried.y1.requires_grad
    # Whether a parameter of the field takes one shows in what it returns, once per stage; no Jacobian is taken for it.
    assert n_calls == n_unwatched + KVAERNO5.n_stages - 1


def test_a_field_that_differentiates_itself_works():
    def hamiltonian_field(t, y):
        with torch.enable_grad():
            own = y if y.requires_grad else y.detach().requires_grad_()
            energy = (own**4 / 4 + own**2 / 2).sum()
            (slope,) = torch.autograd.grad(energy, own, create_graph=True)
        return slope.flip(-1) * vector(1.0, -1.0)

    def by_hand(t, y):
        return (y**3 + y).flip(-1) * vector(1.0, -1.0)

    y0, t = vector([1.0, 0.5]), vector(0.0)
    tried = step(hamiltonian_field, t, y0, by_hand(t, y0), 0.1, KVAERNO5)
    torch.testing.assert_close(tried.y1, step(by_hand, t, y0, by_hand(t, y0), 0.1, KVAERNO5).y1)


def test_a_field_without_a_derivative_is_refused_with_what_to_do():
    class OneWay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return -y

    y0, t = vector([1.0]), vector(0.0)
    with pytest.raises(InputError, match="take an explicit method"):
        step(lambda t, y: OneWay.apply(y), t, y0, -y0, 0.1, KVAERNO5)


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_guessed_exactly_where_slopes_are_polynomials_of_low_degree(name):
    tableau = ESDIRK_TABLEAUS[name]
    for rows, n_spent in ((tableau.predictors, 0), (tableau.stiff_predictors, 1)):
        for i, row in enumerate(rows[1:], 1):
            near = sorted((j for j, weight in enumerate(row) if weight), key=lambda j: tableau.c[j])
            for power in range(min(3, i - n_spent)):
                guess = sum(row[j] * tableau.c[j] ** power for j in near)
                assert guess == pytest.approx(tableau.c[i] ** power, abs=1e-12)
    # Interpolation is better than extrapolation, and a stage at the same time best of all.
    assert tableau.predictors[-1] == pytest.approx((*(0.0,) * (tableau.n_stages - 2), 1.0), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_stiff_slope_at_the_start_does_not_enter_the_guesses_for_the_states(name):
    # y' = z y with z -> -infinity: the stages' states are finite, and so must be the guesses for them.
    tableau, z, increments = ESDIRK_TABLEAUS[name], -1e9, [-1e9]
    for i in range(1, tableau.n_stages):
        base = 1 + sum(a * dk for a, dk in zip(tableau.a[i][:i], increments, strict=True))
        guess = sum(weight * dk for weight, dk in zip(tableau.stiff_predictors[i], increments, strict=True))
        assert abs(base + tableau.gamma * guess) < 10
        increments.append(z * base / (1 - tableau.gamma * z))


@pytest.mark.parametrize("name", NAMES)
def test_the_interpolant_follows_the_solution_between_the_ends_of_a_step(name):
    tableau, y0, t = ESDIRK_TABLEAUS[name], vector([0.6]), vector(0.3)
    errors = []
    for h in (0.1, 0.05):
        increments = step(forced, t, y0, forced(t, y0), h, tableau, 1e-13).increments[:, 0, 0]
        greatest = 0.0
        for theta in np.linspace(0.0, 1.0, 11):
            weights = vector(*(sum(c * theta ** (j + 1) for j, c in enumerate(row)) for row in tableau.dense))
            exact = forced_solution(y0, 0.3, 0.3 + theta * h)
            greatest = max(greatest, abs(float(y0 + weights @ increments - exact)))
        errors.append(greatest)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(tableau.dense_order + 1, abs=0.3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"c": (0.0,)}, "c has 1 entries but b 2"),
        ({"b_hat": (1.0,)}, "b_hat has 1 entries"),
        ({"dense": ((1.0,),)}, "dense has 1 entries"),
        ({"a": ((0.5,), (0.5, 0.5))}, "explicit"),
        ({"c": (0.5, 1.0)}, "explicit"),
        ({"a": ((0.0,), (1.0, 0.0)), "b": (1.0, 0.0)}, "gamma > 0"),
        ({"a": ((0.0,), (0.5,))}, "give 2 entries"),
        ({"b": (0.25, 0.75)}, "a\\[-1\\] = b"),
        ({"c": (0.0, 0.5)}, "the step's end"),
    ],
)
def test_coefficients_that_do_not_belong_together_are_refused(changes, said):
    trapezoidal = {"c": (0.0, 1.0), "a": ((0.0,), (0.5, 0.5)), "b": (0.5, 0.5), "b_hat": (1.0, 0.0), "order": 2}
    assert EsdirkTableau(**trapezoidal).gamma == 0.5
    with pytest.raises(InputError, match=said):
        EsdirkTableau(**{**trapezoidal, **changes})


# --- steps of a given length, which nobody may shorten ------------------------------------------------------------------


def prothero_robinson(t, y):
    return -1e6 * (y - torch.cos(t)[:, None]) - torch.sin(t)[:, None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_fixed_steps_follow_a_forced_stiff_system_from_on_and_off_its_slow_solution(name, dtype):
    y0, t = vector([1.0], [-2.0], dtype=dtype), vector(0.0, 3.0, dtype=dtype)
    ys = solve(prothero_robinson, y0, t, method=name, controller=FixedStep(dt=0.1)).ys
    expected = vector([math.cos(3.0)], [math.cos(3.0)], dtype=dtype)
    torch.testing.assert_close(ys[:, -1], expected, rtol=0, atol=2e-8 if dtype == torch.float64 else 2e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(
    ("name", "field", "y0", "t1", "dt", "rtol"),
    [
        ("kvaerno3", van_der_pol_1000, [2.0, 0.0], 300.0, 30.0, 1e-3),
        ("kvaerno5", van_der_pol_1000, [2.0, 0.0], 300.0, 30.0, 1e-3),
        # The Jacobian at the start says nothing of the one that the first step ends with.
        ("kvaerno3", robertson, [1.0, 0.0, 0.0], 100.0, 10.0, 1e-2),
        ("kvaerno3", robertson, [1.0, 0.0, 0.0], 100.0, 1.0, 1e-4),
    ],
)
def test_fixed_steps_far_longer_than_the_fast_scale_end_where_radau_does(name, field, y0, t1, dt, rtol, dtype):
    expected = solve_ivp(as_numpy(field), (0, t1), y0, method="Radau", rtol=1e-7, atol=1e-12).y[:, -1]
    t = vector(0.0, t1, dtype=dtype)
    y1 = solve(field, vector(y0, dtype=dtype), t, method=name, controller=FixedStep(dt=dt)).ys[0, -1]
    assert y1.numpy() == pytest.approx(expected, rel=rtol)


def test_only_who_is_lost_by_the_simplified_iterations_is_searched_for_further():
    y0, t = vector([1.0, 0.0, 0.0], [0.9, 3e-5, 0.1], [0.61, 6e-6, 0.39]), vector(0.0, 0.0, 0.0)
    k0, tableau, h = robertson(t, y0), ESDIRK_TABLEAUS["kvaerno3"], vector(1.0, 1.0, 0.01)
    hasty = step(robertson, t, y0, k0, h, tableau, 1e-8)
    patient = step(robertson, t, y0, k0, h, tableau, 1e-8, is_patient=True)
    assert hasty.is_converged.tolist() == [False, False, True]
    assert patient.is_converged.all()
    assert torch.equal(hasty.increments[:, 2], patient.increments[:, 2])
    assert hasty.n_calls[2] == patient.n_calls[2]
    # The equation is quadratic in the second component; its other root is no amount of anything.
    assert bool((patient.y1 > 0).all())
    for i in range(1, tableau.n_stages):
        y = y0 + sum(a * dk for a, dk in zip(tableau.a[i], patient.increments, strict=False))
        torch.testing.assert_close(
            patient.increments[i], h[:, None] * robertson(t + tableau.c[i] * h, y), rtol=1e-3, atol=1e-7
        )


def test_iterations_that_get_no_nearer_than_the_rounding_of_a_stiff_field_have_arrived():
    mix = vector([1.0, 2.0], [3.0, 5.0])
    stiff = mix @ torch.diag(vector(-1e7, -1.0)) @ torch.linalg.inv(mix)
    # No product of this matrix with a state is more accurate than some 1e7 times rounding.
    y0, t = (mix @ vector(0.0, 1.0))[None], vector(0.0, 1.0)
    ys = solve(lambda t, y: y @ stiff.T, y0, t, method="kvaerno5", controller=FixedStep(dt=0.25)).ys
    torch.testing.assert_close(ys[:, -1], math.exp(-1) * y0, rtol=1e-5, atol=0)
