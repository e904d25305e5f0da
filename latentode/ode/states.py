"""States of any shape, alone or in a tuple or dict, as one flat `(B, D)` tensor and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from latentode.errors import InputError

State = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


@dataclass(frozen=True)
class Packing:
    """How the parts of a state lie in the flat one.

    Attributes:
        keys: names of the parts of a dict; positions of a tuple's; None for a lone tensor.
        is_dict: whether the parts go back into a dict.
        shapes: shape of each part without the batch.
        dtype: what `f` and the user see.
        dtype_flat: what the solver keeps: real, with the parts of a complex number side by side, and float32 at least, since the sum of
            many small steps drowns in a half's rounding.
    """

    keys: tuple[str, ...] | None
    is_dict: bool
    shapes: tuple[torch.Size, ...]
    dtype: torch.dtype
    dtype_flat: torch.dtype

    @classmethod
    def of(cls, y0: State) -> Packing:
        """Read the packing off `y0`; raises InputError where it is no floating-point state with a common batch."""
        if isinstance(y0, Tensor):
            keys, is_dict, parts = None, False, (y0,)
        elif isinstance(y0, dict) and y0:
            keys, is_dict, parts = tuple(y0), True, tuple(y0.values())
        elif isinstance(y0, (tuple, list)) and y0:
            keys, is_dict, parts = tuple(str(i) for i in range(len(y0))), False, tuple(y0)
        else:
            raise InputError(
                f"y0 is {type(y0).__name__}; give a tensor, or a tuple or dict of tensors that is not empty"
            )
        names = ("y0",) if keys is None else tuple(f"y0[{key}]" for key in keys)
        for name, part in zip(names, parts, strict=True):
            if not isinstance(part, Tensor):
                raise InputError(
                    f"{name} is {type(part).__name__}, not a tensor; turn it into one with torch.as_tensor"
                )
            if not (part.is_floating_point() or part.is_complex()):
                raise InputError(
                    f"{name} has dtype {part.dtype}; a state changes continuously, so convert it: y0.double()"
                )
            if part.ndim < 1:
                raise InputError(f"{name} has no batch axis; give it shape (B, ...), y0[None] for one sample")
            if part.shape[0] != parts[0].shape[0]:
                raise InputError(
                    f"{name} holds {part.shape[0]} samples but {names[0]} {parts[0].shape[0]}; their first axes must agree"
                )
            if part.dtype != parts[0].dtype or part.device != parts[0].device:
                raise InputError(
                    f"{name} is {part.dtype} on {part.device} but {names[0]} {parts[0].dtype} on {parts[0].device}; "
                    "bring them to one dtype and device"
                )
        dtype = parts[0].dtype
        shapes = tuple(part.shape[1:] for part in parts)
        flat = dtype.to_real() if dtype.is_complex else torch.promote_types(dtype, torch.float32)
        return cls(keys, is_dict, shapes, dtype, flat)

    @cached_property
    def is_plain(self) -> bool:
        """Whether the flat state is the user's own."""
        return self.keys is None and len(self.shapes[0]) == 1 and self.dtype == self.dtype_flat

    def flatten(self, state: State, name: str = "y0") -> Tensor:
        """Lay `state` out flat, `(B, D)`; raises InputError, speaking of `name`, where it does not fit the packing."""
        if self.keys is None:
            parts = (state,)
        elif self.is_dict:
            if not isinstance(state, dict) or set(state) != set(self.keys):
                got = sorted(state) if isinstance(state, dict) else type(state).__name__
                raise InputError(
                    f"{name} returned {got}; it must return a dict with the keys of y0, {sorted(self.keys)}"
                )
            parts = tuple(state[key] for key in self.keys)
        else:
            if not isinstance(state, (tuple, list)) or len(state) != len(self.keys):
                raise InputError(f"{name} must return {len(self.keys)} tensors in a tuple, one for each of y0's")
            parts = tuple(state)
        flat = [self._flatten_part(part, i, name) for i, part in enumerate(parts)]
        return flat[0] if len(flat) == 1 else torch.cat(flat, 1)

    def _flatten_part(self, part: object, i: int, name: str) -> Tensor:
        at = "" if self.keys is None else f" for y0[{self.keys[i]}]"
        if not isinstance(part, Tensor):
            raise InputError(f"{name} returned {type(part).__name__}{at}; it must return a tensor like y, dy/dt")
        if part.shape[1:] != self.shapes[i] or part.ndim == 0:
            raise InputError(
                f"{name} returned shape {tuple(part.shape)}{at}; dy/dt must have the shape of y, (B, {', '.join(map(str, self.shapes[i]))})"
            )
        # Under autocast a layer returns a half whatever it was given; the state stays what it is.
        is_cast = part.is_floating_point() and torch.is_autocast_enabled(part.device.type)
        if part.dtype != self.dtype and not is_cast:
            raise InputError(f"{name} returned {part.dtype}{at} for a state of {self.dtype}; convert one of them")
        if part.is_complex():
            part = torch.view_as_real(part.resolve_conj())
            return part.reshape(part.shape[0], 2 * prod(self.shapes[i])).to(self.dtype_flat)
        if part.ndim != 2:
            part = part.reshape(part.shape[0], prod(self.shapes[i]))
        return part.to(self.dtype_flat)

    def unflatten(self, flat: Tensor) -> State:
        """Give the state back from `(..., D)`, each part `(..., *state)`."""
        if self.keys is None:
            return self._unflatten_part(flat, self.shapes[0])
        width = 2 if self.dtype.is_complex else 1
        pieces = flat.split([width * prod(shape) for shape in self.shapes], dim=-1)
        parts = [self._unflatten_part(piece, shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        return dict(zip(self.keys, parts, strict=True)) if self.is_dict else tuple(parts)

    def _unflatten_part(self, flat: Tensor, shape: torch.Size) -> Tensor:
        if self.dtype.is_complex:
            return torch.view_as_complex(flat.reshape(*flat.shape[:-1], *shape, 2))
        flat = flat.to(self.dtype)
        return flat if len(shape) == 1 else flat.reshape(*flat.shape[:-1], *shape)
