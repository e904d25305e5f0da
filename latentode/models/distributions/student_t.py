"""A Student t whose moments exist."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import StudentT


class FiniteStudentT(StudentT):
    """A Student t of more than 2 degrees of freedom, which is not tested: its mean and variance take no look at `df`.

    torch's own pick the cases without moments out by a mask, for which a GPU waits.
    """

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self.scale.square() * self.df / (self.df - 2)
