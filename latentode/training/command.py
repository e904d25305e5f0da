"""`latentode fit` and `latentode validate`: Lightning's command line with our data settings and our errors."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentError
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from latentode.data.settings import DataSettings, check_choice
from latentode.errors import InputError
from latentode.files import write_whole
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.fitting import TRAINER_DEFAULTS, FitSettings, finish, quiet_lightning, run_callbacks
from latentode.training.loggers import log_settings, make_loggers
from latentode.training.refusals import explain
from latentode.training.task import ForecastingTask

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")


class ForecastingCLI(LightningCLI):
    """Builds task, data and trainer from YAML and options.

    The data settings are a dataclass and not the data module's arguments, so that they stay in one place for Python, YAML and help.
    """

    datamodule: ForecastingDataModule
    model: ForecastingTask
    trainer: pl.Trainer

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add trainer, model and data."""
        parser.add_class_arguments(
            pl.Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True, skip={"logger"}
        )
        # Built by us: by its type, a logger would have to be told where to write.
        parser.add_argument(
            "--trainer.logger",
            # Plain, and not `Any`, of which jsonargparse would build the class itself.
            type=bool | dict[str, Any] | list[str | dict[str, Any]] | str | None,
            default=False,
            help="class path of a logger, such as pytorch_lightning.loggers.CSVLogger, one with init_args, or a list of these",
        )
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})
        parser.add_lightning_class_args(ForecastingTask, "model")
        parser.add_class_arguments(DataSettings, "data")

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Leave out Lightning's own seed option, which takes booleans too."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what concerns the run as a whole."""
        parser.add_argument("--seed_everything", type=int, default=FitSettings.seed, help="of weights and windows")
        parser.add_argument("--run_dir", type=str | None, default=None, help="run folder (left out: runs/<name>-<n>)")
        parser.add_argument(
            "--patience", type=int, default=FitSettings.patience, help="epochs without improvement before training ends"
        )
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="checkpoint to validate or to go on from"
        )

    def _set_seed(self) -> None:
        """Set the seed without Lightning's remark."""
        pl.seed_everything(self.config["seed_everything"], workers=True, verbose=False)

    def instantiate_classes(self) -> None:
        """Build everything; the run folder is chosen here, since the callbacks write into it."""
        self.config_init = self.parser.instantiate(self.config)
        settings: DataSettings = self.config_init["data"]
        seed = self.config["seed_everything"]
        self.datamodule = ForecastingDataModule(settings, seed=seed)
        self.model = self.config_init["model"]
        self.run_dir = choose_run_dir(self.config["run_dir"], settings)
        trainer = dict(self.config_init["trainer"])
        trainer["logger"] = self.loggers = make_loggers(trainer["logger"], self.run_dir)
        if isinstance(trainer["accelerator"], str):
            check_choice("--trainer.accelerator", trainer["accelerator"], ACCELERATORS)
        own = run_callbacks(self.run_dir, self.config["patience"], show_progress=not trainer["enable_progress_bar"])
        if self.loggers:
            own.append(LearningRateMonitor(logging_interval="epoch"))
        trainer["callbacks"] = [*_as_list(trainer["callbacks"]), *own]
        trainer["default_root_dir"] = trainer["default_root_dir"] or self.run_dir
        self.trainer = self.trainer_class(**trainer)

    def _fit_settings(self) -> dict[str, Any]:
        """Give what `FitSettings` holds, as this command line has it."""
        trainer = self.config["trainer"]
        return {
            "max_epochs": trainer["max_epochs"] or TRAINER_DEFAULTS["max_epochs"],
            "patience": self.config["patience"],
            "learning_rate": self.model.learning_rate,
            "weight_decay": self.model.weight_decay,
            "seed": self.config["seed_everything"],
            "device": trainer["accelerator"] if isinstance(trainer["accelerator"], str) else "auto",
        }

    def fit(self) -> dict[str, Any]:
        """Train, keep the best weights, leave the run folder."""
        seconds = self.train()
        return finish(self.model, self.datamodule, self.run_dir, seconds=seconds)[1]

    def train(self) -> float:
        """Train into the run folder; give the seconds that it took."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        config = self.parser.dump(self.config, skip_unset=False)
        write_whole(self.run_dir / "config.yaml", lambda part: part.write_text(config, encoding="utf-8"))
        log_settings(self.loggers, {key: self.config[key] for key in self.config.keys()})  # noqa: SIM118  a namespace is no dict
        start = time.perf_counter()
        self.model.build(self.datamodule, self._fit_settings())
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.config["ckpt_path"])
        return time.perf_counter() - start

    def validate(self) -> dict[str, Any]:
        """Give the validation error of a checkpoint."""
        path = self.config["ckpt_path"]
        if path is None:
            raise InputError("validate needs weights; give them with --ckpt_path RUN/best.ckpt.")
        if not Path(path).is_file():
            raise InputError(f"{path} does not exist; give a checkpoint with --ckpt_path RUN/best.ckpt.")
        self.model.build(self.datamodule, self._fit_settings())
        return dict(self.trainer.validate(self.model, datamodule=self.datamodule, ckpt_path=path, verbose=False)[0])


def _as_list(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]


def choose_run_dir(chosen: str | None, settings: DataSettings) -> Path:
    """Give the run folder: the chosen one, or the next free `runs/<name of the table>-<n>`.

    Raises:
        InputError: the chosen path is a file.
    """
    if chosen is not None:
        if Path(chosen).exists() and not Path(chosen).is_dir():
            raise InputError(f"run_dir {chosen} is a file; name a folder.")
        return Path(chosen)
    stem = Path(settings.path).resolve().name.split(".")[0] if settings.path else ""
    # Letters of any script, digits, and what needs no quotes in a shell.
    name = re.sub(r"[^\w-]+", "_", stem).strip("_-") or "run"
    n = 1
    while (Path("runs") / f"{name}-{n}").exists():
        n += 1
    return Path("runs") / f"{name}-{n}"


def run_command(command: str, arguments: list[str]) -> tuple[Path, dict[str, Any], list[str]]:
    """Run `fit` or `validate`.

    Args:
        command: "fit" or "validate".
        arguments: of the command line.

    Returns:
        The run folder, the figures, and what is to be said about the data.

    Raises:
        InputError: an option is unknown or has a value that it does not take; the message names the nearest one.
    """
    shown = [argument.replace("--help.all", "--help") for argument in arguments]
    with quiet_lightning():
        cli = build_cli(command, shown)
        figures = cli.fit() if command == "fit" else cli.validate()
    return cli.run_dir, figures, cli.datamodule.notes


def build_cli(command: str, arguments: list[str]) -> ForecastingCLI:
    """Read the arguments of `command` and build task, data and trainer from them.

    Raises:
        InputError: see `run_command`.
    """
    known: list[str] = []

    class Parser(LightningArgumentParser):
        """Raises where argparse would print its usage, several screens of it."""

        def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
            known.extend(option for action in self._actions for option in action.option_strings)
            raise ArgumentError(None, message)

    argv = sys.argv
    # Lightning warns where both its arguments and those of the process are there.
    sys.argv = argv[:1]
    try:
        return ForecastingCLI(
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=None,
            parser_class=Parser,
            parser_kwargs={"prog": f"latentode {command}", "exit_on_error": False, "allow_abbrev": False},
            args=arguments,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    except ArgumentError as error:
        raise InputError(explain(str(error), known, command)) from error
    finally:
        sys.argv = argv
