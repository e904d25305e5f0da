"""The engine: initial value problems of batches, each sample on its own clock, differentiable. Tensors in, tensors out."""

from .backsolve import Backsolve, DriftWarning
from .blocks import EquilibriumBlock, ODEBlock
from .checkpointed import Checkpointed
from .control import FixedStep, PIDController
from .divergence import FlowField, divergence, rademacher_like
from .events import Event, Occurrences
from .reversible import Reversible
from .runge_kutta import ButcherTableau
from .solve import ADJOINTS, SOLVERS, Solution, solve
from .status import STATUS
from .steady_state import STEADY_STATUS, SteadyState, steady_state
from .stochastic import SCHEMES, Noise, StochasticPath, solve_sde
from .tableaus import TABLEAUS
from .torchdiffeq import odeint, odeint_adjoint, odeint_event

__all__ = [
    "ADJOINTS",
    "SCHEMES",
    "SOLVERS",
    "STATUS",
    "STEADY_STATUS",
    "TABLEAUS",
    "Backsolve",
    "ButcherTableau",
    "Checkpointed",
    "DriftWarning",
    "EquilibriumBlock",
    "Event",
    "FixedStep",
    "FlowField",
    "Noise",
    "ODEBlock",
    "Occurrences",
    "PIDController",
    "Reversible",
    "Solution",
    "SteadyState",
    "StochasticPath",
    "divergence",
    "odeint",
    "odeint_adjoint",
    "odeint_event",
    "rademacher_like",
    "solve",
    "solve_sde",
    "steady_state",
]
