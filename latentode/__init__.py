"""Continuous-time forecasting for time series that do not arrive on a grid.

Names are loaded on first use: importing `latentode` costs no torch, so that `latentode --help` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentode.data.tables import read_table
    from latentode.forecasting.forecast import Forecast
    from latentode.forecasting.forecaster import Forecaster

__version__ = "0.1.0"
__all__ = ["Forecast", "Forecaster", "__version__", "read_table"]

_HOMES = {
    "Forecast": "latentode.forecasting.forecast",
    "Forecaster": "latentode.forecasting.forecaster",
    "read_table": "latentode.data.tables",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'latentode' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
