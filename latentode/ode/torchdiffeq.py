"""torchdiffeq's interface on this engine: `odeint`, `odeint_adjoint`, `odeint_event`, `odeint_dense`.

Code written for torchdiffeq 0.2.5 runs after changing one import: same arguments, defaults and shapes, time first in the result,
one scalar `t` for `func`. A state there is one problem, whatever its shape: here, a batch of one sample, so everything is a
translation onto `solve`. What is meant to differ:

- An unknown option is an error that names the known ones. Implicit fixed-step and Adams methods are refused by name.
- The field is never called beyond the last time. Times may repeat. `max_num_steps` counts over the whole solve, as many per
  output as there. The clock is float64 whatever `dtype` says.
- Step sizes are constants to autograd: on a fixed grid the gradient with respect to `t` is that of the solution, not of the
  grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from latentode.errors import InputError, SolveError

from .solve import solve
from .torchdiffeq_adjoint import Adjoint, AdjointSolve, adjoint_norm
from .torchdiffeq_options import ADAPTIVE, FIXED, LINEAR, FixedOptions, Sample, State, read_options
from .torchdiffeq_watch import CALLBACKS, Callbacks, Watched

Func = Callable[[Tensor, State], State]
EventFunc = Callable[[Tensor, State], Tensor]


def odeint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFunc | None = None,
) -> Any:
    """Solve `dy/dt = func(t, y)`, `y(t[0]) = y0`, and give the states at `t`.

    Args:
        func: vector field of a scalar `t` and `y` like `y0`.
        y0: a tensor of any shape, or a tuple of such.
        t: times, `(T,)`, ascending or descending.
        rtol, atol: tolerances of adaptive methods: a number, a tensor like `y0`, or one of these for each part of a tuple.
        method: a name in `FIXED` or `ADAPTIVE`; None: dopri5.
        options: what `FixedOptions` or `AdaptiveOptions` knows.
        event_fn: ends the solve where an element of `event_fn(t, y)` changes sign; `t` then holds the start and any later (or
            earlier) time for the direction.

    Returns:
        States `(T, *y0.shape)`, or a tuple of such; with `event_fn` the time of the event and the states at `t[0]` and there.

    Raises:
        InputError: an unknown method or option, or arguments that do not fit.
        SolveError: the problem could not be solved.

    Example:
        >>> import torch
        >>> ys = odeint(lambda t, y: -y, torch.ones(()), torch.tensor([0.0, 1.0]))
        >>> round(float(ys[-1]), 3)
        0.368
    """
    sample = Sample.of(y0)
    keywords = _translate(func, y0, t, rtol, atol, method, options, ends_at_event=event_fn is not None)
    if event_fn is None:
        return sample.unflatten(solve(**keywords).ys[0])
    return _solve_until(_one_value(event_fn, sample, t[0], y0), func, y0, t, keywords)


def _translate(
    func: Func,
    y0: State,
    t: Tensor,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: Mapping[str, Any] | None,
    *,
    ends_at_event: bool = False,
) -> dict[str, Any]:
    """Give the arguments of `solve`, all as keywords."""
    if not isinstance(t, Tensor) or not t.is_floating_point() or t.ndim != 1 or len(t) == 0:
        got = f"{t.dtype} {tuple(t.shape)}" if isinstance(t, Tensor) else type(t).__name__
        raise InputError(f"t is {got}; give times as a floating-point tensor (T,) with at least one of them")
    if ends_at_event and (len(t) != 2 or bool(t[0] == t[1])):
        raise InputError(
            f"t is {t.tolist()}; where event_fn ends the solve, give two times, the start and the direction"
        )
    method = "dopri5" if method is None else method
    chosen, sample = read_options(method, options), Sample.of(y0)
    if isinstance(chosen, FixedOptions):
        tableau = LINEAR[method] if chosen.interp == "linear" else FIXED[method]
        keywords = chosen.translate_open_end() if ends_at_event else chosen.translate(func, y0, t)
    else:
        tableau = ADAPTIVE[method]
        keywords = chosen.translate(sample, t, rtol, atol, ends_at_event=ends_at_event)
    callbacks = Callbacks.of(func, sample, CALLBACKS[:1] if isinstance(chosen, FixedOptions) else CALLBACKS)
    if callbacks is not None:
        keywords["adjoint"] = Watched(callbacks)

    def field(t_B: Tensor, y_BD: Tensor) -> Tensor:
        return sample.flatten(func(t_B[0], sample.unpack(y_BD)))

    return {"f": field, "y0": sample.flatten(y0), "t_eval": t, "method": tableau, **keywords}


def _solve_until(value: EventFunc, func: Func, y0: State, t: Tensor, keywords: dict[str, Any]) -> tuple[Tensor, State]:
    """Solve until `value` is positive no more: the time, a constant to autograd, and the states at the start and then."""
    sample, start, y0_BD = Sample.of(y0), t[0].detach(), keywords["y0"]

    def event(t_B: Tensor, y_BD: Tensor) -> Tensor:
        return value(t_B[0], sample.unpack(y_BD)).detach().reshape(1)

    if bool(value(start, y0) == 0):
        return start.clone(), sample.unflatten(torch.cat([y0_BD, y0_BD]))
    route = replace(keywords.get("adjoint", Watched()), is_open_end=True)
    found = solve(**{**keywords, "adjoint": route}, events=event).events[0]
    if found.times.shape[1] == 0:
        raise SolveError(f"event_fn did not change sign between t = {float(start):.9g} and the end of the steps")
    time, y = found.times[0, 0].detach(), found.ys[:, 0]
    if t.requires_grad:
        # At a fixed time a later start leaves less of a way to go.
        with torch.no_grad():
            slope = sample.flatten(func(time.to(sample.dtype.to_real()), sample.unpack(y)))
        y = y - slope * (t[0] - start)
    return time, sample.unflatten(torch.cat([y0_BD, y]))


def odeint_adjoint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFunc | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """Solve as `odeint` does, in memory that does not grow with the steps: the gradient comes from a second solve, backwards in time.

    Args:
        func, y0, t, rtol, atol, method, options, event_fn: as for `odeint`.
        adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options: of the second solve; None: as of the first, but for `norm`.
            Its state is a tuple: `dL/dt`, the parts of `y`, those of `dL/dy`, and `dL/dp` for every parameter. Its norm is a
            function of that; None: the largest of its parts' norms; "seminorm": of those but the parameters' (Kidger, Chen and Lyons
            2021).
        adjoint_params: tensors beside `y0` and `t` that get a gradient; None: the parameters of `func`, a module.

    Returns:
        What `odeint` returns. The time of an event has no gradient; `odeint_event` gives it one.

    Raises:
        InputError: an unknown method or option, or arguments that do not fit.
        SolveError: the problem could not be solved.
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise InputError("func is no module to look for parameters in; give adjoint_params=(...), () if there are none")
    if adjoint_options is None and options is not None and adjoint_method not in (None, method):
        raise InputError("options belong to method, not to adjoint_method; give adjoint_options, {} for the defaults")
    sample, options = Sample.of(y0), options or {}
    if adjoint_options is None:
        adjoint_options = {name: option for name, option in options.items() if name != "norm"}
    norm = adjoint_options.get("norm")
    if not callable(norm):
        if norm not in (None, "seminorm"):
            raise InputError(f"the norm of the adjoint is {norm!r}; give a function of its state, or 'seminorm'")
        norm = adjoint_norm(sample, options.get("norm"), is_semi=norm == "seminorm")
    backward = {
        "rtol": rtol if adjoint_rtol is None else adjoint_rtol,
        "atol": atol if adjoint_atol is None else adjoint_atol,
        "method": method if adjoint_method is None else adjoint_method,
        "options": {**adjoint_options, "norm": norm},
    }
    # What is wrong with the second solve is told before the first.
    read_options(backward["method"] or "dopri5", backward["options"])

    def solve_forward() -> tuple[Tensor, Tensor]:
        found = odeint(func, y0, t, rtol=rtol, atol=atol, method=method, options=options, event_fn=event_fn)
        end, ys = (t[-1], found) if event_fn is None else found
        parts = ys if sample.is_tuple else (ys,)
        return end.detach().clone(), torch.cat([part.reshape(len(part), -1) for part in parts], 1)

    def solve_backward(dynamics: Func, state: State, times: Tensor) -> State:
        for name in CALLBACKS:
            if hasattr(func, name + "_adjoint"):
                setattr(dynamics, name, getattr(func, name + "_adjoint"))
        return odeint(dynamics, state, times, **backward)

    given = func.parameters() if adjoint_params is None else adjoint_params
    params = tuple(param for param in given if param.requires_grad)
    both = AdjointSolve(func, sample, solve_forward, solve_backward)
    end, ys = Adjoint.apply(both, event_fn is not None, t, sample.flatten(y0), *params)
    return sample.unflatten(ys) if event_fn is None else (end, sample.unflatten(ys))


