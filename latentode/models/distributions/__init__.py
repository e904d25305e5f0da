"""Distributions that torch lacks, and what every decoder's distribution can do: move, stretch, stand about another mean."""

from .affine import about, affine
from .anchored_mixture import AnchoredMixture
from .pool import mix, pool, pool_family
from .quantile_function import QuantileFunction
from .scalar_flow import Rows, ScalarField, ScalarFlow
from .student_t import FiniteStudentT

__all__ = [
    "AnchoredMixture",
    "FiniteStudentT",
    "QuantileFunction",
    "Rows",
    "ScalarField",
    "ScalarFlow",
    "about",
    "affine",
    "mix",
    "pool",
    "pool_family",
]
