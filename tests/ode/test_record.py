"""What a solve leaves behind leads back to its start, step by step, however much of it was thinned out."""

from __future__ import annotations

import itertools

import pytest
import torch

from latentode.ode.record import Record

DOUBLE = torch.float64


def record_of(n_steps, stride, most, h):
    """A record of steps `h` `(S, B)`; the state counts the steps that were tried."""
    record, tau = Record(stride=stride, most=most), torch.zeros_like(h[0])
    for i in range(n_steps):
        record.before(i, tau, torch.full((h.shape[1], 1), float(i)))
        record.after(h[i])
        tau = tau + h[i]
    return record, tau, torch.full((h.shape[1], 1), float(n_steps))


def random_steps(n_steps, part_rejected=0.0, n_samples=3):
    generator = torch.Generator().manual_seed(0)
    h = 0.5 + torch.rand(n_steps, n_samples, dtype=DOUBLE, generator=generator)
    return torch.where(torch.rand(h.shape, generator=generator) < part_rejected, 0.0, h)


@pytest.mark.parametrize("n_steps", [1, 5, 64, 65, 200])
@pytest.mark.parametrize(("stride", "most"), [(1, 0), (1, 1), (1, 3), (1, None), (7, None), (256, None)])
def test_segments_cover_every_step_once_from_the_last_to_the_first(n_steps, stride, most):
    h = random_steps(n_steps)
    record, tau, y = record_of(n_steps, stride, most, h)
    segments = list(record.segments_backward(n_steps, tau, y))
    assert segments[0].end.i_step == n_steps
    assert segments[-1].start.i_step == 0
    for later, earlier in itertools.pairwise(segments):
        assert later.start.i_step == earlier.end.i_step
        assert torch.equal(later.start.y, earlier.end.y)
    assert torch.equal(torch.cat([segment.h for segment in reversed(segments)]), h)
    clock = torch.cat([torch.zeros_like(h[:1]), h.cumsum(0)[:-1]])
    torch.testing.assert_close(torch.cat([segment.tau for segment in reversed(segments)]), clock, rtol=1e-14, atol=0)
    for segment in segments:
        assert float(segment.start.y[0, 0]) == segment.start.i_step
        torch.testing.assert_close(segment.start.tau + segment.h.sum(0), segment.end.tau, rtol=1e-14, atol=0)


@pytest.mark.parametrize("n_steps", [10, 100, 1000, 5000])
def test_the_number_of_marks_goes_with_the_root_of_the_number_of_steps(n_steps):
    record, *_ = record_of(n_steps, 1, 0, torch.ones(n_steps, 1))
    n_marks = len(record.marks)
    assert n_marks <= 2 * record.stride
    assert 0.4 * n_steps**0.5 <= n_marks <= 2 * n_steps**0.5 + 2
    assert record.stride <= 2 * n_steps**0.5
    # Doubled and doubled again.
    assert record.stride & (record.stride - 1) == 0


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_more_marks_stand_than_were_allowed(most):
    record, n_seen = Record(stride=1, most=most), 0
    for i in range(300):
        record.before(i, torch.zeros(1), torch.zeros(1, 1))
        record.after(torch.ones(1))
        n_seen = max(n_seen, len(record.marks))
    assert n_seen == most
    # Of the marks that are left none is far from the next.
    assert all(b.i_step - a.i_step == record.stride for a, b in zip(record.marks, record.marks[1:], strict=False))


def test_with_no_bound_every_mark_stays():
    record, *_ = record_of(50, 5, None, torch.ones(50, 1))
    assert [mark.i_step for mark in record.marks] == list(range(0, 50, 5))


def test_rejected_steps_take_no_time_on_the_way_back():
    n_steps = 150
    h = random_steps(n_steps, part_rejected=0.4)
    record, tau, y = record_of(n_steps, 10, None, h)
    n_tried = n_taken = 0
    for segment in record.segments_backward(n_steps, tau, y):
        own = h[segment.start.i_step : segment.end.i_step]
        n_tried, n_taken = n_tried + len(own), n_taken + len(segment.h)
        assert len(segment.h) == int((own > 0).sum(0).amax())
        for sample in range(h.shape[1]):
            taken = own[own[:, sample] > 0, sample]
            # In their order, in front; then the sample waits for the others at the segment's end.
            assert torch.equal(segment.h[: len(taken), sample], taken)
            assert not segment.h[len(taken) :, sample].any()
            assert bool((segment.tau[len(taken) :, sample] <= segment.end.tau[sample]).all())
            before = segment.start.tau[sample] + torch.cat([torch.zeros(1, dtype=DOUBLE), taken.cumsum(0)])[:-1]
            torch.testing.assert_close(segment.tau[: len(taken), sample], before, rtol=1e-14, atol=0)
    assert n_taken < n_tried


def test_a_segment_in_which_nobody_got_on_is_empty():
    h = torch.zeros(4, 2)
    record, tau, y = record_of(4, 2, None, h)
    assert [segment.h.shape for segment in record.segments_backward(4, tau, y)] == [(0, 2), (0, 2)]


def test_the_clock_of_a_step_never_passes_the_end():
    h = torch.full((3, 1), 0.1, dtype=DOUBLE)
    record, _, y = record_of(3, 8, None, h)
    # The loop's own clock may have been rounded a bit lower than the sum.
    end = torch.tensor([0.2], dtype=DOUBLE)
    (segment,) = record.segments_backward(3, end, y)
    assert segment.tau[:, 0].tolist() == [0.0, 0.1, 0.2]
