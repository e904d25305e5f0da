"""A user's equation as a model: it finds the truth, its intervals hold it, and it keeps the laws of every other model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from latentode.data.batch import WindowReader
from latentode.data.datasets import lotka_volterra, pharmacokinetics
from latentode.data.scaling import Scaler
from latentode.data.settings import DataSettings
from latentode.data.simulation import simulate
from latentode.data.tables import read_table
from latentode.data.windows import Spans, Windows, make_split
from latentode.errors import InputError, RunError
from latentode.forecasting.estimates import estimates
from latentode.models import AttentionEncoder, Compartments, LatentODE, LotkaVolterra, Mechanistic, MechanisticField
from latentode.models.fitted import FittedModel
from latentode.models.registry import to_plain
from tests.models.equations.own import Decay, Relaxation, Washout

RATE, LEVEL = 0.7, 0.4


def relaxing(n_series=8, n_rows=10, *, seed=0, noise=0.05, shift=0.0, unit=1.0):
    """Simulate `Relaxation`; give the table and the first values."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.uniform(0, 4, (n_series, n_rows)), axis=1)
    first = 2.0 + 0.5 * rng.standard_normal(n_series)
    # At the first observation, which is when states have their values at the start.
    x = LEVEL + (first[:, None] - LEVEL) * np.exp(-RATE * (time - time[:, :1]))
    x = x + noise * rng.standard_normal(x.shape)
    series = np.repeat(np.arange(n_series), n_rows)
    frame = pd.DataFrame({"series_id": series, "time": shift + unit * time.ravel(), "x": x.ravel()})
    return frame, first


class Case:
    """A table, its scaler, and windows that end where told; the model is prepared on all rows."""

    def __init__(self, frame, model, *, middle=2.0, horizon=2.0, **reading):
        self.table = read_table(frame, **reading)
        self.settings = DataSettings(horizon=horizon)
        self.spans = Spans.of(self.table, self.settings)
        split = make_split(self.table, self.settings)
        self.scaler = Scaler.fit(self.table, split, self.spans.horizon)
        self.reader = WindowReader(self.table, self.scaler, max_history=512)
        n = self.table.n_series
        origin = np.full(n, middle).astype(self.table.time.dtype)
        reach = np.asarray(self.spans.horizon).astype(self.table.time.dtype)
        lowest = np.iinfo(np.int64).min if origin.dtype.kind == "i" else -np.inf
        self.windows = Windows(np.arange(n), origin, origin + reach, np.full(n, lowest, dtype=origin.dtype))
        self.batch = self.reader.read(self.windows)
        self.fitted = FittedModel.new(model, self.table, self.scaler, self.settings, self.spans, 0)
        self.model = self.fitted.network.eval()
        self.model.prepare([self.batch])


@pytest.fixture(scope="module")
def case():
    return Case(relaxing()[0], Mechanistic(Relaxation()))


def values(found):
    return {one.name: (float(one.low), float(one.value), float(one.high)) for one in found}


def test_shared_numbers_are_found_within_their_intervals(case):
    found = values(case.model.estimates(0.99))
    assert list(found) == ["rate", "level", "x"]
    for name, truth in (("rate", RATE), ("level", LEVEL), ("x", 2.0)):
        low, middle, high = found[name]
        assert low < truth < high
        assert low < middle < high


def test_numbers_of_each_series_are_found_from_its_history(case):
    _, first = relaxing()
    table = estimates(case.fitted, case.table, level=0.999)
    own = table[table.parameter == "x"]
    assert len(own) == 8
    assert ((own.low < first) & (first < own.high)).all()
    assert own.estimate.to_numpy() == pytest.approx(first, abs=0.15)


def test_a_forecast_is_the_curve_and_its_deviation_that_of_noise_and_numbers(case):
    forecast = case.model.raw(case.batch)
    seen = case.batch.target_observed
    error = (forecast.mean - case.batch.target_value)[seen] * float(case.scaler.std[0])
    assert error.square().mean().sqrt() < 0.1
    # Never surer than the noise.
    assert (forecast.stddev >= float(case.model.noise[0]) * (1 - 1e-6)).all()


