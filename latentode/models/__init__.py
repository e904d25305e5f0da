"""Models: a history in, a predictive distribution at any time out. Plain torch modules, trained by `latentode.training`."""

from . import decoders, dynamics, encoders
from .baselines import (
    Blend,
    Constant,
    ExponentialSmoothing,
    GaussianProcess,
    GradientBoosting,
    LastValue,
    Ridge,
    Seasonal,
)
from .decoders import *  # noqa: F403 (each folder says what it offers)
from .dynamics import *  # noqa: F403
from .encoders import *  # noqa: F403
from .interfaces import Decoder, Dynamics, Encoder, ForecastModel, Frame, Part, Posterior
from .latent_ode import LatentODE
from .ode_rnn import ODERNN
from .registry import BASELINES, MODELS
from .stack import Stack

__all__ = [
    "BASELINES",
    "MODELS",
    "ODERNN",
    "Blend",
    "Constant",
    "Decoder",
    "Dynamics",
    "Encoder",
    "ExponentialSmoothing",
    "ForecastModel",
    "Frame",
    "GaussianProcess",
    "GradientBoosting",
    "LastValue",
    "LatentODE",
    "Part",
    "Posterior",
    "Ridge",
    "Seasonal",
    "Stack",
]
__all__ += decoders.__all__
__all__ += dynamics.__all__
__all__ += encoders.__all__
