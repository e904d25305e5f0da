"""The drop-in agrees with torchdiffeq itself: shapes, values, gradients, options, callbacks, events; and refuses in sentences."""

from __future__ import annotations

import math

import pytest
import torch
import torchdiffeq as theirs
from torch import nn

from latentode.errors import InputError, SolveError
from latentode.ode import SOLVERS
from latentode.ode import torchdiffeq as ours
from latentode.ode.torchdiffeq_options import ADAPTIVE, DOPRI5_SHAMPINE, FIXED, HEUN3, KUTTA38, REFUSED

DOUBLE = torch.float64
MIX = torch.tensor([[-0.3, 2.0], [-2.0, -0.1]], dtype=DOUBLE)
Y0 = torch.tensor([[1.0, 0.5], [-0.7, 0.2], [0.3, -1.1]], dtype=DOUBLE)
T = torch.tensor([0.2, 0.5, 1.3, 2.0], dtype=DOUBLE)
# Where the two take the same steps to rounding, and where they only aim at the same tolerance.
SHARED_FIXED = ["euler", "midpoint", "heun2", "heun3", "rk4"]
SHARED_ADAPTIVE = ["dopri5", "bosh3", "fehlberg2", "adaptive_heun"]


def field(t, y):
    return torch.sin(y @ MIX.to(y)) - y * torch.cos(t)


class Counted:
    """A field that counts its calls, and the dtypes and shapes of the times it was given."""

    def __init__(self, f=field):
        self.f, self.n, self.times = f, 0, set()

    def __call__(self, t, y):
        self.n += 1
        self.times.add((t.dtype, t.shape))
        return self.f(t, y)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).to(DOUBLE)

    def forward(self, t, y):
        return self.layers(y) * torch.cos(t)


def both(f, y0, t, **arguments):
    return ours.odeint(f, y0, t, **arguments), theirs.odeint(f, y0, t, **arguments)


# --- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SHARED_FIXED)
@pytest.mark.parametrize(
    "options", [{}, {"step_size": 0.07}, {"step_size": 0.07, "interp": "cubic"}, {"step_size": 0.1}]
)
@pytest.mark.parametrize("direction", [1, -1])
def test_fixed_grids_give_the_same_values_to_rounding(method, options, direction):
    mine, other = both(field, Y0, direction * T, method=method, options=options)
    assert mine.shape == other.shape == (4, 3, 2)
    assert torch.allclose(mine, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", SHARED_ADAPTIVE)
@pytest.mark.parametrize("direction", [1, -1])
def test_adaptive_methods_give_the_same_values_to_tolerance(method, direction):
    mine, other = both(field, Y0, direction * T, method=method, rtol=1e-4, atol=1e-6)
    exact = theirs.odeint(field, Y0, direction * T, rtol=1e-11, atol=1e-12)
    assert (mine - exact).abs().max() < max(3 * float((other - exact).abs().max()), 1e-4)


def test_the_default_is_dopri5_at_their_tolerances():
    mine, other = both(field, Y0, T)
    assert torch.equal(mine, ours.odeint(field, Y0, T, rtol=1e-7, atol=1e-9, method="dopri5"))
    assert torch.allclose(mine, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_calls_of_the_field_are_as_many_as_theirs(method):
    mine, other = Counted(), Counted()
    ours.odeint(mine, Y0, T, method=method)
    theirs.odeint(other, Y0, T, method=method)
    assert 0.8 * other.n < mine.n < 1.1 * other.n


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 1, 3)])
def test_states_may_have_any_shape(method, shape):
    y0 = torch.ones(shape, dtype=DOUBLE)
    ys = ours.odeint(lambda t, y: -y, y0, T, method=method)
    assert ys.shape == (4, *shape)
    exact = torch.exp(T[0] - T).view(-1, *(1,) * len(shape))
    assert torch.allclose(ys, exact.expand_as(ys), atol=1e-2 if method == "rk4" else 1e-6)


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5", "bosh3"])
@pytest.mark.parametrize("direction", [1, -1])
def test_tuple_states_are_solved_as_one_and_come_back_as_tuples(method, direction):
    y0 = (torch.tensor([1.0, 0.5], dtype=DOUBLE), torch.tensor([[0.3, -0.2]], dtype=DOUBLE))

    def f(t, y):
        return y[1][0] * torch.cos(t), -(y[0] + 0.1 * y[1])

    mine, other = both(f, y0, direction * T, method=method)
    assert isinstance(mine, tuple)
    for a, b in zip(mine, other, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=0, atol={"dopri5": 2e-6, "bosh3": 2e-4}.get(method, 1e-13))


