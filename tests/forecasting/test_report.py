"""The printed report: averages and units are named, and a model that loses is said to lose."""

from __future__ import annotations

import io
import math

import pytest
import torch
from rich.console import Console
from torch.distributions import Normal

from latentode.forecasting.report import print_details, print_scores, stated_coverage, verdict
from latentode.metrics import METRICS, Totals, horizon_edges, skill_summary

STD = torch.tensor([1.0, 10.0, 0.01], dtype=torch.float64)
EVERYTHING = tuple(METRICS)


def totals_of(shift, width=1.0, names=EVERYTHING, n=500):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(n, 4, generator=generator)
    channel, lead = torch.randint(0, 3, (n, 4), generator=generator), torch.rand(n, 4, generator=generator)
    totals = Totals.zero(3, names, edges=horizon_edges(), naive_error=torch.ones(3), n_series=n)
    forecast = Normal(torch.full_like(value, shift), torch.full_like(value, width), validate_args=False)
    totals.add(forecast, value, channel, torch.ones_like(value, dtype=torch.bool), lead=lead, series=torch.arange(n))
    return totals


def scores_of(own, *, n_draws=0, **baselines):
    summaries = {name: total.summary(["temp", "rain", "wind"], STD) for name, total in baselines.items()}
    scores = {**own.summary(["temp", "rain", "wind"], STD), "n_windows": 500, "baselines": summaries}
    errors = [name for name in own.sums if METRICS[name].is_error]
    return scores | (skill_summary(own, baselines, errors, n_draws=n_draws) if n_draws else {})


def printed(show, scores, width=100):
    file = io.StringIO()
    show(scores, console=Console(file=file, width=width, highlight=False))
    return file.getvalue()


def test_the_table_names_both_averages_and_the_units():
    scores = scores_of(totals_of(0.0), last_value=totals_of(0.5))
    text = printed(print_scores, scores)
    assert "macro: mean over channels" in text
    assert "pooled: mean over values" in text
    assert "MSE in squares of training standard deviations" in text
    assert "NLL in" in text
    for name in ("mse_macro", "mse_pooled", "crps_pooled"):
        assert f"{scores[name]:.4f}" in text
        assert f"{scores['baselines']['last_value'][name]:.4f}" in text
    assert f"{scores['coverage_80_macro']:.1%}" in text


def test_a_model_that_loses_is_said_to_lose_by_how_much():
    scores = scores_of(totals_of(0.3, names=("mse", "nll")), blend=totals_of(0.0, names=("mse", "nll")))
    row = scores["baselines"]["blend"]
    said = verdict(scores)
    assert said.startswith("loses to blend on ")
    assert f"mse (ratio {scores['mse'] / row['mse']:.2f})" in said
    assert f"pooled mse (ratio {scores['mse_pooled'] / row['mse_pooled']:.2f})" in said
    assert f"nll (by {scores['nll'] - row['nll']:.2f})" in said
    assert said in printed(print_scores, scores)


def test_each_baseline_that_is_better_is_named_and_no_other():
    scores = scores_of(totals_of(0.3), constant=totals_of(0.9), last_value=totals_of(0.1), blend=totals_of(0.0))
    said = verdict(scores)
    assert "to last value on" in said
    assert "to blend on" in said
    assert "constant" not in said


def test_a_model_that_loses_nowhere_is_said_not_to():
    said = verdict(scores_of(totals_of(0.0), blend=totals_of(0.3)))
    assert said == "loses to no baseline on mse, mae, crps, nll (macro and pooled)"


def test_a_model_that_is_its_baseline_neither_loses_nor_wins():
    assert verdict(scores_of(totals_of(0.1), blend=totals_of(0.1))).startswith("loses to no baseline")


def test_a_hair_is_still_a_loss_and_is_shown_as_one():
    scores = scores_of(totals_of(0.0, names=("mse",)), blend=totals_of(0.0, names=("mse",)))
    scores["mse_macro"] = scores["baselines"]["blend"]["mse_macro"] * 1.0003
    assert verdict(scores) == "loses to blend on mse (ratio 1.0003)"


