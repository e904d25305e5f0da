"""A flow is its paper's formula, the identity at 0, invertible, and so the solution of a differential equation: SciPy solves it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch
from torch.func import jvp

from latentode.errors import InputError
from latentode.models import NeuralFlow
from latentode.models.dynamics.flow import KINDS
from latentode.models.dynamics.flow_layers import GATE, NORM, RESET
from tests.data.tables import make_table

B, E = 4, 3
SCHEMA = make_table().schema
TIMES = [-2.0, -0.3, 0.2, 1.0, 7.0, 1e4]


def make(kind, size=5, *, spread=1.0, **kwargs):
    """Give a flow whose weights are far from their start, in float64."""
    torch.manual_seed(0)
    flow = NeuralFlow(kind, hidden_size=8, **kwargs)
    flow.setup(SCHEMA, size, E)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(spread * torch.randn(p.shape))
    return flow.double()


def ask(size=5, seed=1, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    return scale * torch.randn(B, size, **draw), torch.zeros(B, dtype=torch.float64), torch.randn(B, E, **draw)


def at(flow, z0, t, context):
    """Give the states at one time `t`."""
    t_B = torch.full((len(z0),), t, dtype=z0.dtype)
    return flow(z0, torch.zeros_like(t_B), t_B[:, None], context)[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_at_time_0_nothing_has_moved(kind):
    flow = make(kind, n_layers=3)
    z0, _, context = ask()
    assert torch.equal(at(flow, z0, 0.0, context), z0)
    assert not torch.equal(at(flow, z0, 0.1, context), z0)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_gives_the_start_back(kind, t):
    flow = make(kind, n_layers=3, spread=3.0)
    z0, t0, context = ask()
    with torch.no_grad():
        back = flow.inverse(at(flow, z0, t, context), t0 + 5, t0 + 5 + t, context)
    assert torch.allclose(back, z0, rtol=1e-10, atol=1e-10)


def lipschitz(layer, z, drive, t):
    """Give the spectral norms of the Jacobians of what a layer adds, `(B,)`."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z, d: layer.added(z.new_tensor([t]), z, d)))(z, drive)
    return torch.linalg.matrix_norm(jacobian, 2)


