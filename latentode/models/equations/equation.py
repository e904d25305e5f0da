"""`Equation`: a scientist's own differential equation, with unknown numbers, in the units of the table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import ClassVar, Literal

from torch import Tensor

from latentode.models.equations.unknowns import Unknown
from latentode.models.interfaces import Part

Number = Unknown | float


class Equation(Part):
    """A differential equation whose unknown numbers are found from data.

    A subclass declares states and constants and gives the slope. States and constants come as tensors of one shape, by name; what is
    computed from them must be element-wise in torch, since a call carries many series, and derivatives, at once.

    Attributes:
        states: each state with its value at the start, a number that is known or an `Unknown`, in the order of the slopes.
        constants: each constant, known or `Unknown`.
        covariates: static columns (numbers) that the equation reads, in the user's units, as further constants of each series.
        starts_at: time at which states have their values at the start, the same for every series; None: the first value that is read of
            each series. Before it states are what they are at the start.
        jump_times: ascending times at which states jump, see `jump`.
        units: "user": time and values are those of the table. "model": time is in horizons from the forecast origin, values are scaled.

    Example:
        >>> import torch
        >>> from latentode.models import Positive
        >>> class Decay(Equation):
        ...     states = {"amount": Positive(1.0, per_series=True)}
        ...     constants = {"rate": Positive(0.5)}
        ...
        ...     def slope(self, t, y, p):
        ...         return [-p.rate * y.amount]
        >>> Decay().slope(0.0, SimpleNamespace(amount=torch.ones(1)), SimpleNamespace(rate=2.0))
        [tensor([-2.])]
    """

    states: Mapping[str, Number] = {}
    constants: Mapping[str, Number] = {}
    covariates: Sequence[str] = ()
    starts_at: float | None = None
    jump_times: Sequence[float] = ()
    units: ClassVar[Literal["user", "model"]] = "user"

    @abstractmethod
    def slope(self, t: Tensor, y: SimpleNamespace, p: SimpleNamespace) -> Sequence[Tensor]:
        """Give the rate of change of every state, in the order of `states`.

        Args:
            t: time; broadcasts against the states. Of a table of dates, since 1970 in the unit that the model names.
            y: the states by name.
            p: constants and covariates by name.
        """

    def jump(self, t: float, y: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Tensor]:
        """Give the states that change at one of `jump_times`, as they are just after it; a value observed then is of before."""
        return {}

    def observe(self, t: Tensor, y: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Tensor]:
        """Give what is observed, by the name of its channel: the states themselves, where not overridden."""
        return vars(y)
