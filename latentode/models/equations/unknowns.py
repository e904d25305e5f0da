"""Unknown numbers of an equation, each told on a line without bounds: where fitting moves and where its uncertainty is about normal.

An estimate and its interval go through one monotone map to the number itself, so that an interval of a positive number is positive.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from latentode.errors import InputError


@dataclass(frozen=True)
class Unknown(ABC):
    """A number that is to be found.

    Attributes:
        start: a rough guess: the search begins there and around it.
        per_series: whether every series has its own, from a distribution that all share (a random effect); else one for all.
    """

    start: float
    per_series: bool = False

    @property
    @abstractmethod
    def free_start(self) -> float:
        """The guess on the free line."""

    @property
    @abstractmethod
    def spread(self) -> float:
        """How far from the guess, on the free line, the number may well lie: a deviation."""

    @abstractmethod
    def natural(self, free: Tensor) -> Tensor:
        """Bring free numbers to what the equation sees, element-wise."""

    @abstractmethod
    def natural_slope(self, free: Tensor) -> Tensor:
        """Give the derivative of `natural`, element-wise."""


@dataclass(frozen=True)
class Positive(Unknown):
    """A positive number; the free line is its logarithm.

    Attributes:
        factor: the guess may well be wrong by this factor.

    Raises:
        InputError: the guess is not positive, or the factor not above 1.
    """

    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.start < math.inf or not 1 < self.factor < math.inf:
            raise InputError(f"{self} is no positive number; give start above 0 and factor above 1.")

    @property
    def free_start(self) -> float:
        """The guess's logarithm."""
        return math.log(self.start)

    @property
    def spread(self) -> float:
        """The factor's logarithm."""
        return math.log(self.factor)

    def natural(self, free: Tensor) -> Tensor:
        """Give the exponential."""
        return free.exp()

    def natural_slope(self, free: Tensor) -> Tensor:
        """Give the exponential."""
        return free.exp()


@dataclass(frozen=True)
class Real(Unknown):
    """Any number; the free line is in units of `size` around the guess.

    Attributes:
        size: the guess may well be wrong by this much.

    Raises:
        InputError: the guess is not finite, or the size not positive.
    """

    size: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.start) or not 0 < self.size < math.inf:
            raise InputError(f"{self} is no number; give a finite start and a size above 0.")

    @property
    def free_start(self) -> float:
        """0."""
        return 0.0

    @property
    def spread(self) -> float:
        """1."""
        return 1.0

    def natural(self, free: Tensor) -> Tensor:
        """Give `start + size * free`."""
        return self.start + self.size * free

    def natural_slope(self, free: Tensor) -> Tensor:
        """Give `size`."""
        return torch.full_like(free, self.size)


@dataclass(frozen=True)
class Bounded(Unknown):
    """A number between two others; the free line is the logit of where between them it lies.

    Attributes:
        low, high: the bounds.

    Raises:
        InputError: the guess is not between them.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.start < self.high < math.inf:
            raise InputError(f"{self} is no bounded number; give low < start < high.")

    @property
    def free_start(self) -> float:
        """The guess's logit."""
        return math.log((self.start - self.low) / (self.high - self.start))

    @property
    def spread(self) -> float:
        """1: a factor of e in the odds."""
        return 1.0

    def natural(self, free: Tensor) -> Tensor:
        """Give `low + (high - low) / (1 + exp(-free))`."""
        return self.low + (self.high - self.low) * torch.sigmoid(free)

    def natural_slope(self, free: Tensor) -> Tensor:
        """Give the logistic density times `high - low`."""
        share = torch.sigmoid(free)
        return (self.high - self.low) * share * (1 - share)
