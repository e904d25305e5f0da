r"""Hunters and prey: :math:`\dot u = \alpha u - \beta u v,\ \dot v = \delta u v - \gamma v` (Lotka 1925; Volterra 1926)."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

from torch import Tensor

from latentode.models.equations.equation import Equation
from latentode.models.equations.unknowns import Positive


class LotkaVolterra(Equation):
    """Two species, one of which eats the other; the four constants and both first states are each series' own.

    Args:
        prey, predator: their channels.
        start: rough guess of all constants.
        size: rough guess of both species' number at the start.
    """

    def __init__(
        self, prey: str = "prey", predator: str = "predator", *, start: float = 1.0, size: float = 1.0
    ) -> None:
        super().__init__()
        self.prey = prey
        self.predator = predator
        self.start = start
        self.size = size
        self.states = {name: Positive(size, per_series=True) for name in ("prey", "predator")}
        self.constants = {name: Positive(start, per_series=True) for name in ("alpha", "beta", "delta", "gamma")}

    def slope(self, t: Tensor, y: SimpleNamespace, p: SimpleNamespace) -> list[Tensor]:
        """Give the rates of change of prey and predator."""
        return [(p.alpha - p.beta * y.predator) * y.prey, (p.delta * y.prey - p.gamma) * y.predator]

    def observe(self, t: Tensor, y: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Tensor]:
        """Give both species under the names of their channels."""
        return {self.prey: y.prey, self.predator: y.predator}
