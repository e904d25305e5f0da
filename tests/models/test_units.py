"""Forecasts in other units, against SciPy, scoringrules and quadrature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scoringrules
import torch
from scipy import stats
from torch.distributions import Categorical, MixtureSameFamily, Normal, StudentT

from latentode.data.links import Links
from latentode.data.scaling import ChannelMap, Scaler, Spread
from latentode.metrics import coverage
from latentode.metrics.probabilistic import crps, crps_from_quantiles, negative_log_likelihood
from latentode.metrics.quantiles import quantile
from latentode.models.units import Mapped, in_error_units, in_user_units

# Channel 0 as it is, channel 1 by its logarithm; means and deviations of the values, then of what models see.
MEAN, STD = np.asarray([2.0, 30.0]), np.asarray([4.0, 25.0])
SPREAD = Spread(np.asarray([1.5, 3.0]), np.asarray([3.0, 0.8]))
CHANNEL = torch.tensor([[0, 1, 1, 0, 1]])
LEVELS = (0.01, 0.1, 0.5, 0.9, 0.99)


def make_scaler(is_log=(False, True)):
    links = replace(Links.none(2), is_log=np.asarray(is_log))
    return Scaler(MEAN, STD, np.asarray([9, 9]), 1.0, ChannelMap(links, SPREAD))


def make_forecast(dtype=torch.float64):
    loc = torch.tensor([[0.3, -0.4, 1.2, -2.0, 0.0]], dtype=dtype)
    scale = torch.tensor([[0.5, 0.7, 0.1, 1.0, 1.5]], dtype=dtype)
    return Normal(loc, scale)


def references():
    """The same five distributions by SciPy, in the user's units."""
    forecast = make_forecast()
    for i, c in enumerate(CHANNEL[0].tolist()):
        loc = SPREAD.centre[c] + SPREAD.size[c] * float(forecast.loc[0, i])
        scale = SPREAD.size[c] * float(forecast.scale[0, i])
        yield stats.lognorm(s=scale, scale=np.exp(loc)) if c else stats.norm(loc, scale)


def test_moments_and_quantiles_in_the_user_s_units_are_those_of_normal_and_log_normal():
    found = in_user_units(make_forecast(), CHANNEL, make_scaler())
    for i, reference in enumerate(references()):
        assert float(found.mean[0, i]) == pytest.approx(reference.mean(), rel=1e-12)
        assert float(found.stddev[0, i]) == pytest.approx(reference.std(), rel=1e-10)
        for level in LEVELS:
            assert float(quantile(found, level)[0, i]) == pytest.approx(reference.ppf(level), rel=1e-9)


def test_density_probability_and_scores_in_error_units_are_those_of_normal_and_log_normal():
    found = in_error_units(make_forecast(), CHANNEL, make_scaler())
    assert isinstance(found, Mapped)
    x = np.asarray([[1.0, 22.0, 50.0, -8.0, 3.0]])
    unit, centre = STD[CHANNEL.numpy()], MEAN[CHANNEL.numpy()]
    value = torch.from_numpy((x - centre) / unit)
    for i, reference in enumerate(references()):
        assert float(found.cdf(value)[0, i]) == pytest.approx(reference.cdf(x[0, i]), rel=1e-9)
        # A density per training deviation, not per user's unit.
        log_density = reference.logpdf(x[0, i]) + np.log(unit[0, i])
        assert float(-negative_log_likelihood(found, value)[0, i]) == pytest.approx(log_density, rel=1e-9)
        low, high = reference.ppf(0.1), reference.ppf(0.9)
        assert float(coverage(found, value, 0.8)[0, i]) == float(low <= x[0, i] <= high)
    score = crps(found, value)
    logs = [float(make_forecast().loc[0, i]) * SPREAD.size[1] + SPREAD.centre[1] for i in (1, 2, 4)]
    spreads = [float(make_forecast().scale[0, i]) * SPREAD.size[1] for i in (1, 2, 4)]
    assert np.allclose(score[0, [1, 2, 4]], scoringrules.crps_lognormal(x[0, [1, 2, 4]], logs, spreads) / STD[1])
    assert torch.allclose(score, crps_from_quantiles(found, value, 2000), rtol=2e-3)


