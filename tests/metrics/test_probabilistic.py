"""Scores against their definitions and against the `scoringrules` package."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scoringrules
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Laplace, Normal, StudentT

from latentode.errors import InputError
from latentode.metrics import (
    coverage,
    crps,
    crps_from_samples,
    energy_of_targets,
    energy_score,
    negative_log_likelihood,
    pinball,
    pit_values,
    quantile,
    width,
)
from latentode.metrics.probabilistic import crps_from_quantiles
from tests.metrics.draws import DOUBLE, normal_mixture, student_t

VALUE = 2 * torch.randn(40, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def standard_normal(n):
    return Normal(torch.zeros(n, dtype=DOUBLE), torch.ones(n, dtype=DOUBLE))


def crps_by_definition(forecast, value):
    """The integral of (F(x) - 1[x >= value])^2 (Gneiting and Raftery 2007, equation 20)."""
    x = torch.linspace(-60, 60, 1_200_001, dtype=DOUBLE)
    return float(torch.trapezoid((forecast.cdf(x) - (x >= value).to(DOUBLE)).square(), x))


@pytest.mark.parametrize(("mean", "std", "value"), [(0.0, 1.0, 0.3), (2.0, 0.5, -1.0), (-1.0, 3.0, 10.0)])
def test_crps_of_a_normal_is_the_integral(mean, std, value):
    forecast = Normal(torch.tensor(mean, dtype=DOUBLE), torch.tensor(std, dtype=DOUBLE))
    assert float(crps(forecast, torch.tensor(value, dtype=DOUBLE))) == pytest.approx(
        crps_by_definition(forecast, value), abs=1e-4
    )


def test_crps_of_a_normal_is_that_of_scoringrules():
    forecast = Normal(VALUE.flip(0), VALUE.abs() + 0.1)
    expected = scoringrules.crps_normal(VALUE.numpy(), forecast.loc.numpy(), forecast.scale.numpy())
    assert np.allclose(crps(forecast, VALUE), expected, rtol=1e-10, atol=1e-12)


def test_crps_of_a_mixture_of_normals_is_that_of_scoringrules():
    forecast = normal_mixture()
    part = forecast.component_distribution
    expected = scoringrules.crps_mixnorm(
        VALUE.numpy(), part.mean.numpy(), part.stddev.numpy(), forecast.mixture_distribution.probs.numpy()
    )
    assert np.allclose(crps(forecast, VALUE), expected, rtol=1e-9, atol=1e-12)


def test_crps_of_a_student_t_is_that_of_scoringrules():
    forecast = student_t()
    expected = scoringrules.crps_t(VALUE.numpy(), forecast.df.numpy(), forecast.loc.numpy(), forecast.scale.numpy())
    assert np.allclose(crps(forecast, VALUE), expected, rtol=1e-9, atol=1e-12)


def test_crps_of_a_student_t_nears_the_normal_and_grows_without_bound():
    value, zero, one = VALUE.float(), torch.zeros(40, 5), torch.ones(40, 5)
    near = crps(StudentT(1e7 * one, zero, one), value)
    assert torch.allclose(near, crps(Normal(zero, one), value), atol=1e-5)
    assert bool(crps(StudentT(one, zero, one), value).isinf().all())


def test_crps_of_a_mixture_of_equal_parts_is_that_of_the_part():
    forecast = normal_mixture(n_parts=1)
    part = forecast.component_distribution
    alone = Normal(part.mean[..., 0], part.stddev[..., 0])
    assert torch.allclose(crps(forecast, VALUE), crps(alone, VALUE), atol=1e-12)


def test_crps_of_another_distribution_comes_close_by_its_quantiles():
    loc, scale = VALUE.flip(0), VALUE.abs() + 0.1
    expected = scoringrules.crps_laplace(VALUE.numpy(), loc.numpy(), scale.numpy())
    assert np.allclose(crps(Laplace(loc, scale), VALUE), expected, rtol=0.01)


def test_crps_by_quantiles_comes_close_to_the_closed_form():
    forecast = Normal(VALUE.flip(0), VALUE.abs() + 0.1)
    assert torch.allclose(crps_from_quantiles(forecast, VALUE), crps(forecast, VALUE), rtol=0.005)


@pytest.mark.parametrize("forecast", [normal_mixture((1,)), student_t((1,)), Normal(torch.zeros(1), torch.ones(1))])
def test_crps_of_draws_comes_to_that_of_their_distribution(forecast):
    value = torch.tensor([0.7], dtype=forecast.mean.dtype)
    torch.manual_seed(0)
    assert float(crps_from_samples(forecast.sample((200_000,)), value)) == pytest.approx(
        float(crps(forecast, value)), rel=0.02
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10_000))
def test_crps_of_draws_is_the_fair_one_of_scoringrules(n, seed):
    rng = np.random.default_rng(seed)
    samples, value = rng.normal(size=(n, 3, 2)), rng.normal(size=(3, 2))
    expected = scoringrules.crps_ensemble(value, np.moveaxis(samples, 0, -1), estimator="fair")
    assert np.allclose(crps_from_samples(torch.from_numpy(samples), torch.from_numpy(value)), expected)


def test_the_fair_crps_does_not_depend_on_the_number_of_draws():
    # The mean over many small ensembles is that of the distribution; dividing by the draws squared would add 1 / (2 sqrt(pi)) here.
    torch.manual_seed(0)
    samples, value = torch.randn(2, 400_000, dtype=DOUBLE), torch.full((400_000,), 0.4, dtype=DOUBLE)
    assert float(crps_from_samples(samples, value).mean()) == pytest.approx(
        float(crps(standard_normal(1), value[:1])), abs=0.004
    )


def test_the_energy_score_is_the_fair_one_of_scoringrules():
    rng = np.random.default_rng(0)
    samples, value = rng.normal(size=(12, 6, 3)), rng.normal(size=(6, 3))
    expected = scoringrules.es_ensemble(value, np.moveaxis(samples, 0, -2), estimator="fair")
    assert np.allclose(energy_score(torch.from_numpy(samples), torch.from_numpy(value)), expected)


def test_the_energy_score_of_one_channel_is_its_crps():
    samples, value = torch.randn(9, 7, 1, dtype=DOUBLE), torch.randn(7, 1, dtype=DOUBLE)
    assert torch.allclose(energy_score(samples, value), crps_from_samples(samples[..., 0], value[..., 0]))


def test_the_energy_score_leaves_out_what_is_not_observed():
    samples, value = torch.randn(9, 4, 3, dtype=DOUBLE), torch.randn(4, 3, dtype=DOUBLE)
    observed = torch.tensor([[True, True, False]] * 3 + [[False] * 3])
    holed = value.masked_fill(~observed, torch.nan)
    score = energy_score(samples, holed, observed)
    assert torch.allclose(score[:3], energy_score(samples[..., :2], value[:, :2])[:3])
    assert bool(score[3].isnan())


def test_energy_of_targets_puts_each_query_together():
    samples, value = torch.randn(6, 1, 4, dtype=DOUBLE), torch.randn(1, 4, dtype=DOUBLE)
    # Query 0 has channels 2 and 0, query 3 has channel 1; the fourth target is padding.
    row, channel = torch.tensor([[0, 0, 3, 0]]), torch.tensor([[2, 0, 1, 0]])
    observed = torch.tensor([[True, True, True, False]])
    total, count = energy_of_targets(samples, value, row, channel, observed, n_channels=3)
    expected = energy_score(samples[:, 0, :2], value[0, :2]) + energy_score(samples[:, 0, 2:3], value[0, 2:3])
    assert float(count) == 2
    assert float(total) == pytest.approx(float(expected))


def test_energy_of_targets_adds_up_over_windows():
    generator = torch.Generator().manual_seed(0)
    samples, value = torch.randn(5, 8, 6, generator=generator), torch.randn(8, 6, generator=generator)
    row, channel = torch.arange(6).expand(8, 6) // 2, torch.arange(6).expand(8, 6) % 2
    observed = torch.rand(8, 6, generator=generator) < 0.6
    whole = energy_of_targets(samples, value, row, channel, observed, 2)
    parts = [
        energy_of_targets(samples[:, cut], value[cut], row[cut], channel[cut], observed[cut], 2)
        for cut in (slice(0, 3), slice(3, 8))
    ]
    for i in range(2):
        assert float(whole[i]) == pytest.approx(float(parts[0][i] + parts[1][i]), rel=1e-12)


def test_one_draw_is_refused():
    for score in (crps_from_samples, energy_score):
        with pytest.raises(InputError, match="at least two"):
            score(torch.zeros(1, 3), torch.zeros(3))


def test_likelihood_is_the_density():
    forecast = Normal(torch.tensor([1.0], dtype=DOUBLE), torch.tensor([2.0], dtype=DOUBLE))
    expected = 0.5 * ((3.0 - 1.0) / 2) ** 2 + math.log(2 * math.sqrt(2 * math.pi))
    assert float(negative_log_likelihood(forecast, torch.tensor([3.0], dtype=DOUBLE))) == pytest.approx(expected)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_the_quantile_loss_is_that_of_scoringrules(level):
    forecast = normal_mixture()
    expected = scoringrules.quantile_score(VALUE.numpy(), quantile(forecast, level).numpy(), level)
    assert np.allclose(pinball(forecast, VALUE, level), expected, atol=1e-12)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_the_quantile_loss_is_least_for_the_true_quantile(level):
    value = torch.randn(100_000, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    losses = [
        float(pinball(Normal(torch.full_like(value, shift), torch.ones_like(value)), value, level).mean())
        for shift in (-0.1, 0.0, 0.1)
    ]
    assert losses[1] == min(losses)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_coverage_of_the_truth_is_its_probability(share):
    value = torch.randn(200_000, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    assert float(coverage(standard_normal(200_000), value, share).mean()) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("share", [0.8, 0.95])
def test_the_width_is_that_between_the_quantiles(share):
    forecast = student_t()
    low, high = (stats.t.ppf((1 + sign * share) / 2, forecast.df, forecast.loc, forecast.scale) for sign in (-1, 1))
    assert np.allclose(width(forecast, VALUE, share), high - low)


@pytest.mark.parametrize("forecast", [normal_mixture((50_000, 1)), student_t((50_000, 1))])
def test_the_probability_transform_of_the_truth_is_uniform(forecast):
    torch.manual_seed(9)  # not that of the parameters, which the draws would follow
    pit = pit_values(forecast, forecast.sample())
    assert stats.kstest(pit.flatten().numpy(), "uniform").pvalue > 0.01
