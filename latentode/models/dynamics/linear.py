"""Linear latent dynamics in closed form: any query time at the cost of a few element-wise operations, without a solver."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.interfaces import Dynamics

KINDS = ("diagonal", "dense")
SLOWEST, FASTEST = 0.3, 20.0  # untrained frequencies, radians per horizon: a twentieth of a swing to three swings
DECAY = 0.3  # untrained, per horizon: three quarters of a swing are left at its end


class LinearField(Dynamics):
    """Solves `dz/dt = A (z - level(context))` exactly: `z(t) = level + exp(A (t - t0)) (z0 - level)`.

    The level is a linear map of the context, so that every series relaxes to its own; the forcing is `b = -A level`, which stays
    finite where a decay goes to 0. Every eigenvalue of `A` has a real part at or below 0: forecasts at any distance stay bounded.
    Backward in time the same formula grows as fast as the state has decayed, and rounding with it.

    - `kind="diagonal"`: pairs `(x, y)` with a decay `a > 0` and a frequency `w`, the complex-conjugate eigenvalues `-a +- i w` of a real
      matrix (Gupta, Gu and Berant 2022 do this to a state-space layer): `exp(-a t)` times a rotation by `w t`; of an odd size the last
      number only decays. Encoder and decoder are linear maps at either end of the state, so that this reaches every matrix that has a
      basis of eigenvectors.
    - `kind="dense"`: `A = (M - M') / 2 - K K'`, skew less positive semi-definite, so that no state ever grows in length. It is taken apart
      into eigenvectors once per call, in float64, never per row or time. Right to `cond(eigenvectors)` times the rounding of the state:
      not for a matrix with hardly any basis of eigenvectors. Gradients are of first order only. On a GPU one synchronisation per call.

    Args:
        kind: "diagonal" or "dense".
        modulated: let the context of each series scale decays and frequencies; for "diagonal".
    """

    def __init__(self, kind: str = "diagonal", *, modulated: bool = False) -> None:
        super().__init__()
        if kind not in KINDS:
            raise InputError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}.")
        if modulated and kind == "dense":
            raise InputError(
                'modulated goes with kind="diagonal": a dense matrix per series would have to be taken apart per series.'
            )
        self.kind = kind
        self.modulated = modulated

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the spectrum, spread from slow to fast, and the level's map."""
        self.level = nn.Linear(context_size, latent_size)
        n_pairs = latent_size // 2
        frequency = torch.exp(torch.linspace(math.log(SLOWEST), math.log(FASTEST), n_pairs))
        if self.kind == "dense":
            self.skew = nn.Parameter(0.1 * torch.randn(latent_size, latent_size))
            # The blocks of "diagonal" beside each other, so that both kinds start with the same spectrum.
            with torch.no_grad():
                self.skew[torch.arange(n_pairs), torch.arange(n_pairs) + n_pairs] -= 2 * frequency
            self.root = nn.Parameter(
                DECAY**0.5 * (torch.eye(latent_size) + 0.1 * torch.randn(latent_size, latent_size))
            )
            return
        n_decays = latent_size - n_pairs
        self.raw_decay = nn.Parameter(torch.full((n_decays,), math.log(math.expm1(DECAY))))
        self.frequency = nn.Parameter(frequency)
        if self.modulated:
            self.modulation = nn.Linear(context_size, n_decays + n_pairs, bias=False)
            nn.init.zeros_(self.modulation.weight)

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`."""
        level_BD = self.level(context_BE)
        after_BQ = t_BQ - t0_B[:, None]
        part_BD, context_B1E = z0_BD - level_BD, context_BE[:, None]
        return level_BD[:, None] + self._carry(part_BD[:, None], after_BQ, context_B1E)

    def carry_from(self, t0_B: Tensor, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Give the state of one sample for each query, `(T, D)`."""
        level_BD = self.level(context_BE)
        part_TD, level_TD = (x.index_select(0, sample_T) for x in (z0_BD - level_BD, level_BD))
        after_T = t_T - t0_B.index_select(0, sample_T)
        return level_TD + self._carry(
            part_TD, after_T, context_BE.index_select(0, sample_T) if self.modulated else context_BE
        )

    def _carry(self, z: Tensor, after: Tensor, context: Tensor) -> Tensor:
        return self._turn(z, after, context) if self.kind == "diagonal" else self._exponential(z, after)

    def _turn(self, z: Tensor, after: Tensor, context: Tensor) -> Tensor:
        """Let every pair of `z` `(..., D)` decay and turn for a time `after` `(...)`."""
        decay, frequency = nn.functional.softplus(self.raw_decay), self.frequency
        if self.modulated:
            # exp(2 tanh) is between a seventh and seven: a context unlike any of training cannot throw the state far off.
            factor = torch.exp(2 * torch.tanh(self.modulation(context)))
            decay, frequency = decay * factor[..., : len(decay)], frequency * factor[..., len(decay) :]
        n_pairs = self.frequency.shape[0]
        fade = torch.exp(-decay * after[..., None])
        angle = frequency * after[..., None]
        cos, sin = fade[..., :n_pairs] * angle.cos(), fade[..., :n_pairs] * angle.sin()
        x, y, rest = z.tensor_split((n_pairs, 2 * n_pairs), -1)
        return torch.cat([cos * x - sin * y, sin * x + cos * y, fade[..., n_pairs:] * rest], -1)

    def _exponential(self, z: Tensor, after: Tensor) -> Tensor:
        """Carry `z` `(..., D)` by the eigenvectors of the dense matrix for a time `after` `(...)`."""
        eigenvalue, basis, inverse = _take_apart(self.matrix())
        dtype = torch.promote_types(z.dtype, torch.float32).to_complex()
        grown = torch.exp(eigenvalue.to(dtype) * after[..., None]) * (z.to(dtype) @ inverse.to(dtype).T)
        return (grown @ basis.to(dtype).T).real

    def matrix(self) -> Tensor:
        """Give `A` `(D, D)` of the dense kind."""
        return (self.skew - self.skew.T) / 2 - self.root @ self.root.T


def _take_apart(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give eigenvalues `(D,)`, eigenvectors `(D, D)` and the inverse of these, complex128, with gradients of first order.

    Autograd's own derivative refuses, in the presence of rounding, what depends on the phase of an eigenvector; here it is first-order
    perturbation theory (Magnus 1985): `B = V^-1 A V` is diagonal, `dlambda = diag(dB)`, `dV = V P`, `P_ij = dB_ij / (lambda_j - lambda_i)`.
    """
    eigenvalue, basis = torch.linalg.eig(matrix.detach().double())
    inverse = torch.linalg.inv(basis)
    # In value 0, by which the factors stay as they are; in gradient the perturbation.
    change = inverse @ (matrix - matrix.detach()).to(basis.dtype) @ basis
    gap = eigenvalue[None] - eigenvalue[:, None]
    # Vectors of one eigenvalue, and of the same up to rounding, can be chosen freely among themselves: nothing depends on their turning.
    is_one = gap.abs() <= 1e-12 * eigenvalue.abs().max()
    turn = change * torch.where(is_one, 0.0, torch.where(is_one, 1.0, gap).reciprocal())
    return eigenvalue + change.diagonal(), basis + basis @ turn, inverse - turn @ inverse
