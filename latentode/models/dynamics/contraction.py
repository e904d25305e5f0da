"""Linear maps that bring no two points further apart: their spectral norm is bounded from above, without an iteration that may be late."""

from __future__ import annotations

import torch
from torch import Tensor, nn

N_SQUARINGS = 4


def spectral_bound(weight: Tensor) -> Tensor:
    """Give a number at or above the spectral norm of a matrix, smooth in its entries: its Schatten norm of order `p = 2^(N_SQUARINGS + 2)`.

    `||W||_p = tr((W' W)^(p / 2))^(1 / p)` lies between the largest singular value and `rank^(1 / p)` times that: 4 % above at rank 16.
    Power iteration, as in spectral normalisation (Miyato et al. 2018), gives a number below the norm and is right only once it has
    converged; an invertible flow needs a bound that holds at every step of training.

    Args:
        weight: `(M, N)`.

    Returns:
        0-d, positive unless the matrix is 0.
    """
    gram = weight @ weight.T if weight.shape[0] < weight.shape[1] else weight.T @ weight
    size = torch.linalg.matrix_norm(gram)
    # What is squared has norm 1 every time, so that nothing over- or underflows; its logarithm is kept apart.
    tiny = torch.finfo(weight.dtype).tiny
    log_size = size.clamp(min=tiny).log()
    for _ in range(N_SQUARINGS):
        gram = gram / size.clamp(min=tiny)
        gram = gram @ gram
        size = torch.linalg.matrix_norm(gram)
        log_size = 2 * log_size + size.clamp(min=tiny).log()
    return torch.exp(log_size / 2 ** (N_SQUARINGS + 1))


class Contraction(nn.Module):
    """A linear map whose spectral norm is at most `norm`, whatever its weights: `W min(1, norm / bound(W)) x + b`.

    Args:
        n_inputs, n_outputs: sizes.
        norm: by how much two points may at most come apart.
        bias: whether there is a constant.
    """

    def __init__(self, n_inputs: int, n_outputs: int, *, norm: float, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(n_inputs, n_outputs, bias=bias)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., n_inputs)` to `(..., n_outputs)`."""
        return nn.functional.linear(x, self.weight(), self.linear.bias)

    def weight(self) -> Tensor:
        """Give the matrix of the map `(n_outputs, n_inputs)`."""
        weight = self.linear.weight
        return weight * (self.norm / spectral_bound(weight).clamp(min=self.norm))
