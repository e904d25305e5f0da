"""How the latent state moves: one file per member, one line here."""

from .constant import ConstantState
from .linear import LinearField
from .mlp import MLPField
from .sde import LatentSDE

__all__ = ["ConstantState", "LatentSDE", "LinearField", "MLPField"]
