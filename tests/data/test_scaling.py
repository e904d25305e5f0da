"""The scaler sees training rows only, and is undone exactly."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from latentode.data.scaling import LIMIT, Scaler, Spread
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from latentode.data.windows import make_split
from tests.data.tables import ROLES, make_covariate_frame, make_table


def test_mean_and_deviation_are_those_of_the_training_rows():
    table = make_table()
    split = make_split(table, DataSettings())
    scaler = Scaler.fit(table, split, 2.0)
    rows = table.values[split.train_rows(table)]
    assert np.allclose(scaler.mean, np.nanmean(rows, axis=0))
    assert np.allclose(scaler.std, np.nanstd(rows, axis=0))
    assert scaler.n_values.tolist() == (~np.isnan(rows)).sum(0).tolist()


def test_constant_and_unseen_channels_do_no_harm():
    frame = pd.DataFrame({"time": np.arange(20.0), "flat": 3.1, "late": np.nan, "x": np.arange(20.0)})
    frame.loc[19, "late"] = 5.0
    table = read_table(frame)
    scaler = Scaler.fit(table, make_split(table, DataSettings()), 2.0)
    assert scaler.std[:2].tolist() == [1.0, 1.0]
    assert scaler.mean[1] == 0.0
    assert scaler.n_values[1] == 0


def test_scaling_is_undone_and_survives_being_written():
    table = make_table(n_channels=3)
    scaler = Scaler.fit(table, make_split(table, DataSettings()), 2.0)
    again = Scaler.from_dict(scaler.to_dict())
    channel = np.asarray([0, 2, 1, 1])
    values = np.asarray([1e6, -3.0, 0.0, 2.5])
    assert np.allclose(again.inverse(scaler.transform(values, channel), channel), values)
    assert again.time_scale == 2.0


def fit(frame, scaling="standard", **roles):
    table = read_table(frame, **roles)
    return Scaler.fit(table, make_split(table, DataSettings()), 2.0, scaling=scaling), table


def test_robust_scaling_is_that_of_a_normal_where_there_are_no_outliers_and_does_not_move_with_one():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"time": np.arange(20_000.0), "x": 5 + 3 * rng.normal(size=20_000)})
    clean = fit(frame, "robust")[0].spread()
    assert clean.centre[0] == pytest.approx(5, abs=0.1)
    assert clean.size[0] == pytest.approx(3, rel=0.03)
    frame.loc[7, "x"] = 1e12
    scaler, _ = fit(frame, "robust")
    assert scaler.spread().size[0] == pytest.approx(clean.size[0], rel=1e-3)
    assert scaler.transform(np.asarray([1e12, -1e300, 5.0]), np.zeros(3, int))[:2].tolist() == [LIMIT, -LIMIT]
    # The unit of errors stays the deviation of the values, whatever models see.
    assert scaler.std[0] > 1e9


@pytest.mark.parametrize(
    ("values", "centre", "size"),
    [
        ([3.1] * 20, 3.1, 1.0),
        ([0.0] * 15 + [2.0, 4.0, 6.0, 4.0, 4.0], 0.0, 1.4826 * 4),
        ([1e308, -1e308] * 10, 0.0, 1.4826e308),
        ([1e12] + [7.0] * 19, 7.0, 1.0),
        ([np.nan] * 20, 0.0, 1.0),
        (list(range(-10, 0)) + list(range(1, 11)), 0.0, 1.4826 * 5.5),
    ],
)
def test_robust_size_is_never_nothing(values, centre, size):
    spread = Spread.robust(np.asarray(values, dtype=float)[:, None])
    assert spread.centre[0] == pytest.approx(centre)
    assert spread.size[0] == pytest.approx(size, rel=1e-9)
    assert np.isfinite(spread.transform(np.asarray([[1e308], [-1e308], [0.0]]), LIMIT)).all()


@pytest.mark.parametrize("scaling", ["standard", "robust"])
def test_logarithms_are_undone_exactly_and_written_down(scaling):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"time": np.arange(60.0), "x": rng.normal(size=60), "p": np.exp(rng.normal(size=60) - 5)})
    scaler, table = fit(frame, scaling, log_channels=["p"])
    again = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    channel = np.asarray([0, 1, 1, 0])
    values = np.asarray([0.3, 1e-4, 2.0, -1.0])
    scaled = again.transform(values, channel)
    assert np.allclose(again.inverse(scaled, channel), values, rtol=1e-12)
    assert np.allclose(again.error_units(values, channel), (values - scaler.mean[channel]) / scaler.std[channel])
    logs = np.log(table.values[make_split(table, DataSettings()).train_rows(table)][:, 1])
    expected = (np.median(logs), 1.4826 * np.median(np.abs(logs - np.median(logs))))
    centre, size = (logs.mean(), logs.std()) if scaling == "standard" else expected
    assert (scaled[1] * size + centre) == pytest.approx(np.log(1e-4))


def test_static_numbers_are_scaled_by_training_series_and_known_columns_by_training_rows():
    table = read_table(make_covariate_frame(n_series=8, n_rows=20), **ROLES)
    split = make_split(table, DataSettings(split="series", val_fraction=0.25, test_fraction=0.25))
    scaler = Scaler.fit(table, split, 2.0)
    trained = split.role == 0
    assert 0 < trained.sum() < 8
    ages = table.statics.numbers[trained, 0]
    assert (scaler.statics.centre[0], scaler.statics.size[0]) == pytest.approx((ages.mean(), ages.std()))
    doses = table.known[trained[table.row_series], 0]
    assert (scaler.known.centre[0], scaler.known.size[0]) == pytest.approx((doses.mean(), doses.std()))


def test_a_scaler_of_an_older_version_is_read():
    scaler = fit(pd.DataFrame({"time": np.arange(9.0), "x": np.arange(9.0)}))[0]
    older = {key: scaler.to_dict()[key] for key in ("mean", "std", "n_values", "time_scale")}
    again = Scaler.from_dict(older)
    assert again.channel_map is None
    assert len(again.known.size) == len(again.statics.size) == 0
