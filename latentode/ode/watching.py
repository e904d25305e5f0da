"""What may watch the loop: hooks that see every step, and a watch that may end a sample early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .problem import Problem
from .steppers import Step


class Hooks(Protocol):
    """What may watch every step: called with the clock `(B,)`, the state `(B, D)` and the step `(B,)` that is tried from there."""

    def step(self, problem: Problem, tau: Tensor, y: Tensor, h: Tensor) -> None:
        """See a step before it is tried."""
        ...

    def judged(self, problem: Problem, tau: Tensor, y: Tensor, h: Tensor, accepted: Tensor) -> None:
        """See what became of it."""
        ...


@dataclass(frozen=True)
class Sightings:
    """Events that were found, one column for each event in each step where one of the samples had it.

    Attributes:
        events: which event, K of them.
        is_found: for which samples, `(B, K)`.
        clocks: when, `(B, K)`.
        ys: the states then, `(B, K, D)`, with the gradient at a fixed clock.
        slopes: the interpolant's slopes then, per unit of the clock, `(B, K, D)`, constants.
    """

    events: list[int]
    is_found: Tensor
    clocks: Tensor
    ys: Tensor
    slopes: Tensor


class Watch(Protocol):
    """What may end a sample early: an event."""

    def look(self, problem: Problem, tau: Tensor, tau1: Tensor, step: Step, y1: Tensor) -> Tensor | None:
        """Look into a step from clock `tau` to `tau1` `(B,)`, equal where it was rejected, and state `y1` `(B, D)`.

        Tells which samples end in it, `(B,)`; None if none does.
        """
        ...

    def sightings(self, problem: Problem) -> Sightings:
        """Give all that was found, once the solve is over."""
        ...
