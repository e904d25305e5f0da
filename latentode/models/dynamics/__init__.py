"""How the latent state moves: one file per member, one line and one name here."""

from .augmented import AugmentedField
from .constant import ConstantState
from .flow import NeuralFlow
from .linear import LinearField
from .mlp import MLPField
from .second_order import SecondOrderField

__all__ = ["AugmentedField", "ConstantState", "LinearField", "MLPField", "NeuralFlow", "SecondOrderField"]
