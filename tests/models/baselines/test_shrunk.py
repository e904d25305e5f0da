"""How far a baseline may leave the blend, and how wide its errors are: closed forms against search and simulation."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentode.models.baselines.linear import Moments
from latentode.models.baselines.shrunk import choose_share

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
