"""Gradient routes: how the gradient of a solve comes about. Each is an object with `integrate(problem, options)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .loop import Options, Trajectory, integrate
from .problem import Problem


class Adjoint(Protocol):
    """A gradient route: solves a problem so that autograd finds its way back."""

    def integrate(self, problem: Problem, options: Options) -> Trajectory:
        """Solve `problem`."""
        ...


@dataclass(frozen=True)
class Direct:
    """Differentiate through every operation of the solver: exact for the steps taken, memory grows with their number."""

    def integrate(self, problem: Problem, options: Options) -> Trajectory:
        """Solve `problem`, recording every operation."""
        return integrate(problem, options)


ADJOINTS: dict[str, Adjoint] = {"direct": Direct()}