def test_a_row_alone_is_that_of_the_batch(case):
    together = case.model.raw(case.batch)
    for i in (0, 5):
        alone = case.reader.read(case.windows.take(np.array([i])))
        n = int(case.batch.target_observed[i].sum())
        found = case.model.raw(alone)
        assert found.mean[0] == pytest.approx(together.mean[i, :n], abs=1e-5)
        assert found.stddev[0] == pytest.approx(together.stddev[i, :n], rel=1e-4)


def test_the_order_of_queries_does_not_matter(case):
    batch = case.batch
    order = torch.randperm(batch.target_row.shape[1], generator=torch.Generator().manual_seed(0))
    names = ("target_row", "target_channel", "target_value", "target_observed")
    shuffled = replace(batch, **{name: getattr(batch, name)[:, order] for name in names})
    seen = shuffled.target_observed
    expected = case.model.raw(batch).mean[:, order]
    assert case.model.raw(shuffled).mean[seen] == pytest.approx(expected[seen], abs=1e-6)


def test_a_shift_of_time_changes_nothing_where_the_equation_does_not_see_it(case):
    moved = Case(relaxing(shift=1e4)[0], Mechanistic(Relaxation()), middle=1e4 + 2.0)
    seen = case.batch.target_observed
    assert moved.model.raw(moved.batch).mean[seen] == pytest.approx(case.model.raw(case.batch).mean[seen], abs=1e-4)


@pytest.mark.slow
def test_rates_are_per_unit_of_the_tables_time(case):
    hours = Case(relaxing(unit=24.0)[0], Mechanistic(Relaxation()), middle=48.0, horizon=48.0)
    days, per_hour = (values(one.model.estimates())["rate"] for one in (case, hours))
    # The guess is the same number, so that the prior is not.
    assert 24 * per_hour[1] == pytest.approx(days[1], rel=1e-2)


