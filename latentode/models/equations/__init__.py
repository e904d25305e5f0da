"""Equations of scientists: one file each, one line and one name here. Your own is a subclass of `equation.Equation`."""

from .compartments import Compartments
from .lotka_volterra import LotkaVolterra

__all__ = ["Compartments", "LotkaVolterra"]
