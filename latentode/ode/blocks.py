"""Continuous depth as a layer: modules that fit wherever a torch module does, between two linear layers as well as in a latent model.

`ODEBlock` carries its input from depth 0 to depth `t1`: the limit of a residual network whose layers get more and smaller (Chen, Rubanova,
Bettencourt and Duvenaud 2018, equations 1 and 2). `EquilibriumBlock` goes on for ever: its output is where the depth ends (Bai, Kolter and
Koltun 2019).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from latentode.errors import InputError, did_you_mean

from .adjoints import Adjoint
from .control import Controller, PIDController
from .solve import Method, solve
from .steady_state import steady_state

_DEFAULT_CONTROLLER = PIDController(rtol=1e-3, atol=1e-6)
_KINDS = ("map", "field")


class ODEBlock(nn.Module):
    """Solves `dy/dt = field(y)` or `field(t, y)` from the input at 0 and gives the state at `t1`.

    With `n_extra` the state has so many further features that start at 0, so that the field has room to lead trajectories past each other
    (Dupont, Doucet and Teh 2019, section 4): what lies inside another set can leave it, which no plain block can do.

    A field that draws at random, such as one with dropout in training, is another field at every call, which adaptive steps cannot follow.

    Args:
        field: module or function of the state, `(B, *shape)`, or of time `(B,)` and state, giving `dy/dt` like the state. A module's
            parameters are this one's. With `n_extra` it reads and gives that many features more.
        t1: where depth ends; below 0: the flow backward.
        n_extra: features that the state has beyond the input's, along `axis`.
        returns_extra: whether they are part of the output; else it has the input's shape.
        axis: of the features, which the extra ones join; 1 as in `(B, D)` and in images, -1 as `nn.Linear` reads it.
        takes_time: whether `field` is called as `field(t, y)`; None: where it has two arguments without default.
        method, controller, adjoint, step_mode, max_steps, compile: as in `solve`.

    Attributes:
        nfe: evaluations of the field that the last call cost each sample, int64 `(B,)` on the device, so that nobody waits for it; None
            before the first.

    Raises:
        InputError: a setting is not of the form above; in a call, the input has no such axis. `SolveError`: a sample could not be solved.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> field = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 5))
        >>> net = nn.Sequential(nn.Linear(2, 4), ODEBlock(field, n_extra=1, adjoint="checkpointed"), nn.Linear(4, 1))
        >>> net(torch.randn(8, 2)).shape
        torch.Size([8, 1])
    """

    nfe: Tensor | None

    def __init__(
        self,
        field: Callable[..., Tensor],
        *,
        t1: float = 1.0,
        n_extra: int = 0,
        returns_extra: bool = False,
        axis: int = 1,
        takes_time: bool | None = None,
        method: str | Method = "tsit5",
        controller: Controller = _DEFAULT_CONTROLLER,
        adjoint: str | Adjoint = "direct",
        step_mode: str = "per_sample",
        max_steps: int = 10_000,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not callable(field):
            raise InputError(f"field is {type(field).__name__}; give a module or function of y, or of (t, y)")
        if not math.isfinite(t1) or t1 == 0:
            raise InputError(f"t1 is {t1!r}; give where depth ends, a number other than the 0 at which it starts")
        if isinstance(n_extra, bool) or not isinstance(n_extra, int) or n_extra < 0:
            raise InputError(f"n_extra is {n_extra!r}; give how many features are added, an integer from 0 up")
        if axis == 0:
            raise InputError("axis is 0, that of the samples; give an axis of features")
        self.field = field
        self.t1 = t1
        self.n_extra = n_extra
        self.returns_extra = returns_extra
        self.axis = axis
        self.takes_time = _takes_time(field) if takes_time is None else takes_time
        self.method = method
        self.controller = controller
        self.adjoint = adjoint
        self.step_mode = step_mode
        self.max_steps = max_steps
        self.compile_steps = compile
        self.nfe = None

    def forward(self, x: Tensor) -> Tensor:
        """Give the state at `t1`, `(B, *shape)` like `x`, or with `n_extra` features more where `returns_extra`."""
        is_double = x.dtype in (torch.float64, torch.complex128)
        solution = solve(
            self._slope,
            self._augment(x),
            torch.tensor([0.0, self.t1], dtype=torch.float64 if is_double else torch.float32),
            method=self.method,
            controller=self.controller,
            adjoint=self.adjoint,
            step_mode=self.step_mode,
            max_steps=self.max_steps,
            compile=self.compile_steps,
        )
        self.nfe = solution.stats["nfe"].detach()
        y = solution.ys[:, -1]
        return y if self.returns_extra or not self.n_extra else y.narrow(self.axis, 0, x.shape[self.axis])

    def extra_repr(self) -> str:
        """Say what is not seen in the field."""
        return f"t1={self.t1}, n_extra={self.n_extra}"

    def _slope(self, t: Tensor, y: Tensor) -> Tensor:
        return self.field(t, y) if self.takes_time else self.field(y)

    def _augment(self, x: Tensor) -> Tensor:
        if not self.n_extra:
            return x
        if not -x.ndim < self.axis < x.ndim:
            raise InputError(f"the input has shape {tuple(x.shape)}, in which there is no axis {self.axis} of features")
        shape = list(x.shape)
        shape[self.axis] = self.n_extra
        return torch.cat([x, x.new_zeros(shape)], self.axis)


class EquilibriumBlock(nn.Module):
    """Gives the `z` at which `z = field(z, x)`, or `field(z, x) = 0`, for each input `x`: a layer applied for ever.

    The gradient is that of the implicit function theorem: what it needs in memory does not grow with the iterations. It is of first
    order, and flows to `x` and to the field's parameters.

    Args:
        field: module or function of `z` `(B, *state)` and the input `x` `(B, ...)`, giving a tensor like `z`, row by row. A module's
            parameters are this one's.
        kind: "map", `z = field(z, x)`, or "field", `field(z, x) = 0`, the rest to which `dz/dt = field(z, x)` comes.
        state_shape: of one sample's `z`; None: that of one sample's `x`.
        method: "newton", for up to about a hundred numbers per sample, or "anderson" for larger ones, see `steady_state`.
        rtol, atol, max_iterations: as there.

    Attributes:
        n_iterations: of the last call, int64 `(B,)` on the device; None before the first.

    Raises:
        InputError: a setting is not of the form above. `SolveError`, in a call: a sample does not settle.

    Example:
        >>> import torch
        >>> block = EquilibriumBlock(lambda z, x: 0.5 * z.cos() + x)
        >>> x = torch.zeros(3, 2)
        >>> z = block(x)
        >>> bool(torch.allclose(z, 0.5 * z.cos() + x, atol=1e-5))
        True
    """

    n_iterations: Tensor | None

    def __init__(
        self,
        field: Callable[[Tensor, Tensor], Tensor],
        *,
        kind: str = "map",
        state_shape: Sequence[int] | None = None,
        method: str = "newton",
        rtol: float = 1e-5,
        atol: float = 1e-6,
        max_iterations: int = 200,
    ) -> None:
        super().__init__()
        if not callable(field):
            raise InputError(f"field is {type(field).__name__}; give a module or function of (z, x)")
        if kind not in _KINDS:
            raise InputError(f"there is no kind {kind!r}{did_you_mean(kind, _KINDS)}; give one of {', '.join(_KINDS)}")
        self.field = field
        self.kind = kind
        self.state_shape = None if state_shape is None else tuple(state_shape)
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.max_iterations = max_iterations
        self.n_iterations = None

    def forward(self, x: Tensor) -> Tensor:
        """Give the equilibrium of every sample, `(B, *state)`, searched for from 0."""
        z0 = x.new_zeros(x.shape if self.state_shape is None else (len(x), *self.state_shape))
        found = steady_state(
            self._slope,
            z0,
            args=(x,),
            method=self.method,
            rtol=self.rtol,
            atol=self.atol,
            max_iterations=self.max_iterations,
        )
        self.n_iterations = found.n_iterations
        return found.y

    def extra_repr(self) -> str:
        """Say what is not seen in the field."""
        return f"kind={self.kind!r}, method={self.method!r}"

    def _slope(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        said = self.field(z, x)
        return said if self.kind == "field" else said - z


def _takes_time(field: Callable[..., Tensor]) -> bool:
    """Say whether a field has two arguments without default: time and state."""
    call = field.forward if isinstance(field, nn.Module) else field
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        # Written in C, such as torch.tanh: a function of one tensor.
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    n_needed = sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)
    if n_needed not in (1, 2):
        raise InputError(
            f"field needs {n_needed} arguments; give a function of y or of (t, y), or say takes_time=True or False"
        )
    return n_needed == 2
