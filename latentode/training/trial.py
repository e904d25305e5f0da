"""One trial of a tuning: a fit with changed settings, which tells of every epoch, may be ended early and leaves the test part alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from latentode.data.tables import Table
from latentode.errors import InputError, SolveError
from latentode.models.baselines.linear import collect, least_squares
from latentode.models.fitted import FittedModel
from latentode.models.validation import MIN_UNIT
from latentode.training.command import OF_ONE_CALL, ForecastingCLI, build_cli
from latentode.training.datamodule import ForecastingDataModule, read_settings
from latentode.training.fitting import finish, quiet_lightning
from latentode.training.task import ForecastingTask

# Of what is built and not trained: a logger would begin to log.
QUIET = ("--trainer.logger=false",)

# Tells a score after every epoch (counted from 0), and hears whether the trial is to end.
Report = Callable[[int, float], bool]


class EpochReport(pl.Callback):
    """Reports the common score of every epoch, and ends training where the answer says so.

    Attributes:
        scores: by epoch.
        is_pruned: whether training was ended.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self.scores: dict[int, float] = {}
        self.is_pruned = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch that has ended; its validation is over."""
        score = float(trainer.callback_metrics.get("val_common", math.nan))
        self.scores[trainer.current_epoch] = score
        # Of the last epoch nothing is left to save.
        is_last = trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        if self.report(trainer.current_epoch, score) and not is_last:
            self.is_pruned = trainer.should_stop = True

    def end(
        self, task: ForecastingTask, data: ForecastingDataModule, run_dir: Path, *, seconds: float
    ) -> tuple[FittedModel, dict[str, Any]] | None:
        """Finish the trial without a look at the test part; nothing is done where it was ended early.

        Raises:
            SolveError: no epoch has come to a finite score.
        """
        if self.is_pruned:
            return None
        if not any(math.isfinite(score) for score in self.scores.values()):
            raise SolveError("training has diverged: no epoch has come to a finite score")
        return finish(task, data, run_dir, seconds=seconds, scores_test=False)


@dataclass(frozen=True)
class TrialSetup:
    """What the trials of a tuning share.

    Attributes:
        config: all settings of the fit as YAML, before a trial changes some.
        keys: of these settings, dotted.
        values: of these settings.
        table: that all trials read; None: it is streamed.
        digest: of the table.
        unit: what a blend of last value and means leaves of each channel in training, in training deviations `(C,)`: the unit of the common
            score, so that 1 is as good as the blend.
    """

    config: str
    keys: tuple[str, ...]
    values: dict[str, Any]
    table: Table | None
    digest: str
    unit: Tensor

    @classmethod
    def of(cls, arguments: Sequence[str]) -> TrialSetup:
        """Read the settings, and the table once.

        Args:
            arguments: as `latentode fit` takes them.

        Raises:
            InputError: an argument is none, or no table is named.
            DataError: nothing trainable is in the table.
        """
        with quiet_lightning():
            cli = build_cli("tune", [*arguments, *QUIET])
            settings = cli.datamodule.settings
            table = None if settings.streaming else read_settings(settings)
            data = ForecastingDataModule(settings, table, seed=cli.datamodule.seed)
            data.setup("fit")
            digest, unit = data.examples.digest(), _blend_leaves(data)
            config = cli.parser.parse_args(list(arguments))
        config["run_dir"] = None
        leaves = tuple(key for key in config.keys() if key not in OF_ONE_CALL)  # noqa: SIM118  a namespace is no dict
        # Above a class path stands the setting that it is a value of.
        parts = tuple(key.removesuffix(".class_path") for key in leaves if key.endswith(".class_path"))
        values = {key: config[key] for key in leaves}
        return cls(cli.describe(config), (*leaves, *parts), values, table, digest, unit)


def _blend_leaves(data: ForecastingDataModule) -> Tensor:
    moments = collect(data.preparation_batches())
    left = moments.squared_error(least_squares(moments)).sqrt().clamp(min=MIN_UNIT)
    return torch.where(moments.count > 0, left, 1.0)


def takes(config: Path, options: Sequence[str]) -> str | None:
    """Say why a fit of this configuration does not take these options; None: it does."""
    try:
        with quiet_lightning():
            build_cli("tune", ["--config", str(config), *options, *QUIET])
    except (InputError, ValueError) as error:
        return " ".join(str(error).split())
    return None


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial.

    Attributes:
        score: the common score of the weights that were kept; of a pruned trial that of its last epoch.
        best_epoch: whose weights these are.
        n_epochs: that were trained.
        is_pruned: whether it was ended early.
        metrics: as they stand in `metrics.json`; of a pruned trial none.
    """

    score: float
    best_epoch: int
    n_epochs: int
    is_pruned: bool
    metrics: dict[str, Any] | None


def run_trial(
    setup: TrialSetup, config: Path, options: Sequence[str], run_dir: Path, report: Report = lambda *_: False
) -> TrialResult:
    """Fit with some settings changed.

    Args:
        setup: of the tuning.
        config: file that holds `setup.config`.
        options: the changed settings, as `latentode fit` takes them.
        run_dir: folder of the trial.
        report: of every epoch; left out, all of them are trained.

    Raises:
        SolveError: no epoch has come to a finite score.
    """
    watch = EpochReport(report)
    with quiet_lightning():
        cli: ForecastingCLI = build_cli(
            "tune", ["--config", str(config), *options, "--run_dir", str(run_dir), "--overwrite"]
        )
        cli.datamodule = ForecastingDataModule(cli.datamodule.settings, setup.table, seed=cli.datamodule.seed)
        cli.model.common_unit = setup.unit
        cli.trainer.callbacks.append(watch)  # pyright: ignore[reportAttributeAccessIssue]
        metrics = cli.fit(end=watch.end)
    n_epochs = len(watch.scores)
    if metrics is None:
        return TrialResult(watch.scores[n_epochs - 1], n_epochs - 1, n_epochs, is_pruned=True, metrics=None)
    best = metrics["best_epoch"]
    return TrialResult(watch.scores[best], best, n_epochs, is_pruned=False, metrics=metrics)


def score_test(setup: TrialSetup, config: Path, options: Sequence[str], checkpoint: Path) -> dict[str, Any]:
    """Score the fitted model of a trial on the test part, as `latentode fit` would have done.

    Args:
        setup, config, options: of the trial.
        checkpoint: that it left.
    """
    with quiet_lightning():
        cli = build_cli("tune", ["--config", str(config), *options, *QUIET])
        # Whoever named own classes in the configuration has had them imported: its own checkpoint asks for nothing else.
        modules = {type(part).__module__ for part in cli.model.network.modules()}
        fitted = FittedModel.load(checkpoint, allow_modules=sorted(modules))
        data = ForecastingDataModule(cli.datamodule.settings, setup.table, seed=cli.datamodule.seed)
        data.setup("fit")
    return fitted.score(data.examples.table, data.examples.test)
