"""Forecasts of counts and of bounded channels, against sums, quadrature and SciPy; no forecast of any model leaves its support."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, MixtureSameFamily, Normal, StudentT

from latentode import Forecaster
from latentode.data.links import Links
from latentode.data.scaling import ChannelMap, Scaler, Spread
from latentode.metrics import crps
from latentode.metrics.quantiles import quantile
from latentode.models import FlowDecoder, GaussianDecoder, LatentODE, MixtureDecoder, QuantileDecoder, StudentTDecoder
from latentode.models.conformal import Calibrated
from latentode.models.units import in_error_units, in_user_units
from tests.models.distributions.draws import quantile_function, scalar_flow

# Channel 0 counts, channel 1 lies between 10 and 20.
LINKS = Links(
    np.asarray([False, False]), np.asarray([True, False]), np.asarray([np.nan, 10.0]), np.asarray([np.nan, 20.0])
)
SPREAD = Spread(np.asarray([1.2, 0.4]), np.asarray([0.7, 1.5]))
MEAN, STD = np.asarray([3.0, 15.0]), np.asarray([2.0, 4.0])
SCALER = Scaler(MEAN, STD, np.asarray([9, 9]), 1.0, ChannelMap(LINKS, SPREAD))
DOUBLE = torch.float64
LOC, SCALE = (torch.tensor(x, dtype=DOUBLE) for x in ([[0.1, -1.5, 2.0]], [[0.9, 1.2, 0.3]]))
N_UP_TO = 2000


def count_forecast(base=None, in_units=in_user_units):
    return in_units(base or Normal(LOC, SCALE), torch.zeros(1, 3, dtype=torch.int64), SCALER)


def bounded_forecast(base=None):
    return in_user_units(base or Normal(LOC, 2 * SCALE), torch.ones(1, 3, dtype=torch.int64), SCALER)


def mass(found, n=N_UP_TO):
    k = torch.arange(n, dtype=DOUBLE)[:, None, None].expand(-1, 1, 3)
    return k, found.log_prob(k).exp()


# --- counts ---


def test_counts_have_probabilities_of_a_rounded_log_normal():
    _, p = mass(count_forecast())
    for i in range(3):
        z = stats.norm(1.2 + 0.7 * float(LOC[0, i]), 0.7 * float(SCALE[0, i]))
        edges = np.append(-np.inf, np.log(np.arange(N_UP_TO) + 1.5))
        np.testing.assert_allclose(p[:, 0, i], np.diff(z.cdf(edges)), rtol=1e-5, atol=1e-12)
    assert torch.allclose(p.sum(0), torch.ones(1, 3, dtype=DOUBLE), atol=1e-6)


@pytest.mark.parametrize(
    "base",
    [
        StudentT(torch.full((1, 3), 9.0, dtype=DOUBLE), LOC, 0.3 * SCALE),
        MixtureSameFamily(
            Categorical(torch.full((1, 3, 2), 0.5, dtype=DOUBLE)),
            Normal(torch.stack([LOC, LOC - 1], -1), torch.stack([SCALE, 0.05 * SCALE], -1)),
        ),
    ],
    ids=["student t", "mixture"],
)
def test_probabilities_of_counts_add_up_to_1_whatever_they_are_rounded_from(base):
    _, p = mass(count_forecast(base), 1000)
    assert torch.allclose(p.sum(0), torch.ones(1, 3, dtype=DOUBLE), atol=2e-3)


@pytest.mark.parametrize("family", [quantile_function, scalar_flow])
def test_probabilities_of_counts_are_differences_of_the_distribution_function(family):
    found = in_user_units(family(), torch.zeros(3, 2, dtype=torch.int64), SCALER)
    for k in (0, 1, 5, 40):
        at = torch.full((3, 2), float(k), dtype=DOUBLE)
        step = found.cdf(at) - (found.cdf(at - 1) if k else 0.0)
        assert torch.allclose(found.log_prob(at).exp(), step, atol=1e-6)


def test_moments_of_counts_are_those_of_their_probabilities():
    found = count_forecast()
    k, p = mass(found)
    mean = (k * p).sum(0)
    assert torch.allclose(found.mean, mean, rtol=1e-3)
    assert torch.allclose(found.variance, ((k - mean).square() * p).sum(0), rtol=5e-3)


def test_quantiles_of_counts_are_counts_and_the_least_that_reach_their_level():
    found = count_forecast()
    for level in (0.01, 0.1, 0.5, 0.9, 0.99):
        k = quantile(found, level)
        assert torch.equal(k, k.round())
        assert not k.signbit().any()
        assert (found.cdf(k) >= level - 1e-9).all()
        assert (torch.where(k > 0, found.cdf(k - 1), 0.0) < level).all()


def test_what_is_no_count_has_no_probability():
    found = count_forecast()
    for x in (-1.0, 0.5, 3.2):
        assert (found.log_prob(torch.full((1, 3), x, dtype=DOUBLE)) == -torch.inf).all()
    assert (found.cdf(torch.full((1, 3), -0.5, dtype=DOUBLE)) == 0).all()
    # Between two counts no probability is added.
    at = torch.full((1, 3), 3.0, dtype=DOUBLE)
    assert torch.equal(found.cdf(at), found.cdf(at + 0.7))


def test_improbable_counts_have_a_finite_likelihood():
    certain = count_forecast(Normal(LOC, torch.full((1, 3), 1e-3, dtype=DOUBLE)))
    for x in (0.0, 7.0, 1e5, 1e9):
        assert certain.log_prob(torch.full((1, 3), x, dtype=DOUBLE)).isfinite().all()


def test_in_units_of_errors_the_probabilities_are_the_same():
    user, error = count_forecast(), count_forecast(in_units=in_error_units)
    k = torch.tensor([[0.0, 4.0, 11.0]], dtype=DOUBLE)
    value = (k - 3.0) / 2.0
    assert torch.allclose(error.log_prob(value), user.log_prob(k))
    assert torch.allclose(error.mean, (user.mean - 3.0) / 2.0)
    assert torch.allclose(error.cdf(value), user.cdf(k))


def test_the_crps_of_counts_is_the_sum_over_their_distribution_function():
    found, y = count_forecast(), torch.tensor([[2.0, 0.0, 9.0]], dtype=DOUBLE)
    k = torch.arange(400, dtype=DOUBLE)[:, None, None].expand(-1, 1, 3)
    steps = found.cdf(k)
    exact = (steps - (k >= y).double()).square().sum(0)
    assert torch.allclose(crps(found, y), exact, rtol=0.05, atol=0.02)


# --- between bounds ---


def test_a_bounded_channel_has_a_density_inside_and_a_probability_at_the_bounds():
    found = bounded_forecast()
    x = torch.linspace(10.0, 20.0, 20_003, dtype=DOUBLE)[:, None, None].expand(-1, 1, 3)
    inner = found.log_prob(x[1:-1]).exp()
    inside = torch.trapezoid(inner, x[1:-1], dim=0)
    low, high = (found.log_prob(x[i]).exp() for i in (0, -1))
    assert torch.allclose(low + inside + high, torch.ones(1, 3, dtype=DOUBLE), atol=2e-3)
    assert torch.allclose(found.cdf(x[0]), low)
    assert torch.equal(found.cdf(x[-1]), torch.ones(1, 3, dtype=DOUBLE))
    middle = x[10_001]
    assert torch.allclose(found.cdf(middle), low + torch.trapezoid(inner[:10_001], x[1:10_002], dim=0), atol=2e-3)
    # From the upper bound on, near which most of the third forecast lies, so that no digits are lost.
    off = x[1:-1] - 20
    mean = -10 * low + torch.trapezoid(inner * off, off, dim=0)
    square = 100 * low + torch.trapezoid(inner * off.square(), off, dim=0)
    assert torch.allclose(found.mean, 20 + mean, rtol=2e-3)
    assert torch.allclose(found.variance, square - mean.square(), rtol=2e-2)


def test_outside_the_bounds_nothing_is():
    found = bounded_forecast()
    for x, below in ((9.9, 0.0), (20.1, 1.0)):
        at = torch.full((1, 3), x, dtype=DOUBLE)
        assert (found.log_prob(at) == -torch.inf).all()
        assert (found.cdf(at) == below).all()


def test_quantiles_and_draws_keep_to_the_support_calibrated_or_not():
    torch.manual_seed(0)
    nodes = torch.linspace(-8, 8, 9, dtype=DOUBLE)
    for wide in (Normal(LOC, 30 * SCALE), StudentT(torch.full((1, 3), 2.5, dtype=DOUBLE), LOC, 9 * SCALE)):
        map_ = (nodes, (2 * nodes + 1)[None], torch.zeros(1, 3, dtype=torch.int64))
        for base in (wide, Calibrated(wide, *map_)):
            bounded, counts = bounded_forecast(base), count_forecast(base)
            drawn, many = bounded.sample((200,)), counts.sample((200,))
            assert ((drawn >= 10) & (drawn <= 20)).all()
            assert (many >= 0).all()
            assert torch.equal(many, many.round())
            for level in (0.001, 0.5, 0.999):
                assert ((quantile(bounded, level) >= 10) & (quantile(bounded, level) <= 20)).all()
                assert (quantile(counts, level) >= 0).all()


# --- from table to forecast ---


def make_frame(n_series=6, n_rows=20):
    rng = np.random.default_rng(0)
    frames = []
    for s in range(n_series):
        time = np.sort(rng.uniform(0, 30, n_rows))
        level = 1 + np.sin(time / 3 + s)
        frame = pd.DataFrame({"series_id": f"s{s}", "time": time, "n": rng.poisson(np.maximum(level - 0.6, 0.02))})
        frame["b"] = np.clip(80 + 25 * level + rng.normal(0, 8, n_rows), 0, 100)
        frame["p"] = np.exp(level + 0.3 * rng.normal(size=n_rows))
        frame["x"] = level + 0.2 * rng.normal(size=n_rows)
        frame.loc[rng.random(n_rows) < 0.3, "b"] = np.nan
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize(
    "decoder",
    [
        QuantileDecoder,
        FlowDecoder,
        pytest.param(GaussianDecoder, marks=pytest.mark.slow),
        pytest.param(StudentTDecoder, marks=pytest.mark.slow),
        pytest.param(MixtureDecoder, marks=pytest.mark.slow),
        None,
    ],
    ids=lambda decoder: "ridge" if decoder is None else decoder.__name__,
)
def test_no_forecast_leaves_what_its_channel_can_be(decoder, tmp_path):
    frame = make_frame()
    model = "ridge" if decoder is None else LatentODE(decoder=decoder(hidden_size=8), latent_size=4)
    settings = {"count_channels": ["n"], "bounded_channels": {"b": [0, 100]}, "log_channels": ["p"]}
    training = {"max_epochs": 1, "windows_per_epoch": 64, "batch_size": 32, "device": "cpu", "show_progress": False}
    forecaster = Forecaster(model, horizon=4.0, **settings, **training).fit(frame)
    forecaster.save(tmp_path / "run")
    again = Forecaster.load(tmp_path / "run")
    assert again.get_params()["bounded_channels"] == {"b": [0, 100]}
    forecast = again.predict(frame, every=1.0)
    table = forecast.to_frame()
    figures = table.filter(regex=r"^(mean|q0)").assign(channel=table["channel"]).set_index("channel")
    assert np.isfinite(figures.to_numpy()).all()
    assert (figures.loc["n"] >= 0).all(axis=None)
    levels = figures.loc["n"].filter(like="q0")
    assert (levels == levels.round()).all(axis=None)
    assert ((figures.loc["b"] >= 0) & (figures.loc["b"] <= 100)).all(axis=None)
    assert (figures.loc["p"] > 0).all(axis=None)
    drawn = forecast.sample(20).groupby("channel")["value"]
    assert drawn.get_group("n").min() >= 0
    assert (drawn.get_group("n") % 1 == 0).all()
    assert (drawn.get_group("b").min(), drawn.get_group("b").max()) >= (0, 0)
    assert drawn.get_group("b").max() <= 100
    scores = forecaster.metrics_["test"]
    assert all(np.isfinite(scores[name]) for name in ("mse", "mae", "crps", "nll", "coverage_80"))
