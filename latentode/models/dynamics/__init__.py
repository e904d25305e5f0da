"""How the latent state moves: one file per member, one line and one name here."""

from .constant import ConstantState
from .linear import LinearField
from .mlp import MLPField

__all__ = ["ConstantState", "LinearField", "MLPField"]