def test_of_dates_rates_are_per_the_stated_unit(case):
    frame, _ = relaxing()
    frame["time"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(frame["time"] * 3600, unit="s")
    middle = pd.Timestamp("2026-01-01T02:00").value
    dated = Case(frame, Mechanistic(Relaxation(), time_unit="1h"), middle=middle, horizon="2h")
    assert values(dated.model.estimates())["rate"] == pytest.approx(values(case.model.estimates())["rate"], rel=1e-3)


def test_a_series_without_history_is_forecast_by_the_population(case):
    unseen = replace(case.batch, token_observed=torch.zeros_like(case.batch.token_observed))
    forecast = case.model.raw(unseen)
    assert forecast.mean.isfinite().all()
    known = case.model.raw(case.batch)
    seen = case.batch.target_observed
    assert (forecast.stddev[seen] > known.stddev[seen]).all()


def test_what_lies_inside_a_history_is_on_the_curve(case):
    fresh = case.reader.read(case.windows)
    n, batch = fresh.token_time.shape[1], case.batch
    inside = replace(
        fresh,
        query_time=batch.token_time,
        query_observed=batch.token_observed,
        target_row=torch.arange(n).expand(len(batch), n),
        target_channel=batch.token_channel,
        target_value=batch.token_value,
        target_observed=batch.token_observed,
        known=batch.token_known,
    )
    seen = batch.token_observed
    error = (case.model.smooth(inside).mean - batch.token_value)[seen]
    assert float(error.square().mean().sqrt()) < 1.3 * float(case.model.noise[0])


def test_what_is_read_is_what_was_written_and_own_equations_are_named(case, tmp_path):
    path = tmp_path / "best.ckpt"
    case.fitted.save(path)
    with pytest.raises(RunError, match=r"--allow-module tests\.models\.equations\.own"):
        FittedModel.load(path)
    again = FittedModel.load(path, allow_modules=["tests.models.equations.own"])
    fresh = case.reader.read(case.windows)
    assert torch.equal(again.network.raw(fresh).mean, case.model.raw(case.batch).mean)
    assert estimates(again).equals(estimates(case.fitted))


def test_intervals_are_wider_for_a_higher_level(case):
    narrow, wide = (values(case.model.estimates(level)) for level in (0.5, 0.95))
    for name in narrow:
        assert wide[name][0] < narrow[name][0] < narrow[name][2] < wide[name][2]


def test_remarks_tell_what_was_found(case):
    (said,) = case.model.remarks()
    assert said.startswith("Relaxation, typical numbers and their 90 % intervals: rate 0.")
    frame, _ = relaxing(2)
    model = Mechanistic(Relaxation())
    model.setup(read_table(frame.assign(other=1.0)).schema)
    assert model.remarks()[1] == "Relaxation says nothing of other, forecast by the training mean."


def test_covariates_are_read_in_the_users_units():
    rng = np.random.default_rng(0)
    weight = rng.uniform(50, 90, 10)
    time = np.tile(np.linspace(0, 4, 9), (10, 1))
    x = np.exp(0.3 * rng.standard_normal((10, 1))) * np.exp(-30.0 / weight[:, None] * time)
    frame = pd.DataFrame({"series_id": np.repeat(np.arange(10), 9), "time": time.ravel(), "x": x.ravel()})
    frame["weight"] = np.repeat(weight, 9)
    own = Case(frame, Mechanistic(Washout()), static_columns=["weight"])
    _, middle, _ = values(own.model.estimates())["clearance"]
    assert middle == pytest.approx(30.0, rel=1e-2)
    without = read_table(frame.drop(columns="weight"))
    with pytest.raises(InputError, match="covariate 'weight'"):
        Mechanistic(Washout()).setup(without.schema)


def test_an_equation_may_see_what_models_see():
    class Scaled(Relaxation):
        units = "model"

    own = Case(relaxing()[0], Mechanistic(Scaled()))
    # In horizons of 2.
    assert values(own.model.estimates())["rate"][1] == pytest.approx(2 * RATE, rel=0.1)


@pytest.mark.slow
def test_what_is_left_out_is_found_by_the_correction():
    rng = np.random.default_rng(0)
    time = np.tile(np.linspace(0, 2, 12), (16, 1))
    first = rng.uniform(0.5, 4.0, (16, 1))
    # dx/dt = -0.5 x - 0.5 x^2, whose solution is a logistic curve.
    x = 1 / ((1 / first + 1) * np.exp(0.5 * time) - 1) + 0.01 * rng.standard_normal(time.shape)
    frame = pd.DataFrame({"series_id": np.repeat(np.arange(16), 12), "time": time.ravel(), "x": x.ravel()})

    class Linear(Washout):
        covariates = ()

        def slope(self, t, y, p):
            return [-p.clearance * y.x]

    errors = []
    for width in (0, 3):
        own = Case(frame, Mechanistic(Linear(), correction=width), middle=0.6, horizon=1.4)
        seen = own.batch.target_observed
        errors.append((own.model.raw(own.batch).mean - own.batch.target_value)[seen].square().mean())
    assert errors[1] < 0.05 * errors[0]


def test_wrong_use_is_told():
    with pytest.raises(InputError, match="method is 'rk44'"):
        Mechanistic(Decay(), method="rk44")
    with pytest.raises(InputError, match="correction is -1"):
        Mechanistic(Decay(), correction=-1)
    frame, _ = relaxing(2)
    with pytest.raises(InputError, match="observes prey, predator, none of which is a channel"):
        Case(frame, Mechanistic(LotkaVolterra()))
    case = Case(frame, Mechanistic(Decay()))
    with pytest.raises(InputError, match="level is 1"):
        estimates(case.fitted, level=1)
    other = replace(case.fitted, network=LatentODE())
    with pytest.raises(InputError, match="fit a Mechanistic model"):
        estimates(other)


def test_a_shipped_equation_is_plain_values():
    model = Mechanistic(Compartments(320.0, [0.0, 24.0]), correction=4)
    assert to_plain(model)["settings"]["equation"]["class"] == "Compartments"


def test_an_equation_inside_a_latent_ode_learns(prepared):
    torch.manual_seed(0)
    field = MechanisticField(LotkaVolterra(), hidden_size=4)
    model = LatentODE(AttentionEncoder(states="series"), field, latent_size=4, has_companion=False)
    model.setup(prepared.table.schema)
    field.see_scaling(prepared.scaler)
    assert float(field.horizon) == prepared.scaler.time_scale
    model.prepare([prepared.batch])
    model.loss(prepared.batch).backward()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    before = float(model.loss(prepared.batch).detach())
    for _ in range(8):
        optimiser.zero_grad()
        model.loss(prepared.batch).backward()
        optimiser.step()
    assert float(model.loss(prepared.batch).detach()) < before
    assert field.shift.grad.abs().max() > 0


def test_a_field_on_the_free_line_is_the_equation():
    from latentode.ode import PIDController, solve

    equation = LotkaVolterra()
    field = MechanisticField(equation, rtol=1e-8, atol=1e-10)
    schema = read_table(relaxing(2)[0]).schema
    field.setup(schema, 3, 5)
    field = field.double()
    z0 = 0.5 * torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([[0.5, 1.0], [0.2, 2.0]], dtype=torch.float64)
    with torch.no_grad():
        found = field(z0, torch.zeros(2, dtype=torch.float64), t, torch.zeros(2, 5, dtype=torch.float64))

    def plain(t, y):
        return torch.stack([(1 - y[:, 1]) * y[:, 0], (y[:, 0] - 1) * y[:, 1]], 1)

    tight = PIDController(rtol=1e-9, atol=1e-11)
    expected = solve(plain, 2 ** z0[:, :2], t, t0=torch.zeros(2, dtype=torch.float64), controller=tight).ys
    assert 2 ** found[..., :2] == pytest.approx(expected, rel=1e-6)
    assert torch.equal(found[..., 2], z0[:, 2:].expand(-1, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "equation", "truth"),
    [
        (lotka_volterra.SYSTEM, LotkaVolterra(), {"alpha": 1.0, "beta": 0.6, "delta": 0.4, "gamma": 0.8}),
        (
            pharmacokinetics.SYSTEM,
            Compartments(320.0, [0.0, 24.0, 48.0]),
            {"absorption": 1.5, "elimination": 0.08, "volume": 33.0},
        ),
    ],
    ids=["lotka_volterra", "pharmacokinetics"],
)
def test_the_known_systems_are_forecast_at_twice_the_noise(system, equation, truth):
    simulation = simulate(system, replace(system.options, n_series=80))
    middle = system.duration / 2
    frame = simulation.table
    case = Case(frame_of(frame), Mechanistic(equation), middle=middle, horizon=middle)
    found = values(case.model.estimates(0.99))
    for name, value in truth.items():
        assert found[name][0] < value < found[name][2]
    batch = case.batch
    error = (case.model.raw(batch).mean - batch.target_value)[batch.target_observed].square().mean()
    assert float(error) < 2 * float(((simulation.noise / case.scaler.std) ** 2).mean())


def frame_of(table):
    frame = pd.DataFrame(table.values, columns=list(table.schema.channels))
    frame.insert(0, "time", table.time)
    frame.insert(0, "series_id", table.row_series)
    return frame


@pytest.mark.statistical
def test_intervals_hold_the_truth_as_often_as_they_say():
    n, levels = 40, (0.5, 0.9)
    held = {level: [] for level in levels}
    for seed in range(n):
        frame, first = relaxing(10, 8, seed=seed, noise=0.1)
        case = Case(frame, Mechanistic(Relaxation()))
        for level in levels:
            shared = estimates(case.fitted, level=level)
            truth = np.array([RATE, LEVEL, 2.0])
            held[level] += [((shared.low < truth) & (truth < shared.high)).to_numpy()]
            own = estimates(case.fitted, case.table, level=level)
            own = own[own.parameter == "x"]
            held[level] += [((own.low < first) & (first < own.high)).to_numpy()]
    for level, (low, high) in {0.5: (0.42, 0.58), 0.9: (0.8, 0.97)}.items():
        shared, own = (np.concatenate(held[level][i::2]).mean() for i in (0, 1))
        print(level, shared, own)
        assert low < shared < high
        assert low < own < high
