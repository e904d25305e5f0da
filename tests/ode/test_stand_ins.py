"""A tensor computed outside of a solve has its own graph left to the outer backward, so that no part of it is counted twice."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latentode.errors import InputError
from latentode.ode import ADJOINTS, solve
from latentode.ode.captured import find_tensors
from latentode.ode.stand_ins import StandIns
from tests.ode.problems import tolerance
from tests.ode.test_reversible import StraightThrough

DOUBLE = torch.float64
OTHERS = [name for name in ADJOINTS if name != "direct"]
# Autograd through the steps of each route: the reversible pair is another scheme than the direct route's.
RECORDED = {"reversible": StraightThrough()}
TIMES = torch.tensor([0.2, 0.5, 0.8], dtype=DOUBLE)


class Driven(nn.Module):
    """A field driven by a context, one layer of whose is applied once, outside of the solve."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.from_state = nn.Linear(2, 4).double()
        self.from_context = nn.Linear(3, 4, bias=False).double()
        self.to_slope = nn.Linear(4, 2).double()

    def field(self, t, y, drive):
        return self.to_slope(torch.tanh(self.from_state(y) + drive)) + torch.sin(t)[:, None]

    def kept(self, t, y):
        return self.field(t, y, self.drive)


def start():
    return torch.linspace(-1, 1, 6, dtype=DOUBLE).view(3, 2).requires_grad_()


def context():
    return torch.linspace(1, 2, 9, dtype=DOUBLE).sin().view(3, 3).requires_grad_()


def run(f, y0, adjoint, args=(), **options):
    options = {"t_eval": TIMES, "controller": tolerance(1e-9), **options}
    return solve(f, y0, args=args, adjoint=adjoint, **options).ys


def as_argument(adjoint):
    module, y0, given = Driven(), start(), context()
    return run(module.field, y0, adjoint, (module.from_context(given),)), [y0, given, *module.parameters()]


def in_a_closure(adjoint):
    module, y0, given = Driven(), start(), context()
    drive = module.from_context(given)
    return run(lambda t, y: module.field(t, y, drive), y0, adjoint), [y0, given, *module.parameters()]


def as_an_attribute(adjoint):
    module, y0, given = Driven(), start(), context()
    module.drive = module.from_context(given)
    return run(module.kept, y0, adjoint), [y0, given, *module.parameters()]


def in_a_list(adjoint):
    module, y0, given = Driven(), start(), context()
    drives = {"all": [module.from_context(given), given]}

    def f(t, y):
        both = torch.cat([drives["all"][0], *drives["all"][1:]], dim=1)
        return module.field(t, y, both[:, :4]) + both[:, 4:6]

    return run(f, y0, adjoint), [y0, given, *module.parameters()]


def in_a_list_of_arguments(adjoint):
    module, y0, given = Driven(), start(), context()

    def f(t, y, drives):
        return module.field(t, y, drives["one"])

    return run(f, y0, adjoint, ({"one": module.from_context(given)},)), [y0, given, *module.parameters()]


def beside_what_it_was_computed_from(adjoint):
    module, y0, given = Driven(), start(), context()
    first = module.from_context(given)
    second = torch.sin(first) * module.to_slope.weight[0]

    def f(t, y, first, given, second, weight):
        return module.field(t, y, first + second) + given[:, :2] * weight.sum()

    args = (first, given, second, module.from_context.weight)
    return run(f, y0, adjoint, args), [y0, given, *module.parameters()]


def from_the_start(adjoint):
    module, base = Driven(), start()
    y0 = torch.tanh(base)

    def f(t, y, start, doubled, base):
        return module.to_slope(torch.tanh(module.from_state(y * start + doubled))) + base

    ys = run(f, y0, adjoint, (y0, 2 * y0, base))
    return ys, [base, *module.from_state.parameters(), *module.to_slope.parameters()]


def from_the_times(adjoint):
    module, y0, scale = Driven(), start(), torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    times = TIMES * scale
    offset = scale * scale

    def f(t, y):
        return module.to_slope(torch.tanh(module.from_state(y) * offset + scale * times[0]))

    ys = run(f, y0, adjoint, t_eval=times, t0=offset / 10)
    return ys, [y0, scale, module.from_state.weight, module.to_slope.weight]