def test_the_parts_of_a_tuple_come_to_one_dtype():
    y0 = (torch.ones(2, dtype=torch.float32), torch.ones(1, dtype=DOUBLE))
    mine, other = both(lambda t, y: (-y[0], -y[1]), y0, T)
    assert [part.dtype for part in mine] == [part.dtype for part in other] == [DOUBLE, DOUBLE]


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize(
    ("state", "time"), [(torch.float32, DOUBLE), (DOUBLE, torch.float32), (torch.float32, torch.float32)]
)
def test_the_result_has_the_dtype_of_the_state_and_the_field_sees_one_scalar_time_of_it(method, state, time):
    f = Counted()
    ys = ours.odeint(f, Y0.to(state), T.to(time), method=method, rtol=1e-4, atol=1e-5)
    assert ys.dtype == state
    assert f.times == {(state, torch.Size([]))}


def test_a_field_may_return_another_precision_than_the_state():
    ys = ours.odeint(lambda t, y: -y.double(), torch.ones(2), T.float(), rtol=1e-5, atol=1e-6)
    assert ys.dtype == torch.float32
    assert torch.allclose(ys[:, 0], torch.exp(T[0] - T).float(), atol=1e-4)


@pytest.mark.parametrize("method", ["euler", "dopri5"])
def test_one_time_gives_the_initial_state(method):
    ys = ours.odeint(field, Y0, T[:1], method=method)
    assert torch.equal(ys, Y0[None])


def test_the_first_state_is_the_initial_one_to_the_bit():
    assert torch.equal(ours.odeint(field, Y0, T)[0], Y0)


@pytest.mark.parametrize("tableau", [HEUN3, KUTTA38, DOPRI5_SHAMPINE])
def test_the_tableaus_of_the_drop_in_have_their_order(tableau):
    def slope(weights, power):
        return sum(w * c**power for w, c in zip(weights, tableau.c, strict=True))

    for power in range(tableau.order):
        assert slope(tableau.b, power) == pytest.approx(1 / (power + 1), abs=1e-14)
    if tableau.b_hat is not None:
        for power in range(tableau.order - 1):
            assert slope(tableau.b_hat, power) == pytest.approx(1 / (power + 1), abs=1e-14)


# --- tolerances and options --------------------------------------------------------------------------------------------


def test_tolerances_may_be_tensors():
    number = ours.odeint(field, Y0, T, rtol=1e-4, atol=1e-6)
    assert torch.equal(ours.odeint(field, Y0, T, rtol=torch.tensor(1e-4, dtype=DOUBLE), atol=1e-6), number)


@pytest.mark.parametrize("norm", [lambda y: y.abs().max(), lambda y: 100 * y.pow(2).mean().sqrt()])
def test_a_norm_sees_the_state_in_its_own_shape_and_steers_the_steps(norm):
    shapes = set()

    def spy(y):
        shapes.add(y.shape)
        return norm(y)

    mine, other, plain = Counted(), Counted(), Counted()
    ours.odeint(mine, Y0, T, options={"norm": spy})
    theirs.odeint(other, Y0, T, options={"norm": norm})
    ours.odeint(plain, Y0, T)
    assert shapes == {Y0.shape}
    assert plain.n < mine.n < 1.1 * other.n


