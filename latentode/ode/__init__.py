"""The engine: initial value problems of batches, each sample on its own clock, differentiable. Tensors in, tensors out."""

from .checkpointed import Checkpointed
from .control import FixedStep, PIDController
from .runge_kutta import ButcherTableau
from .reversible import Reversible
from .solve import ADJOINTS, SOLVERS, STATUS, Solution, solve
from .tableaus import TABLEAUS

__all__ = [
    "ADJOINTS",
    "SOLVERS",
    "STATUS",
    "TABLEAUS",
    "ButcherTableau",
    "Checkpointed",
    "FixedStep",
    "PIDController",
    "Reversible",
    "Solution",
    "solve",
]
