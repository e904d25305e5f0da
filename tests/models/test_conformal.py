"""Intervals hold what they say on exchangeable residuals, whatever their law; the map is monotone, pools as told, and is one map for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, Laplace, MixtureSameFamily, Normal, StudentT

from latentode.metrics import coverage, crps, cumulative, pit_values, quantile
from latentode.metrics.probabilistic import crps_from_quantiles
from latentode.metrics.quantiles import normal_score
from latentode.models import Blend
from latentode.models.conformal import (
    ALL,
    CHANNEL,
    LEVELS,
    MIN_RESIDUALS,
    NONE,
    OWN,
    PSEUDO_COUNT,
    Calibrated,
    Calibration,
    choose_knots,
    choose_source,
    choose_width,
    split_in_halves,
)
from latentode.models.lead import N_LEADS

DOUBLE = torch.float64
SHARES = (0.5, 0.8, 0.95)


def calibrated(score, base, cell=None):
    """Give a forecast whose one map, or map per cell, comes from scores `(P,)` or `(G, P)`."""
    score = torch.atleast_2d(torch.as_tensor(score, dtype=DOUBLE))
    group = torch.arange(len(score)).repeat_interleave(score.shape[1])
    knots = choose_knots(score.flatten(), group, torch.full((len(score),), score.shape[1]))
    return Calibrated(base, Calibration(1).nodes, knots, torch.zeros(base.batch_shape).long() if cell is None else cell)


def normal(*shape, dtype=DOUBLE, loc=0.0, scale=1.0):
    return Normal(torch.full(shape, loc, dtype=dtype), torch.full(shape, scale, dtype=dtype))


def skewed(rng, n):
    return rng.exponential(size=n) - 1


def heavy(rng, n):
    return rng.standard_t(2, size=n)


def bimodal(rng, n):
    return np.where(rng.random(n) < 0.3, -4.0, 2.0) + 0.5 * rng.normal(size=n)


@pytest.mark.parametrize("law", [skewed, heavy, bimodal])
@pytest.mark.parametrize("n", [MIN_RESIDUALS, 323])
def test_coverage_of_exchangeable_residuals_is_exact(law, n):
    # Each of n + 1 residuals in turn is the new one: exchangeable means that all turns are alike, so their average is the coverage itself,
    # without the noise of a simulation.
    residuals = law(np.random.default_rng(0), n + 1)
    others = np.stack([np.delete(residuals, i) for i in range(n + 1)])
    forecast = calibrated(others, normal(1, n + 1, loc=3.0, scale=2.0), torch.arange(n + 1)[None])
    value = torch.from_numpy(3.0 + 2.0 * residuals)[None]
    for share in SHARES:
        low, high = np.floor((n + 1) * (1 - share) / 2 + 1e-9), np.ceil((n + 1) * (1 + share) / 2 - 1e-9)
        exact = (high - low) / (n + 1)
        assert share <= exact <= share + 2 / (n + 1)
        # A neighbour within MARGIN of an end is inside, too.
        assert exact - 1e-9 <= float(coverage(forecast, value, share).mean()) <= exact + 1.5 / (n + 1)


@pytest.mark.statistical
def test_rounded_residuals_are_covered_by_the_closed_interval_whatever_the_rounding_of_the_machine():
    # Few distinct residuals, in float32 around forecasts of all sizes: the ends lie on ties.
    rng = np.random.default_rng(1)
    n = 3_000
    step = rng.choice([-3, -1, 0, 1, 2, 9], p=[0.05, 0.15, 0.45, 0.2, 0.1, 0.05], size=2 * n)
    loc = torch.from_numpy(rng.normal(scale=30, size=2 * n)).float()
    base = Normal(loc, torch.full_like(loc, 0.7))
    value = loc + torch.from_numpy(step).float() * 0.1
    score = normal_score(Normal(loc[:n], base.scale[:n]), value[:n])
    forecast = calibrated(score, Normal(loc[n:], base.scale[n:]))
    inside = {share: coverage(forecast, value[n:], share).bool() for share in SHARES}
    for share, found in inside.items():
        # Either all of an atom or nothing of it.
        for atom in np.unique(step):
            assert found[torch.from_numpy(step[n:] == atom)].float().mean() in (0.0, 1.0)
        assert float(found.float().mean()) >= share - 0.02
    # The middle half reaches from 0 to 1, the middle 80 % from -1 to 2.
    assert [float(inside[share].float().mean()) for share in SHARES] == pytest.approx([0.65, 0.9, 1.0], abs=0.03)


@pytest.mark.statistical
def test_each_bin_of_lead_time_has_its_own_coverage():
    rng = np.random.default_rng(2)
    n, n_channels = 40_000, 2
    channel, lead = (torch.from_numpy(rng.integers(0, k, n)) for k in (n_channels, N_LEADS))
    spread = 0.2 + channel + 3.0 * lead
    value = spread * torch.from_numpy(rng.exponential(size=n) - 1)
    calibration = Calibration(n_channels)
    half = n // 2
    calibration.fit(value[:half], channel[:half], lead[:half])
    assert (calibration.source == OWN).all()
    cell = (channel * N_LEADS + lead)[half:]
    forecast = Calibrated(normal(half), calibration.nodes, calibration.knots.flatten(0, 1), cell)
    inside = coverage(forecast, value[half:], 0.8)
    for i in range(n_channels * N_LEADS):
        own = inside[cell == i]
        # Two noises: of the residuals that made the map, and of the values that are scored.
        assert float(own.mean()) == pytest.approx(0.8, abs=3 * (2 * 0.16 / len(own)) ** 0.5)


def test_what_is_calibrated_already_stays_as_it_is():
    n = 100_001
    score = torch.special.ndtri(torch.arange(1, n + 1, dtype=DOUBLE) / (n + 1))
    forecast = calibrated(score, normal(5, 3, loc=1.0, scale=0.3))
    for level in (*LEVELS, 0.001, 0.07, 0.62, 0.999):
        assert torch.allclose(quantile(forecast, level), quantile(forecast.base, level), atol=2e-3)
    value = torch.randn(5, 3, dtype=DOUBLE)
    assert torch.allclose(crps(forecast, value), crps(forecast.base, value), atol=1e-4)


@given(
    scores=st.lists(st.floats(-10, 10), min_size=1, max_size=30),
    seed=st.integers(0, 100),
    levels=st.lists(st.floats(1e-6, 1 - 1e-6), min_size=2, max_size=20),
)
@settings(max_examples=20, deadline=None)
def test_quantiles_rise_with_the_level_and_probability_undoes_them(scores, seed, levels):
    drawn = np.random.default_rng(seed).choice(scores, size=MIN_RESIDUALS + seed)
    forecast = calibrated(drawn, normal(1))
    levels = torch.tensor(sorted(levels), dtype=DOUBLE)
    found = forecast.icdf(levels)
    assert (found.diff() >= 0).all()
    assert torch.isfinite(found).all()
    back = calibrated(drawn, normal(len(levels))).cdf(found)
    # Where residuals are equal, a step of MARGIN in the score is all that tells levels apart.
    assert torch.allclose(back, levels, atol=1e-6)


def test_a_level_is_the_residual_of_its_rank():
    score = torch.linspace(-3, 4, 399, dtype=DOUBLE)[torch.randperm(399)]
    knots = choose_knots(score, torch.zeros(399).long(), torch.tensor([399]))[0, 1:-1]
    expected = [score.sort().values[round(400 * level) - 1] for level in LEVELS]
    assert torch.allclose(knots, torch.stack(expected), atol=3e-4)


def test_far_residuals_count_though_their_probability_is_one_in_single_precision():
    base = normal(400, dtype=torch.float32, loc=1.0, scale=0.5)
    value = torch.where(torch.arange(400) % 5 == 0, 1.0 + 0.5 * 9.0, 1.0)
    assert pit_values(base, value).max() == 1
    forecast = calibrated(normal_score(base, value), base)
    assert float(quantile(forecast, 0.9)[0]) == pytest.approx(1.0 + 0.5 * 9.0, rel=1e-3)
    assert coverage(forecast, value, 0.95).all()
    assert torch.isfinite(quantile(forecast, 0.9999)).all()
    assert float(quantile(forecast, 0.9999)[0]) > 5.5


def test_a_cell_with_few_residuals_takes_its_channel_and_a_channel_with_few_takes_all():
    count = torch.tensor([[200, 199, 0], [100, 99, 0], [100, 100, 0]])
    expected = [[OWN, CHANNEL, CHANNEL], [ALL] * 3, [CHANNEL] * 3]
    assert choose_source(count).tolist() == expected
    assert (choose_source(torch.tensor([[100, 99]])) == NONE).all()


def test_pooled_cells_have_the_map_of_what_they_are_pooled_with():
    n = 300
    score = torch.cat([torch.full((n,), 1.0), torch.full((n,), 2.0), torch.full((9,), 3.0)]).double()
    channel = torch.cat([torch.zeros(2 * n), torch.ones(9)]).long()
    lead = torch.cat([torch.zeros(n), torch.ones(n), torch.zeros(9)]).long()
    calibration = Calibration(2)
    calibration.fit(score, channel, lead)
    median = calibration.knots[..., 1 + LEVELS.index(0.5)]
    assert median[0].tolist() == pytest.approx([1.0, 2.0, *[1.5] * (N_LEADS - 2)])
    assert median[1].tolist() == pytest.approx([2.0] * N_LEADS)  # the 305th of all 609
    assert calibration.describe() == {
        "n_residuals": 609,
        "n_cells": 3,
        "n_own": 2,
        "n_by_channel": 0,
        "n_by_all": 1,
        "n_raw": 0,
    }


def test_too_few_residuals_leave_the_forecast_as_it_is(prepared):
    calibration = Calibration(3)
    few = torch.zeros(MIN_RESIDUALS - 1).long()
    calibration.fit(few.double(), few, few)
    raw = normal(*prepared.batch.target_channel.shape)
    assert calibration(raw, prepared.batch) is raw
    assert calibration.describe()["n_raw"] == 1


def test_a_state_dict_brings_the_maps_back():
    calibration, again = Calibration(2), Calibration(2)
    channel, lead = torch.randint(0, 2, (1000,)), torch.randint(0, N_LEADS, (1000,))
    calibration.fit(torch.randn(1000, dtype=DOUBLE), channel, lead)
    calibration.fit_width(torch.randn(1000, dtype=DOUBLE), channel, lead)
    again.load_state_dict(calibration.state_dict())
    for name, buffer in calibration.named_buffers():
        assert torch.equal(buffer, dict(again.named_buffers())[name])
    # A map can also be unlearned.
    again.load_state_dict(Calibration(2).state_dict())
    assert len(again.knots) == 0
    with pytest.raises(RuntimeError, match="size mismatch"):
        Calibration(3).load_state_dict(calibration.state_dict())


BASES = {
    "normal": normal(40, 3, loc=0.7, scale=0.4),
    "student t": StudentT(torch.full((40, 3), 4.0, dtype=DOUBLE), 0.7, 0.4),
    "mixture": MixtureSameFamily(
        Categorical(torch.tensor([0.3, 0.7], dtype=DOUBLE).expand(40, 3, 2)),
        Normal(torch.tensor([-1.0, 1.0], dtype=DOUBLE).expand(40, 3, 2), 0.5),
    ),
    "laplace": Laplace(torch.full((40, 3), 0.7, dtype=DOUBLE), 0.4),
}


@pytest.fixture
def residuals():
    rng = np.random.default_rng(5)
    return np.stack([1.5 * rng.standard_t(3, size=900) + 0.4, 0.3 * rng.exponential(size=900) - 1])


@pytest.mark.parametrize("name", BASES)
def test_any_forecast_is_calibrated_by_the_same_map(name, residuals):
    cell = torch.arange(120).view(40, 3) % 2
    forecast = calibrated(residuals, BASES[name], cell)
    for level in (0.01, 0.1, 0.33, 0.5, 0.975):
        found = quantile(forecast, level)
        assert torch.allclose(forecast.icdf(torch.full((40, 3), level, dtype=DOUBLE)), found, atol=1e-9)
        assert torch.allclose(cumulative(forecast, found), torch.full_like(found, level), atol=1e-5)
        # The raw forecast's own quantile, at the score of the residual's rank.
        if level in LEVELS:
            rank = [int(side(901 * level)) - 1 for side in (np.floor, np.ceil)]
            low, high = (torch.from_numpy(np.sort(residuals, 1)[:, i])[cell] - 1e-3 for i in rank)
            score = normal_score(BASES[name], found)
            assert ((low <= score) & (score <= high + 2e-3)).all()
    value = torch.randn(40, 3, dtype=DOUBLE)
    for moment in ("mean", "stddev", "variance"):
        assert torch.equal(getattr(forecast, moment), getattr(BASES[name], moment))
    assert torch.equal(forecast.log_prob(value), BASES[name].log_prob(value))


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["normal", "student t"])
def test_draws_have_the_calibrated_quantiles(name, residuals):
    forecast = calibrated(residuals, BASES[name], torch.arange(120).view(40, 3) % 2)
    torch.manual_seed(0)
    draws = forecast.sample((5_000,))
    assert draws.shape == (5_000, 40, 3)
    for level in (0.1, 0.5, 0.9):
        share = (draws <= quantile(forecast, level)).double().mean(0)
        assert torch.allclose(share, torch.full_like(share, level), atol=4 * (level * (1 - level) / 5_000) ** 0.5)


def test_the_crps_in_closed_form_is_that_of_the_quantiles(residuals):
    base = Normal(torch.randn(40, 3, dtype=DOUBLE), 0.2 + torch.rand(40, 3, dtype=DOUBLE))
    forecast = calibrated(residuals, base, torch.arange(120).view(40, 3) % 2)
    value = 3 * torch.randn(40, 3, dtype=DOUBLE)
    assert torch.allclose(crps(forecast, value), crps_from_quantiles(forecast, value, 4_000), rtol=2e-3)


def test_widths_are_the_deviations_of_the_errors():
    rng = np.random.default_rng(0)
    n = 600_000
    channel, lead = torch.from_numpy(rng.integers(0, 2, n)), torch.from_numpy(rng.integers(0, N_LEADS, n))
    true = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [2.0, 2.0, 2.0, 2.0, 2.0, 9.0]], dtype=DOUBLE)
    ratio = true[channel, lead] * torch.from_numpy(rng.normal(size=n))
    assert torch.allclose(choose_width(ratio, channel, lead, 2), true, rtol=0.03)


def test_a_width_of_few_errors_leans_on_its_channel_and_that_on_all():
    one, many = torch.zeros(1, dtype=torch.int64), torch.zeros(1000, dtype=torch.int64)
    ratio = torch.cat([torch.ones(1000), torch.tensor([100.0])]).double()
    width = choose_width(ratio, torch.cat([many, one + 1]), torch.cat([many, one + 3]), 3)
    overall = float(ratio.square().mean())
    assert torch.allclose(width[2], torch.full((N_LEADS,), overall**0.5, dtype=DOUBLE))
    channel = (100.0**2 + PSEUDO_COUNT * overall) / (1 + PSEUDO_COUNT)
    assert torch.allclose(width[1, 0].square(), torch.tensor(channel, dtype=DOUBLE))
    own = (100.0**2 + PSEUDO_COUNT * channel) / (1 + PSEUDO_COUNT)
    assert torch.allclose(width[1, 3].square(), torch.tensor(own, dtype=DOUBLE))


def test_halves_share_no_series_and_lose_no_window(prepared):
    batch = prepared.batch
    one, other = split_in_halves([batch.take(torch.arange(9)), batch.take(torch.arange(9, len(batch)))])
    series = [set(torch.cat([part.series for part in half]).tolist()) for half in (one, other)]
    assert series[0].isdisjoint(series[1])
    assert len(series[0] | series[1]) == len(batch.series.unique())
    assert sum(len(part) for part in (*one, *other)) == len(batch)


def test_a_single_series_is_halved_in_time(prepared):
    batch = replace(prepared.batch, series=torch.zeros_like(prepared.batch.series))
    one, other = (torch.cat([part.origin for part in half]) for half in split_in_halves([batch]))
    assert one.max() < other.min()
    assert abs(len(one.unique()) - len(other.unique())) <= 1
    alone = split_in_halves([batch.take(torch.tensor([0]))])
    assert [len(half) for half in alone] == [1, 0]


class Recorded(Blend):
    """A blend that notes which series each choice was made on, and for which it forecast."""

    def __init__(self):
        super().__init__()
        self.log: list[tuple[str, set[int]]] = []

    def choose(self, validation):
        self.log.append(("choose", {int(s) for batch in validation for s in batch.series}))
        super().choose(validation)

    def raw(self, batch):
        self.log.append(("raw", set(batch.series.tolist())))
        return super().raw(batch)


def test_intervals_are_fitted_on_series_that_chose_nothing(prepared):
    model = Recorded()
    model.setup(prepared.table.schema)
    model.calibrate([prepared.validation])
    (_, everything), (_, chosen), (_, held), (_, other), (_, other_held) = model.log
    assert (chosen, held) == (other_held, other)
    assert chosen.isdisjoint(held)
    assert everything == chosen | held
    assert model.calibration.n_residuals.sum() == prepared.validation.target_observed.sum()


def test_choices_are_those_of_all_of_validation(prepared):
    one, other = Blend(), Blend()
    for model in (one, other):
        model.setup(prepared.table.schema)
    one.calibrate([prepared.validation])
    other.choose([prepared.validation])
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.calibration.width, other.calibration.width)
