"""The neural CDE as a forecaster: driven by the observations up to the origin, by itself after it."""

from __future__ import annotations

from latentode.models.cross_fit import Base
from latentode.models.decoders import QuantileDecoder
from latentode.models.dynamics import MLPField
from latentode.models.encoders import CDEEncoder
from latentode.models.interfaces import Decoder, Dynamics
from latentode.models.latent_path import LatentModel, LatentPath


class NeuralCDE(LatentModel):
    r"""Forecasts `base + unit * residual`; the residual is read off a state that observations drive, :math:`dz = f(z)\,dX_t`.

    Kidger et al. (2020) read a label off the state at the last observation. To forecast, it is carried on: behind the origin nothing
    but time moves the control, so that the CDE is an ordinary differential equation there. It may have a field of its own, any
    `Dynamics`, since what a state does between two observations and what it does when nothing is heard for a horizon need not be the
    same.

    Args:
        encoder: the CDE; None: `CDEEncoder()`.
        dynamics: carries the state on; None: `MLPField()`.
        decoder: gives the distribution; None: `QuantileDecoder()`.
        latent_size: size of the state that is carried on, a linear map of the CDE's.
        context_size: size of what does not move.
        beta: exponent of `objectives.beta_nll`.
        base, balance, thinning, n_members, has_companion: see `ResidualModel`.
    """

    def __init__(
        self,
        encoder: CDEEncoder | None = None,
        dynamics: Dynamics | None = None,
        decoder: Decoder | None = None,
        *,
        latent_size: int = 16,
        context_size: int = 64,
        base: Base = "blend",
        beta: float = 1.0,
        balance: float = 0.5,
        thinning: float = 0.0,
        n_members: int = 1,
        has_companion: bool = True,
    ) -> None:
        path = LatentPath(
            encoder or CDEEncoder(),
            dynamics or MLPField(),
            decoder or QuantileDecoder(),
            latent_size=latent_size,
            context_size=context_size,
            objective="nll",
            beta=beta,
            kl_weight=0.0,
            kl_warmup=0.0,
        )
        super().__init__(
            path, base=base, balance=balance, thinning=thinning, n_members=n_members, has_companion=has_companion
        )
        self.latent_size = latent_size
        self.context_size = context_size
        self.beta = beta
