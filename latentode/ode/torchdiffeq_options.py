"""torchdiffeq's states, methods and options in this engine's terms; `torchdiffeq.py` is where they are used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from latentode.errors import InputError, did_you_mean

from .control import FixedStep, PIDController
from .runge_kutta import ButcherTableau
from .solve import SOLVERS
from .tableaus import DOPRI5, EULER, HEUN, MIDPOINT

# A tensor of any shape, or a tuple of such: to the engine, one sample.
State = Any

HEUN3 = ButcherTableau(
    c=(0.0, 1 / 3, 2 / 3),
    a=((), (1 / 3,), (0.0, 2 / 3)),
    b=(1 / 4, 0.0, 3 / 4),
    order=3,
    source="Heun (1900); Hairer, Norsett and Wanner (1993), table II.1.1",
)

KUTTA38 = ButcherTableau(
    c=(0.0, 1 / 3, 2 / 3, 1.0),
    a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    order=4,
    source="Kutta (1901), the 3/8 rule; Hairer, Norsett and Wanner (1993), table II.1.2",
)

# torchdiffeq judges a step of dopri5 by this fourth-order formula, whose estimate is about 2/3 of Dormand and Prince's own: with
# it a tolerance means here what it means there.
DOPRI5_SHAMPINE = replace(
    DOPRI5,
    b_hat=(1951 / 21600, 0.0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60),
    source="Dormand and Prince (1980), with the companion of Shampine (1986), Some practical Runge-Kutta formulas",
)

FIXED = {"euler": EULER, "midpoint": MIDPOINT, "heun2": HEUN, "heun3": HEUN3, "rk4": KUTTA38}

# The same methods with the straight line through a step's ends between them: the stages are weighed alike all along, and the slope
# at the end, which comes after them, not at all.
LINEAR = {
    name: replace(method, dense=(*((b,) for b in method.b), (0.0,))[: method.n_increments], dense_order=1)
    for name, method in FIXED.items()
}

ADAPTIVE = {**{name: method for name, method in SOLVERS.items() if method.b_hat is not None}, "dopri5": DOPRI5_SHAMPINE}

_IMPLICIT = (
    "implicit_euler",
    "implicit_midpoint",
    "trapezoid",
    "radauIIA3",
    "gl4",
    "radauIIA5",
    "gl6",
    "sdirk2",
    "trbdf2",
)
_ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")

# Names of torchdiffeq that do not exist here, and what to take instead.
REFUSED = {
    **dict.fromkeys(
        _IMPLICIT, "for a stiff system take 'kvaerno5' or 'kvaerno3', which are implicit and choose their steps"
    ),
    **dict.fromkeys(_ADAMS, "in place of a multistep method take 'dopri5', 'tsit5' or, for tight tolerances, 'dopri8'"),
    "scipy_solver": "it hands the solve to SciPy, without gradients; take 'dopri5' for RK45, 'bosh3' for RK23, 'dopri8' for "
    "DOP853, 'kvaerno5' for Radau, BDF and LSODA",
}


_NO_BOUND = 2**31 - 1
# A solve that waits for an event which never comes must end some time.
_STEPS_TO_AN_EVENT = 100_000


@dataclass(frozen=True)
class Sample:
    """How a state, a tensor of any shape or a tuple of such, is one flat sample of the engine, `(1, D)`.

    Attributes:
        shapes: of the parts.
        dtype: the one that holds all of them.
        is_tuple: whether the state is a tuple.
    """

    shapes: tuple[torch.Size, ...]
    dtype: torch.dtype
    is_tuple: bool

    @classmethod
    def of(cls, y0: State) -> Sample:
        """Look at a state; raises InputError where it is none."""
        parts = y0 if isinstance(y0, tuple) else (y0,)
        if not parts or not all(isinstance(part, Tensor) for part in parts):
            raise InputError(f"y0 is {type(y0).__name__}; give a tensor or a tuple of tensors")
        dtype = reduce(torch.promote_types, [part.dtype for part in parts])
        return cls(tuple(part.shape for part in parts), dtype, isinstance(y0, tuple))

    def flatten(self, state: State, name: str = "func") -> Tensor:
        """Lay a state, or what `func` gave for one, out flat, `(1, D)`."""
        if self.is_tuple != isinstance(state, (tuple, list)) or (self.is_tuple and len(state) != len(self.shapes)):
            raise InputError(f"{name} gave {type(state).__name__}; it must give what y0 is, {self}")
        parts = state if self.is_tuple else (state,)
        flat = [self._flatten_part(part, shape, name) for part, shape in zip(parts, self.shapes, strict=True)]
        return flat[0] if len(flat) == 1 else torch.cat(flat, 1)

    def _flatten_part(self, part: Any, shape: torch.Size, name: str) -> Tensor:
        if not isinstance(part, Tensor) or part.shape != shape:
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise InputError(f"{name} gave {got} for the shape {tuple(shape)}; it must give what y0 is, {self}")
        if part.dtype != self.dtype:
            if part.is_complex() and not self.dtype.is_complex:
                raise InputError(f"{name} gave {part.dtype} for a state of {self.dtype}; make y0 complex")
            part = part.to(self.dtype)
        return part.reshape(1, -1)

    def unflatten(self, flat: Tensor) -> State:
        """Give the state, or states, that lie in `(..., D)`, each part `(..., *shape)`."""
        lead = flat.shape[:-1]
        if not self.is_tuple:
            return flat.reshape((*lead, *self.shapes[0]))
        pieces = flat.split([shape.numel() for shape in self.shapes], -1)
        return tuple(piece.reshape((*lead, *shape)) for piece, shape in zip(pieces, self.shapes, strict=True))

    def unpack(self, flat_BD: Tensor) -> State:
        """Give the state that is the only sample, `(1, D)`; the loop keeps the parts of a complex number side by side."""
        if self.dtype.is_complex and not flat_BD.is_complex():
            flat_BD = torch.view_as_complex(flat_BD.reshape(1, -1, 2))
        return self.unflatten(flat_BD[0]) if self.is_tuple else flat_BD.reshape(self.shapes[0])

    def norm(self, given: Callable[[State], Tensor] | None) -> Callable[[Tensor], Tensor] | None:
        """Turn a norm of states, or the default, into one of flat states, `(1, D)` to `(1,)`."""
        if given is None and not self.is_tuple:
            return None
        measure = largest_root_mean_square if given is None else given
        return lambda flat_BD: torch.as_tensor(measure(self.unpack(flat_BD))).abs().reshape(1)

    def tolerance(self, name: str, given: Any) -> float | Tensor:
        """Give a tolerance as a number, or laid out like the flat state, `(D,)`."""
        if isinstance(given, Tensor) and given.requires_grad:
            raise InputError(f"{name} requires a gradient, but steps are constants to autograd; detach it")
        if not isinstance(given, (Tensor, tuple, list)) or (isinstance(given, Tensor) and given.ndim == 0):
            return float(given)
        tolerances = given if self.is_tuple else (given,)
        if len(tolerances) != len(self.shapes):
            raise InputError(
                f"{name} has {len(tolerances)} entries for the {len(self.shapes)} parts of y0; give one for each"
            )
        rows = [
            torch.as_tensor(tol).expand(shape).reshape(-1) for tol, shape in zip(tolerances, self.shapes, strict=True)
        ]
        row = torch.cat(rows)
        return row.repeat_interleave(2) if self.dtype.is_complex else row

    def __str__(self) -> str:
        shapes = ", ".join(str(tuple(shape)) for shape in self.shapes)
        return f"a tuple of shapes {shapes}" if self.is_tuple else f"a tensor of shape {shapes}"


def root_mean_square(x: Tensor) -> Tensor:
    """Give the root mean square over all elements of `x`."""
    return torch.linalg.vector_norm(x) * max(x.numel(), 1) ** -0.5


def largest_root_mean_square(parts: tuple[Tensor, ...]) -> Tensor:
    """Give the largest root mean square of the parts: torchdiffeq's norm of a tuple."""
    return torch.stack([root_mean_square(part) for part in parts]).amax()


