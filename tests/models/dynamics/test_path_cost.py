"""A path costs what quadrature along it says, and a field that pays for it learns to need fewer evaluations."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.integrate
import torch

from latentode.errors import InputError
from latentode.models import AttentionEncoder, AugmentedField, LatentODE, MLPField, SecondOrderField
from latentode.models.dynamics.path_cost import PathCost
from latentode.ode import rademacher_like
from tests.data.tables import make_table

B, D, E = 3, 4, 2
SCHEMA = make_table().schema
TIGHT = {"method": "dopri8", "rtol": 1e-9, "atol": 1e-9, "loosen": 1.0}
WEIGHTS = [(1.0, 0.0), (0.0, 1.0), (0.3, 2.0)]


def make(member=MLPField, *, spread=0.7, size=D, **settings):
    torch.manual_seed(0)
    field = member(8, **settings)
    field.setup(SCHEMA, size, E)
    for p in field.parameters():
        torch.nn.init.normal_(p, std=spread)
    return field.double()


def ask(end=1.0):
    generator = torch.Generator().manual_seed(1)
    z0, context = (torch.randn(B, n, generator=generator, dtype=torch.float64) for n in (D, E))
    t = torch.linspace(0.2, 1.0, 4, dtype=torch.float64) * torch.tensor([[1.0], [0.5], [0.8]]).double() * end
    return z0, torch.zeros(B, dtype=torch.float64), t, context


def by_quadrature(field, signs, weights):
    """Give the costs `(B,)` from the definition: Simpson's rule on a fine grid along the path."""
    z0, t0, t, context = ask()
    grid = torch.linspace(0, 1, 201, dtype=torch.float64) * t[:, -1:]
    z_BQD = field.eval()(z0, t0, grid, context).detach()
    drive = field.from_context(context).detach()
    costs = []
    for b in range(B):
        slope_of = lambda z: field.field(grid[b, :1], z[None], drive[b : b + 1])[0]  # noqa: B023, E731
        slope = torch.func.vmap(slope_of)(z_BQD[b]).detach()
        jacobian = torch.func.vmap(torch.func.jacrev(slope_of))(z_BQD[b]).detach()
        rate = weights[0] * slope.square().sum(-1) + weights[1] * (jacobian @ signs[b]).square().sum(-1)
        costs.append(scipy.integrate.simpson(rate.numpy(), x=grid[b].numpy()))
    return np.asarray(costs)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("member", [MLPField, SecondOrderField])
def test_the_cost_is_the_integral_along_the_path(member, weights):
    field = make(member, kinetic_energy=weights[0], jacobian_norm=weights[1], **TIGHT)
    z0, t0, t, context = ask()
    torch.manual_seed(5)
    signs = rademacher_like(z0)
    torch.manual_seed(5)
    z = field.train()(z0, t0, t, context)
    assert field.penalty.shape == (B,)
    cost = field.penalty.detach().numpy()
    assert np.allclose(cost, by_quadrature(field, signs, weights), rtol=1e-6)
    # Outside training the path is the same, and costs nothing.
    assert torch.allclose(field.eval()(z0, t0, t, context), z, atol=1e-7)
    assert field.penalty is None


def test_the_mean_over_signs_is_the_frobenius_norm_of_the_jacobian():
    field = make()
    z0, t0, _, context = ask()
    drive = field.from_context(context)
    rates = []
    for signs in product((-1.0, 1.0), repeat=D):
        cost = PathCost(
            field.field, kinetic_energy=0.0, jacobian_norm=1.0, signs=torch.tensor(signs).double().expand(B, D)
        )
        rates.append(cost(t0, (z0, z0[:, :1]), drive)[1][:, 0])
    slope_of = lambda z, d: field.field(t0[:1], z[None], d[None])[0]  # noqa: E731
    jacobian = torch.func.vmap(torch.func.jacrev(slope_of))(z0, drive)
    assert torch.allclose(torch.stack(rates).mean(0), jacobian.square().sum((1, 2)))


