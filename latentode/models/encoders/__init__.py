"""From a history to a posterior over the latent state: one file per member, one line and one name here."""

from .attention import AttentionEncoder
from .cde import CDEEncoder
from .gru import GRUEncoder
from .ode_rnn import ODERNNEncoder

__all__ = ["AttentionEncoder", "CDEEncoder", "GRUEncoder", "ODERNNEncoder"]
