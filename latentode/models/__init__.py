"""Models: a history in, a predictive distribution at any time out. Plain torch modules, trained by `latentode.training`."""

from . import decoders, dynamics, encoders, equations
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
from .equations import *  # noqa: F403
from .equations.equation import Equation
from .equations.unknowns import Bounded, Positive, Real
from .gru_ode_bayes import GRUODEBayes
from .interfaces import Decoder, Dynamics, Encoder, ForecastModel, Frame, Part, Posterior
from .latent_ode import LatentODE
from .mechanistic import Mechanistic
from .neural_cde import NeuralCDE
from .ode_rnn import ODERNN
from .registry import BASELINES, MODELS
from .stack import Stack

__all__ = [
    "BASELINES",
    "MODELS",
    "ODERNN",
    "Blend",
    "Bounded",
    "Constant",
    "Decoder",
    "Dynamics",
    "Encoder",
    "Equation",
    "ExponentialSmoothing",
    "ForecastModel",
    "Frame",
    "GRUODEBayes",
    "GaussianProcess",
    "GradientBoosting",
    "LastValue",
    "LatentODE",
    "Mechanistic",
    "NeuralCDE",
    "Part",
    "Positive",
    "Posterior",
    "Real",
    "Ridge",
    "Seasonal",
    "Stack",
]
__all__ += decoders.__all__
__all__ += dynamics.__all__
__all__ += encoders.__all__
__all__ += equations.__all__
