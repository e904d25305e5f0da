"""One step is the textbook's, and coefficients that do not belong together are refused."""

from __future__ import annotations

import pytest
import torch

from latentode.errors import InputError
from latentode.ode import TABLEAUS, ButcherTableau
from latentode.ode.runge_kutta import FilledIncrements, RecordedIncrements, TracedIncrements, explicit_step, rk_step


def step(name, field, t0, y0, h):
    tableau = TABLEAUS[name]
    t0, y0 = torch.tensor([t0], dtype=torch.float64), torch.tensor([[y0]], dtype=torch.float64)
    times = [t0 + c * h for c in (*tableau.c, 1.0)]
    return rk_step(field, times, y0, field(t0, y0), torch.full((1, 1), h, dtype=torch.float64), tableau)


@pytest.mark.parametrize("name", TABLEAUS)
def test_a_step_of_a_linear_field_is_the_taylor_polynomial_of_the_exponential(name):
    order, h = TABLEAUS[name].order, 1e-2
    y1, _, _ = step(name, lambda t, y: -y, 0.0, 1.0, h)
    assert float(y1) == pytest.approx(
        torch.exp(torch.tensor(-h, dtype=torch.float64)).item(), abs=max(h ** (order + 1), 1e-14)
    )


def test_a_step_of_rk4_is_simpsons_rule_where_the_field_is_of_time_alone():
    y1, _, _ = step("rk4", lambda t, y: t[:, None] ** 3 + 0 * y, 1.0, 0.0, 2.0)
    assert float(y1) == pytest.approx((3**4 - 1) / 4, abs=1e-12)


@pytest.mark.parametrize("name", TABLEAUS)
def test_a_step_gives_the_slope_at_its_end_and_calls_the_field_as_often_as_it_says(name):
    n_calls = 0

    def field(t, y):
        nonlocal n_calls
        n_calls += 1
        return torch.cos(t)[:, None] * y

    y1, k1, increments = step(name, field, 0.3, 1.0, 0.1)
    assert n_calls - 1 == TABLEAUS[name].calls_per_step
    torch.testing.assert_close(k1, torch.cos(torch.tensor([[0.4]], dtype=torch.float64)) * y1)
    assert len(increments) == TABLEAUS[name].n_stages + (not TABLEAUS[name].is_fsal)


@pytest.mark.parametrize("name", TABLEAUS)
def test_a_step_to_its_end_alone_ends_where_the_whole_step_does(name):
    tableau, n_calls = TABLEAUS[name], 0
    t0, y0 = torch.tensor([0.3, -1.0], dtype=torch.float64), torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    dt = torch.tensor([[0.5], [-0.2]], dtype=torch.float64)

    def field(t, y):
        nonlocal n_calls
        n_calls += 1
        return torch.cos(t)[:, None] * y + t[:, None]

    y1 = explicit_step(field, t0, y0, dt, tableau)
    assert n_calls == tableau.n_stages - (tableau.b[-1] == 0)
    times = [t0 + c * dt[:, 0] for c in (*tableau.c, 1.0)]
    torch.testing.assert_close(y1, rk_step(field, times, y0, field(t0, y0), dt, tableau)[0], rtol=1e-13, atol=1e-13)
    assert torch.equal(explicit_step(field, t0, y0, torch.zeros_like(dt), tableau), y0)


def test_only_bosh3_dopri5_and_tsit5_are_first_same_as_last():
    assert {name for name, tableau in TABLEAUS.items() if tableau.is_fsal} == {"bosh3", "dopri5", "tsit5"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_form_of_a_weighted_sum_is_the_sum(dtype):
    torch.manual_seed(0)
    y0, k, dt = torch.randn(5, 3, dtype=dtype), torch.randn(3, 5, 3, dtype=dtype), torch.rand(5, 1, dtype=dtype)
    forms = [FilledIncrements(3, y0), RecordedIncrements([]), TracedIncrements([])]
    expected = y0 + dt * (0.5 * k[0] - 2.0 * k[2])
    for form in forms:
        for slope in k:
            form = form.append(slope, dt)
        torch.testing.assert_close(form.add_to(y0, (0.5, 0.0, -2.0)), expected)
        torch.testing.assert_close(form.stacked(), dt * k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_elements", [1, 2, 7, 33])
def test_a_sample_s_sum_does_not_depend_on_the_batch_to_the_last_bit(dtype, n_elements):
    torch.manual_seed(0)
    weights = tuple(torch.randn(7).tolist())
    y0, k, dt = (torch.randn(size, dtype=dtype) for size in ((100, n_elements), (7, 100, n_elements), (100, 1)))

    def total(rows):
        form = FilledIncrements(7, y0[rows])
        for slope in k:
            form = form.append(slope[rows], dt[rows])
        return form.add_to(y0[rows], weights)

    together = total(slice(None))
    for i in (0, 13, 99):
        assert torch.equal(total(slice(i, i + 1))[0], together[i])


def test_increments_turn_into_a_record_where_a_parameter_comes_up_late():
    y0, weight = torch.ones(2, 1), torch.ones(1, requires_grad=True)
    form = FilledIncrements(2, y0).append(y0, torch.ones(2, 1)).append(weight * y0, torch.ones(2, 1))
    form.add_to(y0, (1.0, 3.0)).sum().backward()
    assert weight.grad.tolist() == [6.0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"c": (0.0,)}, "c has 1 entries but b 2"),
        ({"b_hat": (1.0,)}, "b_hat has 1 entries"),
        ({"dense": ((1.0,),)}, "dense has 1 entries"),
        ({"a": ((), (0.5, 0.5))}, "explicit"),
        ({"a": ((), (0.0,))}, "not all by 0"),
        ({"c": (0.5, 1.0)}, "c = 0"),
        ({"b": (0.0, 0.0)}, "b must weigh some slope"),
    ],
)
def test_coefficients_that_do_not_belong_together_are_refused(changes, said):
    heun = {"c": (0.0, 1.0), "a": ((), (1.0,)), "b": (0.5, 0.5), "order": 2}
    with pytest.raises(InputError, match=said):
        ButcherTableau(**{**heun, **changes})
