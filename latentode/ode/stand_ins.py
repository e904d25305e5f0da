"""Leaves that stand in for tensors computed outside of a solve, while its field is pulled back.

A field may use a parameter and, beside it, a tensor that was computed from that parameter. The gradient of the one must not run on
through the other: that part is the outer backward's, and would be counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class StandIns:
    """Computed tensors, and a leaf of the same values for each.

    Attributes:
        computed: the tensors; held here, so that none of their `id` comes to belong to another.
        leaves: the stand-in of each, by the `id` of the tensor.
    """

    computed: tuple[Tensor, ...]
    leaves: Mapping[int, Tensor]

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> StandIns:
        """Make a stand-in for each of `tensors` that was computed with gradients; a leaf needs none."""
        computed = tuple(tensor for tensor in tensors if tensor.grad_fn is not None)
        return cls(computed, {id(tensor): tensor.detach().requires_grad_() for tensor in computed})

    def instead_of(self, thing: Any) -> Any:
        """Give the stand-in of `thing`, or `thing` where it has none."""
        return self.leaves.get(id(thing), thing)

    def original(self, tensor: Tensor) -> Tensor:
        """Give the tensor that `tensor` stands in for, or `tensor`."""
        return next((each for each in self.computed if self.leaves[id(each)] is tensor), tensor)

    def seen_by(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Give `call` so that PyTorch's functions see stand-ins wherever Python keeps the tensors: in closures, attributes, containers.

        Only under gradients, since the values are the same. What goes past those functions, an own `autograd.Function` or compiled
        code, sees the tensors themselves.
        """

        def seeing(*args: Any) -> Any:
            if not torch.is_grad_enabled():
                return call(*args)
            with _Swap(self):
                return call(*args)

        return seeing


class _Swap(TorchFunctionMode):
    """Hands the stand-ins to every function of PyTorch that is given the tensors."""

    def __init__(self, stand_ins: StandIns) -> None:
        super().__init__()
        self.leaves = stand_ins.leaves

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        swapped = tuple(map(self._swap, args))
        return (
            func(*swapped, **{name: self._swap(value) for name, value in kwargs.items()}) if kwargs else func(*swapped)
        )

    def _swap(self, thing: Any) -> Any:
        if isinstance(thing, Tensor):
            return self.leaves.get(id(thing), thing)
        # Named tuples are PyTorch's own results, of which a computed tensor that was found is no part.
        return type(thing)(map(self._swap, thing)) if type(thing) in (list, tuple) else thing
