"""What must hold for every method, controller and direction: the solution is right, and neither order nor padding matters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentode.ode import SOLVERS, FixedStep, PIDController, solve
from tests.ode.problems import forced, forced_solution, linear, linear_solution

DOUBLE = torch.float64
ADAPTIVE = [name for name, method in SOLVERS.items() if method.b_hat is not None]
# Elementary, PI.4.2, PI.3.4, H211PI and H312PID (Soderlind 2003, tables 1 and 2), as proportional, integral and derivative part.
PID = st.sampled_from([(0.0, 1.0, 0.0), (0.2, 0.4, 0.0), (0.4, 0.3, 0.0), (1 / 6, 1 / 6, 0.0), (-2 / 9, 2 / 9, 1 / 18)])
RTOL = 1e-5


@st.composite
def controllers(draw, order):
    """Adaptive ones where there is an order of the error to speak of, fixed steps short enough for that order."""
    if order is None:
        return FixedStep(dt=draw(st.floats(0.005, 0.02)))
    pcoeff, icoeff, dcoeff = draw(PID)
    return PIDController(
        rtol=RTOL,
        atol=RTOL,
        pcoeff=pcoeff,
        icoeff=icoeff,
        dcoeff=dcoeff,
        safety=draw(st.floats(0.85, 0.95)),
        factor_max=draw(st.floats(1.5, 10.0)),
        dtmax=draw(st.sampled_from([None, 0.3])),
    )


@st.composite
def times(draw, n_samples):
    """Starts, and queries after (or before) them, in order, some of them repeated."""
    gaps = draw(
        st.lists(
            st.lists(st.sampled_from([0.0, 0.05, 0.2, 0.45]), min_size=3, max_size=3),
            min_size=n_samples,
            max_size=n_samples,
        )
    )
    sign = torch.tensor(draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=n_samples, max_size=n_samples)))
    t0 = torch.tensor(draw(st.lists(st.floats(-3, 3), min_size=n_samples, max_size=n_samples)), dtype=DOUBLE)
    return t0, t0[:, None] + sign[:, None].double() * torch.tensor(gaps, dtype=DOUBLE).cumsum(1)


CASES = st.sampled_from(sorted(SOLVERS)).flatmap(
    lambda name: st.tuples(
        st.just(name), controllers(SOLVERS[name].order if name in ADAPTIVE else None), times(3), st.booleans()
    )
)
Y0 = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.7, -1.1]], dtype=DOUBLE)


def tolerance(name, controller):
    """How far off a solution may be: errors of steps add up; a low order at fixed steps is what it is."""
    if isinstance(controller, FixedStep):
        return {1: 0.2, 2: 5e-3}.get(SOLVERS[name].order, 1e-4)
    # The companion of fehlberg2 errs by h**2 / 512 only: at steps this long its own error, of size h**3, is the greater one.
    return 1000 * RTOL if name == "fehlberg2" else 100 * RTOL


@given(CASES)
@settings(max_examples=25, deadline=None)
def test_every_solution_of_a_linear_system_is_the_matrix_exponential(case):
    name, controller, (t0, t), is_joint = case
    mode = "joint" if is_joint else "per_sample"
    solution = solve(linear, Y0, t, t0=t0, method=name, controller=controller, step_mode=mode, max_steps=2000)
    exact = linear_solution(Y0, t - t0[:, None])
    error = (solution.ys - exact).abs().amax()
    assert float(error) <= tolerance(name, controller) * float(exact.abs().amax())
    assert bool((solution.status == 0).all())


@given(CASES)
@settings(max_examples=12, deadline=None)
def test_the_order_of_samples_means_nothing(case):
    name, controller, (t0, t), _ = case
    order = torch.tensor([2, 0, 1])
    there = solve(linear, Y0, t, t0=t0, method=name, controller=controller, max_steps=2000)
    mixed = solve(linear, Y0[order], t[order], t0=t0[order], method=name, controller=controller, max_steps=2000)
    torch.testing.assert_close(mixed.ys, there.ys[order], rtol=10 * RTOL, atol=10 * RTOL)
    for key in ("n_accepted", "n_rejected"):
        # A decision at the very edge may fall the other way.
        assert bool((mixed.stats[key] - there.stats[key][order]).abs().amax() <= 1)


@given(CASES, st.integers(1, 3))
@settings(max_examples=12, deadline=None)
def test_padding_means_nothing(case, n_more):
    name, controller, (t0, t), _ = case
    bare = solve(linear, Y0, t, t0=t0, method=name, controller=controller, max_steps=2000)
    padded_t = torch.cat([t, t[:, -1:].expand(-1, n_more)], 1)
    rows = torch.tensor([0, 1, 2, *([1] * n_more)])
    padded = solve(linear, Y0[rows], padded_t[rows], t0=t0[rows], method=name, controller=controller)
    torch.testing.assert_close(padded.ys[:3, :3], bare.ys, rtol=10 * RTOL, atol=10 * RTOL)
    assert torch.equal(padded.ys[:, 3:], padded.ys[:, 2:3].expand(-1, n_more, -1))


@pytest.mark.parametrize("name", sorted(SOLVERS))
@given(st.floats(-2, 2), st.sampled_from([1.0, -1.0]), st.floats(0.1, 1.0))
@settings(max_examples=4, deadline=None)
def test_a_field_that_depends_on_time_sees_the_time(name, t0, sign, span):
    controller = PIDController(rtol=RTOL, atol=RTOL) if name in ADAPTIVE else FixedStep(dt=0.01)
    y0 = torch.tensor([[0.3], [0.1]], dtype=DOUBLE)
    t = torch.tensor([t0, t0 + sign * span], dtype=DOUBLE)
    found = solve(forced, y0, t, method=name, controller=controller).ys[:, -1]
    exact = forced_solution(y0, t0, t0 + sign * span)
    torch.testing.assert_close(found, exact, rtol=tolerance(name, controller), atol=1e-4)
