"""Loggers that people use, by class path: they get what `log.csv` holds and the settings, and write into the run folder by default."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import loggers
from pytorch_lightning.loggers import Logger

from latentode.errors import InputError, did_you_mean

PACKAGES = {
    "TensorBoardLogger": "tensorboard",
    "MLFlowLogger": "mlflow",
    "WandbLogger": "wandb",
    "CometLogger": "comet-ml",
}
Chosen = bool | str | Mapping[str, Any] | Sequence[Any] | None


def make_loggers(chosen: Chosen, run_dir: Path) -> list[Logger] | bool:
    """Build the loggers that `trainer.logger` names.

    Args:
        chosen: a class path, one with `init_args`, or a list of these; the name of a class alone is one of Lightning's. False: none; True:
            Lightning's own choice.
        run_dir: where they write, unless `init_args` say where.

    Raises:
        InputError: a class is no logger, does not take its settings, or needs a package that is not installed.
    """
    if chosen is None or isinstance(chosen, bool):
        return bool(chosen)
    entries = [chosen] if isinstance(chosen, str | Mapping) else list(chosen)
    return [_make(entry, run_dir) for entry in entries]


def _make(entry: Any, run_dir: Path) -> Logger:
    if isinstance(entry, str):
        entry = {"class_path": entry}
    unknown = [key for key in entry if key not in ("class_path", "init_args")] if isinstance(entry, Mapping) else ["?"]
    if unknown or not isinstance(entry.get("class_path"), str):
        raise InputError(
            f"trainer.logger is {entry!r}; give a class path such as pytorch_lightning.loggers.CSVLogger, or "
            "{class_path: ..., init_args: {...}}."
        )
    path, given = entry["class_path"], dict(entry.get("init_args") or {})
    cls = _find(path)
    known = inspect.signature(cls).parameters
    takes_more = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name in given:
        if name not in known and not takes_more:
            raise InputError(f"trainer.logger: {cls.__name__} has no setting {name!r}{did_you_mean(name, known)}.")
    try:
        return cls(**{**_places(cls, given, run_dir), **given})
    except ImportError as error:
        package = PACKAGES.get(cls.__name__)
        remedy = f"install it with: pip install {package}" if package else "install what it needs"
        raise InputError(f"trainer.logger: {cls.__name__} needs a package that is not installed; {remedy}.") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"trainer.logger: {cls.__name__} cannot be built ({reason}).") from error


def _find(path: str) -> type[Logger]:
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module) if module else loggers, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"trainer.logger is '{path}', which is no class{did_you_mean(name, loggers.__all__)}; Lightning has "
            f"{', '.join(name for name in loggers.__all__ if name != 'Logger')}."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Logger)):
        raise InputError(f"trainer.logger is '{path}', which is no logger of Lightning's.")
    return cls


def _places(cls: type[Logger], given: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Give where a logger writes, as far as it was not told."""
    known = inspect.signature(cls).parameters
    if "tracking_uri" in known:
        if {"tracking_uri", "save_dir"} & set(given) or os.environ.get("MLFLOW_TRACKING_URI"):
            return {}
        # MLflow no longer takes a folder of files.
        folder = run_dir.resolve()
        return {"tracking_uri": f"sqlite:///{folder / 'mlflow.db'}", "artifact_location": (folder / "mlflow").as_uri()}
    return {name: str(run_dir) for name in ("save_dir",) if name in known}


def log_settings(chosen: list[Logger] | bool, settings: Mapping[str, Any]) -> None:
    """Tell every logger the settings of the fit, by dotted keys."""
    plain = {
        key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in settings.items()
    }
    for logger in chosen if isinstance(chosen, list) else []:
        logger.log_hyperparams(plain)
