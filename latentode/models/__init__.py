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
from .dynamics import ConstantState, LinearField, MechanisticField, MLPField
from .encoders import AttentionEncoder, ODERNNEncoder
from .equations import Bounded, Compartments, Equation, LotkaVolterra, Positive, Real
from .interfaces import Decoder, Dynamics, Encoder, ForecastModel, Frame, Part, Posterior
from .latent_ode import LatentODE
from .mechanistic import Mechanistic
from .registry import BASELINES, MODELS
from .stack import Stack

__all__ = [
    "BASELINES",
    "MODELS",
    "AttentionEncoder",
    "Blend",
    "Bounded",
    "Compartments",
    "Constant",
    "ConstantState",
    "Decoder",
    "Dynamics",
    "Encoder",
    "Equation",
    "ExponentialSmoothing",
    "ForecastModel",
    "Frame",
    "GaussianDecoder",
    "GaussianProcess",
    "GradientBoosting",
    "LastValue",
    "LatentODE",
    "LinearField",
    "LotkaVolterra",
    "MLPField",
    "Mechanistic",
    "MechanisticField",
    "MixtureDecoder",
    "ODERNNEncoder",
    "Part",
    "Positive",
    "Posterior",
    "QuantileDecoder",
    "Real",
    "Ridge",
    "Seasonal",
    "Stack",
    "StudentTDecoder",
]
