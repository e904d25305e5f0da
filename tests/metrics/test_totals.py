"""Sums and counts: parts add up to the whole, and averages are what their names say."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from latentode.errors import InputError
from latentode.metrics import METRICS, Totals, check_metrics


def draw(n=60):
    generator = torch.Generator().manual_seed(0)
    mean, value = torch.randn(n, 4, generator=generator), torch.randn(n, 4, generator=generator)
    std = 0.5 + torch.rand(n, 4, generator=generator)
    channel = torch.randint(0, 3, (n, 4), generator=generator)
    return Normal(mean, std), value, channel, torch.rand(n, 4, generator=generator) < 0.7


def slice_of(forecast, part):
    return Normal(forecast.loc[part], forecast.scale[part])


def test_parts_add_up_to_the_whole():
    forecast, value, channel, seen = draw()
    whole, parts = Totals.zero(3), Totals.zero(3)
    whole.add(forecast, value, channel, seen)
    for part in (slice(0, 7), slice(7, 60)):
        parts.add(slice_of(forecast, part), value[part], channel[part], seen[part])
    for name in METRICS:
        assert torch.allclose(whole.sums[name], parts.sums[name], atol=1e-5)
    assert torch.equal(whole.count, parts.count)


def test_macro_averages_channels_and_pooled_averages_values():
    forecast, value, channel, seen = draw()
    totals = Totals.zero(4)
    totals.add(forecast, value, channel, seen)
    error = (forecast.mean - value).square()
    per_channel = [error[seen & (channel == c)].mean().item() for c in range(3)]
    assert totals.macro("mse") == pytest.approx(sum(per_channel) / 3, rel=1e-5)
    std = torch.tensor([1.0, 10.0, 0.1, 5.0], dtype=torch.float64)
    weighted = (error * std[channel].square())[seen].mean().item()
    assert totals.pooled("mse", std) == pytest.approx(weighted, rel=1e-5)
    summary = totals.summary(["a", "b", "c", "never"], std)
    assert summary["channels"]["b"]["mse"] == pytest.approx(per_channel[1] * 100, rel=1e-5)
    assert set(summary["channels"]) == {"a", "b", "c"}
    assert summary["n_values"] == int(seen.sum())


def test_a_density_shifts_by_the_logarithm_of_the_unit():
    forecast, value, channel, seen = draw()
    totals = Totals.zero(3)
    totals.add(forecast, value, channel, seen)
    std = torch.full((3,), 7.0, dtype=torch.float64)
    in_units = -Normal(forecast.mean * 7, forecast.scale * 7).log_prob(value * 7)[seen].mean().item()
    assert totals.pooled("nll", std) == pytest.approx(in_units, rel=1e-5)


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    assert check_metrics(["mse", "coverage"]) == ("mse", "coverage_80", "coverage_95")
    with pytest.raises(InputError, match="did you mean 'crps'"):
        check_metrics(["cprs"])
