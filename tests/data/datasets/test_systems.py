"""Facts of the solved and the noisy systems."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.data.datasets import double_well, lorenz63, lorenz96, lotka_volterra, physiome
from latentode.data.trajectories import integrate


def test_lotka_volterra_keeps_its_invariant():
    truth = lotka_volterra.SYSTEM.draw(np.random.default_rng(0), 4)
    time = np.linspace(0, 20, 100)
    rng = np.random.default_rng(0)
    alpha, beta, delta, gamma = (np.array([1.0, 0.6, 0.4, 0.8]) * rng.uniform(0.8, 1.2, (4, 4))).T
    for i in range(4):
        prey, predator = truth(np.full(100, i), time).T
        kept = delta[i] * prey - gamma[i] * np.log(prey) + beta[i] * predator - alpha[i] * np.log(predator)
        np.testing.assert_allclose(kept, kept[0], atol=1e-7)


def test_lorenz63_is_at_rest_at_its_fixed_points_and_contracts():
    c = np.sqrt(8 / 3 * 27)
    points = np.array([[0.0, 0, 0], [c, c, 27], [-c, -c, 27]])
    np.testing.assert_allclose(lorenz63.field(np.zeros(3), points, np.empty((3, 0))), 0, atol=1e-12)
    y, h = np.array([[1.0, -2.0, 20.0]]), 1e-6
    trace = sum(
        (
            lorenz63.field(np.zeros(1), y + h * e, np.empty((1, 0)))
            - lorenz63.field(np.zeros(1), y - h * e, np.empty((1, 0)))
        )[0]
        @ e
        for e in np.eye(3)
    ) / (2 * h)
    assert trace == pytest.approx(-(10 + 1 + 8 / 3), rel=1e-6)


def test_errors_of_lorenz63_grow_by_e_in_a_lyapunov_time():
    """Where two neighbours on the attractor part, averaged over many: Benettin's definition, without renormalising while they are close."""
    rng = np.random.default_rng(0)
    start = lorenz63.SYSTEM.draw(rng, 2000)(np.arange(2000), np.full(2000, 4.0))
    near = start + 1e-9 * rng.standard_normal(start.shape)
    apart = []
    for span in (2.0, 8.0):
        ends = [
            integrate(lorenz63.field, y, np.empty((2000, 0)), 8.0, 3200)(np.arange(2000), np.full(2000, span))
            for y in (start, near)
        ]
        apart.append(np.log(np.linalg.norm(ends[1] - ends[0], axis=1)).mean())
    assert (apart[1] - apart[0]) / 6.0 == pytest.approx(1 / lorenz63.LYAPUNOV_TIME, rel=0.03)


def test_lorenz96_advection_keeps_energy():
    y = np.random.default_rng(0).normal(size=(5, 40))
    rate = lorenz96.field(np.zeros(5), y, np.empty((5, 0)))
    # Without damping and forcing, sum x^2 is constant: y . (dy/dt + y - F) = 0.
    np.testing.assert_allclose((y * (rate + y - 8.0)).sum(axis=1), 0, atol=1e-10)
    np.testing.assert_allclose(lorenz96.field(np.zeros(1), np.full((1, 40), 8.0), np.empty((1, 0))), 0)


@pytest.mark.statistical
def test_the_double_well_fills_its_stationary_density():
    path = double_well.SYSTEM.draw(np.random.default_rng(0), 800)
    x = path(np.repeat(np.arange(800), 5), np.tile([12.0, 14.0, 16.0, 18.0, 20.0], 800))[:, 0]
    grid = np.linspace(-3, 3, 2001)
    density = np.exp((grid**2 - grid**4 / 2) / double_well.DIFFUSION**2)
    density /= density.sum()
    for power in (2, 4):
        assert (x**power).mean() == pytest.approx((grid**power * density).sum(), rel=0.08)
    assert 0.2 < (x > 0).mean() < 0.8


def test_physiome_perturbs_within_its_spread():
    drawn = physiome.perturb(np.random.default_rng(0), np.array([2.0, -10.0]), 0.3, 1000)
    assert drawn[:, 0].min() >= 1.4
    assert drawn[:, 0].max() <= 2.6
    assert drawn[:, 1].min() >= -13
    assert drawn.std(axis=0) == pytest.approx(np.array([0.6, 3.0]) / np.sqrt(3), rel=0.05)


def test_shares_of_an_epidemic_keep_their_sum():
    path = physiome.SYSTEMS["seir"].draw(np.random.default_rng(0), 10)
    np.testing.assert_allclose(path.states.sum(axis=2), np.broadcast_to(path.states[0].sum(axis=1), (1001, 10)))


def test_the_calcium_of_both_pools_changes_by_influx_and_efflux_alone():
    model = physiome.MODELS["calcium"]
    p = np.array([model.constants])
    y = np.array([[0.4, 1.7]])
    total = model.field(np.zeros(1), y, p).sum()
    assert total == pytest.approx(model.constants[0] + model.constants[1] - model.constants[8] * 0.4)


def test_physiome_has_the_recipe_of_its_paper():
    for system in physiome.SYSTEMS.values():
        options = system.options
        assert (options.n_series, options.n_observations, options.noise, options.missing) == (2000, 100, 0.05, 0.8)
        assert options.sampling == "uniform"
    assert all(protocol.average == "pooled" and len(protocol.splits) == 5 for protocol in physiome.PROTOCOLS.values())
