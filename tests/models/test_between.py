"""What stands around a query inside a history, against a plain loop; a forecast made before it reads nothing from behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal

from latentode.models.between import SIDE, SOON, look_ahead, look_around
from latentode.models.smoothing import hide
from tests.data.tables import make_table
from tests.models.conftest import prepare

EVERYTHING = {"n_read": 10_000, "age": 1e6, "reach": 1e6}


@pytest.fixture(scope="module")
def hidden():
    return hide([prepare(make_table(n_channels=3)).validation])[0]


def tokens_of(batch, b, channel=None):
    seen = batch.token_observed[b]
    if channel is not None:
        seen = seen & (batch.token_channel[b] == channel)
    return [i for i in range(len(seen)) if seen[i]]


def targets_of(batch):
    return batch.target_observed.nonzero().tolist()


def test_the_values_around_a_target_are_those_that_a_loop_finds(hidden):
    around = look_around(hidden)
    assert len(targets_of(hidden)) > 30
    for b, m in targets_of(hidden):
        at, channel = hidden.lead_time()[b, m], hidden.target_channel[b, m]
        own = tokens_of(hidden, b, channel)
        before = [i for i in own if hidden.token_time[b, i] <= at][-SIDE:]
        behind = [i for i in own if hidden.token_time[b, i] > at][:SIDE]
        expected = [None] * (SIDE - len(before)) + before + behind + [None] * (SIDE - len(behind))
        found = [int(i) if there else None for i, there in zip(around.token[b, m], around.exists[b, m], strict=True)]
        assert found == expected


def test_a_value_at_the_very_time_is_seen(hidden):
    b, i = hidden.token_observed.nonzero()[5].tolist()
    asked = replace(
        hidden,
        query_time=hidden.token_time[:, i : i + 1].contiguous(),
        target_row=torch.zeros(len(hidden), 1, dtype=torch.int64),
        target_channel=hidden.token_channel[:, i : i + 1],
        target_observed=torch.ones(len(hidden), 1, dtype=torch.bool),
    )
    around = look_around(asked)
    assert bool(around.is_seen[b, 0])
    assert float(around.of(hidden.token_value)[b, 0, SIDE - 1]) == float(hidden.token_value[b, i])


class Spy:
    """A forecast that says what it was given: the last time and the number of its tokens, and the time of its target."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch)
        return Normal(batch.lead_time() + 1.0, torch.ones_like(batch.lead_time()), validate_args=False)


def test_a_forecast_made_before_a_target_reads_nothing_from_behind_it(hidden):
    spy = Spy()
    around = look_around(hidden)
    ahead = look_ahead(spy, hidden, around, **EVERYTHING)
    n_read = sum(int(batch.token_observed.sum()) for batch in spy.batches)
    expected = 0
    for b in range(len(hidden)):
        for at in [float(hidden.lead_time()[i, m]) for i, m in targets_of(hidden) if i == b]:
            expected += sum(hidden.token_time[b, i] <= at for i in tokens_of(hidden, b))
    assert n_read == int(expected)
    assert all(bool((batch.query_time > 0).all()) and bool((batch.token_time <= 0).all()) for batch in spy.batches)
    for b, m in targets_of(hidden):
        at = hidden.lead_time()[b, m]
        before = [hidden.token_time[b, i] for i in tokens_of(hidden, b) if hidden.token_time[b, i] <= at]
        assert bool(ahead.is_told[b, m]) == bool(before)
        if before:
            lead = max(float(at - before[-1]), SOON)
            assert float(ahead.mean[b, m]) - 1 == pytest.approx(lead, abs=1e-5)
        if before and bool(around.exists[b, m, SIDE]):
            until = around.of(hidden.token_time)[b, m, SIDE] - before[-1]
            assert float(ahead.mean_next[b, m]) - 1 == pytest.approx(float(until), abs=1e-5)


def test_what_is_read_is_bounded_in_number_and_age(hidden):
    spy = Spy()
    look_ahead(spy, hidden, look_around(hidden), n_read=4, age=0.5, reach=1.0)
    assert max(int(batch.token_observed.sum(1).max()) for batch in spy.batches) == 4
    assert min(float(batch.token_time[batch.token_observed].min()) for batch in spy.batches) >= -0.5


def test_a_target_beyond_reach_is_not_told(hidden):
    around = look_around(hidden)
    ahead = look_ahead(Spy(), hidden, around, n_read=10_000, age=1e6, reach=0.3)
    far = ahead.mean_next - 1 > 0.3 + 1e-5
    assert bool(far.any())
    assert not bool((ahead.is_told & far).any())


def test_origins_in_table_time_move_with_the_stamps(hidden):
    spy = Spy()
    look_ahead(spy, hidden, look_around(hidden), **EVERYTHING)
    for batch in spy.batches:
        for series, origin in zip(batch.series, batch.origin, strict=True):
            own = hidden.series == series
            stamps = hidden.origin[own, None] + hidden.time_scale * hidden.token_time[own].double()
            assert float((stamps - origin).abs().min()) < 1e-5
