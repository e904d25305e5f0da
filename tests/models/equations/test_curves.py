"""Curves of equations: closed forms, derivatives against differences, times, jumps and units as the user has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latentode.data.datasets import pharmacokinetics
from latentode.models import Compartments, LotkaVolterra
from latentode.models.equations.correction import Correction
from latentode.models.equations.curves import Curves, Record, Scale
from tests.models.equations.own import Explosion, Relaxation, Tide

DOUBLE = {"dtype": torch.float64}


def record(time, *, channel=None, start=0.0, origin=0.0):
    time = torch.as_tensor(np.atleast_2d(time), **DOUBLE)
    rows = torch.ones(len(time), **DOUBLE)
    channel = torch.zeros_like(time, dtype=torch.int64) if channel is None else channel
    seen = torch.ones_like(time, dtype=torch.bool)
    return Record(
        time, torch.zeros_like(time), channel, seen, origin * rows, start * rows, time.new_zeros(len(time), 0)
    )


def curves(equation, channels=("x",), *, centre=0.0, size=1.0, is_log=False, **kwargs):
    n = len(channels)
    scale = Scale(torch.full((n,), centre, **DOUBLE), torch.full((n,), size, **DOUBLE), torch.full((n,), is_log))
    return Curves(equation, channels, scale, **{"rtol": 1e-9, **kwargs})


def hunt(n=3):
    time = torch.linspace(0.1, 3.0, 9, **DOUBLE).repeat(n, 1)
    asked = record(time, channel=torch.arange(9).repeat(n, 1) % 2)
    free = 0.3 * torch.randn(n, 6, generator=torch.Generator().manual_seed(0), **DOUBLE)
    return asked, free


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_doses_give_the_concentrations_of_the_closed_form(method):
    rates = np.array([1.4, 0.09, 30.0])
    time = np.array([0.0, 0.5, 3.0, 23.9, 24.0, 25.0, 47.0, 49.5, 60.0, 71.0])
    found, _ = curves(Compartments(320.0, [0.0, 24.0, 48.0]), ["concentration"], method=method, rtol=1e-6)(
        torch.from_numpy(np.log(rates))[None], record(time - 36.0, start=-36.0, origin=36.0), []
    )
    expected = pharmacokinetics.concentration(*(np.full(len(time), x) for x in rates), time)
    assert found[0].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_derivatives_are_those_of_differences(method):
    asked, free = hunt()
    model = curves(LotkaVolterra(), ["prey", "predator"], centre=0.5, size=2.0, method=method, rtol=1e-7)
    value, slope = model(free, asked, [4, 1])
    assert slope.shape == (3, 9, 2)
    for i, place in enumerate([4, 1]):
        step = torch.zeros(6, **DOUBLE)
        step[place] = 1e-3
        up, down = (model(free + sign * step, asked, [])[0] for sign in (1, -1))
        assert slope[..., i] == pytest.approx((up - down) / 2e-3, rel=1e-3, abs=1e-3)
    assert value == pytest.approx(model(free, asked, [])[0], rel=1e-5, abs=1e-6)


def test_derivatives_in_the_weights_of_a_correction_are_those_of_differences():
    asked, free = hunt(2)
    correction = Correction(2, 3, torch.ones(2, **DOUBLE), 2 * torch.ones(2, **DOUBLE), 5.0)
    model = curves(LotkaVolterra(), ["prey", "predator"], correction=correction)
    weights = correction.start() + 0.2
    free = torch.cat([weights.repeat(2, 1), free], 1)
    _, slope = model(free, asked, list(range(free.shape[1])))
    for place in (0, 7, 10, 16):
        step = torch.zeros(free.shape[1], **DOUBLE)
        step[place] = 1e-3
        up, down = (model(free + sign * step, asked, [])[0] for sign in (1, -1))
        assert slope[..., place] == pytest.approx((up - down) / 2e-3, rel=1e-4, abs=1e-4)


def test_a_correction_that_was_not_fitted_is_none():
    asked, free = hunt()
    correction = Correction(2, 3, torch.ones(2, **DOUBLE), torch.ones(2, **DOUBLE), 5.0)
    channels = ["prey", "predator"]
    both = torch.cat([correction.start().repeat(3, 1), free], 1)
    with_it = curves(LotkaVolterra(), channels, correction=correction)(both, asked, [])[0]
    assert torch.equal(with_it, curves(LotkaVolterra(), channels)(free, asked, [])[0])


def test_an_equation_sees_the_time_of_the_table():
    time = np.linspace(-3.0, 2.0, 6)
    found, _ = curves(Tide())(torch.zeros(1, 0, **DOUBLE), record(time, origin=10.0, start=-10.0), [])
    assert found[0].numpy() == pytest.approx(np.sin(10.0 + time), abs=1e-7)


def test_before_the_start_states_are_what_they_are_then():
    found, _ = curves(Relaxation())(torch.tensor([[0.0, 0.0, 1.0]], **DOUBLE), record([-2.0, -1.0, 0.0, 1.0]), [])
    assert found[0].tolist() == pytest.approx([2.0, 2.0, 2.0, 2.0 * np.exp(-1.0)], rel=1e-7)


def test_log_channels_are_compared_by_their_logarithm():
    free = torch.tensor([[0.0, 0.0, 1.0]], **DOUBLE)
    asked = record([0.0, 0.5, 1.0])
    plain, plain_slope = curves(Relaxation())(free, asked, [0, 2])
    logs, slope = curves(Relaxation(), centre=0.3, size=2.0, is_log=True)(free, asked, [0, 2])
    assert logs == pytest.approx((plain.log() - 0.3) / 2.0)
    assert slope == pytest.approx(plain_slope / plain[..., None] / 2.0)


def test_a_channel_that_the_equation_says_nothing_of_stays_at_its_centre():
    asked = record([0.0, 1.0], channel=torch.tensor([[0, 1]]))
    value, slope = curves(Relaxation(), ["other", "x"])(torch.tensor([[0.0, 0.0, 1.0]], **DOUBLE), asked, [0])
    assert value[0, 0] == 0
    assert (slope[0, 0] == 0).all()
    assert value[0, 1] == pytest.approx(2 * np.exp(-1.0))


def test_a_curve_that_cannot_be_solved_leaves_the_others_as_they_are():
    free = torch.tensor([[0.0], [3.0], [-1.0]], **DOUBLE)
    asked = record(np.tile([0.2, 0.6], (3, 1)))
    value, _ = curves(Explosion(), max_steps=200)(free, asked, [0])
    assert value[1].isnan().any()
    for row in (0, 2):
        x0 = float(free[row].exp())
        assert value[row].tolist() == pytest.approx([x0 / (1 - x0 * t) for t in (0.2, 0.6)], rel=1e-6)


def test_rows_are_the_same_alone_and_in_a_batch():
    asked, free = hunt(4)
    model = curves(LotkaVolterra(), ["prey", "predator"])
    together, slope = model(free, asked, [0, 3])
    row = torch.tensor([2])
    alone, its_slope = model(free[row], asked.take(row), [0, 3])
    assert alone[0] == pytest.approx(together[2], rel=1e-7)
    assert its_slope[0] == pytest.approx(slope[2], rel=1e-6, abs=1e-8)


def test_the_first_part_of_a_record_is_what_was_seen_until_then():
    asked = replace(record([0.0, 1.0, 2.0, 4.0]), seen=torch.tensor([[True, True, True, False]]))
    part = asked.until(0.5)
    assert part.seen.tolist() == [[True, True, False, False]]
    assert part.time.max() == 1.0


def test_shared_numbers_come_before_those_of_each_series():
    model = curves(Relaxation(), correction=Correction(1, 2, torch.zeros(1), torch.ones(1), 1.0))
    assert list(model.named) == ["rate", "level", "x"]
    # Two weights from the state, two offsets and two weights to the slope stand between.
    assert (model.n_shared, model.n_own, model.place()) == (8, 1, [0, 1, 8])
    assert model.outputs() == ["x"]
