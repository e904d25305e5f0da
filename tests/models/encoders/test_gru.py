"""GRU-D is what its paper's equations say, written out for one series, one stamp and one channel after the other."""

from __future__ import annotations

import math

import pytest
import torch

from latentode.errors import InputError
from latentode.models import GRUEncoder
from latentode.models.recurrence import Stamps
from tests.data.tables import make_table

N_CHANNELS, N_HIDDEN = 3, 4
TIME = [[-1.2, -1.0, -0.7, -0.1], [-0.5, -0.2, 0.0, 0.0]]
SEEN = [[[0, 1, 1], [1, 1, 0], [0, 1, 0], [1, 0, 0]], [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]]
N_REAL = [4, 2]


def make():
    torch.manual_seed(0)
    encoder = GRUEncoder(N_HIDDEN)
    encoder.setup(make_table(n_channels=N_CHANNELS).schema, 2, 3)
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return encoder.double()


def make_stamps():
    time, seen = torch.tensor(TIME, dtype=torch.float64), torch.tensor(SEEN, dtype=torch.float64)
    value = seen * torch.randn(seen.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    is_real = torch.arange(time.shape[1]) < torch.tensor(N_REAL)[:, None]
    return Stamps(time, value, seen, time.new_zeros(*time.shape, 0), is_real)


def write_out(encoder, time, value, seen):
    """Run the paper's recurrence in plain numbers; behind the last stamp the state decays up to the origin."""
    delta, last, h = [0.0] * N_CHANNELS, [0.0] * N_CHANNELS, [0.0] * N_HIDDEN
    rate, start = encoder.hidden_rate.weight.tolist(), encoder.hidden_rate.bias.tolist()
    input_rate, input_start = encoder.input_rate.tolist(), encoder.input_start.tolist()
    from_input, bias = encoder.update.from_input.weight.tolist(), encoder.update.from_input.bias.tolist()
    gates, own = encoder.update.gates_from_hidden.weight.tolist(), encoder.update.state_from_hidden.weight.tolist()
    for t in range(len(time) + 1):
        now = time[t] if t < len(time) else 0.0
        for d in range(N_CHANNELS):
            if t > 0:
                # The time since the stamp before, and what had passed by then where nothing was seen there.
                delta[d] = now - time[t - 1] + (0.0 if seen[t - 1][d] else delta[d])
        decay = [math.exp(-max(0.0, dot(rate[j], delta) + start[j])) for j in range(N_HIDDEN)]
        h = [g * a for g, a in zip(decay, h, strict=True)]
        if t == len(time):
            return h
        held = []
        for d in range(N_CHANNELS):
            share = math.exp(-max(0.0, input_rate[d] * delta[d] + input_start[d]))
            held.append(value[t][d] if seen[t][d] else share * last[d])
            last[d] = value[t][d] if seen[t][d] else last[d]
        x = [*held, *seen[t]]
        drive = [dot(from_input[j], x) + bias[j] for j in range(3 * N_HIDDEN)]
        r, keep = (
            [sigmoid(drive[k * N_HIDDEN + j] + dot(gates[k * N_HIDDEN + j], h)) for j in range(N_HIDDEN)]
            for k in (0, 1)
        )
        reset = [a * b for a, b in zip(r, h, strict=True)]
        new = [math.tanh(drive[2 * N_HIDDEN + j] + dot(own[j], reset)) for j in range(N_HIDDEN)]
        # The paper's z is 1 - keep.
        h = [(1 - keep[j]) * new[j] + keep[j] * h[j] for j in range(N_HIDDEN)]
    raise AssertionError


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_the_hidden_state_is_that_of_the_equations_written_out():
    encoder, stamps = make(), make_stamps()
    hidden = encoder.read(stamps)
    for w, n in enumerate(N_REAL):
        columns = (stamps.time, stamps.value, stamps.observed)
        expected = write_out(encoder, *(x[w, :n].tolist() for x in columns))
        assert hidden[w].tolist() == pytest.approx(expected, abs=1e-12)


def test_a_value_long_gone_is_worth_as_little_as_none():
    encoder = make()
    with torch.no_grad():
        encoder.input_rate.fill_(1e3)
        encoder.hidden_rate.weight.zero_()
        encoder.hidden_rate.bias.fill_(1e3)
    stamps = make_stamps()
    other = Stamps(stamps.time, stamps.value.clone(), stamps.observed, stamps.known, stamps.is_real)
    # All but the last stamp: the state and the values held are gone by then, and which was seen is not told.
    other.value[0, :3] *= -2.0
    torch.testing.assert_close(encoder.read(stamps)[0], encoder.read(other)[0], rtol=0, atol=1e-12)


def test_a_number_of_rows_below_one_is_refused():
    with pytest.raises(InputError, match="max_rows is 0"):
        GRUEncoder(max_rows=0)
