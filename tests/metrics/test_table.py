"""The table of metrics: laws that hold for each of its entries."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from latentode.errors import InputError
from latentode.metrics import METRICS, check_metrics
from tests.metrics.draws import DOUBLE, normal_mixture, part_of, student_t

VALUE = torch.randn(40, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
NORMAL = Normal(VALUE.flip(0), VALUE.abs() + 0.5)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("forecast", [NORMAL, normal_mixture(), student_t()], ids=["normal", "mixture", "student t"])
def test_a_score_is_a_finite_number_per_value(name, forecast):
    score = METRICS[name].score(forecast, VALUE)
    assert score.shape == VALUE.shape
    assert score.dtype == VALUE.dtype
    assert bool(score.isfinite().all())


@pytest.mark.parametrize("name", METRICS)
def test_a_score_carries_the_unit_that_the_table_says(name):
    metric, unit = METRICS[name], 7.0
    scaled = metric.score(NORMAL, VALUE)
    in_units = metric.score(Normal(NORMAL.loc * unit + 3, NORMAL.scale * unit), VALUE * unit + 3)
    power = 1 if metric.per_naive_error else metric.unit_power
    shift = torch.tensor(unit).log() if metric.shifts_with_unit else 0.0
    assert torch.allclose(in_units, scaled * unit**power + shift)


@pytest.mark.parametrize("name", METRICS)
def test_a_score_is_of_each_value_alone(name):
    whole = METRICS[name].score(NORMAL, VALUE)
    assert torch.equal(METRICS[name].score(part_of(NORMAL, slice(3, 9)), VALUE[3:9]), whole[3:9])


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.is_error])
def test_the_truth_scores_best(name):
    value = torch.randn(20_000, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    zero, one = torch.zeros_like(value), torch.ones_like(value)
    truth = METRICS[name].score(Normal(zero, one), value).mean()
    for other in (Normal(zero + 0.3, one), Normal(zero - 0.3, one)):
        assert truth < METRICS[name].score(other, value).mean()


def test_names_and_groups_are_read():
    assert check_metrics(None) == tuple(METRICS)
    assert check_metrics(["mse", "coverage", "coverage_80"]) == ("mse", "coverage_50", "coverage_80", "coverage_95")
    assert check_metrics(["pinball", "width"]) == ("pinball_10", "pinball_50", "pinball_90", "width_80", "width_95")


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'crps'"):
        check_metrics(["cprs"])
