"""The scaler sees training rows only, and is undone exactly."""

from __future__ import annotations

import numpy as np
import pandas as pd

from latentode.data.scaling import Scaler
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from latentode.data.windows import make_split
from tests.data.tables import make_table


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
