"""How the latent state moves: one file per member, one line and one name here."""

from .augmented import AugmentedField
from .constant import ConstantState
from .flow import NeuralFlow
from .linear import LinearField
from .mechanistic import MechanisticField
from .mlp import MLPField
from .sde import LatentSDE
from .second_order import SecondOrderField
from .shooting import MultipleShooting

__all__ = [
    "AugmentedField",
    "ConstantState",
    "LatentSDE",
    "LinearField",
    "MLPField",
    "MechanisticField",
    "MultipleShooting",
    "NeuralFlow",
    "SecondOrderField",
]
