"""The law of a linear stochastic equation in closed form: what a latent equation is learned through without being solved."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RELAXED = 0.5  # rate of an untrained fluctuation, per horizon


class LinearPosterior(nn.Module):
    r"""Follows `dz = (m'(t) - a (z - m(t))) dt + g dW` from `z0`, whose law at any time is a Gaussian (Course and Nair 2023).

    Its mean is `m(t)`, a small network with `m(0) = z0`, and its variance that of an Ornstein-Uhlenbeck process,
    `g^2 (1 - exp(-2 a t)) / (2 a)`, independent between components. They let networks give mean and variance and
    find the drift from these; with this variance it is the one above, and nothing is divided by a variance that starts at 0.

    Args:
        latent_size, context_size: of state and context.
        hidden_size: width of the network of the mean.
    """

    def __init__(self, latent_size: int, context_size: int, hidden_size: int) -> None:
        super().__init__()
        self.from_state = nn.Linear(latent_size, hidden_size)
        self.from_context = nn.Linear(context_size, hidden_size, bias=False)
        self.from_time = nn.Parameter(torch.randn(hidden_size))
        self.to_mean = nn.Linear(hidden_size, latent_size, bias=False)
        self.to_rate = nn.Linear(context_size, latent_size)
        nn.init.normal_(self.to_mean.weight, std=0.1 / hidden_size**0.5)
        nn.init.zeros_(self.to_rate.weight)
        nn.init.zeros_(self.to_rate.bias)

    def drive(self, z0_BD: Tensor, context_BE: Tensor) -> Tensor:
        """Give the share of the mean's hidden layer that does not depend on time, `(B, H)`."""
        return self.from_state(z0_BD) + self.from_context(context_BE)

    def rate(self, context_BE: Tensor) -> Tensor:
        """Give `a` `(B, D)`, positive."""
        return RELAXED * torch.exp(2 * torch.tanh(self.to_rate(context_BE)))

    def mean(self, z0: Tensor, drive: Tensor, after: Tensor) -> Tensor:
        """Give `m` `(..., D)` a time `after` `(...)` the start."""
        return z0 + self.to_mean(torch.tanh(drive + after[..., None] * self.from_time) - torch.tanh(drive))

    def slope(self, drive: Tensor, after: Tensor) -> Tensor:
        """Give `m'` `(..., D)`."""
        hidden = torch.tanh(drive + after[..., None] * self.from_time)
        return self.to_mean((1 - hidden.square()) * self.from_time)


def fluctuation(rate: Tensor, after: Tensor) -> Tensor:
    """Give the deviation `(..., D)` of the process around its mean, in units of `g`."""
    return (-torch.expm1(-2 * rate * after[..., None].abs()) / (2 * rate)).clamp(min=1e-12).sqrt()
