"""The engine: initial value problems of batches, each sample on its own clock, differentiable. Tensors in, tensors out."""

from .adjoints import ADJOINTS
from .control import FixedStep, PIDController
from .runge_kutta import ButcherTableau
from .solve import SOLVERS, STATUS, Solution, solve
from .tableaus import TABLEAUS

__all__ = [
    "ADJOINTS",
    "SOLVERS",
    "STATUS",
    "TABLEAUS",
    "ButcherTableau",
    "FixedStep",
    "PIDController",
    "Solution",
    "solve",
]