@pytest.mark.parametrize("scale", [0.5, 30.0])
@pytest.mark.parametrize("kind", ["resnet", "gru"])
def test_what_is_added_has_a_lipschitz_constant_below_one(kind, scale):
    (layer,) = make(kind, n_layers=1, spread=5.0).layers
    z, _, _ = ask(scale=scale)
    drive = torch.randn(B, layer.n_drive, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in TIMES:
        assert lipschitz(layer, z, drive, t).max() < 1


def test_the_bound_of_a_residual_layer_is_reached_and_not_passed():
    (layer,) = make("resnet", n_layers=1).layers
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        layer.onset.log_rate.fill_(5.0)
        # Weights that turn nothing, and a hidden layer at the middle of its `tanh`.
        layer.from_state.linear.weight[:5] = 100 * torch.eye(5)
        layer.to_change.linear.weight[:, :5] = 100 * torch.eye(5)
    z, drive = torch.zeros(1, 5, dtype=torch.float64), torch.zeros(1, 8, dtype=torch.float64)
    assert 0.9 * NORM < lipschitz(layer, z, drive, 1.0).item() < NORM * (1 + 1e-9) < 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_solves_the_differential_equation_whose_field_it_has(kind):
    flow = make(kind, 2, spread=0.5)
    z0, t0, context = (x[:1] for x in ask(2))

    def slope(t, z):
        """Give the speed at which the path through `z` at `t` moves: dF/dt at its start."""
        with torch.no_grad():
            here = torch.from_numpy(z)[None]
            start = flow.inverse(here, t0, t0 + t, context)
            time = torch.full((1, 1), t, dtype=torch.float64)
            return jvp(lambda t: flow(start, t0, t, context), (time,), (torch.ones_like(time),))[1][0, 0].numpy()

    solved = scipy.integrate.solve_ivp(slope, (0.0, 1.0), z0[0].numpy(), rtol=1e-6, atol=1e-7)
    assert solved.success
    assert np.allclose(solved.y[:, -1], at(flow, z0, 1.0, context)[0].detach().numpy(), atol=1e-5)
    assert np.abs(solved.y[:, -1] - z0[0].numpy()).max() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    flow = make(kind, 3)
    z0, t0, context = ask(3, scale=0.3)
    t = torch.linspace(0.1, 1.3, B, dtype=torch.float64)[:, None]
    names, values = zip(*flow.named_parameters(), strict=True)

    def forward(z0, t, context, *parameters):
        return torch.func.functional_call(flow, dict(zip(names, parameters, strict=True)), (z0, t0, t, context))

    inputs = [x.detach().requires_grad_() for x in (z0, t, context, *values)]
    assert torch.autograd.gradcheck(forward, inputs)


def test_a_residual_layer_is_its_formula():
    (layer,) = make("resnet", n_layers=1).layers
    z, drive, t = torch.randn(5).double(), torch.randn(8).double(), torch.tensor([0.7]).double()
    w_in, w_out = layer.from_state.weight(), layer.to_change.weight()
    hidden = torch.tanh(w_in @ z + layer.from_state.linear.bias + layer.from_time.weight[:, 0] * t + drive)
    expected = z + torch.tanh(layer.onset.log_rate.exp() * t) * (w_out @ hidden + layer.to_change.linear.bias)
    assert torch.allclose(layer(t, z, drive), expected, rtol=1e-12)


def test_a_gru_layer_is_its_formula_where_the_paper_has_its_states():
    (layer,) = make("gru", n_layers=1).layers
    generator = torch.Generator().manual_seed(3)
    h = torch.rand(5, generator=generator).double() * 2 - 1
    drive, t = torch.randn(15, generator=generator).double(), torch.tensor([0.7]).double()
    maps = (layer.to_gate, layer.to_reset, layer.to_candidate)
    weights = [m.weight().detach().numpy() for m in maps]
    # Constants, time and context, which enter beside the state.
    beside = (drive + layer.from_time.weight[:, 0] * t + torch.cat([m.linear.bias for m in maps])).detach().numpy()
    x, phi = h.numpy(), np.tanh(np.exp(layer.onset.log_rate.detach().numpy()) * 0.7)
    gate = GATE * scipy.special.expit(weights[0] @ x + beside[:5])
    reset = RESET * scipy.special.expit(weights[1] @ x + beside[5:10])
    candidate = np.tanh(weights[2] @ (reset * x) + beside[10:])
    expected = x + phi * gate * (candidate - x)
    # float32 of `t` is .7 to seven digits.
    assert np.allclose(layer(t, h, drive).detach().numpy(), expected, atol=1e-7)


def test_a_gru_flow_does_not_lead_out_of_the_unit_cube():
    flow = make("gru", spread=5.0)
    _, _, context = ask()
    z0 = torch.rand(B, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    for t in (0.1, 1.0, 50.0):
        assert at(flow, z0, t, context).abs().max() <= 1


def test_a_coupling_layer_is_its_formula_and_leaves_the_other_half():
    first, second = make("coupling").layers
    z, drive, t = torch.randn(5).double(), torch.randn(8).double(), torch.tensor([0.7]).double()
    for layer, moved, other in ((first, slice(0, 3), slice(3, 5)), (second, slice(3, 5), slice(0, 3))):
        n = len(z[moved])
        hidden = torch.tanh(layer.from_state(z[other]) + layer.from_time.weight[:, 0] * t + drive)
        s, v = layer.to_change(hidden)[:n], layer.to_change(hidden)[n:]
        phi = torch.tanh(layer.onset.log_rate.exp() * t)
        result = layer(t, z, drive)
        assert torch.equal(result[other], z[other])
        assert torch.allclose(result[moved], z[moved] * torch.exp(torch.tanh(s) * phi[:n]) + v * phi[n:], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_far_ahead_and_far_back_states_are_at_rest(kind):
    flow = make(kind, n_layers=4).float()
    z0, _, context = (x.float() for x in ask())
    for sign in (-1, 1):
        far, farther = (at(flow, z0, sign * t, context) for t in (1e5, 1e7))
        assert torch.isfinite(far).all()
        assert torch.allclose(far, farther, atol=1e-4)


@pytest.mark.parametrize("kind", ["resnet", "gru"])
def test_states_of_one_number_keep_their_order(kind):
    flow = make(kind, 1, n_layers=3, spread=3.0)
    z0 = torch.linspace(-3, 3, 60, dtype=torch.float64)[:, None]
    context = torch.ones(60, E, dtype=torch.float64)
    for t in TIMES:
        assert (at(flow, z0, t, context)[:, 0].diff() > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_only_differences_of_time_count(kind):
    flow = make(kind)
    z0, t0, context = ask()
    t = torch.rand(B, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(flow(z0, t0 + 2, t + 2, context), flow(z0, t0, t, context), rtol=1e-10, atol=1e-10)


def test_settings_that_make_no_flow_are_refused():
    with pytest.raises(InputError, match="kind is 'planar'"):
        NeuralFlow("planar")
    with pytest.raises(InputError, match="2 at least"):
        NeuralFlow("coupling", n_layers=1)
    with pytest.raises(InputError, match="latent_size is 1"):
        NeuralFlow("coupling").setup(SCHEMA, 1, E)
