"""Calibration as counts: uniform for the truth, adding up, and the same coverage as the intervals'."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from latentode.errors import InputError
from latentode.metrics import PitCounts, coverage
from tests.metrics.draws import DOUBLE, draw, part_of


def test_parts_add_up_to_the_whole():
    forecast, value, channel, observed, _ = draw()
    whole, one, other = (PitCounts.zero(3) for _ in range(3))
    whole.add(forecast, value, channel, observed)
    for counts, part in ((one, slice(0, 11)), (other, slice(11, 60))):
        counts.add(part_of(forecast, part), value[part], channel[part], observed[part])
    assert torch.equal((one + other).count, whole.count)
    assert int(whole.count.sum()) == int(observed.sum())


def test_the_truth_is_uniform_and_a_narrow_forecast_is_not():
    value = torch.randn(100_000, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    zero, everything = torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool)
    truth, narrow = PitCounts.zero(1), PitCounts.zero(1)
    truth.add(Normal(zero, zero + 1), value, zero.long(), everything)
    narrow.add(Normal(zero, zero + 0.5), value, zero.long(), everything)
    assert torch.allclose(truth.histogram(), torch.ones(1, 20, dtype=DOUBLE), atol=0.06)
    nominal, actual = truth.reliability()
    assert torch.allclose(actual[0], nominal, atol=0.01)
    assert bool((narrow.reliability()[1][0, :-1] < nominal[:-1] - 0.02).all())
    assert float(narrow.histogram()[0, 0]) > 2


def test_the_coverage_is_that_of_the_interval_scores():
    forecast, value, channel, observed, _ = draw(n=500, dtype=DOUBLE)
    counts = PitCounts.zero(3)
    counts.add(forecast, value, channel, observed)
    nominal, actual = counts.reliability()
    assert nominal.tolist() == pytest.approx([i / 10 for i in range(1, 11)])
    inside = coverage(forecast, value, 0.8)
    for c in range(3):
        assert float(actual[c, 7]) == pytest.approx(float(inside[observed & (channel == c)].mean()))


def test_what_is_not_observed_counts_for_nothing_whatever_it_holds():
    forecast, value, channel, observed, _ = draw()
    one, other = PitCounts.zero(3), PitCounts.zero(3)
    one.add(forecast, value, channel, observed)
    other.add(forecast, value.masked_fill(~observed, torch.nan), channel, observed)
    assert torch.equal(one.count, other.count)


def test_the_ends_belong_to_the_outer_bins_and_what_is_no_number_to_none():
    value = torch.tensor([[-1e9, 1e9, 0.0]], dtype=DOUBLE)
    mean = torch.tensor([[0.0, 0.0, torch.nan]], dtype=DOUBLE)
    counts = PitCounts.zero(1, 4)
    counts.add(Normal(mean, 1.0, validate_args=False), value, torch.zeros(1, 3, dtype=torch.int64), value == value)
    assert counts.count[0].tolist() == [1, 0, 0, 1]


def test_the_summary_pools_the_channels():
    forecast, value, channel, observed, _ = draw()
    counts = PitCounts.zero(3)
    counts.add(forecast, value, channel, observed)
    summary = counts.summary()
    assert sum(summary["pit_counts"]) == int(observed.sum())
    assert summary["actual"][-1] == 1.0
    assert len(summary["nominal"]) == len(summary["actual"]) == 10
    assert math.isnan(PitCounts.zero(2).summary()["actual"][0])


def test_an_odd_number_of_bins_is_refused():
    with pytest.raises(InputError, match="even number"):
        PitCounts.zero(3, 7)
    with pytest.raises(InputError, match="the same"):
        _ = PitCounts.zero(3, 10) + PitCounts.zero(3, 20)