def odeint_dense(
    func: Func,
    y0: State,
    t0: Tensor | float,
    t1: Tensor | float,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Tensor], State]:
    """Solve from `t0` to `t1` and give a function of any times between, `()` or `(T,)`, to the states there.

    Arguments are those of `odeint`.
    """
    dtype = t0.dtype if isinstance(t0, Tensor) else torch.float64
    t = torch.stack([torch.as_tensor(time, dtype=dtype).reshape(()) for time in (t0, t1)])
    solution = solve(**_translate(func, y0, t, rtol, atol, method, options), dense=True)

    sample = Sample.of(y0)
    return lambda times: sample.unflatten(solution(times.reshape(-1))[0].reshape(*times.shape, -1))


def odeint_event(
    func: Func,
    y0: State,
    t0: Tensor,
    *,
    event_fn: EventFunc,
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **keywords: Any,
) -> Any:
    """Solve until an element of `event_fn(t, y)` changes sign, with a gradient through the time at which it does.

    With `g` the element, `dt/dx = -(dg/dx) / (dg/dt + dg/dy f)` by the implicit function theorem (Chen, Amos and Nickel 2021, Learning
    neural event functions, section 3.1), where `dg/dx` goes through the state at a fixed time, and directly where `event_fn` has
    parameters.

    Args:
        func, y0: as for `odeint`.
        t0: start, a scalar.
        event_fn: of the scalar `t` and `y`, a tensor whose first element to change sign ends the solve.
        reverse_time: solve towards earlier times.
        odeint_interface: `odeint` or `odeint_adjoint`.
        keywords: what else that takes.

    Returns:
        The time of the event, and the states at `t0` and there, `(2, *y0.shape)`.

    Raises:
        InputError: arguments that do not fit.
        SolveError: the event was not found.
    """
    start = t0.reshape(1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    event_t, ys = odeint_interface(func, y0, t, event_fn=event_fn, **keywords)
    if not torch.is_grad_enabled():
        return event_t, ys
    sample, event_t = Sample.of(y0), event_t.detach()
    parts = ys if sample.is_tuple else (ys,)
    first_D, last_D = torch.cat([part.reshape(2, -1) for part in parts], 1).unbind(0)
    time = event_t.to(sample.dtype.to_real())
    event = _one_value(event_fn, sample, start[0], y0)
    t_leaf, y_leaf = time.clone().requires_grad_(), last_D.detach().requires_grad_()
    by_t, by_y_D = torch.autograd.grad(
        event(t_leaf, sample.unflatten(y_leaf)), (t_leaf, y_leaf), allow_unused=True, materialize_grads=True
    )
    with torch.no_grad():
        slope_D = sample.flatten(func(time, sample.unflatten(last_D)))[0]
        rate = by_t + (by_y_D.conj() * slope_D).real.sum()
    value = event(time, sample.unflatten(last_D))
    shift = (value.detach() - value) / rate
    return event_t + shift.to(event_t), sample.unflatten(torch.stack([first_D, last_D + slope_D * shift]))


def _one_value(event_fn: EventFunc, sample: Sample, t0: Tensor, y0: State) -> EventFunc:
    """Give a function of one value that is positive until the first element of `event_fn` changes sign."""
    with torch.no_grad():
        signs = event_fn(t0.detach().to(sample.dtype.to_real()), y0).sign()
    return lambda t, y: (event_fn(t, y) * signs).min()
