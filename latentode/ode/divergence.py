"""The divergence of a vector field, and the flow of a density that it makes: continuous normalizing flows.

Along `dy/dt = f(t, y)` the log-density of a moving point changes by minus the trace of `df/dy` (Chen, Rubanova, Bettencourt
and Duvenaud 2018, equation 8).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from latentode.errors import InputError, did_you_mean

from .jacobian import slope_and_jacobian, slope_and_product

_METHODS = ("exact", "hutchinson")


def divergence(
    f: Callable[..., Tensor],
    t: Tensor | float,
    y: Tensor,
    *args: Any,
    method: str = "exact",
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Give the slope `dy/dt` and the trace of `df/dy` of each sample from one call.

    "exact" carries all `D` unit vectors forward through `f`: work and memory of about `D` calls. "hutchinson" is `e^T (df/dy) e`
    with noise `e` of mean 0 and covariance 1, two calls' worth, right on average (Hutchinson 1990; Grathwohl et al. 2019,
    equation 7). Its variance is least with Rademacher noise, which is exact where `df/dy` is diagonal.

    Args:
        f: vector field, a function or module of `t` `(B,)` and `y` `(B, *state)`, giving `dy/dt` like `y`, row by row.
        t: a number or one per sample, `(B,)`.
        y: `(B, *state)`, floating point.
        args: further arguments of `f`.
        method: "exact" or "hutchinson".
        noise: for "hutchinson", of the shape of `y`. It must stay the same during a solve, or the field is not one that
            a solver can follow: draw it once, before, with `rademacher_like`.

    Returns:
        `dy/dt` like `y` and the divergence `(B,)`. Both can be differentiated again, to `y`, `args` and the parameters of `f`.

    Raises:
        InputError: an argument or what `f` returns is not of the form above.

    Example:
        >>> import torch
        >>> dy, trace = divergence(lambda t, y: 3.0 * y, 0.0, torch.ones(2, 4))
        >>> trace
        tensor([12., 12.])
    """
    _check(y, method, noise)
    n_samples, state = y.shape[0], y.shape[1:]
    times = torch.as_tensor(t, dtype=y.dtype, device=y.device)
    if times.ndim > 1 or (times.ndim == 1 and times.shape[0] != n_samples):
        raise InputError(f"t has shape {tuple(times.shape)}; give a number or one per sample, ({n_samples},)")
    times = times.expand(n_samples)

    def field(y_flat: Tensor) -> Tensor:
        slope = f(times, y_flat.reshape(n_samples, *state), *args)
        _check_slope(slope, y)
        return slope.reshape(n_samples, prod(state))

    y_flat = y.reshape(n_samples, prod(state))
    if noise is not None:
        slope, trace = slope_and_product(field, y_flat, noise.reshape(n_samples, prod(state)))
    else:
        slope, jacobian = slope_and_jacobian(field, y_flat)
        trace = jacobian.diagonal(dim1=1, dim2=2).sum(1)
    return slope.reshape(y.shape), trace


def rademacher_like(y: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw signs, -1 or 1 with equal probability, of the shape, dtype and device of `y`."""
    return torch.randint(0, 2, y.shape, generator=generator, device=y.device).to(y.dtype) * 2 - 1


class FlowField(nn.Module):
    """The field of a flow: carries the log-density along with the point, for `solve` with the state `(y, logp)`.

    Where `f` is a module, its parameters are this one's.

    Args:
        f: vector field `f(t, y, *args)` of one tensor `(B, *state)`.
        method, noise: as in `divergence`. Draw fresh noise for each solve by assigning to `noise`.

    Example:
        >>> import torch
        >>> from latentode.ode import solve
        >>> y0, logp0 = torch.ones(1, 1), torch.zeros(1)
        >>> flow = FlowField(lambda t, y: -2.0 * y)
        >>> y, logp = solve(flow, (y0, logp0), torch.tensor([0.0, 1.0])).ys
        >>> round(float(logp[0, -1]), 3)  # contracted by e^-2: denser by e^2
        2.0
    """

    noise: Tensor | None

    def __init__(self, f: Callable[..., Tensor], *, method: str = "exact", noise: Tensor | None = None) -> None:
        super().__init__()
        self.f = f
        self.method = method
        # A buffer moves with the module; it belongs to one batch, so it is not saved.
        self.register_buffer("noise", noise, persistent=False)

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor], *args: Any) -> tuple[Tensor, Tensor]:
        """Give `dy/dt` and `d logp/dt = -trace(df/dy)` of the state `(y, logp)`, `logp` `(B,)` or `(B, 1)`."""
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise InputError("the state of a flow is the pair (y, logp); give solve y0=(y0, logp0)")
        y, logp = state
        if logp.shape not in ((y.shape[0],), (y.shape[0], 1)):
            raise InputError(f"logp has shape {tuple(logp.shape)}; give one number per sample, ({y.shape[0]},)")
        slope, trace = divergence(self.f, t, y, *args, method=self.method, noise=self.noise)
        return slope, -trace.reshape(logp.shape)


def _check(y: Tensor, method: str, noise: Tensor | None) -> None:
    if method not in _METHODS:
        hint = did_you_mean(method, _METHODS)
        raise InputError(f"there is no method {method!r}{hint}; give one of {', '.join(_METHODS)}")
    if not isinstance(y, Tensor):
        raise InputError(f"y is {type(y).__name__}; the divergence is that of one tensor (B, *state)")
    if not y.is_floating_point() or y.ndim < 1:
        raise InputError(
            f"y has dtype {y.dtype} and shape {tuple(y.shape)}; give floating-point states (B, *state), y.double()"
        )
    if method == "exact" and noise is not None:
        raise InputError('noise is for method="hutchinson"; leave it out of "exact"')
    if method == "hutchinson" and noise is None:
        raise InputError("hutchinson needs noise that stays the same during a solve; give noise=rademacher_like(y)")
    if noise is not None and (not isinstance(noise, Tensor) or noise.shape != y.shape or noise.dtype != y.dtype):
        got = f"{tuple(noise.shape)} of {noise.dtype}" if isinstance(noise, Tensor) else type(noise).__name__
        raise InputError(f"noise is {got}; it must be like y, {tuple(y.shape)} of {y.dtype}: rademacher_like(y)")


def _check_slope(slope: Any, y: Tensor) -> None:
    if not isinstance(slope, Tensor):
        raise InputError(f"f returned {type(slope).__name__}; it must return a tensor like y, dy/dt")
    if slope.shape != y.shape or slope.dtype != y.dtype:
        raise InputError(
            f"f returned {tuple(slope.shape)} of {slope.dtype}; dy/dt must be like y, {tuple(y.shape)} of {y.dtype}"
        )
