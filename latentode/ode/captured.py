"""Finds the tensors that a vector field draws its gradient to: parameters, arguments, and whatever its code has closed over.

A gradient route that solves backward on its own must name every tensor that the field depends on. They are looked for where Python
keeps them; then one call of the field is followed through autograd's graph, and a tensor that was missed there is refused rather than
left without a gradient.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from latentode.errors import InputError

# A tensor in autograd's graph: the node that has made it, and which of the node's outputs it is.
Edge = tuple[Node, int]

_DEPTH = 8


def find_tensors(*roots: Any) -> list[Tensor]:
    """Give the tensors that require gradients and can be reached from `roots`: modules, functions, containers, objects."""
    found: dict[int, Tensor] = {}
    seen: set[int] = set()
    for root in roots:
        _search(root, found, seen, _DEPTH)
    return list(found.values())


def _search(thing: Any, found: dict[int, Tensor], seen: set[int], depth: int) -> None:
    if isinstance(thing, Tensor):
        if thing.requires_grad:
            found.setdefault(id(thing), thing)
        return
    if depth == 0 or id(thing) in seen or thing is None or isinstance(thing, (str, bytes, int, float, complex, type)):
        return
    seen.add(id(thing))
    for part in _parts(thing):
        _search(part, found, seen, depth - 1)


def _parts(thing: Any) -> Iterable[Any]:
    """Give what a thing holds."""
    if isinstance(thing, nn.Module):
        # Its tree only: a trainer or logger that hangs on a module is no part of a field.
        return [part for module in thing.modules() for part in _tensors_of(module)]
    if isinstance(thing, types.MethodType):
        return (thing.__self__, thing.__func__)
    if isinstance(thing, types.FunctionType):
        return _parts_of_function(thing)
    if isinstance(thing, functools.partial):
        return (thing.func, *thing.args, *thing.keywords.values())
    if isinstance(thing, dict):
        return thing.values()
    if isinstance(thing, (list, tuple, set, frozenset)):
        return thing
    if isinstance(thing, (types.ModuleType, types.BuiltinFunctionType)) or type(thing).__module__.startswith("torch"):
        return ()
    call = vars(type(thing)).get("__call__")
    attributes = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    return [*attributes, *([call] if isinstance(call, types.FunctionType) else [])]


def _tensors_of(module: nn.Module) -> Iterator[Any]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    for name, value in vars(module).items():
        if not name.startswith("_") and isinstance(value, (Tensor, list, tuple, dict)):
            yield value


def _parts_of_function(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    if hasattr(function, "__wrapped__"):
        yield function.__wrapped__
    for name in _global_names(function.__code__):
        value = function.__globals__.get(name)
        # Only what may be meant as a part of the field: not the whole of a library.
        if isinstance(value, (Tensor, nn.Module, types.FunctionType, functools.partial, list, tuple, dict)):
            yield value


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def check_captured(
    field: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor, known: list[Tensor]
) -> list[Tensor]:
    """Follow one call of `field` through autograd's graph and give `known` with the parameters that were missed.

    Args:
        field: of the flat state.
        t, y: where to call it, `(B,)` and `(B, D)`.
        known: what was found.

    Raises:
        InputError: the field uses a tensor that was computed with gradients and that was not found, or that was computed from another
            one that the field uses: the gradient of the one would run on into the other.
    """
    with torch.enable_grad():
        start = y.detach().requires_grad_()
        # Nodes made from here on have higher numbers: one with a lower number was made outside.
        first = (start + 0.0).grad_fn._sequence_nr()  # pyright: ignore[reportOptionalMemberAccess]
        slope = field(t.detach(), start)
    own = {id(start)}
    leaves = {id(tensor) for tensor in known if tensor.grad_fn is None}
    nodes = {(tensor.grad_fn, tensor.output_nr) for tensor in known if tensor.grad_fn is not None}
    missed: list[Tensor] = []
    used: set[Edge] = set()
    stack, seen = ([] if slope.grad_fn is None else [(slope.grad_fn, slope.output_nr)]), set()
    while stack:
        node, place = stack.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            if id(variable) not in own and id(variable) not in leaves:
                leaves.add(id(variable))
                missed.append(variable)
        elif (node, place) in nodes:
            used.add((node, place))
        elif node._sequence_nr() < first:
            raise InputError(
                "f uses a tensor that was computed with gradients and that this gradient route cannot find; "
                "pass it in args=(...), or choose adjoint='direct'"
            )
        elif node not in seen:
            seen.add(node)
            stack.extend(_edges(node))
    if any(_leads_to(node, used, leaves) for node, _ in used):
        raise InputError(
            "f uses a tensor that was computed from another one that it uses, where this gradient route cannot tell them apart (in "
            "compiled code or an own autograd.Function); pass it by itself in args=(...), or choose adjoint='direct'"
        )
    return [*known, *missed]


def _leads_to(node: Node, computed: set[Edge], leaves: set[int]) -> bool:
    """Tell whether the graph behind `node` comes upon one of `computed`, or of `leaves`, given by their `id`."""
    stack, seen = _edges(node), set()
    while stack:
        edge = stack.pop()
        if edge in computed or id(getattr(edge[0], "variable", None)) in leaves:
            return True
        if edge[0] not in seen:
            seen.add(edge[0])
            stack.extend(_edges(edge[0]))
    return False


def _edges(node: Node) -> list[Edge]:
    return [edge for edge in node.next_functions if edge[0] is not None]  # pyright: ignore[reportReturnType]
