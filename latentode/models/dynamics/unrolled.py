"""A solved field as a fixed number of steps to every query: no loop whose length depends on the data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.dynamics.solved import SolvedField
from latentode.models.interfaces import Dynamics
from latentode.ode import TABLEAUS
from latentode.ode.runge_kutta import explicit_step


class UnrolledField(Dynamics):
    """Carries states along the field of another dynamics, from where they stand to each query by `n_steps` equal steps of its method.

    Every query is a solve of its own, so that none is read off an interpolant. For programs that are exported; a model is neither trained
    nor stored with it, since an adaptive solve takes the steps that it needs.

    Args:
        solved: whose parameters it shares; set up.
        n_steps: of every solve.

    Raises:
        InputError: the method is no explicit one.
    """

    def __init__(self, solved: SolvedField, n_steps: int) -> None:
        super().__init__()
        if solved.method not in TABLEAUS:
            raise InputError(
                f"method is '{solved.method}', which takes no explicit steps; fit with one of {', '.join(TABLEAUS)}."
            )
        self.solved = solved
        self.n_steps = n_steps

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Do nothing: the field is set up."""

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`."""
        n_batch, n_queries = t_BQ.shape
        sample = torch.arange(n_batch, device=t_BQ.device)[:, None].expand(-1, n_queries).flatten()
        return self.carry_from(t0_B, z0_BD, context_BE, sample, t_BQ.flatten()).view(n_batch, n_queries, -1)

    def carry_from(self, t0_B: Tensor, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Give the state of one sample for each query, `(T, D)`."""
        drive_TH = self.solved.from_context(context_BE).index_select(0, sample_T)
        t0_T = t0_B.to(t_T.dtype).index_select(0, sample_T)
        dt_T1 = ((t_T - t0_T) / self.n_steps)[:, None]
        z_TD, tableau = z0_BD.index_select(0, sample_T), TABLEAUS[self.solved.method]
        for i in range(self.n_steps):
            start_T = t0_T + i * dt_T1[:, 0]
            z_TD = explicit_step(lambda t, z: self.solved.field(t, z, drive_TH), start_T, z_TD, dt_T1, tableau)
        return z_TD


def unroll(module: nn.Module, n_steps: int) -> int:
    """Put an `UnrolledField` in the place of every solved field within; give how many there were."""
    n = 0
    for name, child in list(module.named_children()):
        if isinstance(child, SolvedField):
            setattr(module, name, UnrolledField(child, n_steps))
            n += 1
        else:
            n += unroll(child, n_steps)
    return n