def test_a_figure_that_is_no_number_loses():
    said = verdict(scores_of(totals_of(math.nan, names=("mse",)), blend=totals_of(0.0, names=("mse",))))
    assert said == "loses to blend on mse (not a number), pooled mse (not a number)"


def test_a_better_coverage_is_no_win_and_a_narrower_band_neither():
    names = ("coverage_80", "width_80")
    scores = scores_of(totals_of(0.0, 0.2, names), blend=totals_of(0.0, 1.0, names))
    assert verdict(scores) == "nothing to compare: no held-out value was scored by an error"
    assert "lower is better" not in printed(print_scores, scores)


def test_a_loss_within_the_noise_of_the_series_is_said_to_be_so():
    small = scores_of(totals_of(-0.02, names=("mse",)), blend=totals_of(0.0, names=("mse",)), n_draws=200)
    large = scores_of(totals_of(0.5, names=("mse",)), blend=totals_of(0.0, names=("mse",)), n_draws=200)
    assert small["against"]["blend"]["mse"]["macro"]["difference"]["low"] < 0
    ratio = small["mse"] / small["baselines"]["blend"]["mse"]
    assert verdict(small).startswith(f"loses to blend on mse (ratio {ratio:.4f}, within noise)")
    assert verdict(large).startswith("loses to blend on mse")
    assert "noise" not in verdict(large)


def test_noise_is_said_only_of_the_loss_whose_interval_holds_zero():
    scores = scores_of(totals_of(0.5, names=("mse",)), blend=totals_of(0.0, names=("mse",)), n_draws=50)
    scores["against"]["blend"]["mse"]["pooled"]["difference"]["low"] = -0.1
    first, second = verdict(scores).split(", pooled mse")
    assert "noise" not in first
    assert "within noise" in second


def test_details_show_each_bin_and_each_channel_in_its_own_unit():
    scores = scores_of(totals_of(0.3), blend=totals_of(0.0))
    text = printed(print_details, scores, width=140)
    for part in scores["bins"]:
        assert f"{part['after']:g} to {part['until']:g}" in text
        assert f"{part['mae']:.4g}" in text
    for name, row in scores["channels"].items():
        assert name in text
        assert f"{row['mae']:.4g}" in text
        assert f"{row['mse'] / scores['baselines']['blend']['channels'][name]['mse']:.2f}" in text


def test_scores_of_nothing_are_printed():
    nothing = Totals.zero(3, edges=horizon_edges())
    scores = scores_of(nothing, blend=nothing)
    assert "nothing to compare" in printed(print_scores, scores)
    assert "0 to 0.25" in printed(print_details, scores, width=140)
    assert skill_summary(Totals.zero(3, n_series=2), {}, ["mse"]) == {"intervals": {}, "against": {}}


@pytest.mark.parametrize("names", [("pinball_10", "pinball_50", "pinball_90"), ("rmse", "mase"), ("mae_mean",)])
def test_whatever_was_asked_for_is_shown(names):
    text = printed(print_scores, scores_of(totals_of(0.1, names=names), blend=totals_of(0.0, names=names)))
    for name in names:
        assert METRICS[name].heading in text


def test_the_stated_coverage_stands_beside_what_was_held_and_what_it_rests_on():
    counts = {"n_residuals": 1234, "n_cells": 9, "n_own": 4, "n_by_channel": 5, "n_by_all": 0, "n_raw": 0}
    held = [{"nominal": 0.8, "held": 0.787}, {"nominal": 0.95, "held": 0.9512}]
    scores = {"n_values": 5678, "calibration": {"coverage": held, "fitted_on": counts}}
    assert stated_coverage(scores) == [
        "80% intervals hold 78.7%, 95% intervals hold 95.1% of 5,678 values",
        "calibrated on 1,234 held-out residuals; of 9 pairs of channel and lead time 4 by their own residuals, 5 by their channel's",
    ]
    # A model of somebody's own may have no calibration; of no value there is no share.
    assert stated_coverage({"n_values": 0, "calibration": {"coverage": [{"nominal": 0.8, "held": float("nan")}]}}) == []
    assert stated_coverage({"n_values": 3}) == []
