"""The latent ODE: encode the history, carry the latent state to any time, decode it, on top of a base that needs no network.

Rubanova, Chen and Duvenaud (2019) give the three parts; the residual base is this project's (see `README.md` of this folder).
"""

from __future__ import annotations

from latentode.data.batch import Batch
from latentode.errors import InputError
from latentode.models.cross_fit import Base
from latentode.models.decoders import GaussianDecoder, QuantileDecoder
from latentode.models.dynamics import MLPField
from latentode.models.encoders import AttentionEncoder
from latentode.models.interfaces import Decoder, Dynamics, Encoder
from latentode.models.latent_path import LatentModel, LatentPath, history_as_targets

OBJECTIVES = ("nll", "elbo")


class LatentODE(LatentModel):
    """Forecasts `base + unit * residual`: the residual is read off a latent state that follows a differential equation.

    Args:
        encoder: reads the history; None: `AttentionEncoder()`.
        dynamics: carries the state; None: `MLPField()`.
        decoder: gives the distribution; None: `QuantileDecoder()`, for the objective "elbo" `GaussianDecoder()`.
        latent_size: size of the state that moves.
        context_size: size of what does not move.
        base, balance, thinning, n_members, has_companion: see `ResidualModel`.
        objective: "nll" (the decoder's own score) or "elbo" (with a posterior draw and its divergence from the prior).
        reconstructs: whether in training the values of the history are targets as well: the paper's interpolation beside its
            extrapolation. For an encoder that reads backward, and `base=None`: a base would be told the very values that it forecasts.
        beta: exponent of `objectives.beta_nll`: 1 trains the mean by squared error; 0, with a Gaussian, by the plain likelihood.
        kl_weight: weight of the divergence in the "elbo" objective, and of a stochastic path's in both.
        kl_warmup: share of the planned training over which that weight rises from 0, see `objectives.annealing`; 0: it never is less.

    Raises:
        InputError: a setting is out of its range, or the objective needs a likelihood that the decoder does not have.
    """

    def __init__(
        self,
        encoder: Encoder | None = None,
        dynamics: Dynamics | None = None,
        decoder: Decoder | None = None,
        *,
        latent_size: int = 16,
        context_size: int = 64,
        base: Base = "blend",
        objective: str = "nll",
        reconstructs: bool = False,
        beta: float = 1.0,
        kl_weight: float = 1e-2,
        kl_warmup: float = 0.0,
        balance: float = 0.5,
        thinning: float = 0.0,
        n_members: int = 1,
        has_companion: bool = True,
    ) -> None:
        if objective not in OBJECTIVES:
            raise InputError(f"objective is {objective!r}; choose one of {', '.join(OBJECTIVES)}.")
        if not 0 <= kl_warmup <= 1:
            raise InputError(f"kl_warmup is {kl_warmup}; give a share of training from 0 to 1.")
        if reconstructs and (base is not None or encoder is None or not encoder.reads_backward):
            raise InputError(
                "reconstructs goes with base=None and an encoder whose state stands before the history, such as "
                "ODERNNEncoder(direction='backward')."
            )
        default_decoder = QuantileDecoder if objective == "nll" else GaussianDecoder
        path = LatentPath(
            encoder or AttentionEncoder(),
            dynamics or MLPField(),
            decoder or default_decoder(),
            latent_size=latent_size,
            context_size=context_size,
            objective=objective,
            beta=beta,
            kl_weight=kl_weight,
            kl_warmup=kl_warmup,
        )
        if objective == "elbo" and not path.decoder.has_likelihood:
            raise InputError(
                f"{type(path.decoder).__name__} has no likelihood that teaches its mean, which the objective 'elbo' needs; "
                "take GaussianDecoder, StudentTDecoder or MixtureDecoder."
            )
        super().__init__(
            path, base=base, balance=balance, thinning=thinning, n_members=n_members, has_companion=has_companion
        )
        self.latent_size = latent_size
        self.context_size = context_size
        self.objective = objective
        self.reconstructs = reconstructs
        self.beta = beta
        self.kl_weight = kl_weight
        self.kl_warmup = kl_warmup

    def lesson(self, batch: Batch) -> Batch:
        """Give what a window teaches, where asked for with the values of its history among the targets."""
        batch = super().lesson(batch)
        return history_as_targets(batch) if self.reconstructs else batch
