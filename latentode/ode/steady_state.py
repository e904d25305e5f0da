"""`steady_state`: the fixed point a dynamics settles to, with the implicit gradient. Everything is checked here, once.

Seen so, `f` is the layer of a deep equilibrium model (Bai, Kolter and Koltun 2019): its output is not that of a number of steps but
where the steps end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentode.errors import InputError, SolveError, did_you_mean

from .implicit import attach_by_iteration, attach_by_jacobian
from .jacobian import RowField
from .settling import MAX_ITERATIONS, NOT_FINITE, SINGULAR, STALLED, SUCCESS, Anderson, Newton, Tolerance, settle
from .states import Packing, State
from .status import list_samples

# What a status means and what to do about it.
STEADY_STATUS: dict[int, str] = {
    SUCCESS: "settled",
    MAX_ITERATIONS: "not settled after max_iterations: raise it, start nearer, loosen rtol and atol, or give "
    "anderson a longer history or a smaller damping; a dynamics that cycles or drifts never settles: look at it with solve",
    STALLED: "no step, however short, goes where the slopes point: loosen rtol and atol, use float64, or look for a jump of f there",
    NOT_FINITE: "the field became NaN or infinite: look at f there, start elsewhere, or look at the size of its parameters",
    SINGULAR: "the Jacobian is singular at the fixed point, which therefore has no gradient: where a sum of states is conserved, "
    "leave one of them out; without gradients (torch.no_grad) the point itself is given",
}

_METHODS = ("newton", "anderson")


@dataclass(frozen=True)
class SteadyState:
    """Fixed points of a batch.

    Attributes:
        y: the fixed points `(B, *state)`, in the structure and dtype of `y0`; NaN for failed samples.
        status: 0 or how a sample failed, `(B,)` int64; `STEADY_STATUS` tells what each number means.
        n_iterations: steps tried for each sample, `(B,)` int64.
        residual: largest `|dy/dt|` among the components where the search ended, `(B,)`.
    """

    y: Any
    status: Tensor
    n_iterations: Tensor
    residual: Tensor


def steady_state(
    f: Callable[..., Any],
    y0: State,
    *,
    t: Tensor | float | None = None,
    args: Sequence[Any] = (),
    method: str = "newton",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    max_iterations: int = 200,
    history: int = 5,
    damping: float = 1.0,
    on_failure: str = "raise",
) -> SteadyState:
    """Find where `dy/dt = f(t, y, *args)` settles from `y0` with time held at `t`: `f(t, y) = 0`.

    "newton" follows the flow with steps that grow until they are Newton's, so it comes to the stable point that the dynamics itself
    settles to, unless the edge between two basins is close. It forms the Jacobian, `(B, D, D)`: for states of up to about a
    hundred numbers. "anderson" needs no Jacobian, only one call of `f` per iteration; it is meant for a trained layer `f = g(y) - y`
    with large states, and may end at an unstable point.

    A sample has settled when no component is further than `atol + rtol max|y|` from zero: with "newton" of the estimated way that
    is left to the fixed point, with "anderson" of `dy/dt`. In either case the rounding of `f` is near enough.

    Args:
        f: vector field, a function or module of `t` `(B,)` and `y` `(B, *state)`, giving `dy/dt` like `y`, row by row.
        y0: where to start, `(B, *state)`, or a tuple or dict of such with a common `B`.
        t: the time to hold, a number, `()` or `(B,)`; None: 0, for a field that does not depend on it.
        args: further arguments of `f`.
        method: "newton" or "anderson".
        rtol, atol: tolerances; `rtol` is also that of the gradient of "anderson".
        max_iterations: a sample that has tried so many steps has failed.
        history: how many past steps "anderson" mixes.
        damping: first `beta` of "anderson", which steps by `beta f`: about the time of the fastest change, 1 for a layer.
        on_failure: "raise" a SolveError, or "return" NaN for the failed samples and the reason in `status`.

    Returns:
        The fixed points. Gradients flow to the parameters of `f`, `args`, `t` and whatever else `f` reads, through the implicit
        function theorem: of first order only, at the memory of one call of `f` (and of the Jacobian, with "newton") whatever the
        number of iterations. None flow to `y0`: a fixed point does not move with it.

    Raises:
        InputError: an argument or what `f` returns is not of the form above.
        SolveError: a sample failed and `on_failure` is "raise"; in the backward pass of "anderson", that its iteration failed.

    Example:
        >>> import torch
        >>> capacity = torch.tensor([[2.0], [5.0]], requires_grad=True)
        >>> grown = steady_state(lambda t, y: y * (1 - y / capacity), torch.ones(2, 1)).y
        >>> grown.sum().backward()
        >>> [round(x, 3) for x in (*grown.flatten().tolist(), *capacity.grad.flatten().tolist())]
        [2.0, 5.0, 1.0, 1.0]
    """
    _check_options(f, args, method, rtol, atol, max_iterations, history, damping, on_failure)
    packing = Packing.of(y0)
    y = packing.flatten(y0).detach()
    is_finite = y.isfinite().all(1)
    if not bool(is_finite.all()):
        raise InputError(
            f"y0 holds NaN or infinity (samples {list_samples(~is_finite)}); start every sample at numbers"
        )
    field = _bind(f, packing, _as_times(t, y), args)
    tolerance = Tolerance(rtol, atol, packing.dtype)
    if method == "newton":
        search = Newton(tolerance)
        end = settle(field, y, search, max_iterations)
        y, is_singular = attach_by_jacobian(field, end.y, search)
        end.status = torch.where((end.status == SUCCESS) & is_singular, SINGULAR, end.status)
    else:
        search = Anderson(y, history, torch.full_like(y[:, :1], damping), tolerance)
        end = settle(field, y, search, max_iterations)
        limits = {"history": history, "tolerance": tolerance, "max_iterations": max_iterations}
        y = attach_by_iteration(field, end.y, search.beta, is_strict=on_failure == "raise", **limits)
    residual = end.f.abs().amax(1)
    if on_failure == "raise" and bool((end.status != SUCCESS).any()):
        raise SolveError(_describe_failure(end.status, end.n_iterations, residual))
    y = torch.where((end.status == SUCCESS)[:, None], y, torch.nan)
    return SteadyState(packing.unflatten(y), end.status, end.n_iterations, residual)


def _bind(f: Callable[..., Any], packing: Packing, t: Tensor, args: Sequence[Any]) -> RowField:
    """Make the field of a flat state alone."""

    def field(y: Tensor) -> Tensor:
        slope = packing.flatten(f(t, packing.unflatten(y), *args), "f")
        if slope.shape != y.shape:
            raise InputError(
                f"f returned {slope.shape[0]} samples for a state of {y.shape[0]}; dy/dt must have the shape of y"
            )
        return slope

    return field


def _check_options(
    f: object,
    args: object,
    method: str,
    rtol: float,
    atol: float,
    max_iterations: int,
    history: int,
    damping: float,
    on_failure: str,
) -> None:
    if not callable(f):
        raise InputError(f"f is {type(f).__name__}; give a function or module f(t, y) -> dy/dt")
    if isinstance(args, Tensor):
        raise InputError("args is a tensor; wrap the further arguments of f in a tuple, args=(x,)")
    if method not in _METHODS:
        hint = did_you_mean(method, _METHODS)
        raise InputError(f"there is no method {method!r}{hint}; give one of {', '.join(_METHODS)}")
    if on_failure not in ("raise", "return"):
        raise InputError(f"on_failure is {on_failure!r}; it is 'raise' or 'return'")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not 0 <= tolerance < math.inf:
            raise InputError(f"{name} is {tolerance!r}; a tolerance is a number from 0 up")
    if not 0 < damping < math.inf:
        raise InputError(f"damping is {damping!r}; it is a number above 0")
    for name, count in (("max_iterations", max_iterations), ("history", history)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"{name} is {count!r}; give an integer from 1 up")


def _as_times(t: Tensor | float | None, y: Tensor) -> Tensor:
    """Give the held time of each sample, `(B,)`, in the state's dtype."""
    if t is not None and not isinstance(t, (int, float, Tensor)):
        raise InputError(f"t is {type(t).__name__}; give a number or a tensor (B,)")
    times = torch.as_tensor(0.0 if t is None else t, device=y.device)
    if times.is_complex() or times.dtype == torch.bool or not bool(times.isfinite().all()):
        raise InputError(f"t must hold finite real numbers; it is {t!r}")
    if times.ndim > 1 or (times.ndim == 1 and times.shape[0] != y.shape[0]):
        raise InputError(f"t has shape {tuple(times.shape)}; give a number or one per sample, ({y.shape[0]},)")
    return times.to(y.dtype).expand(y.shape[0])


def _describe_failure(status: Tensor, n_iterations: Tensor, residual: Tensor) -> str:
    """Say for the first failure which samples, how far it came, and what to do."""
    failed = status != SUCCESS
    first = int(failed.to(torch.int8).argmax())
    alike = status == int(status[first])
    n_more = int((failed & ~alike).sum())
    return (
        f"samples {list_samples(alike)}: {STEADY_STATUS[int(status[first])]} (sample {first}: largest |dy/dt| "
        f"{float(residual[first]):.3g} after {int(n_iterations[first])} iterations)"
        + (f"; {n_more} more failed otherwise" if n_more else "")
        + '; on_failure="return" keeps the other samples'
    )
