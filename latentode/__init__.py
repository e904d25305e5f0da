"""Continuous-time forecasting for time series that do not arrive on a grid.

Names are loaded on first use: importing `latentode` costs no torch, so that `latentode --help` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentode.lazy import on_first_use

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

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
