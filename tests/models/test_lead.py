"""Bins of lead time."""

from __future__ import annotations

import numpy as np

from latentode.models.lead import LEAD_EDGES, lead_bin


def test_bins_of_lead_time_count_the_edges_below(prepared):
    batch = prepared.batch
    edges = np.asarray(LEAD_EDGES, dtype=np.float32)
    assert np.array_equal(lead_bin(batch), np.searchsorted(edges, batch.lead_time().numpy()))