@dataclass(frozen=True)
class AdaptiveOptions:
    """The `options` of adaptive methods.

    Attributes:
        norm: of a scaled state in its own shape, or tuple of such, to a number; None: the root mean square, and over a tuple
            the largest of its parts.
        first_step: its length; None: guessed.
        step_t, jump_t: times where a step ends and the slope is taken anew.
        safety, ifactor, dfactor: part of the allowed step that is used; a step's largest growth; its strongest cut.
        min_step, max_step: bounds of a step; one of `min_step` stands whatever its error.
        max_num_steps: steps per output. An event is looked for over 100,000 steps where no other bound is given.
        dtype: of times; the clock is float64 in any case.
    """

    norm: Callable[[State], Tensor] | None = None
    first_step: float | Tensor | None = None
    step_t: Tensor | None = None
    jump_t: Tensor | None = None
    safety: float = 0.9
    ifactor: float = 10.0
    dfactor: float = 0.2
    min_step: float = 0.0
    max_step: float = math.inf
    max_num_steps: int = _NO_BOUND
    dtype: torch.dtype = torch.float64

    def translate(
        self, sample: Sample, t: Tensor, rtol: Any, atol: Any, *, ends_at_event: bool = False
    ) -> dict[str, Any]:
        """Give keywords of `solve`."""
        stops = [
            torch.as_tensor(times, dtype=torch.float64) for times in (self.step_t, self.jump_t) if times is not None
        ]
        controller = PIDController(
            rtol=sample.tolerance("rtol", rtol),
            atol=sample.tolerance("atol", atol),
            safety=float(self.safety),
            factor_max=float(self.ifactor),
            factor_min=float(self.dfactor),
            dtmin=float(self.min_step) or None,
            force_dtmin=bool(self.min_step),
            dtmax=None if self.max_step == math.inf else float(self.max_step),
            norm=sample.norm(self.norm),
            jump_times=torch.cat(stops) if stops else None,
        )
        max_steps = min(int(self.max_num_steps) * max(len(t) - 1, 1), _NO_BOUND)
        if ends_at_event and max_steps == _NO_BOUND:
            max_steps = _STEPS_TO_AN_EVENT
        dt0 = None if self.first_step is None else float(self.first_step)
        return {"controller": controller, "dt0": dt0, "max_steps": max_steps}


