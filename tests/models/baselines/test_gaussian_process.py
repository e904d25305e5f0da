"""The Gaussian process against scikit-learn's, against padding, and on curves drawn from a kernel that is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from latentode.data.tables import read_table
from latentode.errors import InputError
from latentode.models.baselines import GaussianProcess
from latentode.models.baselines.gaussian_process import SMOOTHNESS, Curves, covariance, log_marginal, posterior
from tests.models.conftest import prepare

KERNEL = (0.7, 1.3, 0.4, 0.05)


def curves(n=12, seed=0, n_padding=0):
    rng = np.random.default_rng(seed)
    time = np.concatenate([np.zeros(n_padding), np.sort(rng.uniform(-3, 0, n))])
    value = np.concatenate([np.full(n_padding, 0.0), rng.normal(size=n)])
    observed = np.arange(n + n_padding) >= n_padding
    channel = torch.zeros(1, dtype=torch.int64)
    return Curves(*(torch.from_numpy(x)[None] for x in (time, value, observed)), channel), time, value


def reference(smoothness):
    level, amplitude, length, noise = KERNEL
    kernel = ConstantKernel(level, "fixed") + ConstantKernel(amplitude, "fixed") * Matern(length, "fixed", smoothness)
    return GaussianProcessRegressor(kernel + WhiteKernel(noise, "fixed"), optimizer=None, alpha=1e-12)


@pytest.mark.parametrize("smoothness", SMOOTHNESS)
def test_mean_variance_and_likelihood_are_scikit_learn_s(smoothness):
    c, time, value = curves()
    kernel = torch.tensor([KERNEL], dtype=torch.float64)
    at = np.array([0.1, 0.5, 2.0])
    peer = reference(smoothness).fit(time[:, None], value)
    mean, std = peer.predict(at[:, None], return_std=True)
    own_mean, own_variance = posterior(c, torch.from_numpy(at)[None], kernel, smoothness)
    assert np.allclose(own_mean[0], mean, atol=1e-8)
    assert np.allclose(own_variance[0].sqrt(), std, atol=1e-8)
    assert float(log_marginal(c, kernel, smoothness)) == pytest.approx(peer.log_marginal_likelihood(), abs=1e-8)


@pytest.mark.parametrize("smoothness", SMOOTHNESS)
def test_padding_says_nothing(smoothness):
    kernel = torch.tensor([KERNEL], dtype=torch.float64)
    at = torch.tensor([[0.2, 1.0]], dtype=torch.float64)
    (plain, *_), (padded, *_) = curves(), curves(n_padding=5)
    for one, two in zip(
        posterior(plain, at, kernel, smoothness), posterior(padded, at, kernel, smoothness), strict=True
    ):
        assert torch.allclose(one, two, atol=1e-12)
    assert torch.allclose(log_marginal(plain, kernel, smoothness), log_marginal(padded, kernel, smoothness))


def drawn(kernel, n_series=25, n=24, seed=0):
    """Series drawn from the process itself, in units that `prepare` will not change much."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n_series):
        time = np.sort(rng.uniform(0, 10, n))
        t = torch.from_numpy(time)[None]
        matrix = covariance(t, t, torch.tensor([kernel], dtype=torch.float64), 0.5)[0].numpy() + kernel[3] * np.eye(n)
        frames.append(
            pd.DataFrame({"series_id": f"s{i}", "time": time, "x": rng.multivariate_normal(np.zeros(n), matrix)})
        )
    return prepare(read_table(pd.concat(frames)), horizon=2.0, n=200)


@pytest.fixture(scope="module")
def known():
    kernel = (0.3, 1.0, 1.0, 0.1)
    prepared = drawn(kernel)
    model = GaussianProcess()
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    model.calibrate([prepared.validation])
    return kernel, prepared, model


def test_the_kernel_that_drew_the_curves_is_found_again(known):
    (_, amplitude, length, noise), prepared, model = known
    variance = float(prepared.scaler.std[0]) ** 2
    _, own_amplitude, own_length, own_noise = model.log_kernel[0].double().exp().tolist()
    # A horizon of 2 is the unit of time; amplitude and length only show together, by how fast the curve leaves its past.
    assert own_amplitude / own_length * 2.0 * variance == pytest.approx(2 * amplitude / length * 2.0, rel=0.6)
    assert own_noise * variance == pytest.approx(noise, rel=0.5)


def test_its_own_deviation_is_right_where_the_kernel_is(known):
    _, prepared, model = known
    batch = prepared.validation
    forecast = model.own(batch)
    seen = batch.target_observed
    ratio = ((batch.target_value - forecast.mean) / forecast.stddev)[seen]
    assert 0.7 < float(ratio.square().mean()) < 1.4


def test_doubt_grows_with_lead_time(known):
    _, prepared, model = known
    from latentode.data.windows import forecast_windows

    windows = forecast_windows(prepared.table)
    row = np.repeat(np.arange(len(windows)), 4)
    at = windows.origin[row] + np.tile([0.01, 0.3, 1.0, 2.0], len(windows))
    std = model.own(prepared.reader.read_queries(windows, row, at)[0]).stddev
    assert (std.diff(dim=1) > 0).all()


def test_only_the_latest_points_are_conditioned_on(known):
    _, prepared, full = known
    few = GaussianProcess(max_points=1)
    few.setup(prepared.table.schema)
    few.load_state_dict(full.state_dict())
    level, amplitude, length, noise = full.log_kernel[0].double().exp()
    batch = prepared.batch
    last = batch.token_observed.sum(1) - 1
    age = -batch.token_time.gather(1, last[:, None])
    value = batch.token_value.gather(1, last[:, None]).double()
    lead = batch.query_time.gather(1, batch.target_row)
    kept = level + amplitude * torch.exp(-(age + lead).double() / length)
    expected = kept / (level + amplitude + noise) * value
    seen = batch.target_observed
    assert torch.allclose(few.own(batch).mean[seen].double(), expected[seen], atol=1e-6)


def test_a_smoothness_without_a_closed_form_is_refused():
    with pytest.raises(InputError, match=r"smoothness is 2\.5; choose 0\.5"):
        GaussianProcess(smoothness=2.5)
