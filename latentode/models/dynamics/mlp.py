"""The neural ordinary differential equation: the latent state follows a small network's field."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentode.data.schema import Schema
from latentode.models.dynamics.tolerance import check_loosen, looseness
from latentode.models.interfaces import Dynamics
from latentode.ode import PIDController, solve


class MLPField(Dynamics):
    """Solves `dz/dt = MLP(z, context)` with the in-house engine (Chen et al. 2018, equation 2).

    The field does not see `t`: a forecast then depends on time differences only, so that shifting all stamps changes nothing.

    Args:
        hidden_size: width of the two hidden layers.
        method: a name in `latentode.ode.SOLVERS`.
        rtol, atol: tolerances of the adaptive steps.
        loosen: by how much looser they are at the start of training, see `tolerance.looseness`; outside training they are as stated.
        max_steps: steps per sample after which a solve is given up with an error.
    """

    def __init__(
        self,
        hidden_size: int = 64,
        *,
        method: str = "tsit5",
        rtol: float = 1e-3,
        atol: float = 1e-4,
        loosen: float = 10.0,
        max_steps: int = 2_000,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.loosen = check_loosen(loosen)
        self.max_steps = max_steps
        self._looseness = 1.0

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the field's two layers; the last one starts small, so that an untrained state hardly moves."""
        self.from_state = nn.Linear(latent_size, self.hidden_size)
        self.from_context = nn.Linear(context_size, self.hidden_size, bias=False)
        self.middle = nn.Linear(self.hidden_size, self.hidden_size)
        self.to_slope = nn.Linear(self.hidden_size, latent_size)
        nn.init.normal_(self.to_slope.weight, std=0.1 / self.hidden_size**0.5)
        nn.init.zeros_(self.to_slope.bias)

    def at_progress(self, fraction: float) -> None:
        """Tighten the tolerances of training."""
        self._looseness = looseness(self.loosen, fraction)

    def field(self, t_B: Tensor, z_BD: Tensor, drive_BH: Tensor) -> Tensor:
        """Give the slope `(B, D)`; `drive_BH` is the context's share of the first layer, which does not change along the way."""
        hidden = torch.tanh(self.from_state(z_BD) + drive_BH)
        return self.to_slope(torch.tanh(self.middle(hidden)))

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`."""
        factor = self._looseness if self.training else 1.0
        solution = solve(
            self.field,
            z0_BD,
            t_BQ,
            t0=t0_B,
            args=(self.from_context(context_BE),),
            method=self.method,
            controller=PIDController(rtol=factor * self.rtol, atol=factor * self.atol),
            max_steps=self.max_steps,
        )
        self.nfe = solution.stats["nfe"].detach()
        return solution.ys
