r"""A drug that is swallowed: one compartment with first-order absorption.

A dose :math:`D` is added to the gut, :math:`\dot g = -k_a g`, and the blood takes it up and loses it, :math:`\dot a = k_a g - k_e a`;
observed is the concentration :math:`a / V` (Gibaldi and Perrier, Pharmacokinetics, 1982, chapter 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from torch import Tensor

from latentode.models.equations.equation import Equation
from latentode.models.equations.unknowns import Positive


class Compartments(Equation):
    """Amounts in gut and blood after oral doses; absorption, elimination and volume are each patient's own.

    Args:
        dose: of each intake, in the unit of concentration times that of volume.
        dose_times: when it is taken, ascending, in the time of the table; nothing is in the body before.
        absorption, elimination: rough guesses of the rates, per unit of time; absorption the faster.
        volume: rough guess.
        channel: the column of the concentration.
    """

    def __init__(
        self,
        dose: float,
        dose_times: Sequence[float],
        *,
        absorption: float = 1.0,
        elimination: float = 0.1,
        volume: float = 10.0,
        channel: str = "concentration",
    ) -> None:
        super().__init__()
        self.dose = dose
        self.dose_times = dose_times
        self.absorption = absorption
        self.elimination = elimination
        self.volume = volume
        self.channel = channel
        self.states = {"gut": 0.0, "blood": 0.0}
        guesses = {"absorption": absorption, "elimination": elimination, "volume": volume}
        self.constants = {name: Positive(guess, per_series=True) for name, guess in guesses.items()}
        self.starts_at = min(dose_times)
        self.jump_times = dose_times

    def slope(self, t: Tensor, y: SimpleNamespace, p: SimpleNamespace) -> list[Tensor]:
        """Give the rates of change of both amounts."""
        absorbed = p.absorption * y.gut
        return [-absorbed, absorbed - p.elimination * y.blood]

    def jump(self, t: float, y: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Tensor]:
        """Add a dose to the gut."""
        return {"gut": y.gut + self.dose}

    def observe(self, t: Tensor, y: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Tensor]:
        """Give the concentration in the blood."""
        return {self.channel: y.blood / p.volume}
