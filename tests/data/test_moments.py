"""Moments of parts add up to those of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentode.data.moments import ChannelMoments


def values_of(n_rows, n_channels=3, seed=0, size=1.0):
    rng = np.random.default_rng(seed)
    values = size * (rng.normal(size=(n_rows, n_channels)) + np.arange(n_channels))
    values[rng.random(values.shape) < 0.3] = np.nan
    return values


@given(cuts=st.lists(st.integers(0, 60), max_size=4), seed=st.integers(0, 99), power=st.sampled_from([-200, 0, 300]))
@settings(max_examples=50, deadline=None)
def test_moments_of_parts_add_up(cuts, seed, power):
    values = values_of(60, seed=seed, size=10.0**power)
    parts = np.split(values, sorted(cuts))
    total = ChannelMoments.zero(3)
    for part in parts:
        total += ChannelMoments.of(part)
    whole = ChannelMoments.of(values)
    assert total.n_values.tolist() == whole.n_values.tolist() == (~np.isnan(values)).sum(0).tolist()
    np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(total.std, whole.std, rtol=1e-12)
    scaled = values / 10.0**power
    np.testing.assert_allclose(whole.mean / 10.0**power, np.nanmean(scaled, 0), rtol=1e-12)
    np.testing.assert_allclose(whole.std / 10.0**power, np.nanstd(scaled, 0), rtol=1e-12)


@pytest.mark.parametrize("empty", [np.full((5, 3), np.nan), np.empty((0, 3))])
def test_a_part_without_values_changes_no_bit(empty):
    one, none = ChannelMoments.of(values_of(20)), ChannelMoments.of(empty)
    for total in (one + none, none + one, ChannelMoments.zero(3) + one):
        assert total.mean.tolist() == one.mean.tolist()
        assert total.std.tolist() == one.std.tolist()


def test_a_constant_channel_has_no_deviation_in_parts_either():
    total = ChannelMoments.of(np.full((7, 1), 0.1)) + ChannelMoments.of(np.full((11, 1), 0.1))
    assert total.std[0] <= 1e-15
