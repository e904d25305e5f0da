"""The mixed model: restricted maximum likelihood of lines, least squares of one curve, modes that are stationary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit, minimize

from latentode.models.mixed_effects import Levenberg
from latentode.models.population import Guess, fit_population
from tests.models.equations.own import Decay, Line, Relaxation
from tests.models.equations.test_curves import DOUBLE, curves, record


def guess_of(model):
    named = list(model.named.values())
    start, reach = (torch.tensor([getattr(one, name) for one in named], **DOUBLE) for name in ("free_start", "spread"))
    is_named = torch.ones(len(named), dtype=torch.bool)
    return Guess(start, reach, 10 * reach, model.n_own, is_named, ~is_named)


def observed(asked, value):
    return replace(asked, value=torch.as_tensor(value, **DOUBLE).reshape(asked.time.shape))


def lines():
    rng = np.random.default_rng(0)
    time = np.sort(rng.uniform(0, 2, (30, 6)), axis=1)
    numbers = np.array([1.0, -0.5]) + rng.standard_normal((30, 2)) @ np.array([[0.8, 0.3], [0.0, 0.4]])
    return time, numbers[:, :1] + numbers[:, 1:] * time + 0.3 * rng.standard_normal(time.shape)


def restricted_likelihood(time, value, spread, noise):
    """Minus twice its logarithm but for a constant (Laird and Ware 1982, equation 3.6), with centre and covariance."""
    total, information, pull, parts = 0.0, np.zeros((2, 2)), np.zeros(2), []
    for t, y in zip(time, value, strict=True):
        x = np.stack([np.ones_like(t), t], 1)
        r = x @ spread @ x.T + noise**2 * np.eye(len(t))
        information += x.T @ np.linalg.solve(r, x)
        pull += x.T @ np.linalg.solve(r, y)
        parts.append((x, y, r))
    centre = np.linalg.solve(information, pull)
    for x, y, r in parts:
        total += np.linalg.slogdet(r)[1] + (y - x @ centre) @ np.linalg.solve(r, y - x @ centre)
    return total + np.linalg.slogdet(information)[1], centre, np.linalg.inv(information)


def test_lines_are_estimated_by_restricted_maximum_likelihood():
    time, value = lines()
    model = curves(Line())
    population, _ = fit_population(model, observed(record(time), value), guess_of(model), 1)
    spread, noise = population.spread.numpy(), float(population.noise[0])
    reached, centre, covariance = restricted_likelihood(time, value, spread, noise)

    def objective(x):
        factor = np.array([[x[0], 0.0], [x[1], x[2]]])
        return restricted_likelihood(time, value, factor @ factor.T, np.exp(x[3]))[0]

    best = minimize(
        objective, [0.8, 0.2, 0.4, np.log(0.3)], method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-5}
    )
    assert reached < best.fun + 0.05
    # The guess counts as much as a value of a deviation of ten.
    assert population.centre.numpy() == pytest.approx(centre, abs=1e-2)
    assert population.covariance.numpy() == pytest.approx(covariance, rel=0.02, abs=1e-5)


def test_one_curve_is_fitted_by_least_squares():
    rng = np.random.default_rng(1)
    time = np.linspace(0, 3, 25)
    value = 2.0 * np.exp(-0.7 * time) + 0.05 * rng.standard_normal(25)
    model = curves(Decay())
    population, modes = fit_population(model, observed(record(time), value), guess_of(model), 1)
    found, covariance = curve_fit(lambda t, x, rate: np.exp(x) * np.exp(-np.exp(rate) * t), time, value, [0.0, 0.0])
    assert population.centre.numpy() == pytest.approx(found, abs=1e-3)
    assert population.covariance.numpy() == pytest.approx(covariance, rel=0.03)
    left = value - modes.value[0].numpy()
    assert float(population.noise[0]) == pytest.approx(np.sqrt((left**2).sum() / 23), rel=0.02)


def test_a_search_ends_where_the_objective_is_lowest():
    time = np.tile(np.linspace(0, 3, 12), (5, 1))
    rng = np.random.default_rng(2)
    value = rng.uniform(1, 3, (5, 1)) * np.exp(-0.7 * time) + 0.1 * rng.standard_normal(time.shape)
    asked = observed(record(time), value)
    levenberg = Levenberg(
        curves(Relaxation()), [0, 1, 2], torch.zeros(3, **DOUBLE), torch.eye(3, **DOUBLE), torch.tensor([0.1], **DOUBLE)
    )
    found = levenberg.search(levenberg.start(torch.zeros(5, 3, **DOUBLE), asked), asked, 30)
    for step in 1e-2 * torch.cat([torch.eye(3, **DOUBLE), -torch.eye(3, **DOUBLE)]):
        assert (levenberg.start(found.free + step, asked).cost > found.cost).all()


def test_a_series_that_no_curve_meets_keeps_its_start():
    asked = observed(record(np.tile([0.5, 1.0], (2, 1))), [[0.3, np.nan], [0.3, 0.2]])
    model = curves(Decay())
    levenberg = Levenberg(
        model, [0, 1], torch.zeros(2, **DOUBLE), torch.eye(2, **DOUBLE), torch.tensor([0.1], **DOUBLE)
    )
    found = levenberg.search(levenberg.start(torch.zeros(2, 2, **DOUBLE), asked), asked, 5)
    assert torch.equal(found.free[0], torch.zeros(2, **DOUBLE))
    assert found.cost[0] == torch.inf
    assert found.cost[1] < torch.inf
