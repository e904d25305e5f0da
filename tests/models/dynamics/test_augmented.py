"""Paths cross where there is room beside them, and nowhere else (Dupont, Doucet and Teh 2019, proposition 1)."""

from __future__ import annotations

import pytest
import torch

from latentode.errors import InputError
from latentode.models import AugmentedField, LinearField, MLPField
from tests.data.tables import make_table

B, D, E = 4, 6, 5
SCHEMA = make_table().schema


def make(dynamics, size=D):
    torch.manual_seed(0)
    dynamics.setup(SCHEMA, size, E)
    return dynamics.double()


def ask(size=D):
    generator = torch.Generator().manual_seed(1)
    z0, context = (torch.randn(B, n, generator=generator, dtype=torch.float64) for n in (size, E))
    t = torch.rand(B, 3, generator=generator, dtype=torch.float64).sort(1).values
    return z0, torch.zeros(B, dtype=torch.float64), t, context


def learn_to_exchange(dynamics, n_steps=60):
    """Train to bring -1 to 1 and 1 to -1 by time 1; give where they end, and where a state between them does."""
    field = make(dynamics, 1)
    context = torch.zeros(3, E, dtype=torch.float64)
    z0, t0 = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    optimiser = torch.optim.Adam(field.parameters(), lr=0.05)
    for _ in range(n_steps):
        end = field(z0, t0, t0[:, None] + 1, context)[:, 0]
        loss = (end + z0)[[0, 2]].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return end[:, 0].detach()


def test_states_change_places_only_where_there_is_room_beside_them():
    steps = {"method": "rk4", "step_size": 0.25}
    plain = learn_to_exchange(MLPField(16, **steps))
    augmented = learn_to_exchange(AugmentedField(1, dynamics=MLPField(16, **steps)))
    # Whatever was learned, order on a line stays; both at 0 is the best that can be, an error of 1.
    assert (plain.diff() > 0).all()
    assert plain[[0, 2]].abs().max() < 0.3
    assert torch.allclose(augmented, torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64), atol=0.1)


@pytest.mark.parametrize("within", [LinearField, lambda: MLPField(rtol=1e-8, atol=1e-8)])
def test_it_is_the_dynamics_within_on_a_state_with_zeros_beside_it(within):
    field, wide = make(AugmentedField(3, dynamics=within())), make(within(), D + 3)
    z0, t0, t, context = ask()
    expected = wide(torch.cat([z0, z0.new_zeros(B, 3)], 1), t0, t, context)
    assert torch.equal(field(z0, t0, t, context), expected[..., :D])
    if field.dynamics.nfe is not None:
        assert torch.equal(field.nfe, wide.nfe)


def test_a_learned_start_is_zero_before_training_and_then_a_map_of_the_context():
    field = make(AugmentedField(3, learned_start=True))
    z0, t0, t, context = ask()
    # The same weights: the map of the start is made last.
    assert torch.equal(field(z0, t0, t, context), make(AugmentedField(3))(z0, t0, t, context))
    with torch.no_grad():
        for p in field.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    start = torch.cat([z0, field.to_start(context)], 1)
    expected = field.dynamics(start, t0, t, context)[..., :D]
    assert torch.equal(field(z0, t0, t, context), expected)
    assert not torch.equal(field(z0, t0, t, context + 1), expected)


def test_the_progress_of_training_reaches_the_dynamics_within():
    field = make(AugmentedField(dynamics=MLPField(loosen=1e3))).train()
    with torch.no_grad():
        for p in field.parameters():
            p.add_(torch.randn(p.shape))
    z0, t0, t, context = ask()
    field.at_progress(0.0)
    field(z0, t0, t, context)
    loose = field.nfe
    field.at_progress(1.0)
    field(z0, t0, t, context)
    assert (field.nfe > loose).any()


def test_no_room_is_refused():
    with pytest.raises(InputError, match="n_extra is 0"):
        AugmentedField(0)