def as_parts_of_one(adjoint):
    y0, rate = start(), torch.tensor([[0.5, 1.0], [1.5, -0.5]], dtype=DOUBLE, requires_grad=True)
    first, second = torch.exp(rate).unbind(0)
    return run(lambda t, y, first: first * torch.sin(y) - second * y * rate[0], y0, adjoint, (first,)), [y0, rate]


def in_a_second_solve(adjoint):
    module, y0, given = Driven(), start(), context()
    first = run(module.field, y0, adjoint, (module.from_context(given),))
    wide = torch.cat([first[:, -1], first[:, 0]], dim=1)
    ys = run(module.field, first[:, -1], adjoint, (wide + module.from_context(given),))
    return torch.cat([first, ys], dim=1), [y0, given, *module.parameters()]


CASES = [
    as_argument,
    in_a_closure,
    as_an_attribute,
    in_a_list,
    in_a_list_of_arguments,
    beside_what_it_was_computed_from,
    from_the_start,
    from_the_times,
    as_parts_of_one,
    in_a_second_solve,
]


def gradients(case, adjoint):
    ys, leaves = case(adjoint)
    weights = torch.linspace(-1, 2, ys.numel(), dtype=DOUBLE).view_as(ys)
    return torch.autograd.grad((ys * weights).sum(), leaves)


@pytest.mark.parametrize("adjoint", OTHERS)
@pytest.mark.parametrize("case", CASES)
def test_every_route_has_the_gradient_of_the_direct_one(case, adjoint):
    near = 1e-6 if adjoint == "backsolve" else 1e-10
    expected = gradients(case, RECORDED.get(adjoint, "direct"))
    torch.testing.assert_close(gradients(case, adjoint), expected, rtol=near, atol=near)


@pytest.mark.parametrize("adjoint", OTHERS)
def test_the_graph_outside_is_walked_once(adjoint):
    module, y0, given = Driven(), start(), context()
    drive = module.from_context(given)
    n_walks = 0

    def count(_):
        nonlocal n_walks
        n_walks += 1

    drive.grad_fn.register_prehook(count)
    run(lambda t, y: module.field(t, y, drive), y0, adjoint).sum().backward()
    assert n_walks == 1


class Squared(torch.autograd.Function):
    """Takes its tensor past PyTorch's functions."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


def past_the_functions(adjoint, *, as_arg, shares):
    y0, weight = start(), torch.full((2,), 0.5, dtype=DOUBLE, requires_grad=True)
    scaled = torch.sin(weight)
    other = weight if shares else torch.ones(2, dtype=DOUBLE, requires_grad=True)

    def f(t, y, scaled=scaled):
        return Squared.apply(scaled) * torch.sin(y) + scaled * other

    return run(f, y0, adjoint, (scaled,) if as_arg else ()), [y0, weight]


@pytest.mark.parametrize("adjoint", OTHERS)
@pytest.mark.parametrize(("as_arg", "shares"), [(True, True), (True, False), (False, False)])
def test_an_own_autograd_function_reads_a_tensor_that_is_an_argument_or_shares_nothing(adjoint, as_arg, shares):
    def case(adjoint):
        return past_the_functions(adjoint, as_arg=as_arg, shares=shares)

    torch.testing.assert_close(gradients(case, adjoint), gradients(case, "direct"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("adjoint", OTHERS)
def test_otherwise_it_is_refused_with_a_remedy(adjoint):
    with pytest.raises(InputError, match=r"computed from.*args="):
        past_the_functions(adjoint, as_arg=False, shares=True)


def test_stand_ins_replace_computed_tensors_alone():
    leaf = torch.ones(2, requires_grad=True)
    computed = 2 * leaf
    stand_ins = StandIns.of(find_tensors((leaf, computed)))
    assert stand_ins.instead_of(leaf) is leaf
    assert stand_ins.instead_of("name") == "name"
    own = stand_ins.instead_of(computed)
    assert own.is_leaf
    assert own.requires_grad
    assert own.data_ptr() == computed.data_ptr()
    assert stand_ins.original(own) is computed
    assert stand_ins.original(leaf) is leaf
