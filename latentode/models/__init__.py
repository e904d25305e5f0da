"""Models: a history in, a predictive distribution at any time out. Plain torch modules, trained by `latentode.training`."""

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
from .decoders import GaussianDecoder, MixtureDecoder, QuantileDecoder, StudentTDecoder
from .dynamics import ConstantState, LatentSDE, LinearField, MLPField, MultipleShooting
from .encoders import AttentionEncoder, ODERNNEncoder
from .interfaces import Decoder, Dynamics, Encoder, ForecastModel, Frame, Part, Posterior
from .latent_ode import LatentODE
from .registry import BASELINES, MODELS
from .stack import Stack

__all__ = [
    "BASELINES",
    "MODELS",
    "AttentionEncoder",
    "Blend",
    "Constant",
    "ConstantState",
    "Decoder",
    "Dynamics",
    "Encoder",
    "ExponentialSmoothing",
    "ForecastModel",
    "Frame",
    "GaussianDecoder",
    "GaussianProcess",
    "GradientBoosting",
    "LastValue",
    "LatentODE",
    "LatentSDE",
    "LinearField",
    "MLPField",
    "MixtureDecoder",
    "MultipleShooting",
    "ODERNNEncoder",
    "Part",
    "Posterior",
    "QuantileDecoder",
    "Ridge",
    "Seasonal",
    "Stack",
    "StudentTDecoder",
]
