"""How the latent state moves: one file per member, one line here."""

from .constant import ConstantState
from .linear import LinearField
from .mlp import MLPField
from .sde import LatentSDE
from .shooting import MultipleShooting

__all__ = ["ConstantState", "LatentSDE", "LinearField", "MLPField", "MultipleShooting"]
