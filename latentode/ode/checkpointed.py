"""The checkpointed gradient: solve once without a record, keep some states, and record the steps between two of them on the way back.

The steps are those of the first solve, so the gradient is that of `direct` (Griewank and Walther 2000 on schedules of checkpoints).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentode.errors import InputError

from .adjoints import Cotangents, Sums, Way, gradients, hide
from .dense import Steps
from .loop import Options, Trajectory, integrate, next_stop
from .problem import Problem
from .record import Mark, Record, Segment
from .steppers import Stepper


@dataclass(frozen=True)
class Checkpointed:
    """Exact, in memory of about the square root of the number of steps, for one more solve.

    Attributes:
        max_checkpoints: most states that are kept; None: about as many as steps lie between two of them, which needs the least
            memory in all.
    """

    max_checkpoints: int | None = None

    def __post_init__(self) -> None:
        if self.max_checkpoints is not None and self.max_checkpoints < 1:
            raise InputError(
                f"max_checkpoints is {self.max_checkpoints!r}; at least the state at the start is kept, so give 1 or more"
            )

    def integrate(self, problem: Problem, options: Options) -> Trajectory:
        """Solve `problem`."""
        return hide(problem, options, "checkpointed", self._solve)

    def _solve(self, problem: Problem, options: Options, captured: list[Tensor]) -> tuple[Trajectory, Way]:
        record = Record(stride=1, most=self.max_checkpoints or 0)
        trajectory = integrate(problem, replace(options, record=record))
        end = Mark(trajectory.n_tried, trajectory.tau, trajectory.y1)

        def way(cotangents: Cotangents, sums: Sums) -> Tensor:
            g_y = cotangents.end
            longest = 2 * math.isqrt(max(end.i_step, 1)) + 2
            for segment in record.segments_backward(end.i_step, end.tau, end.y):
                g_y = pull_back(problem, options.stepper, segment, g_y, cotangents, sums, captured, longest)
            return g_y + cotangents.start

        return trajectory, way


def pull_back(
    problem: Problem,
    stepper: Stepper,
    segment: Segment,
    g_end: Tensor,
    cotangents: Cotangents,
    sums: Sums,
    captured: list[Tensor],
    longest: int,
) -> Tensor:
    """Give the gradient of the state at the segment's start from that at its end.

    A segment of more than `longest` steps is walked without a record first, and pulled back piece by piece.
    """
    if len(segment.h) > longest:
        for part in reversed(_split(problem, stepper, segment, longest)):
            g_end = pull_back(problem, stepper, part, g_end, cotangents, sums, captured, longest)
        return g_end
    with torch.enable_grad():
        y = segment.start.y.detach().requires_grad_()
        carrier = None if sums.t0 is None else torch.zeros_like(sums.t0).requires_grad_()
        moved = replace(problem, t_carrier=carrier)
        y_end, steps = replay(moved, stepper, y, segment)
        outputs, g_outputs = [y_end], [g_end]
        place = cotangents.places_between(segment.start.tau, segment.end.tau)
        if len(place) and steps.ends:
            outputs.append(steps.evaluate(cotangents.tau, place))
            g_outputs.append(cotangents.each.flatten(0, 1).index_select(0, place))
        g_y, g_t0, g_captured = gradients(outputs, g_outputs, y, carrier, captured)
    sums.add(g_t0, g_captured)
    return torch.zeros_like(g_end) if g_y is None else g_y


def replay(problem: Problem, stepper: Stepper, y: Tensor, segment: Segment) -> tuple[Tensor, Steps]:
    """Take the steps of a segment from `y`, as they were taken; gives the state at the end and the interpolants."""
    steps = Steps.none()
    tau, k = segment.start.tau, slope_at(problem, stepper, segment.start.tau, y)
    for tau, h in zip(segment.tau, segment.h, strict=True):
        stop = None if problem.jumps is None else next_stop(problem.jumps, tau, problem.span)
        step = stepper.step(problem, tau, h, y, k, stop)
        if step.powers is not None:
            steps.append(tau, tau + h, step.base, step.powers)
        y, k = step.y1, step.k1
        if problem.jumps is not None:
            k = torch.where(problem.is_at_jump(tau + h)[:, None], slope_at(problem, stepper, tau + h, y), k)
    return y, steps


def slope_at(problem: Problem, stepper: Stepper, tau: Tensor, y: Tensor) -> Tensor:
    """Give the slope to go on with from `y`, on the far side of a jump there."""
    return stepper.slope(problem, problem.times_after(tau), y)


def _split(problem: Problem, stepper: Stepper, segment: Segment, longest: int) -> list[Segment]:
    """Walk a segment and give its parts of at most `longest` steps."""
    parts, start = [], segment.start
    for i in range(0, len(segment.h), longest):
        h, tau = segment.h[i : i + longest], segment.tau[i : i + longest]
        is_last = i + longest >= len(segment.h)
        end_tau = segment.end.tau if is_last else tau[-1] + h[-1]
        part = Segment(start, Mark(start.i_step + len(h), end_tau, segment.end.y), h, tau)
        parts.append(part)
        if not is_last:
            with torch.no_grad():
                start = Mark(part.end.i_step, end_tau, replay(problem, stepper, start.y, part)[0])
    return parts
