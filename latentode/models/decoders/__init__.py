"""From a latent state to a predictive distribution: one file per member, one line here."""

from .gaussian import GaussianDecoder

__all__ = ["GaussianDecoder"]