def test_probability_undoes_the_quantile():
    found = in_error_units(make_forecast(), CHANNEL, make_scaler())
    for level in LEVELS:
        assert torch.allclose(found.cdf(quantile(found, level)), torch.full((1, 5), level, dtype=torch.float64))


def test_the_density_of_a_log_channel_is_nothing_below_zero():
    found = in_error_units(make_forecast(), CHANNEL, make_scaler())
    below = torch.from_numpy((-1.0 - MEAN[CHANNEL.numpy()]) / STD[CHANNEL.numpy()])
    assert torch.isinf(found.log_prob(below)).tolist() == [[False, True, True, False, True]]
    assert (found.cdf(below)[0, [1, 2, 4]] == 0).all()


def test_where_models_see_error_units_a_forecast_stays_what_it_is():
    forecast = make_forecast()
    plain = Scaler(MEAN, STD, np.asarray([9, 9]), 1.0)
    assert in_error_units(forecast, CHANNEL, plain) is forecast
    user = in_user_units(forecast, CHANNEL, plain)
    expected = forecast.loc * torch.from_numpy(STD)[CHANNEL] + torch.from_numpy(MEAN)[CHANNEL]
    assert torch.allclose(user.mean, expected)
    assert torch.allclose(quantile(user, 0.5), expected)


def test_a_normal_without_logarithm_stays_a_normal():
    found = in_error_units(make_forecast(torch.float32), CHANNEL, make_scaler((False, False)))
    assert isinstance(found, Normal)
    values = make_forecast().loc * torch.from_numpy(SPREAD.size)[CHANNEL] + torch.from_numpy(SPREAD.centre)[CHANNEL]
    assert torch.allclose(found.loc, (values - torch.from_numpy(MEAN)[CHANNEL]) / torch.from_numpy(STD)[CHANNEL])


def test_moments_of_any_distribution_come_from_its_quantiles():
    base = StudentT(torch.full((1, 5), 1e6), *(x.float() for x in (make_forecast().loc, make_forecast().scale)))
    found = in_user_units(base, CHANNEL, make_scaler())
    normal = in_user_units(make_forecast(), CHANNEL, make_scaler())
    # Of so many degrees of freedom it is a normal; the widest has a deviation of 1.2 in its logarithm.
    assert torch.allclose(found.mean, normal.mean, rtol=1e-3)
    assert torch.allclose(found.stddev, normal.stddev, rtol=3e-2)


def test_moments_of_mixtures_are_exact():
    # Two normals as one mixture: its exponential has moments in closed form.
    share, loc, scale = (torch.tensor(x, dtype=torch.float64) for x in ([0.3, 0.7], [-0.5, 0.8], [0.4, 0.2]))
    base = MixtureSameFamily(Categorical(share.expand(1, 1, 2)), Normal(loc.expand(1, 1, 2), scale.expand(1, 1, 2)))
    found = in_user_units(base, torch.tensor([[1]]), make_scaler())
    mu, sigma = SPREAD.centre[1] + SPREAD.size[1] * loc, SPREAD.size[1] * scale
    mean = float((share * torch.exp(mu + sigma**2 / 2)).sum())
    square = float((share * torch.exp(2 * mu + 2 * sigma**2)).sum())
    assert float(found.mean) == pytest.approx(mean)
    assert float(found.stddev) == pytest.approx((square - mean**2) ** 0.5)
    plain = in_user_units(base, torch.tensor([[0]]), make_scaler())
    assert float(plain.mean) == pytest.approx(1.5 + 3.0 * float((share * loc).sum()))


@pytest.mark.parametrize("level", LEVELS)
def test_quantiles_of_a_student_t_go_through_the_map(level):
    base = StudentT(torch.tensor([[4.0]]), torch.tensor([[0.2]]), torch.tensor([[0.5]]))
    found = in_user_units(base, torch.tensor([[1]]), make_scaler())
    expected = np.exp(SPREAD.centre[1] + SPREAD.size[1] * stats.t(4, 0.2, 0.5).ppf(level))
    assert float(quantile(found, level)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.statistical
def test_draws_go_through_the_map():
    torch.manual_seed(0)
    found = in_user_units(make_forecast(), CHANNEL, make_scaler())
    draws = found.sample((40_000,))
    assert (draws[:, 0, [1, 2, 4]] > 0).all()
    assert torch.allclose(draws.quantile(0.5, 0), quantile(found, 0.5), rtol=0.03, atol=0.05)
