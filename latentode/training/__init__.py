"""Training, the only layer that imports Lightning: one module, one data module, one command line."""

from .datamodule import ForecastingDataModule
from .examples import Examples
from .fitting import FitSettings, fit_network
from .task import ForecastingTask

__all__ = ["Examples", "FitSettings", "ForecastingDataModule", "ForecastingTask", "fit_network"]
