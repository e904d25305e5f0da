"""How the latent state moves: one file per member, one line here."""

from .constant import ConstantState
from .linear import LinearField
from .mechanistic import MechanisticField
from .mlp import MLPField

__all__ = ["ConstantState", "LinearField", "MLPField", "MechanisticField"]
