"""`Forecaster`: fit, predict, score, save and load, in scikit-learn's manner."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from latentode.data.schema import quote_names
from latentode.data.settings import DataSettings
from latentode.data.tables import Table, read_table
from latentode.errors import InputError
from latentode.files import write_whole
from latentode.forecasting.evaluate import evaluate
from latentode.forecasting.forecast import QUANTILES, Forecast
from latentode.forecasting.predict import Ask, predict, read_history
from latentode.forecasting.runs import CHECKPOINT, FILES, load_run
from latentode.models import ForecastModel
from latentode.models.fitted import FittedModel
from latentode.models.recipe import Recipe

if TYPE_CHECKING:
    from latentode.forecasting.latent import Latent

Source = str | Path | pd.DataFrame | Table


class Forecaster(BaseEstimator):
    """Forecasts irregular series with any model, from a table to a table.

    Parameters are stored as they are given; what is fitted ends in an underscore. Every setting of `data` and of the fit is a keyword
    under the name that it has on the command line, and the same settings give the same forecast there.

    Args:
        model: a short name in `latentode.models.MODELS`, a YAML file of a model, or a model that is not set up yet.
        id_column, time_column, channels, target_channels, static_columns, known_columns, log_channels, count_channels,
            bounded_channels, layout, duplicates, time_zone: how to read a table that is not read yet; see `DataSettings` for these
            and the following.
        calendar: what is read of a date: "auto", "none" or a list of "hour", "weekday" and "season".
        scaling: "standard", or "robust" against outliers.
        horizon, history, max_history: what a window holds.
        split, val_fraction, test_fraction, val_from, test_from: what is held out.
        batch_size, windows_per_epoch: size of steps and epochs.
        streaming: whether to train from Parquet files part by part.
        max_epochs, patience, learning_rate, weight_decay: of the training.
        seed: of weights and windows.
        device: "auto", "cpu" or "gpu".
        show_progress: whether to draw a bar on a terminal.

    Attributes:
        fitted_: the fitted model.
        metrics_: figures on validation and test, beside the baselines'.

    Example:
        >>> from latentode.data.datasets import pbcseq
        >>> forecaster = Forecaster(model="blend", max_epochs=1).fit(pbcseq.path())
        >>> forecaster.predict(pbcseq.path(), at=[6000]).to_frame().shape[0] == 312 * 7
        True
    """

    def __init__(
        self,
        model: str | ForecastModel = "latent_ode",
        *,
        id_column: str | None = "series_id",
        time_column: str = "time",
        channels: list[str] | None = None,
        target_channels: list[str] | None = None,
        static_columns: list[str] | None = None,
        known_columns: list[str] | None = None,
        log_channels: list[str] | None = None,
        count_channels: list[str] | None = None,
        bounded_channels: dict[str, list[float]] | None = None,
        calendar: list[str] | str = "auto",
        scaling: str = "standard",
        layout: str = "wide",
        duplicates: str = "error",
        time_zone: str | None = None,
        horizon: str | float | None = None,
        history: str | float | None = None,
        max_history: int = 512,
        split: str = "time",
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        val_from: str | float | None = None,
        test_from: str | float | None = None,
        batch_size: int = 64,
        windows_per_epoch: int = 2048,
        streaming: bool = False,
        max_epochs: int = 30,
        patience: int = 30,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        seed: int = 0,
        device: str = "auto",
        show_progress: bool = True,
    ) -> None:
        self.model = model
        self.id_column = id_column
        self.time_column = time_column
        self.channels = channels
        self.target_channels = target_channels
        self.static_columns = static_columns
        self.known_columns = known_columns
        self.log_channels = log_channels
        self.count_channels = count_channels
        self.bounded_channels = bounded_channels
        self.calendar = calendar
        self.scaling = scaling
        self.layout = layout
        self.duplicates = duplicates
        self.time_zone = time_zone
        self.horizon = horizon
        self.history = history
        self.max_history = max_history
        self.split = split
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.val_from = val_from
        self.test_from = test_from
        self.batch_size = batch_size
        self.windows_per_epoch = windows_per_epoch
        self.streaming = streaming
        self.max_epochs = max_epochs
        self.patience = patience
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.seed = seed
        self.device = device
        self.show_progress = show_progress

    def fit(
        self, table: Source, *, run_dir: str | Path | None = None, resume: bool = False, overwrite: bool = False
    ) -> Forecaster:
        """Fit the model and the baselines; best weights on validation are kept.

        Args:
            table: a table, or what `read_table` reads.
            run_dir: run folder to fit in, made where it is not there; None: nothing is left on the disk before `save`.
            resume: whether to go on with the run in `run_dir`, which ends with the weights of one that was never cut off; where there is
                none, one is begun, and one that has come to its end is read back.
            overwrite: whether to replace the run in `run_dir`.

        Raises:
            DataError: nothing trainable remains.
            InputError: a setting is outside what it allows, or a table that was read before was read without columns that are named.
            RunError: `run_dir` is in use, holds a run, or is to be gone on with and was begun with other settings.
            WriteError: the disk is full, or the folder cannot be written into.
            Stopped: Ctrl-C or SIGTERM; like KeyboardInterrupt, which it is.
        """
        from latentode.training.fitting import FitSettings, fit_network

        settings = self._data_settings(str(table) if isinstance(table, str | Path) else None)
        fit = FitSettings(**{f.name: getattr(self, f.name) for f in fields(FitSettings)})
        # A copy: the model that was passed stays as it was, and can be fitted again.
        network = Recipe.read(self.model).build() if isinstance(self.model, str) else copy.deepcopy(self.model)
        # A path is in the settings, and read by them: whole, or part by part.
        read = table if isinstance(table, Table) else None
        if isinstance(table, pd.DataFrame) or not isinstance(table, str | Path | Table):
            read = read_table(table, **settings.reading())
        if read is not None:
            _check_read(read, settings)
        if run_dir is None and (resume or overwrite):
            raise InputError("resume and overwrite are of a run on the disk; name it with run_dir.")
        if resume and overwrite:
            raise InputError("resume goes on with a run and overwrite replaces it; choose one of them.")
        start = "resume" if resume else "overwrite" if overwrite else "new"
        how = "give run_dir to be able to go on" if run_dir is None else "fit with resume=True to go on"
        with tempfile.TemporaryDirectory(prefix="latentode-") as name:
            folder = Path(name if run_dir is None else run_dir)
            options: Any = {"data": read, "show_progress": self.show_progress, "start": start, "go_on": f"{how}."}
            self.fitted_, self.metrics_ = fit_network(network, settings, fit, folder, **options)
            # Kept in memory, so that an estimator can be copied and pickled without a folder that may be gone.
            self._files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name in FILES}
        return self

    def predict(
        self,
        history: Source,
        *,
        at: Any = None,
        every: str | float | None = None,
        horizon: str | float | None = None,
        queries: str | Path | pd.DataFrame | None = None,
        origin: Any = None,
        quantiles: Sequence[float] = QUANTILES,
    ) -> Forecast:
        """Forecast every series of a history, and say what lies inside it; see `latentode.forecasting.predict.predict`."""
        ask = Ask(at=at, every=every, horizon=horizon, queries=queries, origin=origin)
        return predict(self._get_fitted(), history, ask, quantiles=quantiles, device=self._torch_device())

    def latent(
        self,
        history: Source,
        *,
        at: Any = None,
        every: str | float | None = None,
        horizon: str | float | None = None,
        queries: str | Path | pd.DataFrame | None = None,
        origin: Any = None,
    ) -> Latent:
        """Give the latent path of every series of a history; see `latentode.forecasting.latent.latent`."""
        from latentode.forecasting.latent import latent

        ask = Ask(at=at, every=every, horizon=horizon, queries=queries, origin=origin)
        # On the processor: what it gives is arrays, and asks the field again for plots.
        return latent(self._get_fitted(), history, ask)

    def score(self, table: Source, metrics: Sequence[str] | None = None) -> dict[str, Any]:
        """Score the model and the baselines; see `latentode.forecasting.evaluate.evaluate`."""
        fitted = self._get_fitted()
        return evaluate(fitted, read_history(fitted, table), metrics=metrics, device=self._torch_device())

    def backtest(
        self,
        table: Source,
        *,
        origins: int = 5,
        horizon: str | float | None = None,
        refit: bool = False,
        metrics: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Score forecasts from rolling origins; see `latentode.forecasting.backtest.backtest`."""
        from latentode.forecasting.backtest import backtest

        names = ("max_epochs", "patience", "learning_rate", "weight_decay", "seed", "device")
        fitted = self._get_fitted()
        return backtest(
            fitted,
            read_history(fitted, table),
            origins=origins,
            horizon=horizon,
            refit=refit,
            fit={name: getattr(self, name) for name in names},
            metrics=metrics,
            device=self._torch_device(),
        )

    def estimates(self, history: Source | None = None, *, level: float = 0.9) -> pd.DataFrame:
        """Give the unknown numbers of a fitted equation, with intervals; see `latentode.forecasting.estimates.estimates`."""
        from latentode.forecasting.estimates import estimates

        fitted = self._get_fitted()
        table = None if history is None else read_history(fitted, history)
        return estimates(fitted, table, level=level, device=self._torch_device())

    def save(self, path: str | Path) -> Path:
        """Write the run folder.

        Args:
            path: folder, made where it is not there; files of an earlier run in it are replaced.
        """
        self._get_fitted()
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            write_whole(folder / name, lambda part, content=content: part.write_bytes(content))
        return folder

    @classmethod
    def load(cls, path: str | Path, *, allow_modules: Sequence[str] = ()) -> Forecaster:
        """Load a run folder, of `save` or of `latentode fit`.

        Args:
            path: the folder.
            allow_modules: modules of own classes that may be imported.

        Raises:
            RunError: it is no run folder, or it was cut off.
        """
        fitted = load_run(path, allow_modules=allow_modules)
        names = {f.name for f in fields(DataSettings)} - {"path"}
        # Where it was fitted need not be there where it is loaded.
        fit = {name: value for name, value in fitted.fit.items() if name != "device"}
        forecaster = cls(**{name: getattr(fitted.settings, name) for name in names}, **{"seed": fitted.seed, **fit})
        forecaster.model = fitted.network
        forecaster.fitted_ = fitted
        folder = Path(path)
        forecaster._files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
        assert CHECKPOINT in forecaster._files
        return forecaster

    def _data_settings(self, path: str | None) -> DataSettings:
        names = {f.name for f in fields(DataSettings)} - {"path"}
        return DataSettings(path=path, **{name: getattr(self, name) for name in names})

    def _get_fitted(self) -> FittedModel:
        if not hasattr(self, "fitted_"):
            raise NotFittedError("this Forecaster is not fitted yet; call fit(table) or Forecaster.load(path) first.")
        return self.fitted_

    def _torch_device(self) -> str:
        import torch

        if self.device == "cpu" or (self.device == "auto" and not torch.cuda.is_available()):
            return "cpu"
        if self.device not in ("auto", "gpu", "cuda"):
            raise InputError(f"device is '{self.device}'; choose auto, cpu or gpu.")
        return "cuda"


def _check_read(table: Table, settings: DataSettings) -> None:
    """Refuse a table that was read before and without the columns that the settings name: they would be passed over in silence."""
    for name in ("static_columns", "known_columns", "log_channels", "count_channels", "bounded_channels"):
        missing = [column for column in getattr(settings, name) or () if column not in getattr(table.schema, name)]
        if missing:
            raise InputError(
                f"{table.source}: the table was read without {name} {quote_names(missing)}; "
                f"give them to `read_table`, or give `fit` what it reads."
            )
