"""What a path costs: kinetic energy and Jacobian of its field along the way, by which a field learns to be easy to solve."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp

from latentode.errors import InputError


class PathCost:
    """The field of a state and of what its path has cost so far: a solve of the pair `(z, cost)` integrates both (Finlay et al. 2020).

    `d cost / dt = kinetic_energy ||f||^2 + jacobian_norm ||J e||^2`, with `J = df/dz` and signs `e` drawn once per solve: the mean of
    `||J e||^2` over `e` is the squared Frobenius norm of `J` (Hutchinson 1990; the paper takes `e' J`, of the same mean). The first keeps
    the state slow, so that it goes a straight way; the second keeps the field alike from place to place. Together they allow long steps.

    Args:
        field: `field(t_B, z_BD, *args)`, giving the slope `(B, D)`, row by row.
        kinetic_energy, jacobian_norm: weights.
        signs: `e`, `(B, D)`; read where `jacobian_norm` is above 0, at the price of about one more evaluation each time.
    """

    def __init__(
        self, field: Callable[..., Tensor], *, kinetic_energy: float, jacobian_norm: float, signs: Tensor
    ) -> None:
        self.field = field
        self.kinetic_energy = kinetic_energy
        self.jacobian_norm = jacobian_norm
        self.signs = signs

    def __call__(self, t_B: Tensor, state: tuple[Tensor, Tensor], *args: Tensor) -> tuple[Tensor, Tensor]:
        """Give the slopes of state `(B, D)` and cost `(B, 1)`."""
        z_BD, _ = state
        if self.jacobian_norm == 0:
            slope = self.field(t_B, z_BD, *args)
            return slope, self.kinetic_energy * slope.square().sum(-1, keepdim=True)
        slope, pushed = jvp(lambda z: self.field(t_B, z, *args), (z_BD,), (self.signs,))[:2]
        rate = self.kinetic_energy * slope.square() + self.jacobian_norm * pushed.square()
        return slope, rate.sum(-1, keepdim=True)


def size_of_state(scaled_BD: Tensor) -> Tensor:
    """Give the root mean square of all but the cost, which is to save steps and must not ask for any."""
    scaled = scaled_BD[:, :-1]
    return torch.linalg.vector_norm(scaled, dim=-1) * scaled.shape[-1] ** -0.5


def check_weight(name: str, weight: float) -> float:
    """Give `weight` back.

    Raises:
        InputError: it is below 0, or not finite.
    """
    if not 0 <= weight < float("inf"):
        raise InputError(f"{name} is {weight!r}; give a weight of at least 0 (0: the path costs nothing).")
    return weight