def test_a_norm_of_a_tuple_state_sees_a_tuple():
    y0 = (torch.tensor(1.0), torch.ones(2, 2))
    seen = set()

    def norm(y):
        seen.add(tuple(part.shape for part in y))
        return y[0].abs()

    ours.odeint(lambda t, y: (-y[0], -y[1]), y0, T.float(), rtol=1e-4, atol=1e-5, options={"norm": norm})
    assert seen == {(torch.Size([]), torch.Size([2, 2]))}


def test_the_first_step_its_bounds_and_the_factors_are_those_asked_for():
    plain, short, bounded, careful = (Counted() for _ in range(4))
    ours.odeint(plain, Y0, T)
    ours.odeint(short, Y0, T, options={"first_step": 1e-6, "ifactor": 1.5})
    ours.odeint(bounded, Y0, T, options={"max_step": 0.01})
    ours.odeint(careful, Y0, T, options={"safety": 0.3, "dfactor": 0.1})
    assert plain.n < short.n
    assert plain.n < careful.n
    assert bounded.n >= 6 * 180


def test_too_many_steps_for_max_num_steps_is_an_error():
    ours.odeint(field, Y0, T, options={"max_num_steps": 1000})
    with pytest.raises(SolveError, match="max_steps"):
        ours.odeint(field, Y0, T, options={"max_num_steps": 2})


@pytest.mark.parametrize("name", ["jump_t", "step_t"])
@pytest.mark.parametrize("direction", [1, -1])
def test_steps_end_where_step_t_and_jump_t_say(name, direction):
    def f(t, y):
        return -y if direction * t < 0.5 else y**2

    blind, told = Counted(f), Counted(f)
    t = direction * torch.tensor([0.0, 1.0], dtype=DOUBLE)
    y0 = torch.tensor([1.0, 0.5], dtype=DOUBLE)
    rough = ours.odeint(blind, y0, t)
    exact = ours.odeint(told, y0, t, options={name: direction * torch.tensor([0.5, 7.0], dtype=DOUBLE)})
    assert told.n < 0.6 * blind.n
    assert torch.allclose(rough, exact, atol=1e-5)


def test_a_grid_constructor_sees_the_times_and_says_where_steps_end():
    seen = []

    def grid(f, y0, t):
        seen.append(t)
        return torch.linspace(float(t[0]), float(t[-1]), 11, dtype=DOUBLE)

    t = torch.tensor([1.0, 0.0], dtype=DOUBLE)
    mine, other = both(
        lambda t, y: y, torch.ones(1, dtype=DOUBLE), t, method="euler", options={"grid_constructor": grid}
    )
    assert torch.equal(seen[0], t)
    assert torch.allclose(mine, other, rtol=0, atol=1e-14)
    assert float(mine[-1]) == pytest.approx(0.9**10)


# --- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_methods_that_do_not_exist_here_are_refused_by_name_with_the_nearest_one(method):
    with pytest.raises(InputError, match=f"{method}.*(kvaerno5|dopri5)"):
        ours.odeint(field, Y0, T, method=method)


def test_every_method_of_theirs_is_known_or_refused_by_name():
    from torchdiffeq._impl.odeint import SOLVERS as THEIRS

    assert set(THEIRS) <= {*FIXED, *ADAPTIVE, *REFUSED}