def test_what_a_path_costs_back_in_time_is_what_it_costs_forth():
    field = make(kinetic_energy=1.0, **TIGHT).train()
    z0, t0, t, context = ask()
    z1 = field(z0, t0, t[:, -1:], context)[:, 0]
    forth = field.penalty
    field(z1, t[:, -1], t0[:, None], context)
    assert torch.allclose(field.penalty, forth, rtol=1e-6)


def test_single_states_and_rows_cost_the_same():
    field = make(kinetic_energy=1.0, **TIGHT).train()
    z0, t0, t, context = ask()
    z = field(z0, t0, t, context)
    of_rows = field.penalty
    sample = torch.arange(B).repeat_interleave(t.shape[1])
    assert torch.allclose(field.carry(z0, context, sample, t.flatten()), z.flatten(0, 1), atol=1e-7)
    assert torch.allclose(field.penalty, of_rows, rtol=1e-6)


def test_the_cost_asks_for_no_steps_of_its_own():
    plain, paying = make(**TIGHT).train(), make(kinetic_energy=1e3, jacobian_norm=1e3, **TIGHT).train()
    assert torch.allclose(plain(*ask()), paying(*ask()), atol=1e-12)
    assert torch.equal(plain.nfe, paying.nfe)
    assert plain.penalty is None


@pytest.mark.parametrize("weights", WEIGHTS)
def test_its_gradient_is_that_of_finite_differences(weights):
    field = make(kinetic_energy=weights[0], jacobian_norm=weights[1], method="rk4", step_size=0.25).train()
    z0, t0, t, context = ask()
    names, values = zip(*field.named_parameters(), strict=True)

    def cost(z0, context, *parameters):
        torch.manual_seed(0)
        torch.func.functional_call(field, dict(zip(names, parameters, strict=True)), (z0, t0, t, context))
        return field.penalty

    inputs = [x.detach().requires_grad_() for x in (z0, context, *values)]
    assert torch.autograd.gradcheck(cost, inputs, fast_mode=True)


def test_a_field_that_pays_learns_to_need_fewer_evaluations():
    def learn(**weights):
        """Bring every state to its mirror image at time 1; give what solving the field then takes, and the error before and after."""
        field = make(spread=1.0, method="rk4", step_size=0.25, **weights).train()
        z0, t0, _, context = ask()
        optimiser = torch.optim.Adam(field.parameters(), lr=0.05)
        errors = []
        for _ in range(40):
            error = (field(z0, t0, t0[:, None] + 1, context)[:, 0] + z0).square().mean()
            loss = error if field.penalty is None else error + field.penalty.mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            errors.append(error.detach())
        field.method, field.step_size, field.rtol, field.atol = "tsit5", None, 1e-6, 1e-6
        field.eval()(z0, t0, t0[:, None] + 1, context)
        return field.nfe.double().mean(), errors[0], errors[-1]

    plain, paying = learn(), learn(kinetic_energy=0.03, jacobian_norm=0.03)
    assert paying[0] < 0.8 * plain[0]
    for _, before, after in (plain, paying):
        assert after < 0.1 * before


@pytest.mark.parametrize("wrap", [lambda field: field, lambda field: AugmentedField(2, dynamics=field)])
def test_a_model_adds_the_mean_cost_to_its_loss(prepared, wrap):
    def loss_of(**weights):
        torch.manual_seed(0)
        model = LatentODE(AttentionEncoder(dropout=0.0), wrap(MLPField(loosen=1.0, **weights)))
        model.setup(prepared.table.schema)
        model.prepare([prepared.batch])
        loss, cost = model.train().loss(prepared.batch), model.dynamics.penalty
        return float(loss.detach()), None if cost is None else cost.detach()

    (plain, none), (paying, cost) = loss_of(), loss_of(kinetic_energy=10.0)
    assert none is None
    assert paying - plain == pytest.approx(float(cost.mean()), rel=1e-3)
    assert cost.min() > 0


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_path_cannot_earn(weight):
    with pytest.raises(InputError, match="jacobian_norm"):
        MLPField(jacobian_norm=weight)
