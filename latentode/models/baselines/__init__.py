"""Baselines behind the interface of every other model: one file each, one line here."""

from .blend import Blend
from .constant import Constant
from .exponential_smoothing import ExponentialSmoothing
from .gaussian_process import GaussianProcess
from .gradient_boosting import GradientBoosting
from .last_value import LastValue
from .ridge import Ridge
from .seasonal import Seasonal

# By short name, as models of their own and as another model's base.
BASELINE_MODELS = {
    "constant": Constant,
    "last_value": LastValue,
    "blend": Blend,
    "seasonal": Seasonal,
    "exponential_smoothing": ExponentialSmoothing,
    "ridge": Ridge,
    "gaussian_process": GaussianProcess,
    "gradient_boosting": GradientBoosting,
}

__all__ = [
    "BASELINE_MODELS",
    "Blend",
    "Constant",
    "ExponentialSmoothing",
    "GaussianProcess",
    "GradientBoosting",
    "LastValue",
    "Ridge",
    "Seasonal",
]
