"""States at the queries are the same however the steps were bundled, and every query gets one."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from latentode.ode.dense import Steps
from latentode.ode.queries import QueryWriter

DOUBLE = torch.float64


def problem_of(tau_eval, y0=None, **further):
    tau = torch.as_tensor(tau_eval, dtype=DOUBLE)
    facts = {"has_inner_queries": True, "has_repeats": True, **further}
    y0 = torch.ones(len(tau), 1, dtype=DOUBLE) if y0 is None else y0
    return SimpleNamespace(tau_eval=tau, span=tau[:, -1].detach(), y0=y0, **facts)


def square(starts, ends):
    """A step of `y = (1 + tau)**2`: from `a**2` on, `a = 1 + tau0`, `theta` and `theta**2` weigh `2 a h` and `h**2`."""
    start, end = torch.tensor(starts, dtype=DOUBLE), torch.tensor(ends, dtype=DOUBLE)
    a, h = 1 + start[:, None], (end - start)[:, None]
    return start, end, a**2, torch.stack([2 * a * h, h**2])


def run(problem, clocks, per_reading, **options):
    """Give the writer after steps between the `clocks`, one list per sample; equal ones are rejected steps."""
    writer, steps = QueryWriter(problem, **options), Steps.none()
    for i, (starts, ends) in enumerate(itertools.pairwise(clocks), 1):
        steps.append(*square(starts, ends))
        if i % per_reading == 0:
            writer.read(steps, is_last=False)
            steps.clear()
    writer.read(steps, is_last=True)
    return writer


CLOCKS = [[0.0, 0.0], [0.5, 0.0], [0.5, 0.3], [1.0, 0.9], [1.5, 0.9], [2.0, 1.5], [2.0, 3.0]]
QUERIES = [[0.0, 0.2, 0.5, 0.5, 1.7, 2.0], [0.0, 0.0, 0.3, 0.31, 2.9, 3.0]]


@pytest.mark.parametrize("per_reading", [1, 2, 3, 4, 100])
def test_states_do_not_depend_on_how_many_steps_are_read_at_a_time(per_reading):
    problem = problem_of(QUERIES)
    y1 = (1 + problem.span[:, None]) ** 2
    ys = run(problem, CLOCKS, per_reading).collect(y1, None)
    torch.testing.assert_close(ys[..., 0], (1 + problem.tau_eval) ** 2, rtol=0, atol=1e-14)
    # The end is the loop's own state, to the last bit.
    assert torch.equal(ys[:, -1], y1)


@pytest.mark.parametrize("per_reading", [1, 100])
def test_slopes_are_those_of_the_interpolants(per_reading):
    problem = problem_of(QUERIES)
    writer = run(problem, CLOCKS, per_reading, keeps_slopes=True)
    torch.testing.assert_close(writer.slopes()[..., 0], 2 * (1 + problem.tau_eval), rtol=0, atol=1e-14)


def test_a_time_that_takes_a_gradient_gets_the_slope():
    tau = torch.tensor(QUERIES, dtype=DOUBLE, requires_grad=True)
    problem = problem_of(tau, has_inner_queries=False)
    ys = run(problem, CLOCKS, 2).collect((1 + problem.span[:, None]) ** 2, None)
    (slope,) = torch.autograd.grad(ys.sum(), tau)
    torch.testing.assert_close(slope, 2 * (1 + tau.detach()), rtol=0, atol=1e-14)


def test_where_every_query_is_a_start_or_an_end_nothing_is_read():
    problem = problem_of(
        [[0.0, 2.0, 2.0], [0.0, 0.0, 3.0]], torch.full((2, 1), 7.0, dtype=DOUBLE), has_inner_queries=False
    )
    writer = run(problem, CLOCKS, 2)
    assert not writer.reads
    assert not writer.pieces
    y1 = torch.tensor([[4.0], [9.0]], dtype=DOUBLE)
    ys = writer.collect(y1, None)
    assert ys[..., 0].tolist() == [[7.0, 4.0, 4.0], [7.0, 7.0, 9.0]]


@pytest.mark.parametrize("per_reading", [1, 3])
def test_a_sample_that_rests_from_the_start_stays_at_its_start(per_reading):
    clocks = [[0.0, 0.0], [0.6, 0.0], [1.0, 0.0], [2.0, 0.0]]
    problem = problem_of([[0.0, 0.5, 1.2, 2.0], [0.0, 0.0, 0.0, 0.0]], torch.tensor([[1.0], [5.0]], dtype=DOUBLE))
    # The steps of who rests start from its state and have no length.
    writer, steps = QueryWriter(problem), Steps.none()
    for i, (starts, ends) in enumerate(itertools.pairwise(clocks), 1):
        start, end, state, powers = square(starts, ends)
        state[1] = 5.0
        steps.append(start, end, state, powers)
        if i % per_reading == 0:
            writer.read(steps, is_last=False)
            steps.clear()
    writer.read(steps, is_last=True)
    ys = writer.collect(torch.tensor([[9.0], [5.0]], dtype=DOUBLE), None)
    assert ys[1, :, 0].tolist() == [5.0] * 4
    assert ys[0, :, 0].tolist() == pytest.approx([1.0, 2.25, 4.84, 9.0], abs=1e-14)


def test_a_failed_sample_is_nan_and_the_other_is_not():
    problem = problem_of(QUERIES)
    clocks = [*CLOCKS[:4], [1.5, 0.9], [2.0, 0.9]]
    failed = torch.tensor([False, True])
    ys = run(problem, clocks, 2).collect((1 + problem.span[:, None]) ** 2, failed)
    assert bool(ys[1].isnan().all())
    torch.testing.assert_close(ys[0, :, 0], (1 + problem.tau_eval[0]) ** 2, rtol=0, atol=1e-14)


@pytest.mark.parametrize("read_before", [False, True])
def test_some_of_the_samples_go_on_alone_and_their_queries_return_to_their_places(read_before):
    queries = [[0.0, 0.5, 1.0], [0.0, 0.4, 3.0], [0.0, 0.9, 1.0], [0.0, 2.5, 4.0]]
    problem = problem_of(queries)
    together = [[0.0] * 4, [0.5, 0.4, 0.6, 0.3], [1.0, 1.0, 1.0, 1.0]]
    whole, steps = QueryWriter(problem), Steps.none()
    for starts, ends in itertools.pairwise(together):
        steps.append(*square(starts, ends))
        if read_before:
            whole.read(steps, is_last=False)
            steps.clear()
    whole.read(steps, is_last=False)
    rows = torch.tensor([1, 3])
    few = whole.few(problem_of([queries[1], queries[3]]), rows)
    # And of these the last one alone again, told by its place among the few.
    steps = Steps.none()
    steps.append(*square([1.0, 1.0], [3.0, 2.0]))
    few.read(steps, is_last=False)
    last = few.few(problem_of([queries[3]]), torch.tensor([1]))
    steps = Steps.none()
    steps.append(*square([2.0], [4.0]))
    last.read(steps, is_last=True)
    ys = whole.collect((1 + problem.span[:, None]) ** 2, None)
    torch.testing.assert_close(ys[..., 0], (1 + problem.tau_eval) ** 2, rtol=0, atol=1e-14)
