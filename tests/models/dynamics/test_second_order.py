"""Positions accelerate as the network says: a damped oscillator in closed form, and the order of the steps towards it."""

from __future__ import annotations

import math

import pytest
import torch

from latentode.errors import InputError
from latentode.models import SecondOrderField
from tests.data.tables import make_table

E = 2
SCHEMA = make_table().schema
STIFFNESS, DAMPING, PUSH = (9.0, 2.0), (0.8, 3.5), (1.5, -0.5)  # of two oscillators, the second over-damped


def oscillators(**settings):
    """Give a field whose weights make `x'' = -k x - c x' + push * context`, with `tanh` where it is a straight line to 1e-9."""
    field = SecondOrderField(2, **settings)
    field.setup(SCHEMA, 4, E)
    field = field.double()
    small = 1e-5
    with torch.no_grad():
        for p in field.parameters():
            p.zero_()
        for i in range(2):
            field.from_state.weight[i, i], field.from_state.weight[i, 2 + i] = (
                -small * STIFFNESS[i],
                -small * DAMPING[i],
            )
            field.from_context.weight[i, i] = small * PUSH[i]
            field.to_slope.weight[i, i] = 1 / small
    return field


def closed_form(z0_D, context_E, t_Q):
    """Give positions and velocities `(Q, 4)` about the points where the push is balanced."""
    states = []
    for i in range(2):
        level = PUSH[i] * context_E[i] / STIFFNESS[i]
        x, v = z0_D[i] - level, z0_D[2 + i]
        root = torch.sqrt(torch.tensor(DAMPING[i] ** 2 - 4 * STIFFNESS[i], dtype=torch.complex128))
        one, two = (-DAMPING[i] + root) / 2, (-DAMPING[i] - root) / 2
        b = (v - one * x) / (two - one)
        a = x - b
        e_one, e_two = torch.exp(one * t_Q), torch.exp(two * t_Q)
        states.append(((level + a * e_one + b * e_two).real, (a * one * e_one + b * two * e_two).real))
    return torch.stack([states[0][0], states[1][0], states[0][1], states[1][1]], -1)


def ask():
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    context = torch.randn(3, E, generator=generator, dtype=torch.float64)
    t = 2 * torch.rand(3, 5, generator=generator, dtype=torch.float64).sort(1).values
    return z0, torch.zeros(3, dtype=torch.float64), t, context


def error(field):
    z0, t0, t, context = ask()
    expected = torch.stack([closed_form(z0[b], context[b], t[b]) for b in range(3)])
    with torch.no_grad():
        return float((field(z0, t0, t, context) - expected).abs().max())


def test_damped_oscillators_move_as_in_closed_form():
    assert error(oscillators(rtol=1e-10, atol=1e-10)) < 1e-8
    assert error(oscillators()) < 1e-2


def test_the_error_falls_at_the_order_of_the_method():
    coarse, fine = (error(oscillators(method="rk4", step_size=h)) for h in (1 / 16, 1 / 32))
    assert math.log2(coarse / fine) == pytest.approx(4, abs=0.25)


def test_without_a_force_positions_coast_at_their_velocity():
    field = oscillators()
    torch.nn.init.zeros_(field.to_slope.weight)
    z0, t0, t, context = ask()
    position, velocity = field(z0, t0, t, context).chunk(2, -1)
    assert torch.allclose(velocity, z0[:, None, 2:].expand_as(velocity))
    assert torch.allclose(position, z0[:, None, :2] + t[..., None] * velocity)


def test_an_odd_state_is_refused():
    with pytest.raises(InputError, match="latent_size is 5"):
        SecondOrderField().setup(SCHEMA, 5, E)