def test_our_own_adaptive_methods_are_accepted_too():
    assert {name for name, method in SOLVERS.items() if method.b_hat is not None} == set(ADAPTIVE)
    assert torch.allclose(ours.odeint(field, Y0, T, method="tsit5"), ours.odeint(field, Y0, T), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "dopri55"}, "there is no method 'dopri55'"),
        ({"options": {"first_stepp": 0.1}}, "did you mean 'first_step'.*norm, first_step, step_t"),
        ({"method": "rk4", "options": {"eps": 0.1}}, "rk4 has no option 'eps'.*step_size"),
        ({"method": "rk4", "options": {"step_size": -0.1}}, "above 0"),
        ({"method": "rk4", "options": {"interp": "quintic"}}, "'linear' or 'cubic'"),
        ({"method": "rk4", "options": {"step_size": 0.1, "grid_constructor": lambda f, y, t: t}}, "one of them"),
        ({"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t[1:]}}, "from the first of t to the last"),
        ({"y0": [Y0]}, "y0 is list"),
        ({"y0": torch.ones(2, dtype=torch.int64)}, "int64"),
        ({"t": [0.0, 1.0]}, "t is list"),
        ({"t": torch.tensor([0, 1])}, "floating-point"),
        ({"t": torch.zeros(2, 2)}, "floating-point"),
        ({"t": torch.tensor([0.0, 2.0, 1.0])}, "one way"),
        ({"rtol": torch.tensor(1e-3, requires_grad=True)}, "rtol requires a gradient"),
        ({"rtol": -1.0}, "rtol"),
        ({"y0": (Y0, Y0), "rtol": (1e-3,)}, "1 entries for the 2 parts"),
        ({"func": lambda t, y: y[:, :1]}, "shape"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(change, words):
    arguments = {"func": field, "y0": Y0, "t": T, **change}
    with pytest.raises(InputError, match=words):
        ours.odeint(arguments.pop("func"), arguments.pop("y0"), arguments.pop("t"), **arguments)


# --- gradients ---------------------------------------------------------------------------------------------------------


def gradients(solver, f, direction, **arguments):
    y0 = Y0.clone().requires_grad_()
    t = (direction * T).requires_grad_()
    ys = solver(f, y0, t, **arguments)
    weights = torch.linspace(-1, 1, ys.numel(), dtype=DOUBLE).view_as(ys)
    return torch.autograd.grad((ys * weights).sum(), [y0, t, *f.parameters()])


@pytest.mark.parametrize("direction", [1, -1])
def test_gradients_of_adaptive_solves_equal_theirs(direction):
    f = Network()
    mine = gradients(ours.odeint, f, direction, rtol=1e-8, atol=1e-10)
    other = gradients(theirs.odeint, f, direction, rtol=1e-8, atol=1e-10)
    for a, b in zip(mine, other, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", SHARED_FIXED)
def test_gradients_on_a_fixed_grid_equal_theirs_but_for_those_of_the_grid_itself(method):
    f = Network()
    mine = gradients(ours.odeint, f, 1, method=method)
    other = gradients(theirs.odeint, f, 1, method=method)
    for i, (a, b) in enumerate(zip(mine, other, strict=True)):
        if i != 1:
            assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"adjoint_options": {"norm": "seminorm"}},
        {"adjoint_rtol": 1e-7, "adjoint_atol": 1e-8, "adjoint_method": "bosh3"},
        {"method": "rk4", "options": {"step_size": 0.05}},
        {"adjoint_method": "rk4", "adjoint_options": {"step_size": 0.05}},
    ],
)
def test_gradients_by_the_adjoint_equal_theirs(direction, arguments):
    f = Network()
    mine = gradients(ours.odeint_adjoint, f, direction, rtol=1e-6, atol=1e-8, **arguments)
    other = gradients(theirs.odeint, f, direction, rtol=1e-8, atol=1e-10)
    for a, b in zip(mine, other, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-5)


def test_the_adjoint_carries_tuple_states():
    def total(solver):
        y0 = (
            torch.tensor([1.0, 0.5], dtype=DOUBLE, requires_grad=True),
            torch.tensor(0.3, dtype=DOUBLE, requires_grad=True),
        )
        rate = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
        further = {} if solver is theirs.odeint else {"adjoint_params": (rate,)}
        ys = solver(lambda t, y: (-rate * y[0] * y[1], y[0].sum() * torch.cos(t)), y0, T, **further)
        return torch.autograd.grad(ys[0].square().sum() + ys[1][-1], [*y0, rate])

    for a, b in zip(total(ours.odeint_adjoint), total(theirs.odeint), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-5)


def test_only_the_adjoint_params_get_a_gradient():
    f = Network()
    chosen = tuple(f.layers[0].parameters())
    ys = ours.odeint_adjoint(f, Y0, T, adjoint_params=chosen)
    ys.sum().backward()
    assert all(parameter.grad is not None for parameter in chosen)
    assert all(parameter.grad is None for parameter in f.layers[2].parameters())


@pytest.mark.parametrize("names", ["parameter", "computed", "other"])
def test_a_tensor_computed_from_a_parameter_outside_has_the_gradient_that_the_adjoint_params_ask_for(names):
    def gradient(solver, is_adjoint):
        weight = torch.full((2,), 0.5, dtype=DOUBLE, requires_grad=True)
        doubled = torch.sin(2 * weight)
        chosen = {"parameter": (weight,), "computed": (doubled,), "other": ()}[names]
        further = {"adjoint_params": chosen} if is_adjoint else {}
        y0 = torch.ones(2, dtype=DOUBLE, requires_grad=True)
        ys = solver(lambda t, y: weight * torch.sin(y) - doubled * y, y0, T, **further)
        return torch.autograd.grad(ys.square().sum(), (y0, weight), allow_unused=True)

    mine, other = gradient(ours.odeint_adjoint, True), gradient(theirs.odeint_adjoint, True)
    torch.testing.assert_close(mine[0], other[0], rtol=0, atol=1e-5)
    assert (mine[1] is None) == (other[1] is None)
    if mine[1] is not None:
        torch.testing.assert_close(mine[1], other[1], rtol=0, atol=1e-5)
    if names == "parameter":
        torch.testing.assert_close(mine[1], gradient(ours.odeint, False)[1], rtol=0, atol=1e-5)


def test_the_norm_of_the_adjoint_sees_time_state_adjoint_and_parameters():
    seen = set()

    def norm(parts):
        seen.add(tuple(part.shape for part in parts))
        return torch.stack([part.abs().max() for part in parts]).max()

    y0 = (torch.ones(2, dtype=DOUBLE), torch.ones((), dtype=DOUBLE))
    rate = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    ys = ours.odeint_adjoint(
        lambda t, y: (-rate.sum() * y[0], -y[1]), y0, T, adjoint_params=(rate,), adjoint_options={"norm": norm}
    )
    ys[0].sum().backward()
    assert seen == {tuple(map(torch.Size, [(), (2,), (), (2,), (), (3,)]))}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "adjoint_params"),
        ({"adjoint_params": (), "options": {"first_step": 0.1}, "adjoint_method": "rk4"}, "adjoint_options"),
        ({"adjoint_params": (), "adjoint_options": {"nrm": "seminorm"}}, "did you mean 'norm'"),
        ({"adjoint_params": (), "adjoint_options": {"norm": "semi"}}, "seminorm"),
    ],
)
def test_wrong_arguments_of_the_adjoint_are_refused_in_a_sentence(change, words):
    with pytest.raises(InputError, match=words):
        ours.odeint_adjoint(field, Y0, T, **change)


