"""From a latent state to a predictive distribution: one file per member, one line and one name here."""

from .flow import FlowDecoder
from .gaussian import GaussianDecoder
from .mixture import MixtureDecoder
from .quantile import QuantileDecoder
from .student_t import StudentTDecoder

__all__ = ["FlowDecoder", "GaussianDecoder", "MixtureDecoder", "QuantileDecoder", "StudentTDecoder"]
