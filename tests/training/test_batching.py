"""Windows of like length share a batch."""

from __future__ import annotations

import numpy as np
import pytest

from latentode.training.batching import like_lengths


@pytest.mark.parametrize("n", [1, 15, 16, 17, 300])
def test_batches_of_like_length_hold_every_window_once(n):
    rng = np.random.default_rng(0)
    length = rng.integers(1, 100, n)
    batches = like_lengths(length, 16, rng)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert max(map(len, batches)) <= 16
    if n == 300:
        assert np.mean([np.ptp(length[b]) for b in batches]) < 20
