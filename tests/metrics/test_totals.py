"""Sums and counts: parts add up to the whole, and averages are what their names say."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from latentode.errors import InputError
from latentode.metrics import METRICS, Totals, horizon_edges
from tests.metrics.draws import DOUBLE, draw, part_of

STD = torch.tensor([1.0, 10.0, 0.1, 5.0], dtype=DOUBLE)
NAIVE = torch.tensor([0.5, 2.0, 0.0, 1.0], dtype=DOUBLE)
SERIES = torch.arange(60) % 7


def empty(names=tuple(METRICS), n_channels=4, **settings):
    return Totals.zero(n_channels, names, **{"edges": horizon_edges(), "naive_error": NAIVE, **settings})


def filled(totals, drawn, part=slice(None), series=SERIES):
    forecast, value, channel, observed, lead = drawn
    totals.add(
        part_of(forecast, part), value[part], channel[part], observed[part], lead=lead[part], series=series[part]
    )
    return totals


def of_all(drawn, **settings):
    return filled(empty(**settings), drawn)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=4), st.integers(0, 100))
def test_parts_add_up_to_the_whole_however_they_are_cut(cuts, seed):
    drawn = draw(seed=seed)
    whole = of_all(drawn, n_series=7)
    ends = [0, *sorted(cuts), 60]
    parts = empty(n_series=7)
    for first, last in pairwise(ends):
        parts = parts + filled(empty(n_series=7), drawn, slice(first, last))
    assert torch.equal(whole.count, parts.count)
    assert torch.equal(whole.series_count, parts.series_count)
    for name in METRICS:
        assert torch.allclose(whole.sums[name], parts.sums[name], rtol=1e-12, atol=1e-12)
        assert torch.allclose(whole.series_sums[name], parts.series_sums[name], rtol=1e-12, atol=1e-12)


def test_the_same_sums_stand_per_bin_and_per_series():
    totals = of_all(draw(), n_series=7)
    assert torch.equal(totals.count.sum(1), totals.series_count.sum(0))
    for name in METRICS:
        assert torch.allclose(totals.sums[name].sum(1), totals.series_sums[name].sum(0), rtol=1e-12)


def test_macro_averages_channels_and_pooled_averages_values():
    forecast, value, channel, seen, _ = drawn = draw()
    totals = of_all(drawn)
    error = (forecast.mean - value).square()
    per_channel = [error[seen & (channel == c)].mean().item() for c in range(3)]
    assert totals.macro("mse") == pytest.approx(sum(per_channel) / 3, rel=1e-6)
    assert totals.pooled("mse") == pytest.approx(error[seen].mean().item(), rel=1e-6)
    weighted = (error * STD[channel].square())[seen].mean().item()
    assert totals.pooled("mse", STD) == pytest.approx(weighted, rel=1e-6)
    assert math.isnan(float(totals.per_channel("mse")[3]))


def test_a_root_is_taken_last():
    totals = of_all(draw())
    for std in (None, STD):
        assert totals.macro("rmse", std) == pytest.approx(math.sqrt(totals.macro("mse", std)))
        assert totals.pooled("rmse", std) == pytest.approx(math.sqrt(totals.pooled("mse", std)))
        per_channel = totals.per_channel("rmse", std)[:3]
        assert torch.allclose(per_channel, totals.per_channel("mse", std)[:3].sqrt())


@pytest.mark.parametrize("name", [name for name in METRICS if name != "mase"])
def test_a_figure_in_the_users_units_is_that_of_unscaled_values(name):
    forecast, value, channel, seen, _ = drawn = draw(dtype=DOUBLE)
    totals = of_all(drawn)
    std = STD[channel]
    unscaled = METRICS[name].score(Normal(forecast.mean * std, forecast.stddev * std), value * std)
    figure = unscaled[seen & (channel == 1)].mean()
    if METRICS[name].is_root:
        figure = figure.sqrt()
    assert float(totals.per_channel(name, STD)[1]) == pytest.approx(float(figure), rel=1e-9)


def test_mase_is_the_error_in_units_of_the_naive_error_and_leaves_out_a_channel_that_never_changed():
    totals = of_all(draw())
    error = totals.per_channel("mae")
    assert float(totals.per_channel("mase")[0]) == pytest.approx(float(error[0]) / 0.5)
    assert math.isnan(float(totals.per_channel("mase")[2]))
    assert totals.macro("mase") == pytest.approx((float(error[0]) / 0.5 + float(error[1]) / 2) / 2)
    assert totals.macro("mase", STD) == totals.macro("mase")
    sums, count = totals.sums["mae"].sum(1), totals.count.sum(1)
    pooled = (sums[0] / 0.5 + sums[1] / 2) / (count[0] + count[1])
    assert totals.pooled("mase") == pytest.approx(float(pooled))


def test_without_a_naive_error_there_is_no_mase():
    totals = Totals.zero(4)
    assert set(METRICS) - set(totals.sums) == {"mase"}


def test_a_bin_holds_the_targets_of_its_lead_time():
    forecast, value, _, seen, lead = drawn = draw()
    totals = of_all(drawn)
    inside = seen & (lead > 0.25) & (lead <= 0.5)
    error = (forecast.mean - value).square()
    assert float(totals.at_bin(1).count.sum()) == int(inside.sum())
    assert totals.at_bin(1).pooled("mse") == pytest.approx(error[inside].mean().item(), rel=1e-6)
    assert totals.at_bin(1).edges == (0.25, 0.5)


def test_ends_belong_to_the_bin_below_and_what_lies_outside_to_the_nearest_bin():
    edges = tuple(i / 10 for i in range(11))
    # 0.1 and 0.7 as float32 lie above the float64 numbers of that name.
    lead = torch.tensor([[-1.0, 0.0, 0.1, 0.7, 1.0, 5.0]])
    zeros = torch.zeros_like(lead)
    totals = Totals.zero(1, ["mse"], edges=edges)
    totals.add(Normal(zeros, zeros + 1), zeros, zeros.long(), zeros == 0, lead=lead)
    assert totals.count[0].tolist() == [3, 0, 0, 0, 0, 0, 1, 0, 0, 2]


def test_what_is_not_observed_counts_for_nothing_whatever_it_holds():
    forecast, value, channel, seen, lead = drawn = draw()
    holed = forecast, value.masked_fill(~seen, torch.nan), channel, seen, lead
    one, other = of_all(drawn), of_all(holed)
    for name in METRICS:
        assert torch.equal(one.sums[name], other.sums[name])


def test_a_forecast_that_is_not_a_number_shows():
    _, value, channel, seen, lead = draw()
    forecast = Normal(torch.full_like(value, torch.nan), torch.ones_like(value), validate_args=False)
    totals = of_all((forecast, value, channel, seen, lead))
    assert math.isnan(totals.macro("mse"))
    assert math.isnan(totals.pooled("crps"))


def test_totals_of_nothing_have_no_average():
    figures = empty().summary(["a", "b", "c", "d"], STD)
    assert math.isnan(figures["mse"])
    assert figures["n_values"] == 0
    assert figures["channels"] == {}


def test_the_summary_names_both_averages_per_bin_and_per_channel():
    totals = of_all(draw())
    summary = totals.summary(["a", "b", "c", "never"], STD)
    for name in METRICS:
        assert summary[name] == summary[f"{name}_macro"] == totals.macro(name)
        assert summary[f"{name}_pooled"] == totals.pooled(name)
        assert summary["pooled"][name] == totals.pooled(name, STD)
    assert summary["channels"]["b"]["mse"] == pytest.approx(float(totals.per_channel("mse")[1]) * 100)
    assert set(summary["channels"]) == {"a", "b", "c"}
    assert sum(part["n_values"] for part in summary["bins"]) == summary["n_values"]
    assert [part["until"] for part in summary["bins"]] == [0.25, 0.5, 0.75, 1.0]
    part = summary["bins"][2]
    assert part["channels"]["c"]["mae"] == pytest.approx(float(totals.at_bin(2).per_channel("mae", STD)[2]))
    assert set(part["channels"]["c"]) == {name for name in METRICS if METRICS[name].is_headline} | {"n_values"}
    assert set(summary["channels"]["c"]) == {*METRICS, "n_values"}
    whole = np.average([p["mse_pooled"] for p in summary["bins"]], weights=[p["n_values"] for p in summary["bins"]])
    assert whole == pytest.approx(summary["mse_pooled"])


def test_the_record_of_a_benchmark_is_in_the_protocols_units():
    totals = of_all(draw())
    unit = torch.tensor([2.0, 4.0, 8.0, 1.0], dtype=DOUBLE)
    record = totals.record(STD / unit)
    assert set(record) == {"mse_macro", "mse_common", "mse_pooled", "mae_mean", "mae_median", "crps", "nll"}
    per_channel = totals.per_channel("mae", STD)[:3] / unit[:3]
    assert record["mae_median"] == pytest.approx(float(per_channel.mean()))
    assert record["mse_pooled"] == pytest.approx(totals.pooled("mse", STD / unit))


@pytest.mark.parametrize("counts", [(499, 500, 501), (10, 20, 30), (600, 700, 800)])
def test_the_common_error_is_over_channels_with_five_hundred_values(counts):
    """By hand: channel c is off by c + 1 in training deviations."""
    channel = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))[None]
    error = channel.double() + 1
    forecast = Normal(error, torch.ones_like(error))
    totals = Totals.zero(3, ("mse",))
    totals.add(forecast, torch.zeros_like(error), channel, torch.ones_like(channel, dtype=torch.bool))
    squares = [(c + 1) ** 2 for c, n in enumerate(counts) if n >= 500]
    expected = sum(squares) / len(squares) if squares else math.nan
    assert totals.record()["mse_common"] == pytest.approx(expected, nan_ok=True)


def test_what_does_not_fit_is_refused():
    forecast, value, channel, seen, lead = draw()
    with pytest.raises(InputError, match="ascend"):
        Totals.zero(3, edges=(0.0, 0.5, 0.5))
    with pytest.raises(InputError, match="give lead"):
        empty().add(forecast, value, channel, seen)
    with pytest.raises(InputError, match="give series"):
        empty(n_series=3).add(forecast, value, channel, seen, lead=lead)
    for other in (empty(names=["mse"]), empty(n_series=2), Totals.zero(4), empty(naive_error=2 * NAIVE)):
        with pytest.raises(InputError, match="add up only where"):
            _ = empty() + other
    with pytest.raises(InputError, match="give n_series and"):
        of_all(draw()).interval("mse")


def test_sums_per_series_are_kept_of_the_metrics_that_were_named():
    totals = of_all(draw(), n_series=7, series_names=["mse"])
    assert set(totals.series_sums) == {"mse"}
    assert totals.interval("mse") == of_all(draw(), n_series=7).interval("mse")


def test_intervals_and_comparisons_are_of_the_averages():
    one = of_all(draw(), n_series=7)
    forecast, value, *rest = draw()
    other = filled(empty(n_series=7), (Normal(forecast.loc * 0.5, forecast.scale), value, *rest))
    for name in ("mse", "rmse", "mase", "nll"):
        found = one.interval(name, STD, n_draws=200)
        assert found["macro"].estimate == pytest.approx(one.macro(name, STD))
        assert found["pooled"].estimate == pytest.approx(one.pooled(name, STD))
        assert found["macro"].low < found["macro"].estimate < found["macro"].high
        compared = one.compare(other, name, STD, n_draws=200)["macro"]
        assert compared.ratio.estimate == pytest.approx(one.macro(name, STD) / other.macro(name, STD))
        assert compared.difference.estimate == pytest.approx(one.macro(name, STD) - other.macro(name, STD))
    elsewhere = filled(empty(n_series=7), draw(seed=1))
    with pytest.raises(InputError, match="the same windows"):
        one.compare(elsewhere, "mse")
