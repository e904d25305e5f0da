"""How tightly a field is solved while its weights are still to change: loose early, as stated late."""

from __future__ import annotations

from latentode.errors import InputError

TIGHT_FROM = 0.75  # fraction of the planned training after which the stated tolerances hold


def looseness(loosen: float, fraction: float) -> float:
    """Give the factor of the tolerances: `loosen` at the start, falling geometrically to 1 at `TIGHT_FROM`.

    A gradient step on weights that will change ten times over needs no more digits than it uses; the last ones are taken at the error
    that forecasts are made with.

    Args:
        loosen: factor at the start, at least 1.
        fraction: of the planned training that is behind, from 0 to 1.
    """
    return loosen ** (1 - min(fraction / TIGHT_FROM, 1.0))


def check_loosen(loosen: float) -> float:
    """Give `loosen` back.

    Raises:
        InputError: it is less than 1: training would be tighter than what is trained for.
    """
    if not 1 <= loosen < float("inf"):
        raise InputError(
            f"loosen is {loosen!r}; give a factor of at least 1 (1: the stated tolerances from the start)."
        )
    return loosen
