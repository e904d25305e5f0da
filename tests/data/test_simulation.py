"""Laws of every synthetic data set, and the options that they share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from latentode.data.datasets import DATASETS, physiome
from latentode.data.sampling import SAMPLINGS
from latentode.data.simulation import Options, half_to_half, simulate
from latentode.data.trajectories import GridTrajectories
from latentode.errors import InputError
from tests.data.datasets import laws

SYSTEMS = {name: module.SYSTEM for name, module in DATASETS.items() if hasattr(module, "SYSTEM")}
SYSTEMS |= {system.name: system for system in physiome.SYSTEMS.values()}
SMALL = Options(n_series=20, n_observations=30, noise=0.0, missing=0.0, sampling="poisson", seed=3)
SOLVED = [
    "lorenz63",
    "lorenz96",
    "lotka_volterra",
    "van_der_pol",
    *(system.name for system in physiome.SYSTEMS.values()),
]


@pytest.fixture(scope="module")
def simulations():
    """Give each system's small simulation, made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = simulate(SYSTEMS[name], SMALL)
        return made[name]

    return get


@pytest.mark.parametrize("name", SYSTEMS)
def test_observations_without_noise_are_the_truth(simulations, name):
    simulation = simulations(name)
    table = simulation.table
    np.testing.assert_array_equal(
        simulation.truth(table.series_ids[table.row_series].astype(int), table.time), table.values
    )
    assert table.schema.channels == SYSTEMS[name].channels
    assert np.isfinite(table.values).all()
    assert (table.values.std(axis=0) > 0).all()
    assert table.time.max() <= SYSTEMS[name].duration


@pytest.mark.parametrize("name", ["damped_oscillators", "double_well", "lorenz63", "physiome_selkov"])
def test_the_same_seed_gives_the_same_table_and_another_seed_another(simulations, name):
    again, other = (simulate(SYSTEMS[name], replace(SMALL, seed=seed)).table for seed in (3, 4))
    assert again.digest() == simulations(name).table.digest()
    assert other.digest() != again.digest()


@pytest.mark.parametrize("name", SOLVED)
def test_solved_systems_agree_with_scipy(name):
    system = SYSTEMS[name]
    truth = system.draw(np.random.default_rng(7), 2)
    assert isinstance(truth, GridTrajectories)
    assert truth.slopes is not None
    time = np.random.default_rng(0).uniform(0, system.duration, 25)
    time.sort()
    for i in range(2):
        at = np.full(len(time), i)

        def field(t, y, i=i):
            return truth.slopes(np.array([t]), y[None], np.array([i]))[0]

        reference = solve_ivp(
            field, (0, system.duration), truth.states[0, i], method="DOP853", rtol=1e-11, atol=1e-12, t_eval=time
        )
        scale = truth.states.std(axis=(0, 1))
        assert np.max(np.abs(truth(at, time) - reference.y.T) / scale) < 1e-5


@pytest.mark.parametrize("name", SYSTEMS)
def test_protocol_forecasts_the_second_half_of_whole_series(name):
    system = SYSTEMS[name]
    options = replace(SMALL, noise=0.05, missing=0.3)
    protocol = half_to_half(system, options)
    task = protocol.build(None, protocol.splits[1])
    laws.check_task(task)
    laws.check_no_series_twice(task)
    laws.check_no_target_twice(task)
    laws.check_scaler_is_of_training(task)
    assert [len(part) for part in laws.parts(task)] == [14, 4, 2]
    assert (task.test.origin == system.duration / 2).all()
    np.testing.assert_array_equal(task.unit, task.scaler.std)


def test_noise_is_in_deviations_of_each_channel():
    system = SYSTEMS["lotka_volterra"]
    options = Options(n_series=200, n_observations=50)
    quiet, loud = (simulate(system, replace(options, noise=noise)).table for noise in (0.0, 0.2))
    np.testing.assert_array_equal(quiet.time, loud.time)
    share = (loud.values - quiet.values).std(axis=0) / quiet.values.std(axis=0)
    np.testing.assert_allclose(share, 0.2, rtol=0.05)


