"""A scientist's own equation where the neural field was: its states are the latent ones, its constants come from the context."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from latentode.data.scaling import Scaler
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.equations.equation import Equation
from latentode.models.equations.unknowns import Positive, Real, Unknown
from latentode.models.interfaces import Dynamics
from latentode.ode import PIDController, solve


class MechanisticField(Dynamics):
    """Solves an `Equation` inside a latent ODE, whose encoder then says where its states and its constants are: learned by gradients.

    The first latent numbers are the equation's states, each on its free line, in units of how far it may well be from where it was
    guessed; the others stay, for the decoder to read. Constants of each series are the guesses plus a linear map of the context. Of an
    equation in the user's units `t` is the time since the forecast origin in those of the table; it is not told when that was, observes
    nothing and does not jump. Take an encoder with one state for each series: with one per channel every channel has its own curve.

    For parameters with intervals, and with few series, take `Mechanistic`.

    Args:
        equation: the equation.
        hidden_size: width of a network on the latent state that is added to the slope, zero at first; 0: none.
        method: a name in `latentode.ode.SOLVERS`.
        rtol, atol: tolerances, of the states on their free lines.
        max_steps: steps per sample after which a solve is given up with an error.
    """

    horizon: Tensor

    def __init__(
        self,
        equation: Equation,
        *,
        hidden_size: int = 0,
        method: str = "tsit5",
        rtol: float = 1e-3,
        atol: float = 1e-4,
        max_steps: int = 2_000,
    ) -> None:
        super().__init__()
        self.equation = equation
        self.hidden_size = hidden_size
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.max_steps = max_steps

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the parameters.

        Raises:
            InputError: there are more states than latent numbers, or the equation reads covariates.
        """
        states = self.equation.states
        if len(states) > latent_size:
            raise InputError(
                f"{type(self.equation).__name__} has {len(states)} states, but latent_size is {latent_size}; make it as large."
            )
        if self.equation.covariates:
            raise InputError("a MechanisticField knows no covariates; take a Mechanistic model, which does.")
        self._states = {name: as_unknown(one) for name, one in states.items()}
        self._constants = {name: one for name, one in self.equation.constants.items() if isinstance(one, Unknown)}
        self._own = [i for i, one in enumerate(self._constants.values()) if one.per_series]
        if self._own:
            self.to_constants = nn.Linear(context_size, len(self._own), bias=False)
            nn.init.zeros_(self.to_constants.weight)
        # In units of how far the guess may be off, of all constants, those of each series too: their mean.
        self.shift = nn.Parameter(torch.zeros(len(self._constants)))
        self.register_buffer("horizon", torch.ones(()))
        if self.hidden_size:
            self.from_state = nn.Linear(latent_size, self.hidden_size)
            self.to_slope = nn.Linear(self.hidden_size, len(states))
            nn.init.zeros_(self.to_slope.weight)
            nn.init.zeros_(self.to_slope.bias)

    def see_scaling(self, scaler: Scaler) -> None:
        """Take in how long a horizon is in the user's units."""
        if self.equation.units == "user":
            self.horizon.fill_(scaler.time_scale)

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`."""
        shift_BK = self.shift.expand(len(z0_BD), -1).clone()
        if self._own:
            shift_BK[:, self._own] = shift_BK[:, self._own] + self.to_constants(context_BE).to(shift_BK.dtype)
        solution = solve(
            self._field,
            z0_BD,
            t_BQ,
            t0=t0_B,
            args=(shift_BK,),
            method=self.method,
            controller=PIDController(rtol=self.rtol, atol=self.atol),
            max_steps=self.max_steps,
        )
        self.nfe = solution.stats["nfe"].detach()
        return solution.ys

    def _field(self, t_B: Tensor, z_BD: Tensor, shift_BK: Tensor) -> Tensor:
        n_states = len(self._states)
        free = [one.free_start + one.spread * z for one, z in zip(self._states.values(), z_BD.unbind(1), strict=False)]
        y = {name: one.natural(x) for (name, one), x in zip(self._states.items(), free, strict=True)}
        found = {
            name: one.natural(one.free_start + one.spread * shift)
            for (name, one), shift in zip(self._constants.items(), shift_BK.unbind(1), strict=True)
        }
        known = {name: one for name, one in self.equation.constants.items() if name not in found}
        rates = self.equation.slope(t_B * self.horizon, SimpleNamespace(**y), SimpleNamespace(**found, **known))
        # On the free line a state moves by its rate over the slope of the map.
        slope = torch.stack(
            [
                rate * self.horizon / (one.spread * one.natural_slope(x))
                for rate, one, x in zip(rates, self._states.values(), free, strict=True)
            ],
            1,
        ).to(z_BD.dtype)
        if self.hidden_size:
            slope = slope + self.to_slope(torch.tanh(self.from_state(z_BD)))
        still = torch.zeros_like(z_BD[:, n_states:])
        return torch.cat([slope, still], 1)


def as_unknown(one: Unknown | float) -> Unknown:
    """Give a state its free line: one whose value at the start is known is still not known at the forecast origin."""
    if isinstance(one, Unknown):
        return one
    return Positive(float(one)) if one > 0 else Real(float(one), size=max(abs(float(one)), 1.0))
