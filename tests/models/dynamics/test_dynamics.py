"""What every dynamics promises: one state at a time is what whole rows give."""

from __future__ import annotations

import pytest
import torch

from latentode.models import (
    AugmentedField,
    ConstantState,
    LatentSDE,
    LinearField,
    LotkaVolterra,
    MechanisticField,
    MLPField,
    MultipleShooting,
    NeuralFlow,
    SecondOrderField,
)
from latentode.models.interfaces import Dynamics, pad
from tests.data.tables import make_table

B, D, E = 4, 6, 5
MEMBERS = {
    "constant": ConstantState,
    "linear": LinearField,
    "modulated": lambda: LinearField(modulated=True),
    "dense": lambda: LinearField("dense"),
    "mechanistic": lambda: MechanisticField(LotkaVolterra(), hidden_size=4, rtol=1e-9, atol=1e-9),
    "mlp": lambda: MLPField(rtol=1e-9, atol=1e-9),
    "fixed": lambda: MLPField(method="rk4", step_size=0.25),
    "sde": LatentSDE,
    "sde, not simulated": lambda: LatentSDE(is_simulated=False),
    "shooting": lambda: MultipleShooting(MLPField(method="rk4", step_size=0.25)),
    "augmented": lambda: AugmentedField(3, dynamics=MLPField(rtol=1e-9, atol=1e-9)),
    "learned start": lambda: AugmentedField(3, dynamics=LinearField(), learned_start=True),
    "second order": lambda: SecondOrderField(rtol=1e-9, atol=1e-9),
    "resnet": NeuralFlow,
    "gru": lambda: NeuralFlow("gru"),
    "coupling": lambda: NeuralFlow("coupling"),
}
SOLVED = ("mlp", "mechanistic", "augmented", "second order")  # adaptively, so that other queries may take other steps


def ask():
    generator = torch.Generator().manual_seed(0)
    z0, context = (torch.randn(B, n, generator=generator, dtype=torch.float64) for n in (D, E))
    sample = torch.tensor([1, 0, 0, 3, 0, 2, 3])
    t = torch.tensor([0.9, 0.1, 0.4, 0.5, 1.0, 0.7, 0.8], dtype=torch.float64)
    return z0, context, sample, t


@pytest.mark.parametrize("start", [0.0, -0.4])
@pytest.mark.parametrize("name", MEMBERS)
def test_single_states_are_those_of_padded_rows(name, start):
    torch.manual_seed(0)
    field = MEMBERS[name]()
    field.setup(make_table().schema, D, E)
    field = field.double().eval()
    t0 = start * torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
    single = field.carry_from(t0, *ask())
    assert single.shape == (7, D)
    of_rows = Dynamics.carry_from(field, t0, *ask())
    assert torch.allclose(single, of_rows, rtol=0, atol=1e-7 if name in SOLVED else 1e-12)
    if start == 0:
        assert torch.equal(field.carry(*ask()), single)


def test_a_constant_state_stays():
    z0, _, sample, t = ask()
    assert torch.equal(ConstantState().carry(z0, z0, sample, t), z0[sample])


def test_padding_puts_every_time_into_the_row_of_its_sample():
    _, _, sample, t = ask()
    t_BQ, place = pad(sample, t, B)
    assert t_BQ.tolist() == [[0.1, 0.4, 1.0], [0.9] * 3, [0.7] * 3, [0.5, 0.8, 0.8]]
    assert torch.equal(t_BQ.flatten()[place], t)
    assert torch.equal(place // 3, sample)