@pytest.mark.parametrize("name", ["pharmacokinetics", "spirals"])
def test_the_truth_is_charged_with_the_noise_floor(name):
    """The noise is counted against the truth at the test's targets: 300 values at least, so 20 % is over two deviations of their mean square."""
    system = SYSTEMS[name]
    task = half_to_half(system).build(None, 1)
    truth = simulate(system, replace(system.options, seed=system.options.seed + 1)).truth
    table, test = task.table, task.test
    rows = np.isin(table.row_series, test.series) & (table.time > system.duration / 2)
    error = (table.values[rows] - truth(table.row_series[rows], table.time[rows])) / task.unit
    np.testing.assert_allclose((error**2).mean(axis=0), task.floor, rtol=0.2)
    assert rows.sum() > 300


def test_targets_end_at_the_horizon_of_the_system():
    system = replace(SYSTEMS["lorenz63"], horizon=0.5)
    protocol = half_to_half(system, SMALL)
    task = protocol.build(None, 0)
    assert (task.test.until == system.duration / 2 + 0.5).all()
    assert task.scaler.time_scale == 0.5
    assert "a span of 0.5 beyond the middle" in protocol.rules


def test_dropped_cells_grow_with_their_share_and_leave_the_others():
    system = SYSTEMS["lorenz63"]
    few, many = (simulate(system, replace(SMALL, n_series=50, missing=share)) for share in (0.2, 0.6))
    full = 50 * 30 * 3
    for simulation, share in ((few, 0.2), (many, 0.6)):
        assert simulation.table.report.n_values / full == pytest.approx(1 - share, abs=0.05)
        seen = ~np.isnan(simulation.table.values)
        truth = simulation.truth(simulation.table.row_series, simulation.table.time)
        np.testing.assert_array_equal(simulation.table.values[seen], truth[seen])
    kept_of_many = set(map(tuple, np.argwhere(~np.isnan(many.table.values))))
    assert len(kept_of_many) == many.table.report.n_values
    assert set(many.table.time) <= set(few.table.time)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_sampling_serves(sampling):
    table = simulate(SYSTEMS["damped_oscillators"], replace(SMALL, sampling=sampling)).table
    assert table.n_series == SMALL.n_series
    assert table.n_rows / table.n_series == pytest.approx(SMALL.n_observations, rel=0.2)


def test_trajectories_stay_when_the_way_of_observing_changes():
    truths = [
        simulate(SYSTEMS["van_der_pol"], options).truth
        for options in (SMALL, replace(SMALL, sampling="bursty", noise=0.5, missing=0.5, n_observations=9))
    ]
    series, time = np.arange(20), np.full(20, 11.3)
    np.testing.assert_array_equal(truths[0](series, time), truths[1](series, time))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_series": 0}, "n_series is 0"),
        ({"n_observations": -1}, "n_observations is -1"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"noise": np.inf}, "noise is inf"),
        ({"missing": 1.0}, "missing is 1.0"),
        ({"missing": "0.5"}, "missing is '0.5'"),
        ({"noise": None}, "noise is None"),
        ({"n_observations": 1.5}, "n_observations is 1.5; give a whole number of at least 1"),
        ({"n_series": True}, "n_series is True"),
        ({"seed": -1}, "seed is -1; give a whole number of at least 0"),
        ({"sampling": ["poisson"]}, "sampling is .'poisson'.; choose one of"),
        ({"sampling": "poison"}, "did you mean 'poisson'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Options(**options)


def test_too_few_series_to_hold_any_out_are_refused():
    system = SYSTEMS["damped_oscillators"]
    with pytest.raises(InputError, match="n_series is 2; give at least 3"):
        half_to_half(system, replace(SMALL, n_series=2))
    laws.check_no_series_twice(half_to_half(system, replace(SMALL, n_series=3)).build(None, 0))
