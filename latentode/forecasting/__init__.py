"""From a fitted model to forecasts in the user's units. Needs torch, not Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentode.forecasting.evaluate import evaluate
    from latentode.forecasting.forecast import Forecast
    from latentode.forecasting.forecaster import Forecaster
    from latentode.forecasting.predict import predict
    from latentode.forecasting.runs import load_run

__all__ = ["Forecast", "Forecaster", "evaluate", "load_run", "predict"]

_HOMES = {
    "Forecast": "latentode.forecasting.forecast",
    "Forecaster": "latentode.forecasting.forecaster",
    "evaluate": "latentode.forecasting.evaluate",
    "load_run": "latentode.forecasting.runs",
    "predict": "latentode.forecasting.predict",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'latentode.forecasting' has no attribute {name!r}")
