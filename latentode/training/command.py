"""`latentode fit` and `latentode validate`: Lightning's command line with our data settings and our errors."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentError, Namespace
from jsonargparse.typing import PositiveInt
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from latentode.data.plain import flatten, parse_yaml, read_text
from latentode.data.settings import DataSettings, check_choice
from latentode.errors import InputError, LatentODEError, RunError
from latentode.training.checkpoints import SAVE_EVERY
from latentode.training.datamodule import ForecastingDataModule
from latentode.training.fitting import (
    TRAINER_DEFAULTS,
    End,
    FitSettings,
    carry_out,
    finish,
    quiet_lightning,
    run_callbacks,
)
from latentode.training.launching import all_processes
from latentode.training.loggers import log_settings, make_loggers
from latentode.training.plain_checkpoints import PlainCheckpointIO, find_checkpoint, refuse_unfit
from latentode.training.refusals import explain
from latentode.training.run_folder import CONFIG
from latentode.training.stopping import StopRequest
from latentode.training.task import ForecastingTask

# What a run folder may name the classes of without being asked.
OWN_PACKAGES = ("latentode", "pytorch_lightning")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
OF_ONE_CALL = ("config", "resume", "overwrite", "ckpt_path", "save_every")
MAY_CHANGE = (
    "run_dir",
    "data.path",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.enable_progress_bar",
    "engine",
    "workers",
)


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
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="checkpoint to validate")
        parser.add_argument("--resume", action="store_true", help="go on with the run of run_dir")
        parser.add_argument("--overwrite", action="store_true", help="replace the run of run_dir")
        parser.add_argument(
            "--save_every", type=float, default=SAVE_EVERY, help="seconds between checkpoints within an epoch"
        )
        parser.add_argument(
            "--engine", type=Literal["local", "ray"], default="local", help="who starts processes: latentode, or Ray"
        )
        parser.add_argument("--workers", type=PositiveInt, default=1, help="processes that Ray trains with")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read options and YAML.

        Raises:
            ArgumentError: one cannot be read.
        """
        try:
            super().parse_arguments(parser, args)
        except (ArgumentError, LatentODEError):
            raise
        except Exception as error:
            # Bytes that are no text, a tag with a cell that is none of its kind: not everything that is wrong is told as such.
            raise ArgumentError(None, f"the options, or the file of --config, cannot be read ({error})") from error
        wrong = [name for name in ("data", "model", "trainer") if not isinstance(self.config[name], Namespace)]
        if wrong:
            raise ArgumentError(None, f"{wrong[0]} is {self.config[wrong[0]]!r}, and not settings with their names")

    def _parse_ckpt_path(self) -> None:
        """Leave settings that stand in a checkpoint where they are: Lightning would import the classes that they name."""

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
        self.stop = StopRequest()
        trainer = {**self.config_init["trainer"], **self.trainer_settings}
        trainer["logger"] = self.loggers = make_loggers(trainer["logger"], self.run_dir)
        if isinstance(trainer["accelerator"], str):
            check_choice("--trainer.accelerator", trainer["accelerator"], ACCELERATORS)
        own = run_callbacks(
            self.run_dir,
            self.config["patience"],
            self.stop,
            show_progress=not trainer["enable_progress_bar"],
            save_every=self.config["save_every"],
        )
        if self.loggers:
            own.append(LearningRateMonitor(logging_interval="epoch"))
        trainer["callbacks"] = [*_as_list(trainer["callbacks"]), *own]
        trainer["plugins"] = [*_as_list(trainer["plugins"]), PlainCheckpointIO(self.run_dir)]
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

    def fit(self, end: End = finish) -> dict[str, Any] | None:
        """Train, keep the best weights, leave the run folder; of several processes the first writes, and gives figures.

        Args:
            end: what is done after training.

        Raises:
            InputError: options contradict each other or those that the run was begun with.
        """
        if self.config["ckpt_path"] is not None:
            raise InputError("--ckpt_path is for validate; go on with a run by --run_dir RUN --resume.")
        if self.config["resume"] and self.config["overwrite"]:
            raise InputError("--resume goes on with a run and --overwrite replaces it; give one of them.")
        start = "resume" if self.config["resume"] else "overwrite" if self.config["overwrite"] else "new"
        if start == "resume":
            self._check_same_options()
        if self.trainer.is_global_zero:
            log_settings(self.loggers, {key: self.config[key] for key in self.config.keys()})  # noqa: SIM118  a namespace is no dict
        done = carry_out(
            self.model,
            self.datamodule,
            self.trainer,
            self.run_dir,
            stop=self.stop,
            config=self.describe(self.config),
            fit=self._fit_settings(),
            start=start,
            end=end,
        )
        return None if done is None else done[1]

    def describe(self, config: Namespace) -> str:
        """Give the settings as YAML, without those that are of one call alone."""
        kept = config.clone()
        for name in OF_ONE_CALL:
            kept.pop(name, None)
        return self.parser.dump(kept, skip_unset=False, skip_validation=True)

    def _check_same_options(self) -> None:
        """Refuse options other than those that the run was begun with."""
        path = self.run_dir / CONFIG
        if not path.is_file():
            return
        begun = flatten(yaml.safe_load(self.describe(self.parser.parse_args(["--config", str(path)]))))
        now = flatten(yaml.safe_load(self.describe(self.config)))
        for name in sorted(begun.keys() | now.keys()):
            # Where it is computed and where the table lies may change; that the table is the same is checked when it is read.
            if name in MAY_CHANGE or begun.get(name) == now.get(name):
                continue
            raise InputError(
                f"{self.run_dir} was begun with {name} {begun.get(name)}, not {now.get(name)}; leave the option out to go on, or name "
                "another folder."
            )

    def validate(self) -> dict[str, Any] | None:
        """Give the validation error of a checkpoint; of several processes the first gives it."""
        path = self.config["ckpt_path"]
        if path is None:
            raise InputError("validate needs weights; give them with --ckpt_path RUN/best.ckpt.")
        checkpoint = find_checkpoint(path)
        self.model.build(self.datamodule, self._fit_settings())
        with refuse_unfit(checkpoint, lambda: self.model.has_begun):
            figures = self.trainer.validate(
                self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=True, verbose=False
            )
        return dict(figures[0]) if self.trainer.is_global_zero else None


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
    if command == "fit" and "--resume" in arguments:
        shown, allowed = take_allowed(shown)
        shown = [*begun_with(shown, allowed), *shown]
    with quiet_lightning():
        cli = build_cli(command, shown, trainer)
        if command == "fit" and cli.config["engine"] == "ray" and trainer is None:
            return _run_on_ray(cli, shown)
        with all_processes(cli.trainer, [command, *shown, "--run_dir", str(cli.run_dir)]):
            figures = cli.fit() if command == "fit" else cli.validate()
    return cli.run_dir, figures, cli.datamodule.notes


