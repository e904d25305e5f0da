"""How far a baseline may leave the blend, and how wide its errors are: closed forms against search and simulation."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentode.models.baselines.linear import Moments
from latentode.models.baselines.shrunk import LEAD_EDGES, PSEUDO_COUNT, choose_share, choose_width, lead_bin, lead_time

BLEND = torch.tensor([[0.6, 0.3]], dtype=torch.float64)


def moments(n=400, *, gain=0.5, seed=0, n_channels=1):
    """Features last, mean and an own forecast that lies `gain` of the way from the blend to the truth, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_channels, n, 2))
    blend = x @ BLEND[0].numpy()
    y = blend + rng.normal(size=blend.shape)
    own = blend + gain * (y - blend) + 0.5 * rng.normal(size=blend.shape)
    z = np.concatenate([x, own[..., None]], -1)
    to = torch.from_numpy
    count = torch.full((n_channels,), float(n), dtype=torch.float64)
    return Moments(
        to(np.einsum("cni,cnj->cij", z, z)), to(np.einsum("cni,cn->ci", z, y)), to((y * y).sum(1)), count
    ), BLEND.expand(n_channels, -1)


def error_of_share(m, blend, share):
    share = torch.as_tensor(share, dtype=torch.float64)
    return m.squared_error(torch.cat([blend * (1 - share), share.expand(len(blend), 1)], -1))


def test_the_share_of_one_channel_is_the_best_of_all():
    m, blend = moments()
    share = float(choose_share(m, blend))
    errors = [float(error_of_share(m, blend, s)) for s in np.linspace(0, 1, 1001)]
    assert abs(share - np.argmin(errors) / 1000) < 1e-3
    assert 0.2 < share < 0.99


def test_a_forecast_that_points_the_wrong_way_gets_no_share():
    m, blend = moments(gain=-0.5)
    assert choose_share(m, blend).tolist() == [0.0]


@given(seed=st.integers(0, 10_000), n=st.integers(1, 30), gain=st.floats(-1, 1))
@settings(max_examples=40, deadline=None)
def test_no_channel_is_worse_than_the_blend_however_few_its_values(seed, n, gain):
    m, blend = moments(n, gain=gain, seed=seed, n_channels=5)
    share = choose_share(m, blend)
    assert ((share >= 0) & (share <= 1)).all()
    for c in range(5):
        assert error_of_share(m, blend, share[c])[c] <= error_of_share(m, blend, 0.0)[c] * (1 + 1e-9) + 1e-12


def test_a_channel_without_a_value_takes_the_share_of_all():
    m, blend = moments(n_channels=2)
    silent = torch.tensor([1.0, 0.0], dtype=torch.float64)
    m = Moments(m.xx * silent[:, None, None], m.xy * silent[:, None], m.yy * silent, m.count * silent)
    share = choose_share(m, blend)
    assert torch.allclose(share[1], share[0])


def test_widths_are_the_deviations_of_the_errors():
    rng = np.random.default_rng(0)
    n, n_bins = 600_000, len(LEAD_EDGES) + 1
    channel, lead = torch.from_numpy(rng.integers(0, 2, n)), torch.from_numpy(rng.integers(0, n_bins, n))
    true = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [2.0, 2.0, 2.0, 2.0, 2.0, 9.0]], dtype=torch.float64)
    ratio = true[channel, lead] * torch.from_numpy(rng.normal(size=n))
    assert torch.allclose(choose_width(ratio, channel, lead, 2), true, rtol=0.03)


def test_a_width_of_few_errors_leans_on_its_channel_and_that_on_all():
    one, many = torch.zeros(1, dtype=torch.int64), torch.zeros(1000, dtype=torch.int64)
    ratio = torch.cat([torch.ones(1000), torch.tensor([100.0])]).double()
    width = choose_width(ratio, torch.cat([many, one + 1]), torch.cat([many, one + 3]), 3)
    overall = float(ratio.square().mean())
    assert torch.allclose(width[2], torch.full((6,), overall**0.5, dtype=torch.float64))
    channel = (100.0**2 + PSEUDO_COUNT * overall) / (1 + PSEUDO_COUNT)
    assert torch.allclose(width[1, 0].square(), torch.tensor(channel, dtype=torch.float64))
    own = (100.0**2 + PSEUDO_COUNT * channel) / (1 + PSEUDO_COUNT)
    assert torch.allclose(width[1, 3].square(), torch.tensor(own, dtype=torch.float64))


def test_bins_of_lead_time_count_the_edges_below(prepared):
    batch = prepared.batch
    edges = np.asarray(LEAD_EDGES, dtype=np.float32)
    assert np.array_equal(lead_bin(batch), np.searchsorted(edges, lead_time(batch).numpy()))
