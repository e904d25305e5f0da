"""`latentode fit` and `latentode validate`: Lightning's command line with our data settings and our errors."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from jsonargparse import ArgumentError
from jsonargparse.typing import PositiveInt
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from latentode.data.settings import DataSettings, check_choice
from latentode.errors import InputError
from latentode.files import write_whole
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.fitting import TRAINER_DEFAULTS, FitSettings, finish, quiet_lightning, run_callbacks
from latentode.training.launching import all_processes, check_processes
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

    def __init__(self, *args: Any, trainer_settings: dict[str, Any] | None = None, **kwargs: Any) -> None:
        # Those that stand above YAML and options: the parent builds everything before it returns.
        self.trainer_settings = trainer_settings or {}
        super().__init__(*args, **kwargs)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add trainer, model and data."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
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
        parser.add_argument(
            "--engine", type=Literal["local", "ray"], default="local", help="who starts processes: latentode, or Ray"
        )
        parser.add_argument("--workers", type=PositiveInt, default=1, help="processes that Ray trains with")

    def _set_seed(self) -> None:
        """Set the seed without Lightning's remark."""
        pl.seed_everything(self.config["seed_everything"], workers=True, verbose=False)

    def instantiate_classes(self) -> None:
        """Build everything; the run folder is chosen here, since the callbacks write into it."""
        self.config_init = self.parser.instantiate_classes(self.config)
        settings: DataSettings = self.config_init["data"]
        seed = self.config["seed_everything"]
        self.datamodule = ForecastingDataModule(settings, seed=seed)
        self.model = self.config_init["model"]
        self.run_dir = choose_run_dir(self.config["run_dir"], settings)
        trainer = {**self.config_init["trainer"], **self.trainer_settings}
        if isinstance(trainer["accelerator"], str):
            check_choice("--trainer.accelerator", trainer["accelerator"], ACCELERATORS)
        own = run_callbacks(self.run_dir, self.config["patience"], show_progress=not trainer["enable_progress_bar"])
        trainer["callbacks"] = [*_as_list(trainer["callbacks"]), *own]
        trainer["default_root_dir"] = trainer["default_root_dir"] or self.run_dir
        try:
            self.trainer = self.trainer_class(**trainer)
        except (ValueError, MisconfigurationException) as error:
            # A strategy that is not there, or does not go with the accelerator.
            raise InputError(" ".join(str(error).split())[:600]) from error

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

    def fit(self) -> dict[str, Any] | None:
        """Train, keep the best weights, leave the run folder; of several processes the first writes, and gives figures."""
        if self.trainer.is_global_zero:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            config = self.parser.dump(self.config, skip_none=False)
            write_whole(self.run_dir / "config.yaml", lambda part: part.write_text(config, encoding="utf-8"))
        start = time.perf_counter()
        self.model.build(self.datamodule, self._fit_settings())
        check_processes(self.model, self.trainer)
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.config["ckpt_path"])
        if not self.trainer.is_global_zero:
            return None
        return finish(self.model, self.datamodule, self.run_dir, seconds=time.perf_counter() - start)[1]

    def validate(self) -> dict[str, Any] | None:
        """Give the validation error of a checkpoint; of several processes the first gives it."""
        path = self.config["ckpt_path"]
        if path is None:
            raise InputError("validate needs weights; give them with --ckpt_path RUN/best.ckpt.")
        if not Path(path).is_file():
            raise InputError(f"{path} does not exist; give a checkpoint with --ckpt_path RUN/best.ckpt.")
        self.model.build(self.datamodule, self._fit_settings())
        figures = self.trainer.validate(self.model, datamodule=self.datamodule, ckpt_path=path, verbose=False)[0]
        return dict(figures) if self.trainer.is_global_zero else None


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


def run_command(
    command: str, arguments: list[str], *, trainer: dict[str, Any] | None = None
) -> tuple[Path, dict[str, Any] | None, list[str]]:
    """Run `fit` or `validate`, in this process and in those that it asks for.

    Args:
        command: "fit" or "validate".
        arguments: of the command line.
        trainer: arguments of Lightning's trainer that stand above those of the command line.

    Returns:
        The run folder, the figures, and what is to be said about the data; no figures in any process but the first.

    Raises:
        InputError: an option is unknown or has a value that it does not take; the message names the nearest one.
    """
    shown = [argument.replace("--help.all", "--help") for argument in arguments]
    with quiet_lightning():
        cli = _build(command, shown, trainer)
        if command == "fit" and cli.config["engine"] == "ray" and trainer is None:
            return _run_on_ray(cli, shown)
        with all_processes(cli.trainer, [command, *shown, "--run_dir", str(cli.run_dir)]):
            figures = cli.fit() if command == "fit" else cli.validate()
    return cli.run_dir, figures, cli.datamodule.notes


def _run_on_ray(cli: ForecastingCLI, arguments: list[str]) -> tuple[Path, dict[str, Any], list[str]]:
    from latentode.training import on_ray

    uses_gpu = isinstance(cli.trainer.accelerator, CUDAAccelerator)
    figures = on_ray.fit(arguments, cli.run_dir, n_workers=cli.config["workers"], uses_gpu=uses_gpu)
    return cli.run_dir, figures, figures["notes"]


def _build(command: str, arguments: list[str], trainer: dict[str, Any] | None = None) -> ForecastingCLI:
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
            trainer_settings=trainer,
        )
    except ArgumentError as error:
        raise InputError(explain(str(error), known, command)) from error
    finally:
        sys.argv = argv
