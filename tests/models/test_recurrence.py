"""Reading a history stamp by stamp is the papers' loop over one series after the other, however the batch is padded."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.integrate import solve_ivp

from latentode.errors import InputError
from latentode.models import ODERNN, ODERNNEncoder
from latentode.models.recurrence import GatedUpdate, ODERNNCell, latest_stamps
from latentode.ode import FixedStep, solve

N_HIDDEN = 5


def make_cell(prepared, **settings):
    torch.manual_seed(0)
    given = {"field_size": 7, "method": "euler", "n_steps": 1, "max_rows": 64, **settings}
    cell = ODERNNCell(prepared.table.schema, N_HIDDEN, **given)
    with torch.no_grad():
        for p in cell.field.parameters():
            p.mul_(3.0)
    return cell.double()


def as_double(batch):
    named = ("token_time", "token_value", "token_known")
    return replace(batch, **{name: getattr(batch, name).double() for name in named})


def read_alone(cell, batch, w, *, method, direction):
    """Read one history by the engine's `solve` from stamp to stamp; give the state at the end of the way, and when that is."""
    rows = batch.rows()
    places = rows.row_observed[w].nonzero()[:, 0].tolist()[-cell.max_rows :]
    hidden = torch.zeros(1, N_HIDDEN, dtype=torch.float64)

    def carry(hidden, start, end):
        if start == end:
            return hidden
        ends = torch.tensor([start, end], dtype=torch.float64)
        controller = FixedStep(grid=ends)
        return solve(cell.slope, hidden, ends, method=method, controller=controller).ys[:, -1]

    now = float(rows.time[w, places[0]]) if direction == "forward" else 0.0
    for i in places if direction == "forward" else reversed(places):
        then = float(rows.time[w, i])
        hidden = carry(hidden, now, then)
        seen = rows.observed[w, i].double()
        features = torch.cat(
            [rows.value[w, i].double().clamp(-5, 5), seen, torch.tensor([abs(then - now)], dtype=seen.dtype)]
        )
        hidden = gated(cell.update, features, hidden[0])[None]
        now = then
    return (hidden, now) if direction == "backward" else (carry(hidden, now, 0.0), 0.0)


def gated(update, x_F, h_H):
    """Write the gated unit out as its paper has it."""
    weight_r, weight_z, weight = update.from_input.weight.chunk(3)
    bias_r, bias_z, bias = update.from_input.bias.chunk(3)
    hidden_r, hidden_z = update.gates_from_hidden.weight.chunk(2)
    r = torch.sigmoid(weight_r @ x_F + hidden_r @ h_H + bias_r)
    z = torch.sigmoid(weight_z @ x_F + hidden_z @ h_H + bias_z)
    new = torch.tanh(weight @ x_F + update.state_from_hidden.weight @ (r * h_H) + bias)
    return z * h_H + (1 - z) * new


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
@pytest.mark.parametrize("max_rows", [64, 3])
def test_a_batch_is_read_as_the_paper_reads_one_series_by_the_solver(prepared, direction, method, max_rows):
    cell = make_cell(prepared, direction=direction, method=method, max_rows=max_rows)
    hidden, end = cell(as_double(prepared.batch))
    for w in (0, 7, 20):
        alone, when = read_alone(cell, prepared.batch, w, method=method, direction=direction)
        assert float(end[w]) == pytest.approx(when, abs=1e-12)
        torch.testing.assert_close(hidden[w], alone[0], rtol=1e-9, atol=1e-9)


def test_shorter_steps_lead_to_what_scipy_finds_at_the_order_of_the_method(prepared):
    start = torch.linspace(-1, 1, N_HIDDEN, dtype=torch.float64)[None]

    def error(method, n_steps):
        cell = make_cell(prepared, method=method, n_steps=n_steps)

        def slope(t, h):
            with torch.no_grad():
                return cell.field(torch.from_numpy(h)[None])[0].numpy()

        expected = solve_ivp(slope, (0.0, -0.8), start[0].numpy(), rtol=1e-12, atol=1e-12).y[:, -1]
        with torch.no_grad():
            return float((cell.carry(start, torch.full((1, 1), -0.8).double())[0] - torch.from_numpy(expected)).norm())

    for method, order in (("euler", 1), ("midpoint", 2), ("rk4", 4)):
        assert math.log2(error(method, 8) / error(method, 16)) == pytest.approx(order, abs=0.25)


def test_padding_leaves_the_state_to_the_last_digit():
    torch.manual_seed(0)
    update = GatedUpdate(3, N_HIDDEN, memory=9)
    hidden, real = torch.randn(2, N_HIDDEN), torch.tensor([[True], [False]])
    (drive,) = update.drives(torch.randn(2, 1, 3), real)
    after = update(drive, hidden)
    assert torch.equal(after[1], hidden[1])
    assert not torch.equal(after[0], hidden[0])


def test_an_untrained_unit_still_knows_what_it_read_many_stamps_ago():
    torch.manual_seed(0)
    left = {}
    for memory in (1, 64):
        update = GatedUpdate(3, 256, memory=memory).double()
        silent = update.drives(torch.zeros(1, 30, 3).double(), torch.ones(1, 30, dtype=torch.bool))
        a, b = torch.zeros(1, 256).double(), torch.full((1, 256), 0.5).double()
        before = (a - b).norm()
        for drive in silent:
            a, b = update(drive, a), update(drive, b)
        left[memory] = float((a - b).norm().detach() / before)
    assert left[1] < 0.01 < 0.2 < left[64]


def test_the_latest_stamps_are_the_last_real_ones(prepared):
    rows = prepared.batch.rows()
    stamps = latest_stamps(prepared.batch, 4)
    for w in range(len(prepared.batch)):
        real = rows.row_observed[w]
        assert torch.equal(stamps.time[w][stamps.is_real[w]], rows.time[w][real][-4:])
        assert torch.equal(stamps.observed[w][stamps.is_real[w]], rows.observed[w][real][-4:].float())
    assert bool((stamps.time[~stamps.is_real] == 0).all())


@pytest.mark.parametrize("of", [ODERNN, ODERNNEncoder])
def test_settings_out_of_their_range_are_refused(of):
    with pytest.raises(InputError, match="choose an explicit one"):
        of(method="kvaerno5")
    with pytest.raises(InputError, match="max_rows is 0"):
        of(max_rows=0)
    with pytest.raises(InputError, match="n_steps is 0"):
        of(n_steps=0)


def test_a_direction_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="direction is 'back'"):
        ODERNNEncoder(direction="back")