@dataclass(frozen=True)
class FixedOptions:
    """The `options` of methods on a fixed grid.

    Attributes:
        step_size: length of every step, the last one cut; None: steps end at `t`.
        grid_constructor: gives, for `(func, y0, t)`, the times at which steps end, from the first to the last of `t`.
        interp: how a state inside a step is read: "linear" or "cubic".
        perturb: whether stages at a step's ends look at the field just inside the step.
        norm: not needed.
    """

    step_size: float | Tensor | None = None
    grid_constructor: Callable[[Any, State, Tensor], Tensor] | None = None
    interp: str = "linear"
    perturb: bool = False
    norm: Callable[[State], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.step_size is not None and self.grid_constructor is not None:
            raise InputError("step_size and grid_constructor both say where steps end; give one of them")
        if self.interp not in ("linear", "cubic"):
            raise InputError(f"interp is {self.interp!r}; it is 'linear' or 'cubic'")

    def grid(self, func: Callable[..., Any], y0: State, t: Tensor) -> Tensor:
        """Give the times at which steps end, from the first of `t` to the last."""
        t = t.detach()
        if self.grid_constructor is None:
            return t if self.step_size is None else _equal_steps(float(self.step_size), t)
        grid = self.grid_constructor(func, y0, t).detach()
        if len(grid) == 0 or grid[0] != t[0] or grid[-1] != t[-1]:
            raise InputError("grid_constructor must give times from the first of t to the last")
        return grid

    def translate(self, func: Callable[..., Any], y0: State, t: Tensor) -> dict[str, Any]:
        """Give keywords of `solve`."""
        grid = self.grid(func, y0, t)
        jumps = {"jump_times": grid} if self.perturb else {}
        return {"controller": FixedStep(grid=grid, **jumps), "max_steps": len(grid) + 1}  # pyright: ignore[reportArgumentType]

    def translate_open_end(self) -> dict[str, Any]:
        """Give keywords of `solve` where an event ends it, so that there is no end to lay a grid to."""
        if self.step_size is None or self.perturb:
            raise InputError("a solve on a fixed grid that ends at an event needs options step_size, and no perturb")
        return {"controller": FixedStep(dt=float(self.step_size)), "max_steps": 20_000}


def _equal_steps(step: float, t: Tensor) -> Tensor:
    if not step > 0:
        raise InputError(f"step_size is {step!r}; a step is a number above 0, the direction follows from t")
    span = t[-1] - t[0]
    n_steps = int((span.abs() / step).ceil())
    ends = t[0] + torch.arange(n_steps + 1, dtype=t.dtype, device=t.device) * (step * span.sign())
    ends[-1] = t[-1]
    return ends


def read_options(method: str, given: Mapping[str, Any] | None) -> AdaptiveOptions | FixedOptions:
    """Read the options of a method; raises InputError for a method that does not exist or an option that it does not know."""
    if method in REFUSED:
        raise InputError(f"there is no method {method!r} here: {REFUSED[method]}")
    if method not in FIXED and method not in ADAPTIVE:
        raise InputError(f"there is no method {method!r}; give one of {', '.join({**FIXED, **ADAPTIVE})}")
    kind = FixedOptions if method in FIXED else AdaptiveOptions
    known = [option.name for option in fields(kind)]
    for name in given or {}:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(f"{method} has no option {name!r}{hint}; its options are {', '.join(known)}")
    return kind(**(given or {}))
