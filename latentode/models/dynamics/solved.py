"""What all solved fields share: one hidden layer, steps of one choice that are loose while training is young, queries off interpolants."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from latentode.models.dynamics.path_cost import PathCost, check_weight, size_of_state
from latentode.models.dynamics.tolerance import check_loosen, looseness
from latentode.models.interfaces import Dynamics
from latentode.ode import FixedStep, PIDController, Solution, rademacher_like, solve


class SolvedField(Dynamics):
    """Solves `dz/dt = field(z, context)` with the in-house engine; a member says what of the slope a network gives, and of what size.

    The field does not see `t`: a forecast then depends on time differences only, so that shifting all stamps changes nothing.

    Args:
        hidden_size: width of the hidden layer.
        method: a name in `latentode.ode.SOLVERS`.
        rtol, atol: tolerances of the adaptive steps.
        loosen: by how much looser they are at the start of training, see `tolerance.looseness`; outside training they are as stated.
        max_steps: steps per sample after which a solve is given up with an error.
        step_size: length of every step, in horizons, whatever the error; queries inside a step are read from its interpolant.
            None: adaptive steps.
        kinetic_energy, jacobian_norm: weights of what a path costs in training, see `PathCost`: integrated up to the last query of each
            sample and added to the loss. Fields that need fewer steps are learned, and what they give may be less exact.
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
        step_size: float | None = None,
        kinetic_energy: float = 0.0,
        jacobian_norm: float = 0.0,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.loosen = check_loosen(loosen)
        self.max_steps = max_steps
        self.step_size = step_size
        self.kinetic_energy = check_weight("kinetic_energy", kinetic_energy)
        self.jacobian_norm = check_weight("jacobian_norm", jacobian_norm)
        self._looseness = 1.0

    def make_layers(self, latent_size: int, context_size: int, n_slopes: int) -> None:
        """Make the network; its last layer starts small, so that what it gives is hardly there before training."""
        self.from_state = nn.Linear(latent_size, self.hidden_size)
        self.from_context = nn.Linear(context_size, self.hidden_size, bias=False)
        self.to_slope = nn.Linear(self.hidden_size, n_slopes)
        nn.init.normal_(self.to_slope.weight, std=0.1 / self.hidden_size**0.5)
        nn.init.zeros_(self.to_slope.bias)

    def network(self, z_BD: Tensor, drive_BH: Tensor) -> Tensor:
        """Give `(B, n_slopes)`; `drive_BH` is the context's share of the first layer, which does not change along the way."""
        hidden = torch.tanh(self.from_state(z_BD) + drive_BH)
        return self.to_slope(hidden)

    @abstractmethod
    def field(self, t_B: Tensor, z_BD: Tensor, drive_BH: Tensor) -> Tensor:
        """Give the slope `(B, D)` of the state."""

    def at_progress(self, fraction: float) -> None:
        """Tighten the tolerances of training."""
        self._looseness = looseness(self.loosen, fraction)

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`."""
        return _state(self._solve(z0_BD, t0_B, t_BQ, context_BE).ys)

    def carry_from(self, t0_B: Tensor, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Solve every sample up to its last query, and read its queries off the interpolants: no query costs more than that."""
        t0_B = t0_B.to(t_T.dtype)
        last_B = t0_B.scatter_reduce(0, sample_T, t_T, "amax")
        solution = self._solve(z0_BD, t0_B, last_B[:, None], context_BE, dense=True)
        return _state(solution.at(sample_T, t_T))

    def step_ends(self, z0_BD: Tensor, t0_B: Tensor, last_B: Tensor, context_BE: Tensor) -> Tensor:
        """Give where the steps of each sample up to its last time ended, in horizons, `(B, N)`, NaN behind the last one."""
        return self._solve(z0_BD, t0_B, last_B[:, None], context_BE, dense=True).step_ends()

    def _solve(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor, *, dense: bool = False) -> Solution:
        cost = self._cost(z0_BD) if self.training and self.kinetic_energy + self.jacobian_norm > 0 else None
        factor = self._looseness if self.training else 1.0
        norm = None if cost is None else size_of_state
        adaptive = PIDController(rtol=factor * self.rtol, atol=factor * self.atol, norm=norm)
        solution = solve(
            self.field if cost is None else cost,
            z0_BD if cost is None else (z0_BD, z0_BD.new_zeros(len(z0_BD), 1)),
            t_BQ,
            t0=t0_B,
            args=(self.from_context(context_BE),),
            method=self.method,
            controller=adaptive if self.step_size is None else FixedStep(self.step_size),
            max_steps=self.max_steps,
            dense=dense,
        )
        self.nfe = solution.stats["nfe"].detach()
        # Backward in time the integral runs below 0.
        self.penalty = None if cost is None else solution.ys[1][:, -1, 0].abs()
        return solution

    def _cost(self, z0_BD: Tensor) -> PathCost:
        weights = {"kinetic_energy": self.kinetic_energy, "jacobian_norm": self.jacobian_norm}
        return PathCost(self.field, **weights, signs=rademacher_like(z0_BD))


def _state(read: Any) -> Tensor:
    """Give the state of what a solution holds: that alone, or with what the path has cost."""
    return read[0] if isinstance(read, tuple) else read
