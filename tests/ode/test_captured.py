"""The tensors that a field draws its gradient to are found wherever Python keeps them, or refused."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from latentode.errors import InputError
from latentode.ode.captured import check_captured, find_tensors

T, Y = torch.zeros(2), torch.ones(2, 1)
GLOBAL = torch.ones(1, requires_grad=True)


def leaf():
    return torch.ones(1, requires_grad=True)


def in_a_closure(weight):
    return lambda t, y: weight * y


def in_a_closure_of_a_closure(weight):
    inner = in_a_closure(weight)
    return lambda t, y: inner(t, y)


def in_a_default(weight):
    def f(t, y, scale=weight):
        return scale * y

    return f


def in_a_keyword_default(weight):
    def f(t, y, *, scale=weight):
        return scale * y

    return f


def in_a_partial(weight):
    return functools.partial(lambda w, t, y: w * y, weight)


def in_a_wrapped_function(weight):
    inner = in_a_closure(weight)

    @functools.wraps(inner)
    def f(*args):
        return f.__wrapped__(*args)

    return f


def in_containers(weight):
    kept = {"a": [(weight, 1.0)]}
    return lambda t, y: kept["a"][0][0] * y


class Field:
    def __init__(self, weight):
        self.weight = weight

    def slope(self, t, y):
        return self.weight * y

    __call__ = slope


class SlottedByModule(nn.Module):
    """Keeps a tensor that is no parameter."""

    def __init__(self, weight):
        super().__init__()
        self.scale = weight

    def forward(self, t, y):
        return self.scale * y


def in_a_method(weight):
    return Field(weight).slope


PLACES = [
    in_a_closure,
    in_a_closure_of_a_closure,
    in_a_default,
    in_a_keyword_default,
    in_a_partial,
    in_a_wrapped_function,
    in_containers,
    Field,
    in_a_method,
    SlottedByModule,
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", [leaf, lambda: 2 * leaf()], ids=["leaf", "computed"])
def test_a_tensor_is_found_where_python_keeps_it(place, make):
    weight = make()
    field = place(weight)
    found = find_tensors(field)
    assert [tensor is weight for tensor in found] == [True]
    assert check_captured(field, T, Y, found) == found


def test_a_tensor_among_the_globals_is_found():
    assert any(tensor is GLOBAL for tensor in find_tensors(lambda t, y: GLOBAL * y))


def test_every_parameter_of_a_module_is_found_once_although_shared():
    layer = nn.Linear(1, 1)
    net = nn.Sequential(layer, nn.Tanh(), layer)
    found = find_tensors(lambda t, y: net(y) + layer(y), (net, layer))
    assert {id(tensor) for tensor in found} == {id(layer.weight), id(layer.bias)}
    assert len(found) == 2


def test_frozen_parameters_and_buffers_without_gradient_are_left_out():
    layer = nn.Linear(1, 1)
    layer.weight.requires_grad_(False)
    layer.register_buffer("scale", torch.ones(1))
    assert [tensor is layer.bias for tensor in find_tensors(layer)] == [True]


def test_arguments_are_found_beside_the_field():
    weight, rate = leaf(), leaf()
    found = find_tensors(in_a_closure(weight), (rate, 1.0, "name", None))
    assert {id(tensor) for tensor in found} == {id(weight), id(rate)}


def test_things_that_hold_themselves_end_the_search():
    loop = [leaf()]
    loop.append(loop)
    assert len(find_tensors(loop)) == 1


class Elsewhere:
    """Where no search of a field's code looks."""

    kept: torch.Tensor


def hidden(t, y):
    return Elsewhere.kept * y


def test_a_hidden_parameter_is_seen_in_the_graph_and_added():
    Elsewhere.kept = leaf()
    known = [leaf()]
    found = check_captured(hidden, T, Y, known)
    assert [found[0] is known[0], found[1] is Elsewhere.kept, len(found)] == [True, True, 2]


def test_a_hidden_tensor_that_was_computed_is_refused():
    Elsewhere.kept = 2 * leaf()
    with pytest.raises(InputError, match=r"pass it in args=\(\.\.\.\)"):
        check_captured(hidden, T, Y, [])


def test_what_a_field_computes_inside_is_its_own_affair():
    weight = leaf()

    def field(t, y):
        inner = (3 * weight).exp()
        return inner * y + inner.detach()

    assert [tensor is weight for tensor in check_captured(field, T, Y, [weight])] == [True]


def test_a_field_without_gradients_captures_nothing():
    assert check_captured(lambda t, y: torch.ones_like(y), T, Y, []) == []


def test_one_output_of_a_computation_does_not_vouch_for_the_other():
    first, second = (2 * torch.ones(2, requires_grad=True)).unbind(0)
    Elsewhere.kept = second
    with pytest.raises(InputError, match="cannot find"):
        check_captured(lambda t, y: first * hidden(t, y), T, Y, [first])


class Passed(torch.autograd.Function):
    """Takes its tensor past PyTorch's functions."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g


def test_a_tensor_that_was_computed_from_another_one_is_refused():
    weight, other = leaf(), leaf()
    doubled = 2 * weight

    def field(t, y):
        return Passed.apply(doubled) * y + weight + other

    assert check_captured(lambda t, y: doubled * y + other, T, Y, [doubled, other]) == [doubled, other]
    with pytest.raises(InputError, match=r"computed from another one.*args="):
        check_captured(field, T, Y, [doubled, weight, other])
