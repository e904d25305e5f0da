"""From a history to a posterior over the latent state: one file per member, one line here."""

from .attention import AttentionEncoder
from .cde import CDEEncoder
from .ode_rnn import ODERNNEncoder

__all__ = ["AttentionEncoder", "CDEEncoder", "ODERNNEncoder"]
