"""Samples that are done leave the batch, where the field takes it, and nothing changes for the others."""

from __future__ import annotations

import pytest
import torch

from latentode.ode import PIDController, solve

DOUBLE = torch.float64
CONTROLLER = PIDController(rtol=1e-8, atol=1e-10)


def problem(n_early):
    """Of 64 samples the first end early."""
    torch.manual_seed(0)
    # Alike but for their ends, so that the others need the same number of steps.
    y0 = (1 + 1e-6 * torch.rand(64, 1, dtype=DOUBLE)) * torch.linspace(0.5, 1.5, 64, dtype=DOUBLE)
    rate = torch.full((64, 1), 2.0, dtype=DOUBLE)
    ends = torch.where(torch.arange(64) < n_early, 0.2, 6.0).to(DOUBLE)
    return y0, rate, torch.linspace(0, 1, 9, dtype=DOUBLE) * ends[:, None]


def run(f, y0, rate, t, *, compact=True):
    sizes = []

    def watched(t, y, rate):
        sizes.append(len(y))
        return f(t, y, rate)

    with torch.no_grad():
        return solve(watched, y0, t, args=(rate,), controller=CONTROLLER, compact=compact), sizes


def rowwise(t, y, rate):
    return -rate * torch.sin(y) * torch.cos(t)[:, None]


def test_a_batch_shrinks_to_those_that_still_run_and_gives_the_same():
    y0, rate, t = problem(40)
    shrunk, sizes = run(rowwise, y0, rate, t)
    # A field that knows its batch by heart cannot be asked about a part of it.
    whole, all_sizes = run(lambda t, y, _: rowwise(t, y, rate), y0, rate, t)
    assert set(sizes) == {64, 24}
    assert sizes == sorted(sizes, reverse=True)
    assert set(all_sizes[-6:]) == {64}
    # To rounding: how a library sums and vectorises may depend on the size of the batch.
    torch.testing.assert_close(shrunk.ys, whole.ys, rtol=1e-12, atol=1e-13)
    for name in ("n_accepted", "n_rejected"):
        assert torch.equal(shrunk.stats[name], whole.stats[name])


def test_a_batch_stays_whole_on_request_and_a_row_is_then_the_row_alone_to_the_last_bit():
    def by_products(t, y, rate):
        # A sine of a long row is another piece of code than that of a short one.
        return -rate * y * (1 - 0.1 * y * y)

    y0, rate, t = problem(40)
    whole, sizes = run(by_products, y0, rate, t, compact=False)
    assert set(sizes) == {64}
    for i in (0, 50, 63):
        alone, _ = run(by_products, y0[i : i + 1], rate[i : i + 1], t[i : i + 1], compact=False)
        assert torch.equal(alone.ys[0], whole.ys[i])


def test_a_batch_whose_samples_hang_together_does_not_shrink():
    y0, rate, t = problem(40)
    _, sizes = run(lambda t, y, rate: -rate * (y - y.mean(0)), y0, rate, t)
    assert sizes[-1] == 64


def test_a_sample_that_fails_after_the_batch_has_shrunk_is_told_by_its_own_number():
    y0, rate, t = problem(40)
    # It runs with the others until the clock says 3.
    is_doomed = (torch.arange(64) == 50).to(DOUBLE)[:, None]
    rate = torch.cat([rate, is_doomed], 1)

    def f(t, y, rate):
        blows_up = (rate[:, 1:] > 0) & (t[:, None] > 3)
        return torch.where(blows_up, 1e3 * y**2, rowwise(t, y, rate[:, :1]))

    with torch.no_grad():
        solution = solve(f, y0, t, args=(rate,), controller=CONTROLLER, on_failure="return")
    assert solution.status.nonzero().flatten().tolist() == [50]
    assert bool(solution.ys[50].isnan().all())
    assert bool(solution.ys[torch.arange(64) != 50].isfinite().all())


@pytest.mark.parametrize("n_early", [0, 3, 64])
def test_a_few_that_rest_are_not_worth_a_smaller_batch(n_early):
    _, sizes = run(rowwise, *problem(n_early))
    assert set(sizes) == {64}