# --- callbacks ---------------------------------------------------------------------------------------------------------


class Watched(nn.Module):
    """A field with every callback, which writes down what it sees."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0, dtype=DOUBLE))
        self.seen = {}
        for name in ours.CALLBACKS:
            for suffix in ("", "_adjoint"):
                setattr(self, name + suffix, self.recorder(name + suffix))

    def recorder(self, name):
        def record(t0, y0, dt):
            self.seen.setdefault(name, []).append((float(t0), y0, float(dt)))

        return record

    def forward(self, t, y):
        return -self.rate * y * torch.cos(3 * t)


@pytest.mark.parametrize("direction", [1, -1])
def test_callbacks_see_every_step_and_what_became_of_it(direction):
    mine, other = Watched(), Watched()
    t = direction * torch.tensor([0.0, 3.0], dtype=DOUBLE)
    ours.odeint(mine, Y0, t, options={"first_step": 2.0})
    theirs.odeint(other, Y0, t, options={"first_step": 2.0})
    counts = {name: len(seen) for name, seen in mine.seen.items()}
    assert set(counts) == {"callback_step", "callback_accept_step", "callback_reject_step"}
    assert counts["callback_step"] == counts["callback_accept_step"] + counts["callback_reject_step"]
    assert counts["callback_step"] == pytest.approx(len(other.seen["callback_step"]), rel=0.2)
    for (t0, y, dt), (their_t0, their_y, their_dt) in zip(
        *(f.seen["callback_step"][:2] for f in (mine, other)), strict=True
    ):
        assert t0 == pytest.approx(their_t0)
        assert dt == pytest.approx(their_dt, rel=1e-2)
        assert y.shape == their_y.shape


def test_callbacks_of_a_fixed_grid_and_of_the_adjoint_are_called_once_a_step():
    f = Watched()
    del f.callback_accept_step, f.callback_reject_step, f.callback_accept_step_adjoint, f.callback_reject_step_adjoint
    t = torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE)
    ys = ours.odeint_adjoint(f, Y0, t, method="rk4", options={"step_size": 0.1})
    assert len(f.seen["callback_step"]) == 10
    ys.sum().backward()
    assert len(f.seen["callback_step_adjoint"]) == 10


def test_callbacks_of_a_tuple_state_see_tuples():
    def f(t, y):
        return -y[0], y[1]

    shapes = set()
    f.callback_step = lambda t0, y0, dt: shapes.add(tuple(part.shape for part in y0))
    ours.odeint(f, (Y0, Y0[0, 0]), T, method="rk4")
    assert shapes == {(Y0.shape, torch.Size([]))}


def test_a_callback_that_is_never_called_is_warned_of():
    f = Watched()
    del f.callback_reject_step
    with pytest.warns(UserWarning, match="never calls callback_accept_step, only callback_step"):
        ours.odeint(f, Y0, T, method="rk4")


# --- events ------------------------------------------------------------------------------------------------------------

GRAVITY = 9.81


def falling(t, y):
    _height, speed = y
    return speed, -GRAVITY * torch.ones_like(speed)


def on_the_ground(t, y):
    return y[0]


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4", "euler"])
@pytest.mark.parametrize("direction", [1, -1])
def test_events_are_found_where_theirs_are(method, direction):
    t = direction * torch.tensor([0.5, 0.6], dtype=DOUBLE)
    options = {"step_size": 0.01, "interp": "cubic"} if method in FIXED else {}
    arguments = {"event_fn": lambda t, y: y[0, 0] - 0.8, "method": method, "options": options}
    (t_mine, y_mine), (t_other, y_other) = both(field, Y0, t, **arguments)
    assert t_mine.shape == t_other.shape
    assert y_mine.shape == y_other.shape == (2, 3, 2)
    assert t_mine.item() == pytest.approx(t_other.item(), abs=1e-5)
    assert torch.allclose(y_mine, y_other, rtol=0, atol=1e-5)


def test_the_first_of_several_event_functions_ends_the_solve():
    t, _ = ours.odeint(
        lambda t, y: torch.ones_like(y),
        torch.zeros(2, dtype=DOUBLE),
        torch.tensor([0.0, 1.0], dtype=DOUBLE),
        event_fn=lambda t, y: torch.stack([y[0] - 700.0, 30.0 - y[1]]),
    )
    assert t.item() == pytest.approx(30.0, abs=1e-6)


def test_an_event_at_the_start_ends_the_solve_there():
    t, y = ours.odeint(field, Y0, T[:2], event_fn=lambda t, y: y[0, 0] - 1.0)
    assert t.item() == 0.2
    assert torch.equal(y[1], Y0)


def test_events_need_two_times_and_on_a_fixed_grid_a_step_size():
    with pytest.raises(InputError, match="two times"):
        ours.odeint(field, Y0, T, event_fn=on_the_ground)
    with pytest.raises(InputError, match="step_size"):
        ours.odeint(field, Y0, T[:2], event_fn=on_the_ground, method="rk4")


@pytest.mark.parametrize("interface", [ours.odeint, ours.odeint_adjoint, theirs.odeint])
def test_gradients_through_an_event_equal_the_closed_form(interface):
    height = torch.tensor([7.0], dtype=DOUBLE, requires_grad=True)
    t0 = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)
    further = {"adjoint_params": ()} if interface is ours.odeint_adjoint else {}
    y0 = (height, torch.zeros(1, dtype=DOUBLE))
    t, y = ours.odeint_event(falling, y0, t0, event_fn=on_the_ground, odeint_interface=interface, **further)
    assert t.item() == pytest.approx(0.3 + math.sqrt(2 * 7.0 / GRAVITY))
    assert y[0].shape == (2, 1)
    by_height, by_start = torch.autograd.grad(t, [height, t0], retain_graph=True)
    assert float(by_height) == pytest.approx(1 / math.sqrt(2 * 7.0 * GRAVITY))
    assert float(by_start) == pytest.approx(1.0)
    (speed_by_height,) = torch.autograd.grad(y[1][-1].sum(), height)
    assert float(speed_by_height) == pytest.approx(-math.sqrt(GRAVITY / (2 * 7.0)))


def test_time_may_run_backwards_to_an_event():
    y0 = (torch.tensor([0.0], dtype=DOUBLE), torch.tensor([5.0], dtype=DOUBLE, requires_grad=True))

    def solve(package):
        t0 = torch.tensor(2.0, dtype=DOUBLE)
        return package.odeint_event(falling, y0, t0, event_fn=lambda t, y: y[0] + 3.0, reverse_time=True)

    (t, y), (their_t, their_y) = solve(ours), solve(theirs)
    assert t.item() == pytest.approx(their_t.item(), abs=1e-7)
    assert t.item() < 2.0
    mine, other = (torch.autograd.grad(a + b[1][-1].sum(), y0[1])[0] for a, b in ((t, y), (their_t, their_y)))
    assert torch.allclose(mine, other, atol=1e-6)


def test_a_parameter_of_the_event_function_gets_a_gradient():
    floor = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
    y0 = (torch.tensor([7.0], dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE))
    t, _ = ours.odeint_event(falling, y0, torch.tensor(0.0, dtype=DOUBLE), event_fn=lambda t, y: y[0] - floor)
    (gradient,) = torch.autograd.grad(t, floor)
    assert float(gradient) == pytest.approx(-1 / math.sqrt(2 * 6.0 * GRAVITY))


# --- more options ------------------------------------------------------------------------------------------------------


def test_tolerances_may_be_given_for_each_part_and_each_element():
    y0 = (torch.ones(2, dtype=DOUBLE), torch.ones((), dtype=DOUBLE))

    def f(t, y):
        return -y[0], torch.sin(20 * t) * y[1]

    loose, strict, element = Counted(f), Counted(f), Counted(lambda t, y: torch.sin(20 * t) * y)
    ours.odeint(loose, y0, T, rtol=(1e-5, 1e-2), atol=(1e-7, 1e-2))
    ours.odeint(strict, y0, T, rtol=1e-5, atol=1e-7)
    ys = ours.odeint(element, torch.ones(2, dtype=DOUBLE), T, rtol=0.0, atol=torch.tensor([1.0, 1e-8], dtype=DOUBLE))
    assert loose.n < strict.n
    assert ys.shape == (4, 2)


def test_a_step_of_min_step_stands_whatever_its_error():
    mine, other = Counted(), Counted()
    options = {"min_step": 0.3}
    a = ours.odeint(mine, Y0, T, rtol=1e-10, atol=1e-12, options=options)
    b = theirs.odeint(other, Y0, T, rtol=1e-10, atol=1e-12, options=options)
    assert abs(mine.n - other.n) <= 6
    assert torch.allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("method", SHARED_FIXED)
def test_with_perturb_no_stage_looks_at_the_ends_of_a_step(method):
    def times(perturb):
        seen = []

        def f(t, y):
            seen.append(float(t))
            return -y

        options = {"step_size": 0.5, "perturb": perturb}
        ys = ours.odeint(
            f, torch.ones(1, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE), method=method, options=options
        )
        return set(seen), ys

    (sharp, ys), (perturbed, ys_perturbed) = times(False), times(True)
    assert {0.0, 0.5} <= sharp
    assert not {0.0, 0.5, 1.0} & perturbed
    assert torch.allclose(ys, ys_perturbed, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_complex_states_are_solved_and_have_gradients(method):
    def solve(solver):
        y0 = torch.tensor([1.0 + 0.5j, -0.3j], dtype=torch.complex128, requires_grad=True)
        ys = solver(lambda t, y: (1j * torch.cos(t) - 0.1) * y, y0, T, method=method)
        (gradient,) = torch.autograd.grad((ys[-1] * (0.3 - 1j)).real.sum(), y0)
        return ys, gradient

    for a, b in zip(solve(ours.odeint), solve(theirs.odeint), strict=True):
        assert a.dtype == torch.complex128
        assert torch.allclose(a, b, rtol=0, atol=1e-13 if method == "rk4" else 1e-6)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_norms_tolerances_callbacks_and_events_of_a_complex_state_see_complex_numbers(method):
    seen = set()

    def f(t, y):
        return 1j * y[0], -0.1 * y[1]

    def norm(y):
        seen.update(("norm", part.dtype, part.shape) for part in y)
        return y[0].abs().max()

    f.callback_step = lambda t0, y0, dt: seen.update(("callback", part.dtype, part.shape) for part in y0)
    y0 = (torch.ones(2, dtype=torch.complex128), torch.ones((), dtype=torch.complex128))
    options = {"norm": norm} if method == "dopri5" else {"step_size": 0.01, "interp": "cubic"}
    t, y = ours.odeint(
        f, y0, T[:2], method=method, atol=(1e-9, 1e-8), options=options, event_fn=lambda t, y: y[0][0].real
    )
    assert t.item() == pytest.approx(0.2 + math.pi / 2, abs=1e-6)
    assert y[0].shape == (2, 2)
    kinds = ("norm", "callback") if method == "dopri5" else ("callback",)
    assert seen == {(kind, torch.complex128, torch.Size(shape)) for kind in kinds for shape in [(2,), ()]}


@pytest.mark.parametrize(
    ("f", "arguments", "words"),
    [
        (lambda t, y: torch.ones_like(y), {}, "did not change sign"),
        (lambda t, y: -y, {"options": {"max_num_steps": 50}}, "max_steps"),
        (lambda t, y: -y, {"method": "euler", "options": {"step_size": 0.1}}, "max_steps"),
    ],
)
def test_an_event_that_never_comes_is_an_error_not_a_hang(f, arguments, words):
    with pytest.raises(SolveError, match=words):
        ours.odeint(f, torch.ones(1, dtype=DOUBLE), T[:2], event_fn=lambda t, y: y[0] + 1, **arguments)


def test_an_event_function_that_turns_nan_is_named():
    with pytest.raises(InputError, match="event 0 gave NaN"):
        ours.odeint(lambda t, y: -y, torch.ones(1, dtype=DOUBLE), T[:2], event_fn=lambda t, y: (1.0 - t).sqrt() + y[0])


@pytest.mark.parametrize("direction", [1, -1])
def test_a_dense_solution_answers_between_its_ends(direction):
    read = ours.odeint_dense(field, Y0, torch.tensor(0.2, dtype=DOUBLE), torch.tensor(0.2 + direction, dtype=DOUBLE))
    t = 0.2 + direction * torch.tensor([0.0, 0.3, 1.0], dtype=DOUBLE)
    ys = ours.odeint(field, Y0, t)
    assert torch.allclose(read(t), ys, atol=1e-7)
    assert torch.allclose(read(t[1]), ys[1], atol=1e-7)
