"""Trajectories: single distributions stay what they are, neighbours hang together as the kernel says, paths vary as the process does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from latentode.data.batch import Batch
from latentode.models.copula import Copula, _nearest_correlation

DOUBLE = torch.float64


def batch_of(time_BQ, n_channels):
    n_batch, n_queries = time_BQ.shape
    row = torch.arange(n_queries).repeat_interleave(n_channels).expand(n_batch, -1)
    channel = torch.arange(n_channels).repeat(n_queries).expand(n_batch, -1)
    no_token = torch.zeros(n_batch, 1)
    return Batch(
        token_time=no_token,
        token_value=no_token,
        token_channel=no_token.long(),
        token_observed=no_token.bool(),
        query_time=time_BQ.float(),
        query_observed=torch.ones_like(time_BQ, dtype=torch.bool),
        target_row=row,
        target_channel=channel,
        target_value=torch.zeros(row.shape),
        target_observed=torch.ones(row.shape, dtype=torch.bool),
        origin=torch.zeros(n_batch, dtype=DOUBLE),
        series=torch.arange(n_batch),
        n_channels=n_channels,
    )


def ou_scores(rng, n_windows, n_times, theta, *, mixing=None, noise=0.0):
    """Errors of forecasts from the origin of an Ornstein-Uhlenbeck process, in their own deviations: `(W, Q, C)` at times `(W, Q)`."""
    mixing = np.eye(1) if mixing is None else mixing
    time = np.sort(rng.uniform(0.01, 1.0, (n_windows, n_times)), 1)
    x, before, path = np.zeros((n_windows, len(mixing))), np.zeros((n_windows, 1)), []
    for t in time.T[..., None]:
        keep = np.exp(-theta * (t - before))
        x = keep * x + np.sqrt(1 - keep**2) * rng.normal(size=x.shape) @ mixing.T
        path.append(np.sqrt(1 - noise) * x / np.sqrt(1 - np.exp(-2 * theta * t)))
        before = t
    z = np.stack(path, 1)
    return time, z + np.sqrt(noise) * rng.normal(size=z.shape)


def fitted(time, z):
    copula = Copula(z.shape[-1])
    window, _, channel = np.meshgrid(*(np.arange(n) for n in z.shape), indexing="ij")
    columns = z, channel, np.broadcast_to(time[..., None], z.shape), window
    copula.fit(*(torch.from_numpy(x.flatten()) for x in columns))
    return copula


def test_every_value_for_itself_is_standard_normal():
    rng = np.random.default_rng(0)
    copula = fitted(*ou_scores(rng, 300, 8, 3.0, mixing=np.array([[1.0, 0.0], [0.8, 0.6]]), noise=0.2))
    torch.manual_seed(0)
    draws = copula.draw(batch_of(torch.tensor([[0.1, 0.2, 0.9]]), 2), 4000)[:, 0]
    for i in range(draws.shape[1]):
        assert kstest(draws[:, i].numpy(), "norm").pvalue > 1e-3


def test_draws_of_neighbours_have_the_correlation_of_the_kernel():
    copula = Copula(2)
    copula.kernel.copy_(torch.tensor([0.2, 0.5, 1.5], dtype=DOUBLE))
    copula.correlation.copy_(torch.tensor([[1.0, -0.7], [-0.7, 1.0]], dtype=DOUBLE))
    time = torch.tensor([[0.1, 0.15, 0.6]])
    torch.manual_seed(0)
    draws = copula.draw(batch_of(time, 2), 60_000)[:, 0]
    t = time[0].double().repeat_interleave(2)
    clock = 0.5 * (t + 1e-3).log() + 1.5 * t
    channel = torch.arange(2).repeat(3)
    signal = copula.correlation[channel][:, channel] * torch.exp(-(clock[:, None] - clock).abs())
    expected = 0.8 * signal + 0.2 * torch.eye(6, dtype=DOUBLE)
    assert torch.allclose(torch.corrcoef(draws.T), expected, atol=0.015)


@pytest.mark.parametrize("theta", [0.01, 1.0, 10.0])
def test_the_mean_over_a_path_varies_as_that_of_the_process_does(theta):
    rng = np.random.default_rng(0)
    time, z = ou_scores(rng, 2000, 10, theta)
    copula = fitted(time[:1000], z[:1000])
    std = np.sqrt(1 - np.exp(-2 * theta * time[1000:]))
    true = (std * z[1000:, :, 0]).mean(1).var()
    torch.manual_seed(0)
    draws = copula.draw(batch_of(torch.from_numpy(time[1000:]), 1), 100).numpy()
    drawn, apart = ((std * x).mean(-1).var() for x in (draws, rng.normal(size=draws.shape)))
    assert drawn == pytest.approx(true, rel=0.08)
    assert apart < 0.6 * true


def test_channels_and_noise_are_found_again():
    rng = np.random.default_rng(1)
    mixing = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, -0.6, 0.8]])
    copula = fitted(*ou_scores(rng, 1500, 8, 2.0, mixing=mixing, noise=0.3))
    assert float(copula.kernel[0]) == pytest.approx(0.3, abs=0.07)
    assert torch.allclose(copula.correlation, torch.from_numpy(mixing @ mixing.T), atol=0.1)


def test_values_that_have_nothing_to_do_with_each_other_stay_apart():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(400, 6, 2))
    copula = fitted(np.sort(rng.uniform(0.01, 1, (400, 6)), 1), z)
    torch.manual_seed(0)
    draws = copula.draw(batch_of(torch.tensor([[0.3, 0.31, 0.32]]), 2), 4000)[:, 0]
    assert (torch.corrcoef(draws.T) - torch.eye(6, dtype=DOUBLE)).abs().max() < 0.12


def test_of_too_few_scores_nothing_is_learned():
    rng = np.random.default_rng(0)
    assert not fitted(*ou_scores(rng, 10, 5, 1.0)).is_fitted


def test_neither_padding_nor_other_windows_change_a_trajectory():
    copula = Copula(1)
    copula.kernel.copy_(torch.tensor([0.0, 0.0, 2.0], dtype=DOUBLE))
    batch = batch_of(torch.tensor([[0.2, 0.5, 0.5], [0.1, 0.2, 0.4]]), 1)
    torch.manual_seed(0)
    draws = copula.draw(batch, 20_000)
    # The same time twice is one time.
    assert torch.allclose(draws[:, 0, 1], draws[:, 0, 2])
    assert torch.corrcoef(torch.stack([draws[:, 0, 0], draws[:, 1, 0]])).fill_diagonal_(0).abs().max() < 0.03


def test_a_correlation_that_cannot_be_is_brought_to_one_that_can():
    matrix = torch.tensor([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]], dtype=DOUBLE)
    found = _nearest_correlation(matrix)
    assert torch.linalg.eigvalsh(found).min() > 0
    assert torch.allclose(found.diagonal(), torch.ones(3, dtype=DOUBLE))


def test_a_run_of_before_loads_without():
    copula = Copula(2)
    copula.load_state_dict({})
    assert not copula.is_fitted
