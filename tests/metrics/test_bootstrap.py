"""Intervals over series: against closed forms, numpy and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from latentode.errors import InputError
from latentode.metrics import bootstrap as module
from latentode.metrics import bootstrap_interval, paired_bootstrap

DOUBLE = torch.float64


def sums_and_counts(n_series=200, n_channels=3, seed=0):
    rng = np.random.default_rng(seed)
    count = rng.integers(0, 5, (n_series, n_channels))
    effect = rng.gamma(2.0, size=(n_series, 1))
    return torch.from_numpy(effect * count * np.array([1.0, 2.0, 4.0])), torch.from_numpy(count).to(DOUBLE)


def test_estimates_are_the_macro_and_the_pooled_average():
    sums, count = sums_and_counts()
    found = bootstrap_interval(sums, count, n_draws=10)
    assert found["macro"].estimate == pytest.approx(float((sums.sum(0) / count.sum(0)).mean()))
    assert found["pooled"].estimate == pytest.approx(float(sums.sum() / count.sum()))


def test_the_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(1).gamma(2.0, size=300)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    sums = torch.from_numpy(values)[:, None]
    found = bootstrap_interval(sums, torch.ones_like(sums), n_draws=20_000)
    for name in ("macro", "pooled"):
        assert (found[name].low, found[name].high) == pytest.approx(tuple(expected), abs=0.006)


def test_values_of_a_series_stand_and_fall_together():
    # Ten equal values per series tell no more than one: the interval must not shrink.
    sums = torch.from_numpy(np.random.default_rng(1).gamma(2.0, size=(100, 1)))
    one = bootstrap_interval(sums, torch.ones_like(sums))["pooled"]
    ten = bootstrap_interval(10 * sums, 10 * torch.ones_like(sums))["pooled"]
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))


@pytest.mark.statistical
def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    holds = []
    for i in range(300):
        values = torch.from_numpy(rng.gamma(2.0, size=(80, 2)))
        found = bootstrap_interval(values, torch.ones_like(values), n_draws=400, level=0.9, seed=i)["macro"]
        holds.append(found.low <= 2.0 <= found.high)
    # 3.5 standard errors and the percentile interval's own bias at 80 series.
    assert np.mean(holds) == pytest.approx(0.9, abs=0.07)


def test_draws_are_seeded_and_parts_of_them_do_not_matter(monkeypatch):
    sums, count = sums_and_counts()
    one = bootstrap_interval(sums, count)
    assert bootstrap_interval(sums, count) == one
    assert bootstrap_interval(sums, count, seed=1) != one
    monkeypatch.setattr(module, "MAX_WEIGHTS", 1000)
    assert bootstrap_interval(sums, count)["macro"].low == pytest.approx(one["macro"].low)


def test_series_and_channels_without_values_change_nothing():
    sums, count = sums_and_counts()
    # Series that have no value are not among those drawn from.
    padded = [torch.cat([x, torch.zeros(50, 3, dtype=DOUBLE)]) for x in (sums, count)]
    assert bootstrap_interval(*padded) == bootstrap_interval(sums, count)
    wider = [torch.cat([x, torch.zeros(200, 1, dtype=DOUBLE)], 1) for x in (sums, count)]
    assert bootstrap_interval(*wider)["macro"].low == pytest.approx(bootstrap_interval(sums, count)["macro"].low)


def test_a_pair_is_drawn_together_so_that_what_they_share_cancels():
    sums, count = sums_and_counts()
    found = paired_bootstrap(1.1 * sums, sums, count)
    for name in ("macro", "pooled"):
        ratio = found[name].ratio
        assert (ratio.low, ratio.estimate, ratio.high) == pytest.approx((1.1, 1.1, 1.1))
        skill = found[name].skill
        assert (skill.low, skill.high) == pytest.approx((-0.1, -0.1))
        alone = bootstrap_interval(sums, count)[name]
        assert found[name].difference.low == pytest.approx(0.1 * alone.low)
    roots = paired_bootstrap(1.1 * sums, sums, count, is_root=True)["macro"]
    assert roots.ratio.high == pytest.approx(math.sqrt(1.1))


def test_skill_turns_the_ratio_round():
    sums, count = sums_and_counts()
    noise = torch.from_numpy(np.random.default_rng(3).uniform(0.5, 1.0, sums.shape))
    found = paired_bootstrap(noise * sums, sums, count)["macro"]
    assert found.skill.low == 1 - found.ratio.high < found.skill.estimate < found.skill.high == 1 - found.ratio.low


def test_a_single_series_has_no_interval():
    sums, count = sums_and_counts(n_series=1, seed=5)
    found = bootstrap_interval(sums, count.clamp(min=1))["macro"]
    assert math.isfinite(found.estimate)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"n_draws": 0}, "at least once"), ({"level": 1.0}, "between 0 and 1"), ({"level": 95}, "0 and 1")],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        bootstrap_interval(*sums_and_counts(), **options)


def test_shapes_that_differ_and_no_value_at_all_are_refused():
    sums, count = sums_and_counts()
    with pytest.raises(InputError, match="one shape"):
        bootstrap_interval(sums[:5], count)
    with pytest.raises(InputError, match="no value"):
        bootstrap_interval(sums, torch.zeros_like(count))
