"""Windows and splits: no leak, every target once, laws of time; against enumeration by hand on small tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentode.data.batch import WindowReader
from latentode.data.scaling import Scaler
from latentode.data.settings import DataSettings
from latentode.data.tables import read_table
from latentode.data.windows import (
    TEST,
    TRAIN,
    VAL,
    Between,
    Rows,
    Spans,
    TrainingOrigins,
    Windows,
    bisect_rows,
    choose_horizon,
    count_teaching,
    forecast_windows,
    heldout_windows,
    make_split,
    training_windows,
)
from latentode.errors import DataError, InputError
from tests.data.tables import make_frame, make_table

HOUR = 3_600_000_000_000


def cut(table, **kwargs):
    given = DataSettings(**{"horizon": "2h" if table.schema.time_kind == "datetime" else 2.0, **kwargs})
    return make_split(table, given), Spans.of(table, given)


def targets(table, windows):
    """The (window, row) pairs of rows in (origin, until], by hand."""
    rows = []
    for w in range(len(windows)):
        s = windows.series[w]
        for row in range(table.starts[s], table.starts[s + 1]):
            if windows.origin[w] < table.time[row] <= windows.until[w]:
                rows.append((w, row))
    return rows


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_bisection_equals_counting(data):
    lengths = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    time = np.concatenate([np.sort(np.round(np.random.default_rng(n).uniform(0, 5, n), 1)) for n in lengths] + [[]])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    series = np.asarray(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=10)))
    at = np.asarray(data.draw(st.lists(st.floats(-1, 6), min_size=len(series), max_size=len(series))))
    found = bisect_rows(time, starts[series], starts[series + 1], at)
    expected = [starts[s] + (time[starts[s] : starts[s + 1]] <= t).sum() for s, t in zip(series, at, strict=True)]
    assert found.tolist() == expected


@pytest.mark.parametrize("datetimes", [False, True])
def test_a_training_target_never_crosses_the_cut(datetimes):
    table = make_table(datetimes=datetimes)
    split, spans = cut(table)
    windows = training_windows(table, split, spans, np.random.default_rng(0), 500)
    assert len(windows) == 500
    assert (windows.until <= split.val_from[windows.series]).all()
    assert (windows.until <= windows.origin + np.asarray(spans.horizon, table.time.dtype)).all()
    counted = np.bincount([w for w, _ in targets(table, windows)], minlength=len(windows))
    assert (counted > 0).all()


def test_half_of_the_training_origins_lie_between_observations():
    table = make_table()
    split, spans = cut(table)
    windows = training_windows(table, split, spans, np.random.default_rng(0), 400)
    at_stamp = np.isin(windows.origin, table.time)
    assert 0.45 < at_stamp.mean() < 0.6


@pytest.mark.parametrize("kind", ["time", "series"])
def test_fitting_sees_nothing_of_what_is_held_out(kind):
    frame = make_frame(n_series=8)
    table = read_table(frame)
    split, spans = cut(table, split=kind)
    changed = frame.copy()
    held_out = ~split.train_rows(table)
    assert 0 < held_out.sum() < table.n_rows
    order = table.to_frame().index[held_out]
    changed.loc[order, ["x0", "x1"]] = changed.loc[order, ["x0", "x1"]] + 1e6
    other = read_table(changed)
    scaler, other_scaler = (
        Scaler.fit(t, make_split(t, DataSettings(split=kind)), spans.horizon) for t in (table, other)
    )
    assert scaler.mean.tolist() == other_scaler.mean.tolist()
    assert scaler.std.tolist() == other_scaler.std.tolist()
    windows = training_windows(table, split, spans, np.random.default_rng(0), 64)
    one, two = (WindowReader(t, scaler, max_history=99).read(windows) for t in (table, other))
    assert one.token_value.equal(two.token_value)
    assert one.target_value.equal(two.target_value)


@pytest.mark.parametrize("datetimes", [False, True])
@pytest.mark.parametrize("part", ["val", "test"])
def test_every_heldout_target_stands_in_exactly_one_window(part, datetimes):
    table = make_table(n_series=3, n_rows=60, datetimes=datetimes)
    split, spans = cut(table, val_fraction=0.3, test_fraction=0.3)
    windows = heldout_windows(table, split, part, spans)
    series = table.row_series
    low, high = (
        (split.val_from, split.test_from) if part == "val" else (split.test_from, table.time[table.starts[1:] - 1])
    )
    expected = np.flatnonzero((table.time > low[series]) & (table.time <= high[series]))
    assert sorted(row for _, row in targets(table, windows)) == expected.tolist()
    elapsed = (windows.origin - low[windows.series]) / spans.horizon
    assert np.allclose(elapsed, np.round(elapsed), atol=1e-9)


def test_heldout_series_are_forecast_from_one_horizon_after_their_first_stamp():
    table = make_table(n_series=10)
    split, spans = cut(table, split="series")
    assert {(split.role == role).sum() for role in (VAL, TEST)} == {2}
    windows = heldout_windows(table, split, "test", spans)
    assert set(windows.series) <= set(np.flatnonzero(split.role == TEST))
    steps = (windows.origin - table.time[table.starts[windows.series]]) / spans.horizon
    assert np.allclose(steps, np.round(steps))
    assert (steps >= 1 - 1e-9).all()
    training = training_windows(table, split, spans, np.random.default_rng(0), 100)
    assert (split.role[training.series] == TRAIN).all()


def test_the_order_of_rows_does_not_choose_the_heldout_series():
    frame = make_frame(n_series=10)
    roles = []
    for order in (frame, frame.sample(frac=1.0, random_state=1)):
        table = read_table(order)
        role = make_split(table, DataSettings(split="series")).role
        roles.append(dict(zip(table.series_ids, role.tolist(), strict=True)))
    assert roles[0] == roles[1]


def test_too_few_series_cannot_be_held_out():
    with pytest.raises(DataError, match="split='time'"):
        make_split(make_table(n_series=2), DataSettings(split="series"))


def test_cuts_can_be_dates():
    table = make_table(datetimes=True)
    split = make_split(table, DataSettings(val_from="2026-01-01T10:00", test_from="2026-01-01T15:00"))
    assert set(split.test_from - split.val_from) == {5 * HOUR}
    with pytest.raises(InputError, match="comes before"):
        make_split(table, DataSettings(val_from="2026-01-01T15:00", test_from="2026-01-01T10:00"))


def test_a_short_history_reads_only_its_duration():
    table = make_table()
    split, spans = cut(table, history=1.5)
    windows = training_windows(table, split, spans, np.random.default_rng(0), 200)
    batch = WindowReader(table, Scaler.fit(table, split, 2.0), max_history=99).read(windows)
    assert batch.token_observed.any(1).all()
    assert float(batch.token_time.min()) > -1.5 / 2.0


@given(unit=st.floats(1e-3, 1e3), start=st.floats(-1e4, 1e4))
@settings(max_examples=20, deadline=None)
def test_the_chosen_horizon_follows_the_unit_of_time(unit, start):
    reference = choose_horizon(make_table())
    assert choose_horizon(make_table(unit=unit, start=start)) == pytest.approx(unit * reference, rel=1e-5)


def test_the_horizon_of_dates_is_a_round_duration():
    assert choose_horizon(make_table(datetimes=True)) % (60 * 1_000_000_000) == 0


def test_series_of_one_row_teach_nothing_about_time():
    frame = make_frame().drop_duplicates("series_id")
    with pytest.raises(DataError, match="single row"):
        choose_horizon(read_table(frame))


def test_a_forecast_starts_at_each_series_own_last_value():
    frame = make_frame(n_series=2)
    frame.loc[
        frame["series_id"].eq("s0") & (frame["time"] == frame.loc[frame.series_id == "s0", "time"].max()), ["x0", "x1"]
    ] = np.nan
    table = read_table(frame)
    windows = forecast_windows(table)
    assert windows.origin.tolist() == [table.time[table.starts[1] - 2], table.time[-1]]
    with pytest.raises(DataError, match="starts after the origin"):
        forecast_windows(table, origin=np.asarray([-5.0]))


def test_windows_are_drawn_without_repeats_while_there_are_candidates():
    table = make_table(n_series=6, n_rows=60)
    split, spans = cut(table)
    windows = training_windows(table, split, spans, np.random.default_rng(0), 60)
    pairs = set(zip(windows.series.tolist(), windows.origin.tolist(), strict=True))
    assert len(pairs) == len(windows)


def test_few_of_many_candidates_are_drawn_without_repeats(monkeypatch):
    monkeypatch.setattr("latentode.data.windows.MANY", 100)
    table = make_table(n_series=30, n_rows=120)
    split, spans = cut(table)
    windows = training_windows(table, split, spans, np.random.default_rng(0), 30)
    assert len(windows) == 30
    assert len(set(zip(windows.series.tolist(), windows.origin.tolist(), strict=True))) == 30
    assert (windows.until <= split.val_from[windows.series]).all()
    # From all over the table, not from its beginning.
    assert len(set(windows.series.tolist())) > 10


@pytest.mark.parametrize("kind", ["time", "series"])
def test_origins_found_once_and_in_blocks_give_the_same_draws(monkeypatch, kind):
    table = make_table(n_series=8, n_rows=40)
    split, spans = cut(table, split=kind)
    expected = training_windows(table, split, spans, np.random.default_rng(1), 99)
    monkeypatch.setattr("latentode.data.windows.AT_ONCE", 7)
    origins = TrainingOrigins.of(table, split, spans)
    origins.draw(np.random.default_rng(5), 10)
    found = origins.draw(np.random.default_rng(1), 99)
    for name in ("series", "origin", "until", "history_from"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()


@pytest.mark.parametrize("kind", ["time", "series"])
def test_rows_that_teach_are_those_with_a_value_behind_and_a_training_target_ahead(kind):
    table = make_table(n_series=8, n_rows=40)
    split, _ = cut(table, split=kind)
    seen = split.train_rows(table)
    n_teaching = 0
    for s in range(table.n_series):
        holds = np.flatnonzero(seen[table.starts[s] : table.starts[s + 1]])
        # Every row of this table holds a value and every channel is forecast.
        n_teaching += max(len(holds) - 1, 0)
    assert count_teaching(table, split, Rows.of(table)) == n_teaching > 0


def laid(table, *, stride, horizon=2.0, history=3.0, n=4):
    """`n` windows per series, every `stride`."""
    series = np.repeat(np.arange(table.n_series), n)
    origin = table.time[table.starts[series]] + history + stride * np.tile(np.arange(n), table.n_series)
    return Rows.of(table).keep_usable(Windows(series, origin, origin + horizon, origin - history))


@pytest.mark.parametrize("stride", [0.5, 2.0])
def test_moved_windows_read_and_forecast_what_their_neighbours_do(stride):
    table = make_table(n_rows=60)
    windows = laid(table, stride=stride)
    drawn = Between.of(table, windows).draw(np.random.default_rng(0), 50 * len(windows))
    assert len(np.unique(drawn.origin)) > len(windows)
    assert len(Rows.of(table).keep_usable(drawn)) == len(drawn)
    assert np.allclose(drawn.until - drawn.origin, 2.0)
    assert np.allclose(drawn.origin - drawn.history_from, 3.0)
    for s in np.unique(windows.series):
        own, laid_here = drawn.take(drawn.series == s), windows.take(windows.series == s)
        assert laid_here.origin.min() <= own.origin.min()
        assert own.until.max() <= laid_here.until.max()


def test_windows_with_a_gap_between_their_targets_stay_where_they_were_laid():
    table = make_table(n_rows=60)
    windows = laid(table, stride=2.5)
    drawn = Between.of(table, windows).draw(np.random.default_rng(0), len(windows))
    assert sorted(zip(drawn.series, drawn.origin, strict=True)) == sorted(
        zip(windows.series, windows.origin, strict=True)
    )


def test_windows_of_unlike_spans_and_single_ones_stay_where_they_were_laid():
    table = make_table(n_rows=60)
    windows = laid(table, stride=1.0, n=2)
    longer = Windows(windows.series, windows.origin, windows.until + np.arange(len(windows)), windows.history_from)
    single = laid(table, stride=1.0, n=1)
    for kept in (longer, single):
        assert not Between.of(table, kept).gap.any()
