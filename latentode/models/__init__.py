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
from .dynamics import ConstantState, LinearField, MLPField
from .encoders import AttentionEncoder, CDEEncoder, ODERNNEncoder
from .gru_ode_bayes import GRUODEBayes
from .interfaces import Decoder, Dynamics, Encoder, ForecastModel, Frame, Part, Posterior
from .latent_ode import LatentODE
from .neural_cde import NeuralCDE
from .registry import BASELINES, MODELS
from .stack import Stack

__all__ = [
    "BASELINES",
    "MODELS",
    "AttentionEncoder",
    "Blend",
    "CDEEncoder",
    "Constant",
    "ConstantState",
    "Decoder",
    "Dynamics",
    "Encoder",
    "ExponentialSmoothing",
    "ForecastModel",
    "Frame",
    "GRUODEBayes",
    "GaussianDecoder",
    "GaussianProcess",
    "GradientBoosting",
    "LastValue",
    "LatentODE",
    "LinearField",
    "MLPField",
    "MixtureDecoder",
    "NeuralCDE",
    "ODERNNEncoder",
    "Part",
    "Posterior",
    "QuantileDecoder",
    "Ridge",
    "Seasonal",
    "Stack",
    "StudentTDecoder",
]
