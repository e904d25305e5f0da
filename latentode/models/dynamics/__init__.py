"""How the latent state moves: one file per member, one line here."""

from .constant import ConstantState
from .flow import NeuralFlow
from .linear import LinearField
from .mlp import MLPField

__all__ = ["ConstantState", "LinearField", "MLPField", "NeuralFlow"]
