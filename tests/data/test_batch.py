"""Batches against a slow reference that follows the contract word by word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentode.data.batch import WindowReader
from latentode.data.scaling import Scaler
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from latentode.data.windows import Spans, forecast_windows, make_split, training_windows
from tests.data.tables import ROLES, make_covariate_frame, make_frame, make_table


def prepare(table, *, max_history=512, n=40, **kwargs):
    horizon = "3h" if table.schema.time_kind == "datetime" else 3.0
    given = DataSettings(**{"horizon": horizon, **kwargs})
    split, spans = make_split(table, given), Spans.of(table, given)
    scaler = Scaler.fit(table, split, spans.horizon)
    windows = training_windows(table, split, spans, np.random.default_rng(1), n)
    return WindowReader(table, scaler, max_history=max_history), windows, scaler


def slow_tokens(table, scaler, windows, w, max_history):
    s = windows.series[w]
    tokens = []
    for row in range(table.starts[s], table.starts[s + 1]):
        if windows.history_from[w] < table.time[row] <= windows.origin[w]:
            for c in range(table.values.shape[1]):
                if not np.isnan(table.values[row, c]):
                    time = float(table.time[row] - windows.origin[w]) / scaler.time_scale
                    tokens.append((time, c, (table.values[row, c] - scaler.mean[c]) / scaler.std[c]))
    return tokens[-max_history:]


def slow_targets(table, scaler, windows, w, channels):
    s = windows.series[w]
    found = []
    for row in range(table.starts[s], table.starts[s + 1]):
        if windows.origin[w] < table.time[row] <= windows.until[w]:
            for c in channels:
                if not np.isnan(table.values[row, c]):
                    time = float(table.time[row] - windows.origin[w]) / scaler.time_scale
                    found.append((time, c, (table.values[row, c] - scaler.mean[c]) / scaler.std[c]))
    return found


@pytest.mark.parametrize("datetimes", [False, True])
@pytest.mark.parametrize("max_history", [5, 512])
def test_batches_hold_what_the_contract_says(datetimes, max_history):
    table = make_table(datetimes=datetimes)
    reader, windows, scaler = prepare(table, max_history=max_history)
    batch = reader.read(windows)
    for w in range(len(windows)):
        seen = batch.token_observed[w]
        tokens = list(
            zip(batch.token_time[w][seen], batch.token_channel[w][seen], batch.token_value[w][seen], strict=True)
        )
        assert np.allclose(tokens, slow_tokens(table, scaler, windows, w, max_history), atol=1e-5)
        assert seen.tolist() == sorted(seen.tolist(), reverse=True)
        known = batch.target_observed[w]
        time = batch.query_time[w][batch.target_row[w]]
        targets = list(zip(time[known], batch.target_channel[w][known], batch.target_value[w][known], strict=True))
        assert np.allclose(targets, slow_targets(table, scaler, windows, w, [0, 1]), atol=1e-5)
        asked = batch.query_time[w][batch.query_observed[w]]
        assert (asked > 0).all()
        assert (asked.diff() > 0).all()
        assert (batch.query_time[w][~batch.query_observed[w]] == asked[-1]).all()
    n_tokens, n_targets = batch.token_observed.sum(1).tolist(), batch.target_observed.sum(1).tolist()
    assert reader.count_tokens(windows).tolist() == n_tokens
    assert reader.count_targets(windows).tolist() == n_targets
    assert reader.count_widths(windows).tolist() == [max(pair) for pair in zip(n_tokens, n_targets, strict=True)]


def test_a_batch_row_is_the_window_read_alone():
    reader, windows, _ = prepare(make_table())
    batch = reader.read(windows)
    for w in (0, 7, 21):
        alone = reader.read(windows.take(np.asarray([w])))
        for name in ("token_time", "token_value", "query_time", "target_value", "target_row"):
            one, many = getattr(alone, name)[0], getattr(batch, name)[w]
            assert torch.equal(one, many[: len(one)])


def test_only_target_channels_are_forecast():
    table = read_table(make_frame(n_channels=3), target_channels=["x2", "x0"])
    reader, windows, scaler = prepare(table)
    batch = reader.read(windows)
    assert set(batch.target_channel[batch.target_observed].tolist()) == {0, 2}
    assert set(batch.token_channel[batch.token_observed].tolist()) == {0, 1, 2}
    found = [len(slow_targets(table, scaler, windows, w, [0, 2])) for w in range(len(windows))]
    assert batch.target_observed.sum(1).tolist() == found


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_queries_in_any_order_find_their_place(data):
    table = make_table(n_series=3)
    reader, _, scaler = prepare(table)
    windows = forecast_windows(table)
    n = data.draw(st.integers(1, 12))
    row = np.asarray(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    after = np.asarray(data.draw(st.lists(st.sampled_from([0.5, 1.0, 1.5, 4.0]), min_size=n, max_size=n)))
    batch, column = reader.read_queries(windows, row, windows.origin[row] + after)
    assert np.allclose(batch.query_time.numpy()[row, column], after / scaler.time_scale, atol=1e-6)
    assert (batch.query_time.diff(dim=1) >= 0).all()
    n_targets = len(reader.target_channels)
    assert batch.target_row.shape[1] == batch.query_time.shape[1] * n_targets
    assert (batch.target_row[:, ::n_targets] == torch.arange(batch.query_time.shape[1])).all()
    assert batch.target_channel[0, :n_targets].tolist() == reader.target_channels.tolist()


def test_a_date_far_from_1970_loses_nothing():
    stamps = pd.Timestamp("2200-01-01") + pd.to_timedelta(np.arange(40) * 1000, unit="ns")
    table = read_table(pd.DataFrame({"time": stamps, "x": np.sin(np.arange(40))}))
    split = make_split(table, DataSettings())
    reader = WindowReader(table, Scaler.fit(table, split, 10_000.0), max_history=99)
    windows = forecast_windows(table)
    batch, _ = reader.read_queries(windows, np.zeros(1, np.int64), windows.origin + 1000)
    assert np.allclose(batch.token_time[0].numpy(), np.arange(-39, 1) / 10, atol=1e-6)
    assert float(batch.query_time[0, 0]) == pytest.approx(0.1)


def test_rows_hold_each_stamp_once():
    reader, windows, _ = prepare(make_table(n_channels=3))
    batch = reader.read(windows)
    rows = batch.rows()
    for w in range(len(windows)):
        seen = batch.token_observed[w]
        stamps = torch.unique(batch.token_time[w][seen])
        assert torch.equal(rows.time[w][rows.row_observed[w]], stamps)
        place = torch.searchsorted(stamps, batch.token_time[w][seen])
        channel = batch.token_channel[w][seen]
        assert rows.observed[w, place, channel].all()
        assert torch.equal(rows.value[w, place, channel], batch.token_value[w][seen])
        assert int(rows.observed[w].sum()) == int(seen.sum())
    assert (rows.value[~rows.observed] == 0).all()


def test_a_batch_says_its_size_and_not_its_numbers():
    reader, windows, _ = prepare(make_table())
    assert repr(reader.read(windows)).startswith("Batch(B=40, N=")


def covariates(**options):
    table = read_table(make_covariate_frame(), **{**ROLES, **options})
    split, spans = make_split(table, DataSettings(horizon=3.0)), Spans.of(table, DataSettings(horizon=3.0))
    scaler = Scaler.fit(table, split, 3.0)
    windows = training_windows(table, split, spans, np.random.default_rng(1), 40)
    return WindowReader(table, scaler, max_history=60), windows, scaler


def test_batches_carry_statics_and_what_the_known_columns_hold_at_tokens_and_queries():
    reader, windows, scaler = covariates()
    table, batch = reader.table, reader.read(windows)
    assert (batch.statics.shape, batch.categories.shape, batch.known.shape[2]) == ((40, 1), (40, 1), 1)
    for w in range(len(windows)):
        s = windows.series[w]
        rows = slice(table.starts[s], table.starts[s + 1])
        dose = dict(zip(table.time[rows].tolist(), scaler.known.transform(table.known[rows])[:, 0], strict=True))
        for time, known, seen in (
            (batch.query_time[w], batch.known[w, :, 0], batch.query_observed[w]),
            (batch.token_time[w], batch.token_known[w, :, 0], batch.token_observed[w]),
        ):
            stamps = windows.origin[w] + time[seen].double().numpy() * scaler.time_scale
            place = [min(dose, key=lambda at, stamp=stamp: abs(at - stamp)) for stamp in stamps]
            assert np.allclose(known[seen], [dose[at] for at in place], atol=1e-5)
            assert (known[~seen] == 0).all()
        assert float(batch.statics[w]) == pytest.approx(
            float((40 + 5 * s - scaler.statics.centre[0]) / scaler.statics.size[0]), abs=1e-5
        )
        assert int(batch.categories[w]) == 1 + int(s) % 3
    dense = batch.rows()
    where = dense.row_observed
    assert torch.equal(dense.known[where][:, 0] != 0, torch.ones(int(where.sum()), dtype=torch.bool))


def test_a_missing_static_is_0_and_said_to_be_missing():
    frame = make_covariate_frame()
    frame.loc[frame["series_id"] == "s1", "age"] = np.nan
    frame.loc[frame["series_id"] == "s1", "kind"] = None
    table = read_table(frame, **ROLES)
    scaler = Scaler.fit(table, make_split(table, DataSettings(horizon=3.0)), 3.0)
    batch, _ = WindowReader(table, scaler, max_history=9).read_queries(
        forecast_windows(table), np.arange(8), np.full(8, 99.0), np.zeros((8, 1))
    )
    assert batch.statics_observed[:, 0].tolist() == [True, False, *[True] * 6]
    assert batch.statics[1, 0] == 0
    assert batch.categories[1, 0] == 0
    assert (batch.categories[[0, *range(2, 8)], 0] > 0).all()


def test_a_batch_row_with_all_columns_is_the_window_read_alone():
    reader, windows, _ = covariates()
    batch = reader.read(windows)
    assert batch.target_error_units is not None
    for w in (0, 7, 21):
        alone = reader.read(windows.take(np.asarray([w])))
        for name in ("token_known", "known", "statics", "statics_observed", "categories", "target_error_units"):
            one, many = getattr(alone, name)[0], getattr(batch, name)[w]
            assert torch.equal(one, many[: len(one)]), name


def test_one_time_with_two_values_of_a_known_column_is_two_queries():
    reader, _, scaler = covariates()
    windows = forecast_windows(reader.table)
    row, after = np.asarray([0, 1, 0, 0]), np.asarray([1.0, 1.0, 1.0, 1.0])
    dose = np.asarray([[2.0], [0.0], [-2.0], [2.0]])
    batch, column = reader.read_queries(windows, row, windows.origin[row] + after, dose)
    assert batch.query_observed.sum(1).tolist() == [2, 1, *[0] * 6]
    assert column[0] == column[3] != column[2]
    assert np.allclose(batch.known.numpy()[row, column], scaler.known.transform(dose), atol=1e-6)


def test_errors_are_told_of_the_values_and_not_of_their_logarithms():
    reader, windows, scaler = covariates()
    batch = reader.read(windows)
    seen = batch.target_observed
    value = scaler.inverse(batch.target_value[seen].double().numpy(), batch.target_channel[seen].numpy())
    expected = scaler.error_units(value, batch.target_channel[seen].numpy())
    assert batch.error_target().dtype == torch.float64
    assert np.allclose(batch.error_target()[seen], expected, atol=1e-5)
    plain, windows, _ = covariates(log_channels=None)
    batch = plain.read(windows)
    assert batch.error_target() is batch.target_value
    assert batch.to("cpu").target_error_units is None


def test_a_batch_of_a_table_without_such_columns_has_them_with_no_width():
    reader, windows, _ = prepare(make_table())
    batch = reader.read(windows).to("cpu")
    for name in ("statics", "statics_observed", "categories"):
        assert getattr(batch, name).shape == (40, 0)
    assert batch.known.shape == (*batch.query_time.shape, 0)
    assert batch.token_known.shape == (*batch.token_time.shape, 0)


def by_channel(batch):
    """The times of each pair of window and channel, by a loop."""
    times = {}
    for w, j in zip(*np.nonzero(batch.target_observed.numpy()), strict=True):
        pair = (int(w), int(batch.target_channel[w, j]))
        times.setdefault(pair, []).append(float(batch.query_time[w, batch.target_row[w, j]]))
    return times


def test_targets_by_channel_are_those_of_a_loop():
    reader, windows, _ = prepare(make_table(n_channels=3))
    batch = reader.read(windows)
    queries = batch.channel_queries()
    expected = by_channel(batch)
    pairs = list(zip(queries.series.tolist(), queries.channel.tolist(), strict=True))
    assert len(pairs) == len(expected)
    found = {pair: queries.time[queries.pair == i].tolist() for i, pair in enumerate(pairs)}
    assert found == expected
    # Every target finds its own time and channel at its place, and padding has none.
    own = batch.query_time.gather(1, batch.target_row)
    assert torch.equal(queries.place, batch.target_observed.flatten().nonzero()[:, 0])
    assert torch.equal(queries.time, own.flatten()[queries.place])
    assert torch.equal(queries.channel[queries.pair], batch.target_channel.flatten()[queries.place])


def test_targets_by_channel_of_queries_and_of_nothing():
    table = make_table(n_channels=2)
    reader, _, _ = prepare(table)
    windows = forecast_windows(table)
    row = np.repeat(np.arange(len(windows)), 2)
    batch, _ = reader.read_queries(windows, row, windows.origin[row] + np.tile([2.0, 1.0], len(windows)))
    queries = batch.channel_queries()
    assert len(queries.series) == 2 * len(windows)
    assert torch.bincount(queries.pair).tolist() == [2] * (2 * len(windows))
    nothing = replace(batch, target_observed=torch.zeros_like(batch.target_observed)).channel_queries()
    assert [len(x) for x in (nothing.series, nothing.channel, nothing.place, nothing.pair, nothing.time)] == [0] * 5
