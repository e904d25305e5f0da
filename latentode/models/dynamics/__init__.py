"""How the latent state moves: one file per member, one line here."""

from .mlp import MLPField

__all__ = ["MLPField"]