def take_allowed(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Give the arguments without `--allow-module MODULE`, and the modules."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--allow-module", action="append", default=[])
    known, rest = own.parse_known_args(arguments)
    return rest, known.allow_module


def _run_on_ray(cli: ForecastingCLI, arguments: list[str]) -> tuple[Path, dict[str, Any], list[str]]:
    from latentode.training import on_ray

    uses_gpu = isinstance(cli.trainer.accelerator, CUDAAccelerator)
    figures = on_ray.fit(arguments, cli.run_dir, n_workers=cli.config["workers"], uses_gpu=uses_gpu)
    return cli.run_dir, figures, figures["notes"]


def check_class_paths(path: Path, allow_modules: Sequence[str]) -> None:
    """Refuse the settings of a run folder that would import what nobody has named: the folder may be a stranger's.

    Raises:
        RunError: a class is neither latentode's nor Lightning's nor of a module in `allow_modules`.
    """
    left = [parse_yaml(read_text(path), str(path))]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        if not isinstance(value, dict):
            continue
        left += value.values()
        found = [value.get("class_path")]
        logger = value.get("logger")
        found += logger if isinstance(logger, list) else [logger]
        for name in found:
            module = name.rpartition(".")[0] if isinstance(name, str) else ""
            if module and module.split(".")[0] not in OWN_PACKAGES and module not in allow_modules:
                raise RunError(
                    f"{path} names the class {name}; going on imports the module {module}: allow it with --allow-module {module}."
                )


def begun_with(arguments: list[str], allow_modules: Sequence[str]) -> list[str]:
    """Give the option that reads the settings of the run that is to be gone on with, before all others.

    Raises:
        InputError: no run folder is named, or it holds no run and nothing says what to begin.
    """
    places = [i for i, word in enumerate(arguments) if word.split("=")[0] == "--run_dir"]
    word = arguments[places[-1]] if places else ""
    following = arguments[places[-1] + 1 :] if places else []
    run_dir = word.split("=", 1)[1] if "=" in word else following[0] if following else None
    if run_dir is None:
        raise InputError("--resume goes on with a run; name its folder with --run_dir RUN.")
    path = Path(run_dir) / CONFIG
    if path.is_file():
        check_class_paths(path, allow_modules)
        return ["--config", str(path)]
    if len(arguments) <= (2 if "=" in word else 3):
        raise InputError(
            f"{run_dir} holds no run to go on with; begin one: latentode fit --data.path DATA --run_dir {run_dir}"
        )
    return []


def build_cli(command: str, arguments: list[str], trainer: dict[str, Any] | None = None) -> ForecastingCLI:
    """Read the arguments of `command` and build task, data and trainer from them.

    Args:
        command: as the messages call it.
        arguments: of the command line.
        trainer: settings that stand above YAML and options.

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
            trainer_settings=trainer,
        )
    except ArgumentError as error:
        raise InputError(explain(str(error), known, command)) from error
    finally:
        sys.argv = argv
