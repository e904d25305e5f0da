"""Baselines behind the interface of every other model: one file each, one line here."""

from .blend import Blend
from .constant import Constant
from .last_value import LastValue

__all__ = ["Blend", "Constant", "LastValue"]
