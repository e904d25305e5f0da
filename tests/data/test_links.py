"""Channels with a support: links that undo each other, and tables that are refused where they leave it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from latentode.data.links import Links
from latentode.data.scaling import Scaler
from latentode.data.schema import Schema
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from latentode.data.windows import Spans, make_split
from latentode.errors import DataError, InputError

SUPPORTS = {"log_channels": ["p"], "count_channels": ["n"], "bounded_channels": {"b": [-2, 100]}}
VALUES = np.asarray([[0.3, 1e-4, 0.0, -2.0], [-7.0, 3.0, 1.0, 100.0], [1.0, 1e6, 250.0, 50.0], [np.nan] * 4])


def make_frame():
    rng = np.random.default_rng(0)
    n = 60
    columns = {"x": rng.normal(size=n), "p": np.exp(rng.normal(size=n)), "n": rng.poisson(2.0, n)}
    return pd.DataFrame({"time": np.arange(n), **columns, "b": np.clip(rng.normal(60, 40, n), -2, 100)})


def make_links():
    return Links.of(read_table(make_frame(), channels=["x", "p", "n", "b"], **SUPPORTS).schema)


def test_a_link_is_undone_and_reaches_the_bounds():
    links = make_links()
    z = links.forward(VALUES)
    assert np.isfinite(z[:3]).all()
    assert np.isnan(z[3]).all()
    np.testing.assert_allclose(links.inverse(z), VALUES, rtol=1e-9, atol=1e-9)
    assert z[2, 2] == pytest.approx(np.log(251))
    assert z[2, 3] == pytest.approx(np.log((52 + 1.02) / (50 + 1.02)))


def test_whatever_a_model_says_comes_back_inside_the_support_and_in_its_order():
    links = make_links()
    z = np.linspace(-30, 30, 601)[:, None].repeat(4, 1)
    x = links.inverse(z)
    assert (np.diff(x, axis=0) >= 0).all()
    assert (x[:, 1] > 0).all()
    assert (x[:, 2] >= 0).all()
    assert not np.signbit(x[:, 2]).any()
    assert (x[:, 2] == np.rint(x[:, 2])).all()
    assert (x[:, 3].min(), x[:, 3].max()) == (-2, 100)
    assert np.array_equal(x[:, 0], z[:, 0])


@pytest.mark.parametrize("scaling", ["standard", "robust"])
def test_a_scaler_with_supports_is_written_down_and_undone(scaling):
    table = read_table(make_frame(), channels=["x", "p", "n", "b"], **SUPPORTS)
    settings = DataSettings(horizon=5.0)
    scaler = Scaler.fit(table, make_split(table, settings), Spans.of(table, settings).horizon, scaling=scaling)
    again = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    channel = np.tile(np.arange(4), (3, 1))
    np.testing.assert_allclose(
        again.inverse(again.transform(VALUES[:3], channel), channel), VALUES[:3], rtol=1e-9, atol=1e-8
    )
    np.testing.assert_allclose(again.transform(VALUES[:3], channel), scaler.transform(VALUES[:3], channel))


def test_links_of_an_older_version_know_logarithms_alone():
    again = Links.from_dict({"is_log": [False, True]})
    assert again.is_log.tolist() == [False, True]
    assert not again.is_count.any()
    assert not again.is_bounded.any()


def test_a_schema_keeps_supports_and_a_further_table_is_held_to_them():
    table = read_table(make_frame(), **SUPPORTS)
    assert (table.schema.count_channels, table.schema.bounded_channels) == (("n",), ("b",))
    again = Schema.from_dict(json.loads(json.dumps(table.schema.to_dict())))
    assert again == table.schema
    with pytest.raises(DataError, match="channel 'b' holds 101, which is not between -2 and 100"):
        read_table(make_frame().assign(b=101.0), schema=again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count_channels": ["x"]}, r"data\.csv:2: channel 'x' holds 1.5, which is no count \(2 such rows\)"),
        ({"count_channels": ["y"]}, r"data\.csv:3: channel 'y' holds -3, which is no count \(1 such row\)"),
        (
            {"bounded_channels": {"y": [0, 2]}},
            r"data\.csv:3: channel 'y' holds -3, which is not between 0 and 2 \(2 such",
        ),
        ({"bounded_channels": {"z": [0, 1]}}, "bounded channel 'z' is not among the channels"),
        ({"count_channels": ["z"]}, "count channel 'z' is not among the channels"),
    ],
)
def test_what_is_outside_a_support_is_refused_by_line(csv_file, options, message):
    path = csv_file("time,x,y\n0,1.5,1\n1,-1,-3\n2,,5\n")
    with pytest.raises(DataError, match=message):
        read_table(path, **options)


def test_counts_that_are_empty_or_large_are_counts(csv_file):
    table = read_table(csv_file("time,x\n0,\n1,0\n2,1e12\n"), count_channels=["x"])
    assert table.values[1:, 0].tolist() == [0, 1e12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count_channels": ["x"], "log_channels": ["x"]}, "'x' is named in log_channels and in count_channels"),
        ({"count_channels": ["x"], "bounded_channels": {"x": [0, 1]}}, "'x' is named in count_channels and in bounded"),
        ({"bounded_channels": {"x": [1, 0]}}, "the bounds of 'x' are"),
        ({"bounded_channels": {"x": [0]}}, "the bounds of 'x' are"),
        ({"bounded_channels": {"x": [0, float("inf")]}}, "the bounds of 'x' are"),
        ({"bounded_channels": ["x"]}, "bounded_channels is"),
        ({"count_channels": ["x"], "duplicates": "mean"}, "choose last"),
    ],
)
def test_supports_that_are_none_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        read_table(pd.DataFrame({"time": [0, 1], "x": [0, 1]}), **options)
