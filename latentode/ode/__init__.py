"""The engine: initial value problems of batches, each sample on its own clock, differentiable. Tensors in, tensors out."""

from .backsolve import Backsolve, DriftWarning
from .checkpointed import Checkpointed
from .control import FixedStep, PIDController
from .reversible import Reversible
from .runge_kutta import ButcherTableau
from .solve import ADJOINTS, SOLVERS, Solution, solve
from .status import STATUS
from .tableaus import TABLEAUS

__all__ = [
    "ADJOINTS",
    "SOLVERS",
    "STATUS",
    "TABLEAUS",
    "Backsolve",
    "ButcherTableau",
    "Checkpointed",
    "DriftWarning",
    "FixedStep",
    "PIDController",
    "Reversible",
    "Solution",
    "solve",
]
