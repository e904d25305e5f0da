"""Baselines behind the interface of every other model: one file each, one line here."""

from .blend import Blend
from .constant import Constant
from .exponential_smoothing import ExponentialSmoothing
from .gaussian_process import GaussianProcess
from .gradient_boosting import GradientBoosting
from .last_value import LastValue
from .ridge import Ridge
from .seasonal import Seasonal

__all__ = [
    "Blend",
    "Constant",
    "ExponentialSmoothing",
    "GaussianProcess",
    "GradientBoosting",
    "LastValue",
    "Ridge",
    "Seasonal",
]
