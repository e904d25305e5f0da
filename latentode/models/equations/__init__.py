"""Equations of scientists: one file each, one line here. Your own is a subclass of `Equation`."""

from .compartments import Compartments
from .equation import Equation
from .lotka_volterra import LotkaVolterra
from .unknowns import Bounded, Positive, Real, Unknown

__all__ = ["Bounded", "Compartments", "Equation", "LotkaVolterra", "Positive", "Real", "Unknown"]
