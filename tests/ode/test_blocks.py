"""Continuous depth as a layer: closed forms, the limit of residual networks, what augmenting adds, and life among other modules."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn

from latentode.errors import InputError, SolveError
from latentode.ode import ADJOINTS, Backsolve, Checkpointed, EquilibriumBlock, FixedStep, ODEBlock
from tests.ode.problems import tolerance

DOUBLE = torch.float64
TIGHT = tolerance(1e-11)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def linear_field(size=3, seed=1):
    layer = nn.Linear(size, size, bias=False, dtype=DOUBLE)
    layer.weight.data = draw(size, size, seed=seed) / 2
    return layer


def cost(block):
    assert block.nfe is not None
    assert block.nfe.dtype == torch.int64
    return block.nfe.tolist()


def small_net(n_in=3, n_hidden=8, seed=2, dtype=DOUBLE):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.Tanh(), nn.Linear(n_hidden, n_in)).to(dtype)


# --- ODEBlock: mathematics ---


@pytest.mark.parametrize("t1", [0.7, 2.0, -1.0])
def test_a_linear_field_gives_the_matrix_exponential(t1):
    field, x = linear_field(), draw(5, 3)
    y = ODEBlock(field, t1=t1, method="dopri8", controller=TIGHT)(x)
    assert torch.allclose(y, x @ torch.linalg.matrix_exp(t1 * field.weight).T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("adjoint", [*ADJOINTS, Checkpointed(max_checkpoints=2), Backsolve(rtol=1e-10, atol=1e-10)])
def test_every_gradient_route_gives_the_gradient_of_the_matrix_exponential(adjoint):
    field, x, weight = linear_field(), draw(5, 3).requires_grad_(), draw(5, 3, seed=3)
    block = ODEBlock(field, method="dopri5", controller=tolerance(1e-10), adjoint=adjoint)
    found = torch.autograd.grad((weight * block(x)).sum(), (x, field.weight))
    exact = torch.autograd.grad((weight * (x @ torch.linalg.matrix_exp(field.weight).T)).sum(), (x, field.weight))
    for one, other in zip(found, exact, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_every_gradient_route_agrees_with_the_direct_one_on_a_network(adjoint):
    def gradients(route):
        field = small_net(4)
        block = ODEBlock(field, n_extra=1, controller=tolerance(1e-9), method="dopri5", adjoint=route)
        block(draw(6, 3)).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in field.parameters() if p.grad is not None])

    assert torch.allclose(gradients(adjoint), gradients("direct"), rtol=1e-5, atol=1e-7)


def test_residual_networks_come_to_the_block_at_rate_1_over_their_layers():
    field, x = small_net(), draw(4, 3)
    limit = ODEBlock(field, method="dopri8", controller=TIGHT)(x)

    def error(n_layers):
        y = x
        for _ in range(n_layers):
            y = y + field(y) / n_layers
        return float((y - limit).norm().detach())

    assert math.log2(error(64) / error(128)) == pytest.approx(1.0, abs=0.03)


def test_euler_steps_of_1_over_n_are_the_residual_network_itself():
    field, x = small_net(), draw(4, 3)
    y = x
    for _ in range(8):
        y = y + field(y) / 8
    block = ODEBlock(field, method="euler", controller=FixedStep(1 / 8))
    assert torch.allclose(block(x), y, rtol=1e-12, atol=1e-12)
    # One slope more, at the end, is that of the last step's interpolant.
    assert cost(block) == [9] * 4


def test_a_field_may_read_time():
    # dy/dt = y cos t, from 0: y exp(sin t).
    block = ODEBlock(lambda t, y: y * t.cos()[:, None], t1=1.3, method="dopri8", controller=TIGHT)
    x = draw(4, 3)
    assert block.takes_time
    assert torch.allclose(block(x), x * math.exp(math.sin(1.3)), rtol=1e-9)


def test_whether_a_field_reads_time_is_seen_in_its_arguments_or_said():
    class OfAll(nn.Module):
        def forward(self, *inputs):
            return -inputs[-1]

    assert not ODEBlock(torch.tanh).takes_time
    assert not ODEBlock(lambda y, gain=2.0: gain * y).takes_time
    with pytest.raises(InputError, match="takes_time"):
        ODEBlock(OfAll())
    for takes_time in (False, True):
        block = ODEBlock(OfAll(), takes_time=takes_time, controller=tolerance(1e-9))
        assert torch.allclose(block(draw(2, 3)), draw(2, 3) / math.e, rtol=1e-6)


def test_a_block_back_undoes_a_block_forth():
    field, x = small_net(), draw(4, 3)
    there, back = (ODEBlock(field, t1=t1, controller=tolerance(1e-10)) for t1 in (1.0, -1.0))
    assert torch.allclose(back(there(x)), x, atol=1e-7)


def test_each_row_takes_the_evaluations_that_it_takes_alone():
    x = torch.tensor([[0.01], [1.0], [8.0]], dtype=DOUBLE)
    block = ODEBlock(lambda y: -(y**3), controller=tolerance(1e-8))
    together, nfe = block(x), cost(block)
    alone = [(block(row[None]), *cost(block)) for row in x]
    assert [n for _, n in alone] == nfe
    assert nfe == sorted(nfe)
    assert torch.equal(together, torch.cat([y for y, _ in alone]))


# --- ODEBlock: augmented ---


def test_extra_features_start_at_0_and_stay_where_they_are_asked_for():
    x = draw(5, 3)
    block = ODEBlock(torch.zeros_like, n_extra=2)
    assert torch.equal(block(x), x)
    wide = ODEBlock(torch.zeros_like, n_extra=2, returns_extra=True)
    assert torch.equal(wide(x), torch.cat([x, torch.zeros(5, 2, dtype=DOUBLE)], 1))
    image = draw(2, 3, 4, 4)
    assert ODEBlock(torch.zeros_like, n_extra=2, returns_extra=True)(image).shape == (2, 5, 4, 4)
    assert ODEBlock(torch.zeros_like, n_extra=2, returns_extra=True, axis=-1)(image).shape == (2, 3, 4, 6)


def separate(n_extra, n_steps=150):
    """Train on the nested spheres of Dupont et al. (2019, definition 1) in one dimension; give the share of points told apart."""
    torch.manual_seed(0)
    inner, outer = torch.linspace(-0.5, 0.5, 21), torch.linspace(1.0, 1.5, 10)
    x = torch.cat([inner, outer, -outer])[:, None]
    label = torch.cat([torch.full((21,), -1.0), torch.ones(20)])
    field = nn.Sequential(nn.Linear(1 + n_extra, 16), nn.Tanh(), nn.Linear(16, 1 + n_extra))
    block = ODEBlock(field, n_extra=n_extra, returns_extra=True, method="rk4", controller=FixedStep(0.25))
    net = nn.Sequential(block, nn.Linear(1 + n_extra, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(n_steps):
        loss = nn.functional.softplus(-label * net(x)[:, 0]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return float((net(x)[:, 0].sign() == label).float().mean())


def test_an_augmented_block_separates_nested_spheres_and_a_plain_one_cannot():
    # On a line a flow keeps the order of points: a threshold leaves one of three stretches on the wrong side, at best 10 of 41 points.
    assert separate(0) <= 31 / 41 + 1e-6
    assert separate(1) == 1.0


# --- ODEBlock: among other modules ---


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, 4), ODEBlock(small_net(5, dtype=torch.float32), n_extra=1, adjoint="checkpointed"), nn.Linear(4, 1)
    )


def test_it_trains_between_other_layers_and_its_parameters_are_the_fields():
    model, x = net(), torch.randn(16, 2)
    target = x.prod(1, keepdim=True)
    assert len(list(model[1].parameters())) == 4
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = (model(x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]


def test_saving_loading_and_copying_keep_what_it_says():
    model, x = net(), torch.randn(6, 2)
    said = model(x)
    again = net()
    torch.manual_seed(9)
    for p in again.parameters():
        p.data.normal_()
    again.load_state_dict(model.state_dict())
    held = io.BytesIO()
    torch.save(model, held)
    held.seek(0)
    whole = torch.load(held, weights_only=False)
    for other in (again, copy.deepcopy(model), whole):
        assert torch.equal(other(x), said)
    for p in copy.deepcopy(model).parameters():
        p.data.zero_()
    assert torch.equal(model(x), said)


def test_training_and_evaluation_reach_the_field():
    block = ODEBlock(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), method="rk4", controller=FixedStep(0.5))
    x = torch.randn(4, 3)
    assert not torch.equal(block.train()(x), block(x))
    assert torch.equal(block.eval()(x), block(x))
    assert not any(part.training for part in block.modules())


def test_dtype_and_device_are_the_inputs():
    for dtype in (torch.float32, DOUBLE):
        x = torch.randn(4, 3, dtype=dtype)
        assert ODEBlock(small_net(dtype=dtype))(x).dtype == dtype


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"t1": 0.0}, "t1 is 0"),
        ({"t1": math.inf}, "t1 is inf"),
        ({"n_extra": -1}, "n_extra is -1"),
        ({"axis": 0}, "axis is 0"),
    ],
)
def test_settings_that_make_no_block_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ODEBlock(torch.tanh, **settings)


def test_wrong_fields_inputs_and_routes_are_refused():
    with pytest.raises(InputError, match="field is int"):
        ODEBlock(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no axis 1"):
        ODEBlock(torch.tanh, n_extra=1)(torch.zeros(4))
    with pytest.raises(InputError, match="did you mean 'direct'"):
        ODEBlock(torch.tanh, adjoint="dirct")(torch.zeros(4, 1))
    with pytest.raises(SolveError, match="max_steps"):
        ODEBlock(lambda y: -50 * y, max_steps=3)(torch.ones(4, 1))


# --- EquilibriumBlock ---


class Layer(nn.Module):
    """`tanh(W z + U x)` with `|W| < 1`, as the layer of a deep equilibrium model."""

    def __init__(self, size=4, n_inputs=3):
        super().__init__()
        w = draw(size, size, seed=5)
        self.w = nn.Parameter(0.6 * w / torch.linalg.matrix_norm(w, 2))
        self.u = nn.Parameter(draw(size, n_inputs, seed=6))

    def forward(self, z, x):
        return torch.tanh(z @ self.w.T + x @ self.u.T)


class Affine(Layer):
    def forward(self, z, x):
        return z @ self.w.T + x @ self.u.T


@pytest.mark.parametrize("method", ["newton", "anderson"])
def test_of_a_linear_map_the_equilibrium_and_its_gradient_have_a_closed_form(method):
    layer, x, weight = Affine(), draw(5, 3).requires_grad_(), draw(5, 4, seed=7)
    block = EquilibriumBlock(layer, state_shape=(4,), method=method, rtol=1e-12, atol=1e-12)
    z = block(x)
    exact = torch.linalg.solve(torch.eye(4, dtype=DOUBLE) - layer.w, (x @ layer.u.T).T).T
    assert torch.allclose(z, exact, atol=1e-9)
    inputs = (x, layer.w, layer.u)
    found, expected = (torch.autograd.grad((weight * y).sum(), inputs) for y in (z, exact))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-8)


@pytest.mark.parametrize("method", ["newton", "anderson"])
def test_the_implicit_gradient_is_that_of_the_iteration_written_out(method):
    layer, x, weight = Layer(), draw(5, 3).requires_grad_(), draw(5, 4, seed=7)
    block = EquilibriumBlock(layer, state_shape=[4], method=method, rtol=1e-12, atol=1e-12)
    z = torch.zeros(5, 4, dtype=DOUBLE)
    for _ in range(80):
        z = layer(z, x)
    assert torch.allclose(block(x), z, atol=1e-10)
    inputs = (x, layer.w, layer.u)
    found, expected = (torch.autograd.grad((weight * y).sum(), inputs) for y in (block(x), z))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-8)


def test_a_field_comes_to_rest_where_a_long_block_ends():
    def logistic(z, x):
        return (z + 0.1) * (x - z)

    x = draw(5, 2).abs() + 0.5
    rest = EquilibriumBlock(logistic, kind="field", rtol=1e-10, atol=1e-10)(x)
    assert torch.allclose(rest, x, atol=1e-8)
    long = ODEBlock(lambda y: logistic(y, x[: len(y)]), t1=60.0, controller=tolerance(1e-9))(torch.zeros_like(x))
    assert torch.allclose(long, rest, atol=1e-6)


def test_an_equilibrium_trains_saves_and_copies_as_any_layer_does():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), EquilibriumBlock(Layer().float(), state_shape=(4,)), nn.Linear(4, 1))
    x = torch.randn(16, 2)
    target = x.prod(1, keepdim=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = (model(x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert model[1].n_iterations.shape == (16,)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    held = io.BytesIO()
    torch.save(model, held)
    held.seek(0)
    assert torch.equal(torch.load(held, weights_only=False)(x), model(x))


def test_what_has_no_equilibrium_says_so():
    with pytest.raises(SolveError, match="max_iterations"):
        EquilibriumBlock(lambda z, x: z + 1, max_iterations=20)(torch.zeros(3, 2))
    with pytest.raises(InputError, match="did you mean 'field'"):
        EquilibriumBlock(lambda z, x: z, kind="feild")
    with pytest.raises(InputError, match="field is NoneType"):
        EquilibriumBlock(None)  # type: ignore[arg-type]
