"""Systems in closed form: each solves its own equation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from latentode.data.datasets import bouncing_ball, damped_oscillators, periodic_mixtures, pharmacokinetics, spirals
from latentode.data.datasets.bouncing_ball import GRAVITY, flight
from latentode.data.datasets.pharmacokinetics import DOSE, DOSE_TIMES, concentration


def slope(truth, series, time, h=1e-5):
    return (truth(series, time + h) - truth(series, time - h)) / (2 * h)


def test_velocity_of_the_oscillators_is_the_slope_of_their_position():
    truth = damped_oscillators.SYSTEM.draw(np.random.default_rng(0), 5)
    series, time = np.repeat(np.arange(5), 20), np.tile(np.linspace(0.1, 9.9, 20), 5)
    np.testing.assert_allclose(slope(truth, series, time)[:, 0], truth(series, time)[:, 1], atol=1e-8)


def test_oscillators_obey_a_linear_equation_with_two_constants():
    truth = damped_oscillators.SYSTEM.draw(np.random.default_rng(0), 1)
    time = np.linspace(0.1, 9.9, 200)
    series = np.zeros(200, int)
    state, acceleration = truth(series, time), slope(truth, series, time)[:, 1]
    constants, *_ = np.linalg.lstsq(state, acceleration, rcond=None)
    np.testing.assert_allclose(state @ constants, acceleration, atol=1e-6)
    stiffness, damping = -constants
    assert 0.04 <= damping <= 0.4
    assert 1.0 <= stiffness - damping**2 / 4 <= 16.0


def test_a_mixture_is_the_sum_of_three_sinusoids():
    truth = periodic_mixtures.SYSTEM.draw(np.random.default_rng(0), 1)
    time = np.linspace(0, 10, 400)
    values = truth(np.zeros(400, int), time)
    # Three sinusoids obey a linear recursion of order six on a regular grid, whatever their periods.
    step = 12
    lagged = np.stack([values[i * step : i * step + 400 - 6 * step].ravel() for i in range(7)], axis=1)
    left = np.linalg.svd(lagged, compute_uv=False)
    assert left[-1] < 1e-10 * left[0]
    assert left[-2] > 1e-6 * left[0]


def test_half_of_the_spirals_run_clockwise():
    truth = spirals.SYSTEM.draw(np.random.default_rng(0), 100)
    time = np.linspace(0, spirals.SYSTEM.duration, 50)
    centre = np.where(np.arange(100) % 2 == 1, -5.0, 5.0)
    turns = []
    for i in range(100):
        x, y = (truth(np.full(50, i), time) - [centre[i], 0.0]).T
        turns.append(np.unwrap(np.arctan2(y, x))[[0, -1]] @ [-1, 1])
    turns = np.array(turns)
    np.testing.assert_allclose(turns[0::2], spirals.SYSTEM.duration)
    np.testing.assert_allclose(turns[1::2], -spirals.SYSTEM.duration)


def test_radius_of_a_clockwise_spiral_is_inverse_to_its_angle():
    truth = spirals.SYSTEM.draw(np.random.default_rng(0), 2)
    time = np.linspace(0, spirals.SYSTEM.duration, 30)
    x, y = (truth(np.ones(30, int), time) + np.array([5.0, 0.0])).T
    # 15 / r is the angle of the spiral, so it falls as fast as time passes and points where the spiral is.
    angle = 0.3 * 50 / np.hypot(x, y)
    np.testing.assert_allclose(np.diff(angle), -np.diff(time))
    np.testing.assert_allclose(np.stack([np.cos(angle), np.sin(angle)]), np.stack([x, y]) / np.hypot(x, y), atol=1e-9)


def test_radius_of_a_counter_clockwise_spiral_grows_evenly():
    truth = spirals.SYSTEM.draw(np.random.default_rng(0), 1)
    time = np.linspace(0, spirals.SYSTEM.duration, 30)
    radius = np.linalg.norm(truth(np.zeros(30, int), time) - [5.0, 0.0], axis=1)
    np.testing.assert_allclose(np.diff(radius), 0.3 * np.diff(time))
    assert radius[0] >= 0.3 * 0.2 * 6 * np.pi


def simulate_ball(height, restitution, end):
    """Fly by SciPy from bounce to bounce."""

    def lands(t, y):
        return y[0]

    lands.terminal, lands.direction = True, -1
    start, state, times, states = 0.0, [height, 0.0], [], []
    while start < end:
        part = solve_ivp(
            lambda t, y: [y[1], -GRAVITY], (start, end), state, events=lands, rtol=1e-11, atol=1e-13, dense_output=True
        )
        grid = np.linspace(start, part.t[-1], 12)[1:-1]
        times.append(grid)
        states.append(part.sol(grid).T)
        if part.status == 0 or len(times) > 6:
            break
        start, state = part.t[-1], [0.0, -restitution * part.y[1, -1]]
    return np.concatenate(times), np.concatenate(states)


@pytest.mark.parametrize(("height", "restitution"), [(1.0, 0.6), (3.3, 0.75), (5.0, 0.9)])
def test_the_ball_flies_as_by_event_location(height, restitution):
    time, states = simulate_ball(height, restitution, 4.0)
    n = len(time)
    np.testing.assert_allclose(flight(np.full(n, height), np.full(n, restitution), time), states, atol=1e-7)


def test_the_ball_lies_still_after_infinitely_many_bounces():
    height, restitution = 1.0, 0.6
    landing = np.sqrt(2 * height / GRAVITY)
    rest = landing * (1 + 2 * restitution / (1 - restitution))
    time = rest + np.array([-1e-3, 1e-9, 1.0, 100.0])
    states = flight(np.full(4, height), np.full(4, restitution), time)
    assert np.abs(states[0]).max() > 0
    assert (states[1:] == 0).all()
    assert (states[:, 0] >= 0).all()


def test_every_ball_is_above_the_floor_and_loses_energy():
    truth = bouncing_ball.SYSTEM.draw(np.random.default_rng(0), 50)
    time = np.linspace(0, 5, 400)
    for i in range(50):
        height, velocity = truth(np.full(400, i), time).T
        energy = GRAVITY * height + velocity**2 / 2
        assert height.min() >= 0
        assert (np.diff(energy) <= 1e-9).all()


def test_concentration_solves_the_two_compartment_equations():
    ka, ke, volume = 1.3, 0.09, 30.0
    time = np.linspace(0.5, 71.5, 60)
    amounts = np.zeros((len(time), 2))
    state = np.zeros(2)
    for dose_time, end in zip(DOSE_TIMES, [*DOSE_TIMES[1:], 72.0], strict=True):
        state = state + np.array([DOSE, 0.0])
        inside = (time >= dose_time) & (time < end)
        part = solve_ivp(
            lambda t, y: [-ka * y[0], ka * y[0] - ke * y[1]],
            (dose_time, end),
            state,
            method="DOP853",
            rtol=1e-11,
            atol=1e-11,
            dense_output=True,
        )
        amounts[inside] = part.sol(time[inside]).T
        state = part.y[:, -1]
    given = concentration(*(np.full(len(time), constant) for constant in (ka, ke, volume)), time)
    np.testing.assert_allclose(given, amounts[:, 1] / volume, rtol=1e-8)


def test_patients_absorb_faster_than_they_eliminate():
    truth = pharmacokinetics.SYSTEM.draw(np.random.default_rng(0), 2000)
    values = truth(np.arange(2000), np.full(2000, 1.0))
    assert np.isfinite(values).all()
    assert (values > 0).all()
