"""Distributions that torch lacks, and what every decoder's distribution can do: move, stretch, stand about another mean."""

from .affine import about, affine

__all__ = ["about", "affine"]
