"""Trajectories on a grid: order, interpolation, and the law of a noisy path."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.data.trajectories import euler_maruyama, integrate


def rotate(t, y, p):
    return p * np.stack([y[:, 1], -y[:, 0]], axis=1)


def solved(n_steps, omega=1.0):
    return integrate(rotate, np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[omega], [2 * omega]]), 5.0, n_steps)


def exact(series, time):
    rate = np.where(series == 0, 1.0, 2.0)
    phase = np.where(series == 0, 0.0, np.pi / 2)
    return np.stack([np.sin(rate * time + phase), np.cos(rate * time + phase)], axis=1)


def error(n_steps):
    series, time = np.repeat([0, 1], 500), np.tile(np.linspace(0, 5, 500), 2)
    return np.abs(solved(n_steps)(series, time) - exact(series, time)).max()


def test_error_falls_with_the_fourth_power_of_the_step():
    assert np.log2(error(40) / error(80)) == pytest.approx(4, abs=0.2)
    assert error(2000) < 1e-10


def test_grid_points_and_both_ends_are_exact_states():
    path = solved(50)
    for i in (0, 1, 49, 50):
        np.testing.assert_allclose(path(np.array([1]), np.array([i * 0.1]))[0], path.states[i, 1], atol=1e-14)


def test_time_of_the_field_is_the_time_of_the_step():
    path = integrate(lambda t, y, p: 4 * t[:, None] ** 3, np.zeros((1, 1)), np.empty((1, 0)), 2.0, 4)
    # Classical Runge-Kutta is Simpson's rule here and exact for cubics.
    np.testing.assert_allclose(path.states[:, 0, 0], np.linspace(0, 2, 5) ** 4)


def test_a_series_does_not_depend_on_its_neighbours():
    alone = integrate(rotate, np.array([[1.0, 0.0]]), np.array([[2.0]]), 5.0, 50)
    np.testing.assert_array_equal(alone.states[:, 0], solved(50).states[:, 1])


def test_euler_maruyama_without_noise_is_euler():
    path = euler_maruyama(lambda y: -y, 0.0, np.ones((1, 1)), 1.0, 10, np.random.default_rng(0))
    np.testing.assert_allclose(path.states[:, 0, 0], 0.9 ** np.arange(11))
    np.testing.assert_allclose(path(np.array([0]), np.array([0.05]))[0, 0], 0.95)


@pytest.mark.statistical
def test_euler_maruyama_of_an_ornstein_uhlenbeck_process_reaches_its_variance():
    path = euler_maruyama(lambda y: -y, np.sqrt(2.0), np.zeros((4000, 1)), 6.0, 600, np.random.default_rng(0))
    # Stationary variance sigma^2 / 2 theta = 1; of Euler's recursion with step h, 1 / (1 - h / 2).
    assert path.states[-1].var() == pytest.approx(1 / (1 - 0.005), abs=4 * np.sqrt(2 / 4000))
