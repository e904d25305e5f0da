"""What a steady state promises: where the flow ends, the gradient of the closed form, samples that do not disturb each other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latentode.errors import InputError, SolveError
from latentode.ode import PIDController, solve
from latentode.ode.steady_state import STEADY_STATUS, steady_state
from tests.ode.problems import van_der_pol
from tests.ode.test_divergence import OnlyBackward

DOUBLE = torch.float64
METHODS = ["newton", "anderson"]


def draw(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE, **options)


def stable_matrix(n=4):
    return draw(n, n) * 0.4 - 2 * torch.eye(n, dtype=DOUBLE)


class Layer(nn.Module):
    """A deep equilibrium layer: a contraction less the state."""

    def __init__(self, n=8):
        super().__init__()
        weight = draw(n, n, seed=1)
        self.weight = nn.Parameter(0.8 * weight / torch.linalg.matrix_norm(weight, 2))

    def g(self, y, x):
        return torch.tanh(y @ self.weight.T + x)

    def forward(self, t, y, x):
        return self.g(y, x) - y


# --- where it settles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_dynamics_settles_at_its_closed_form_and_so_do_the_gradients(method):
    a, b = stable_matrix().requires_grad_(), draw(3, 4, seed=1, requires_grad=True)
    weight = draw(3, 4, seed=2)
    y = steady_state(lambda t, y: y @ a.T + b, draw(3, 4), method=method, rtol=1e-12, atol=1e-14).y
    exact = -torch.linalg.solve(a, b[..., None])[..., 0]
    assert torch.allclose(y, exact, rtol=1e-10)
    gradients = torch.autograd.grad((weight * y).sum(), (a, b))
    expected = torch.autograd.grad((weight * exact).sum(), (a, b))
    for gradient, reference in zip(gradients, expected, strict=True):
        assert torch.allclose(gradient, reference, rtol=1e-9, atol=1e-12)


def test_logistic_growth_settles_at_the_capacity():
    capacity = torch.tensor([[0.5], [3.0], [2e4]], dtype=DOUBLE, requires_grad=True)
    y = steady_state(lambda t, y: y * (1 - y / capacity), torch.full((3, 1), 1e-3, dtype=DOUBLE)).y
    assert torch.allclose(y, capacity, rtol=1e-6)
    assert torch.allclose(torch.autograd.grad(y.sum(), capacity)[0], torch.ones_like(capacity), rtol=1e-5)


def end_of_flow(f, y0, t1):
    t = torch.tensor([0.0, t1], dtype=DOUBLE)
    return solve(f, y0, t, controller=PIDController(rtol=1e-8, atol=1e-10)).ys[:, -1]


def cubic(t, y):
    return y - y**3


def toggle_switch(t, y):
    """Two genes that repress each other (Gardner, Cantor and Collins 2000): two stable points, a saddle between them."""
    return 4 / (1 + y.flip(-1) ** 3) - y


def pendulum(t, y):
    angle, speed = y.unbind(-1)
    return torch.stack([speed, -0.5 * speed - torch.sin(angle)], -1)


@pytest.mark.parametrize(
    ("field", "y0"),
    [
        (cubic, torch.tensor([[-3.0], [-1e-3], [1e-3], [0.4], [0.6], [9.0]], dtype=DOUBLE)),
        (cubic, torch.tensor([[1e-3, 1e-3], [1e-3, -2.0], [-0.5, -0.4]], dtype=DOUBLE)),
        (toggle_switch, 4 * torch.rand(40, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)),
        (pendulum, torch.tensor([[3.0, 0.0], [0.1, 0.0], [2.0, -0.5]], dtype=DOUBLE)),
    ],
)
def test_newton_goes_to_the_stable_point_to_which_the_flow_goes(field, y0):
    assert torch.allclose(steady_state(field, y0).y, end_of_flow(field, y0, 80.0), atol=1e-6)


def test_newton_leaves_an_unstable_point_as_the_flow_does():
    # The flow circles: Newton's method without the flow ends in the middle, where nothing settles.
    found = steady_state(van_der_pol, torch.tensor([[0.1, 0.0]], dtype=DOUBLE), on_failure="return", max_iterations=60)
    assert STEADY_STATUS[int(found.status)].startswith("not settled")


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_newton_does_not_depend_on_the_unit_of_time(unit):
    y = steady_state(lambda t, y: unit * cubic(t, y), torch.tensor([[0.2], [-2.0]], dtype=DOUBLE)).y
    assert torch.allclose(y, torch.tensor([[1.0], [-1.0]], dtype=DOUBLE), rtol=1e-6)


def test_newton_settles_the_slow_and_the_fast():
    rates = torch.tensor([1e6, 1.0, 1e-4], dtype=DOUBLE)
    found = steady_state(lambda t, y: rates * (1 - y), torch.zeros(1, 3, dtype=DOUBLE))
    assert torch.allclose(found.y, torch.ones(1, 3, dtype=DOUBLE), rtol=1e-6)


def test_where_a_sum_is_conserved_the_point_depends_on_the_start_and_has_no_gradient():
    rate = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)

    def exchange(t, y):
        a, b = y.unbind(-1)
        return torch.stack([b - rate * a, rate * a - b], -1)

    y0 = torch.tensor([[1.0, 0.0], [2.0, 6.0]], dtype=DOUBLE)
    with torch.no_grad():
        y = steady_state(exchange, y0).y
    assert torch.allclose(y, y0.sum(1, keepdim=True) * torch.tensor([0.25, 0.75], dtype=DOUBLE))
    with pytest.raises(SolveError, match="samples 0, 1: the Jacobian is singular"):
        steady_state(exchange, y0)


def test_each_sample_has_its_own_time():
    t = torch.tensor([0.0, 1.0, 2.0], dtype=DOUBLE, requires_grad=True)
    y = steady_state(lambda t, y: torch.cos(t)[:, None] - y, torch.zeros(3, 1, dtype=DOUBLE), t=t).y
    assert torch.allclose(y[:, 0], torch.cos(t))
    assert torch.allclose(torch.autograd.grad(y.sum(), t)[0], -torch.sin(t))
    y = steady_state(lambda t, y: torch.cos(t)[:, None] - y, torch.zeros(3, 1, dtype=DOUBLE), t=0.5).y
    assert torch.allclose(y, torch.tensor(0.5, dtype=DOUBLE).cos())


def test_anderson_comes_back_from_where_the_field_is_not_defined():
    # The mix of the first steps overshoots to negative states.
    y0 = torch.tensor([[1e-3], [2.0], [8.0], [50.0]], dtype=DOUBLE)
    y = steady_state(lambda t, y: -torch.log(y), y0, method="anderson").y
    assert torch.allclose(y, torch.ones_like(y), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 5.0, 1e3, 1e6])
def test_anderson_finds_its_damping_where_the_field_is_fast(rate):
    layer, x, y0 = Layer(), draw(4, 8), torch.zeros(4, 8, dtype=DOUBLE)
    slow = steady_state(layer, y0, args=(x,), method="anderson", rtol=1e-9).y
    fast = steady_state(lambda t, y: rate * layer(t, y, x), y0, method="anderson").y
    assert torch.allclose(fast, slow, atol=1e-4)


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_finite_differences(method):
    weight = (0.4 * draw(2, 2)).requires_grad_()
    x, t = draw(2, 2, seed=1, requires_grad=True), draw(2, seed=2, requires_grad=True)
    y0 = torch.zeros(2, 2, dtype=DOUBLE)

    def point(weight, x, t):
        def f(t, y, x):
            return torch.tanh(y @ weight.T + x) * (1 + 0.1 * torch.sin(t)[:, None]) - y

        return steady_state(f, y0, t=t, args=(x,), method=method, rtol=1e-12, atol=1e-13).y

    assert torch.autograd.gradcheck(point, (weight, x, t), eps=1e-5, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_computed_outside_is_gone_through_once(method):
    """Closed form: `y = sin(w) / (w exp(w))`; the start is in the arguments, too, and has no gradient."""
    weight = torch.tensor([0.7], dtype=DOUBLE, requires_grad=True)
    start = torch.ones(2, 1, dtype=DOUBLE, requires_grad=True)
    pull, kept = torch.sin(weight), torch.exp(weight)
    y = steady_state(
        lambda t, y, pull, y0: pull + 0 * y0 - weight * kept * y, start, args=(pull, 2 * start), method=method
    ).y
    by_weight, by_start = torch.autograd.grad(y.sum(), (weight, start))
    w = weight.detach()
    expected = 2 * torch.exp(-w) * (torch.cos(w) / w - torch.sin(w) / w - torch.sin(w) / w**2)
    torch.testing.assert_close(by_weight, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(by_start, torch.zeros_like(start))


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_has_the_gradient_of_its_unrolled_iteration(method):
    layer, x, weight = Layer(), draw(5, 8, requires_grad=True), draw(5, 8, seed=3)
    unrolled = torch.zeros(5, 8, dtype=DOUBLE)
    for _ in range(200):
        unrolled = layer.g(unrolled, x)
    inputs = (layer.weight, x)
    expected = torch.autograd.grad((unrolled * weight).sum(), inputs)
    y = steady_state(layer, torch.zeros(5, 8, dtype=DOUBLE), args=(x,), method=method, rtol=1e-12, atol=1e-13).y
    assert torch.allclose(y, unrolled, atol=1e-11)
    for gradient, reference in zip(torch.autograd.grad((y * weight).sum(), inputs), expected, strict=True):
        assert torch.allclose(gradient, reference, rtol=1e-8, atol=1e-10)


def test_the_two_methods_agree_on_a_large_state():
    layer, x, y0 = Layer(120), draw(3, 120, seed=2), torch.zeros(3, 120, dtype=DOUBLE)
    found, gradients = {}, {}
    for method in METHODS:
        y = steady_state(layer, y0, args=(x,), method=method, rtol=1e-10).y
        found[method] = y.detach()
        (gradients[method],) = torch.autograd.grad(y.square().mean(), layer.weight)
    assert torch.allclose(found["newton"], found["anderson"], atol=1e-8)
    distance = torch.linalg.vector_norm(gradients["newton"] - gradients["anderson"])
    assert distance < 1e-8 * torch.linalg.vector_norm(gradients["newton"])


@pytest.mark.parametrize("method", METHODS)
def test_a_start_has_no_gradient_and_nothing_is_kept_without_one(method):
    y0 = torch.zeros(2, 1, dtype=DOUBLE, requires_grad=True)
    assert not steady_state(lambda t, y: 1 - y, y0, method=method).y.requires_grad
    level = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    y = steady_state(lambda t, y: level - y, y0, method=method).y
    assert torch.autograd.grad(y.sum(), y0, allow_unused=True, retain_graph=True) == (None,)
    with torch.no_grad():
        assert not steady_state(lambda t, y: level - y, y0, method=method).y.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow_with_the_number_of_iterations(method):
    layer, x = Layer(), draw(2, 8)

    def count(rtol):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda _: None):
            found = steady_state(layer, torch.zeros(2, 8, dtype=DOUBLE), args=(x,), method=method, rtol=rtol)
        return len(saved), int(found.n_iterations.max())

    (n_saved_loose, n_loose), (n_saved_tight, n_tight) = count(1e-2), count(1e-12)
    assert n_loose < n_tight
    assert n_saved_loose == n_saved_tight


def test_a_second_derivative_is_refused():
    level = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    y = steady_state(lambda t, y: level**2 - y**3, torch.ones(1, 1, dtype=DOUBLE)).y
    (gradient,) = torch.autograd.grad(y.sum(), level, create_graph=True)
    with pytest.raises(SolveError, match="of first order"):
        torch.autograd.grad(gradient, level)


def test_a_gradient_that_does_not_settle_is_an_error_or_a_warning():
    # At the double root the Jacobian is 0: the slope is small, the gradient is infinite.
    level = torch.zeros((), dtype=DOUBLE, requires_grad=True)

    def f(t, y):
        return level - y**2

    y0 = torch.zeros(1, 1, dtype=DOUBLE)
    with pytest.raises(SolveError, match="the gradient of 1 of 1 fixed points did not settle"):
        steady_state(f, y0, method="anderson").y.sum().backward()
    found = steady_state(f, y0, method="anderson", on_failure="return")
    with pytest.warns(RuntimeWarning, match="did not settle"):
        found.y.sum().backward()


@pytest.mark.parametrize("method", METHODS)
def test_a_field_without_forward_mode_settles_too(method):
    level, one_way = draw(3, 2, requires_grad=True), torch.tensor([[0.0, 0.8], [0.1, 0.0]], dtype=DOUBLE)

    def point(cube):
        y0 = torch.ones(3, 2, dtype=DOUBLE)
        y = steady_state(lambda t, y: level + y @ one_way.T - y - cube(y), y0, method=method, rtol=1e-10, damping=0.2).y
        return y, *torch.autograd.grad(y.pow(3).sum(), level)

    for mine, reference in zip(point(OnlyBackward.apply), point(lambda y: y**3), strict=True):
        assert torch.allclose(mine, reference, rtol=1e-8)


# --- samples ---------------------------------------------------------------------------------------------------------


def elementwise(t, y, x):
    return torch.tanh(0.7 * y + x) - y + 0.1 * torch.sin(t)[:, None]


@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_a_batch_is_the_row_alone(method):
    y0, x, t = draw(6, 3), draw(6, 3, seed=1), draw(6, seed=2)
    together = steady_state(elementwise, y0, t=t, args=(x,), method=method)
    for i in range(6):
        alone = steady_state(elementwise, y0[i, None], t=t[i, None], args=(x[i, None],), method=method)
        assert torch.equal(alone.y[0], together.y[i])
        assert alone.n_iterations[0] == together.n_iterations[i]


@pytest.mark.parametrize("method", METHODS)
def test_a_failing_sample_leaves_the_others_as_they_are(method):
    layer, x, y0 = Layer(), draw(4, 8, seed=1, requires_grad=True), draw(4, 8)
    good = steady_state(layer, y0, args=(x,), method=method)
    x_bad = x.detach().clone()
    x_bad[2, 3] = torch.nan
    x_bad.requires_grad_()
    with pytest.raises(SolveError, match="samples 2: the field became NaN"):
        steady_state(layer, y0, args=(x_bad,), method=method)
    found = steady_state(layer, y0, args=(x_bad,), method=method, on_failure="return")
    others = torch.tensor([0, 1, 3])
    assert torch.equal(found.y[others], good.y[others])
    assert torch.equal(found.n_iterations[others], good.n_iterations[others])
    assert found.y[2].isnan().all()
    assert found.status.tolist() == [0, 0, 3, 0]
    (gradient,) = torch.autograd.grad(found.y[others].sum(), x_bad)
    (expected,) = torch.autograd.grad(good.y[others].sum(), x)
    assert torch.equal(gradient[others], expected[others])


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_that_never_settles_leaves_the_gradient_of_the_others(method):
    drift = torch.tensor([[0.0], [1.0]], dtype=DOUBLE)
    level = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)

    def f(t, y):
        return (1 - drift) * (level - y) + drift * (1 + 0 * y)

    found = steady_state(f, torch.zeros(2, 1, dtype=DOUBLE), method=method, max_iterations=30, on_failure="return")
    assert found.status.tolist() == [0, 1]
    assert found.n_iterations[1] == 30
    assert found.residual.tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    found.y[0].sum().backward()
    assert level.grad == pytest.approx(1.0)


def test_every_failure_names_samples_residual_and_remedy():
    y0 = torch.full((8, 1), 2.0, dtype=DOUBLE)
    with pytest.raises(SolveError) as caught:
        steady_state(lambda t, y: torch.ones_like(y), y0, max_iterations=7)
    assert "samples 0, 1, 2, 3, 4, ... 8 in all: not settled after max_iterations" in str(caught.value)
    assert "largest |dy/dt| 1 after 7 iterations" in str(caught.value)
    with pytest.raises(SolveError, match="no step, however short"):
        steady_state(lambda t, y: -torch.sign(y - 1.1), y0)


def test_a_field_that_ends_before_its_fixed_point_fails_there():
    found = steady_state(
        lambda t, y: -1.0 - torch.sqrt(y), torch.ones(1, 1, dtype=DOUBLE), on_failure="return", max_iterations=60
    )
    assert int(found.status) in (1, 3)
    assert found.y.isnan().all()


# --- structures and dtypes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_tuples_and_dicts_come_back_as_they_went_in(method):
    level = torch.tensor([1.0, 2.0], dtype=DOUBLE, requires_grad=True)

    def pair(t, state):
        a, b = state
        return level - a, 0.5 * a[:, None, None].expand_as(b) - b

    a, b = steady_state(
        pair, (torch.zeros(2, dtype=DOUBLE), torch.zeros(2, 2, 3, dtype=DOUBLE)), method=method, rtol=1e-9
    ).y
    assert torch.allclose(a, level)
    assert b.shape == (2, 2, 3)
    assert torch.allclose(torch.autograd.grad(b.sum(), level)[0], torch.full((2,), 3.0, dtype=DOUBLE))

    def named(t, state):
        da, db = pair(t, (state["a"], state["b"]))
        return {"b": db, "a": da}

    y = steady_state(named, {"a": torch.zeros(2, dtype=DOUBLE), "b": torch.zeros(2, 2, 3, dtype=DOUBLE)}).y
    assert list(y) == ["a", "b"]
    assert torch.allclose(y["a"], level)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_lower_precision_settles_at_its_rounding(method, dtype):
    layer, x = Layer().to(dtype), draw(4, 8).to(dtype)
    found = steady_state(layer, torch.zeros(4, 8, dtype=dtype), args=(x,), method=method)
    assert found.y.dtype == dtype
    exact = steady_state(Layer(), torch.zeros(4, 8, dtype=DOUBLE), args=(draw(4, 8),)).y
    assert (found.y.double() - exact).abs().max() < 32 * torch.finfo(dtype).eps


def test_an_empty_batch_is_settled():
    assert steady_state(lambda t, y: -y, torch.zeros(0, 3)).y.shape == (0, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "newtn"}, "did you mean 'newton'"),
        ({"method": None}, "give one of newton, anderson"),
        ({"y0": torch.ones(2, 1, dtype=torch.int64)}, "torch.int64"),
        ({"y0": torch.tensor([[1.0], [torch.nan]])}, r"y0 holds NaN or infinity \(samples 1\)"),
        ({"y0": 1.0}, "y0 is float"),
        ({"f": lambda t, y: y[:, :0]}, r"f returned shape \(2, 0\)"),
        ({"f": lambda t, y: y[:1]}, "f returned 1 samples for a state of 2"),
        ({"f": lambda t, y: y.double()}, "f returned torch.float64"),
        ({"f": "decay"}, "f is str"),
        ({"rtol": -1e-3}, "rtol is -0.001"),
        ({"atol": float("nan")}, "atol is nan"),
        ({"max_iterations": 0}, "max_iterations is 0"),
        ({"history": 1.5}, "history is 1.5"),
        ({"damping": 0.0}, "damping is 0.0"),
        ({"on_failure": "ignore"}, "on_failure is 'ignore'"),
        ({"t": torch.zeros(3)}, r"t has shape \(3,\)"),
        ({"t": "now"}, "t is str"),
        ({"t": float("inf")}, "finite"),
        ({"args": torch.ones(2)}, r"args=\(x,\)"),
    ],
)
def test_a_wrong_argument_is_named_in_a_sentence(options, words):
    options = {"f": lambda t, y: -y, "y0": torch.ones(2, 1), **options}
    with pytest.raises(InputError, match=words) as caught:
        steady_state(options.pop("f"), options.pop("y0"), **options)
    assert "\n" not in str(caught.value)
