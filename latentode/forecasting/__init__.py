"""From a fitted model to forecasts in the user's units. Needs torch, not Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentode.lazy import on_first_use

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

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
