"""Training, the only layer that imports Lightning: one module, one data module, one command line."""

from .datamodule import ForecastingDataModule
from .fitting import FitSettings, fit_network
from .task import ForecastingTask

__all__ = ["FitSettings", "ForecastingDataModule", "ForecastingTask", "fit_network"]
