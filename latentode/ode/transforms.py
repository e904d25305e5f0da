"""What the engine must know of `torch.func`: a decision of the loop is one for all that `vmap` carries side by side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

_functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]


def is_transformed() -> bool:
    """Tell whether a `torch.func` transform is at work."""
    return _functorch.peek_interpreter_stack() is not None


def carries_tangents() -> bool:
    """Tell whether forward-mode derivatives may be under way: `requires_grad` says nothing of them, and `no_grad` does not hold them up."""
    return forward_ad._current_level >= 0 or _functorch.TransformType.Jvp in _kinds()


def bare(x: Tensor) -> Tensor:
    """Give the values under the wrappers of `torch.func`; `vmap`'s axes come with them."""
    while _functorch.is_functorch_wrapped_tensor(x):
        x = _functorch.get_unwrapped(x)
    return x


def n_derivatives() -> int:
    """Count the derivatives that `torch.func` is taking, one of the other."""
    kinds = _functorch.TransformType
    return sum(kind in (kinds.Grad, kinds.Jvp) for kind in _kinds())


def _kinds() -> list[object]:
    stack = _functorch.get_interpreter_stack() or ()
    return [interpreter.key() for interpreter in stack]


def is_any(mark: Tensor) -> bool:
    """Tell whether `mark` is set anywhere, in any copy."""
    return bool(bare(mark).any())


def any_of(*marks: Tensor) -> list[bool]:
    """Tell for each of `marks` whether any is set, in any copy: one synchronisation with the device."""
    if is_transformed():
        return [is_any(mark) for mark in marks]
    return torch.stack([mark.any() for mark in marks]).tolist()
