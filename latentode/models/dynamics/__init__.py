"""How the latent state moves: one file per member, one line here."""

from .linear import LinearField
from .mlp import MLPField

__all__ = ["LinearField", "MLPField"]
