"""Models by name, and models as plain values: what a run folder stores instead of code.

A checkpoint names classes; only those listed here are ever built from one. A user's own class is built only when the caller names its
module, because importing a module runs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from latentode.errors import InputError, RunError, did_you_mean
from latentode.models import decoders, dynamics, encoders, equations
from latentode.models.baselines import BASELINE_MODELS
from latentode.models.gru_ode_bayes import GRUODEBayes
from latentode.models.interfaces import ForecastModel, Part
from latentode.models.latent_ode import LatentODE
from latentode.models.mechanistic import Mechanistic
from latentode.models.neural_cde import NeuralCDE
from latentode.models.ode_rnn import ODERNN
from latentode.models.stack import Stack

MODELS: dict[str, type[ForecastModel]] = {
    "latent_ode": LatentODE,
    "gru_ode_bayes": GRUODEBayes,
    "neural_cde": NeuralCDE,
    "ode_rnn": ODERNN,
    "stack": Stack,
    **BASELINE_MODELS,
}
PACKAGE = "latentode.models"  # before the names of our classes in YAML
BASELINES = ("constant", "last_value", "blend")

# What a folder offers is built from files and checkpoints, too: whoever adds a part names it there, and nowhere else.
PARTS: list[type[Part]] = [
    getattr(folder, name) for folder in (encoders, dynamics, decoders, equations) for name in folder.__all__
]
CLASSES: dict[str, type[Part]] = {cls.__name__: cls for cls in (*MODELS.values(), Mechanistic, *PARTS)}


def make_model(name: str) -> ForecastModel:
    """Build the model of a short name with its default settings.

    Raises:
        InputError: no model has that name.
    """
    if name not in MODELS:
        raise InputError(f"model is '{name}', which is none of {', '.join(MODELS)}{did_you_mean(name, MODELS)}.")
    return MODELS[name]()


def name_model(model: ForecastModel) -> str:
    """Give a model's short name; that of its class where it has none."""
    return next((name for name, cls in MODELS.items() if type(model) is cls), type(model).__name__)


def foreign_modules(plain: Any) -> list[str]:
    """Give the modules, sorted, that building what `to_plain` gave imports beside latentode's own."""
    if isinstance(plain, list):
        return sorted({module for entry in plain for module in foreign_modules(entry)})
    if not isinstance(plain, dict):
        return []
    module = str(plain.get("class", "")).rpartition(".")[0]
    return sorted({*([module] if module else []), *foreign_modules(list(plain.get("settings", {}).values()))})


def to_plain(part: Part) -> dict[str, Any]:
    """Write a model as plain values: its class and the settings that its constructor takes, parts in turn.

    Raises:
        InputError: a setting is neither a plain value nor a part.
    """
    cls = type(part)
    name = cls.__name__ if CLASSES.get(cls.__name__) is cls else f"{cls.__module__}.{cls.__qualname__}"
    return {"class": name, "settings": {key: _plain(value, f"{name}.{key}") for key, value in part.settings().items()}}


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, Part):
        return to_plain(value)
    if isinstance(value, list | tuple):
        return [_plain(entry, name) for entry in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise InputError(
        f"setting {name} is a {type(value).__name__}, which a run folder cannot hold; "
        "make it a number, a text, a list or a part of a model."
    )


def as_class_path(plain: Any) -> Any:
    """Turn what `to_plain` gave into the form that YAML has it in: `class_path` and `init_args`, parts in turn."""
    if not isinstance(plain, dict):
        return plain
    name = plain["class"]
    path = name if "." in name else f"{PACKAGE}.{name}"
    return {"class_path": path, "init_args": {key: as_class_path(value) for key, value in plain["settings"].items()}}


def from_plain(plain: dict[str, Any], allow_modules: Sequence[str] = ()) -> ForecastModel:
    """Build a model from what `to_plain` gave; its parameters do not exist yet.

    Args:
        plain: class name and settings.
        allow_modules: modules of own classes that may be imported.

    Raises:
        RunError: a class is not known and its module not allowed, or does not take the settings.
    """
    return _build(plain, allow_modules)


def _build(plain: Any, allow_modules: Sequence[str]) -> Any:
    if not isinstance(plain, dict):
        return plain
    cls = _find_class(str(plain.get("class")), allow_modules)
    settings = {key: _build(value, allow_modules) for key, value in plain.get("settings", {}).items()}
    try:
        return cls(**settings)
    except TypeError as error:
        raise RunError(
            f"the run's {plain['class']} cannot be built from its settings ({error}); "
            "it was written by another version of latentode."
        ) from error


def _find_class(name: str, allow_modules: Sequence[str]) -> type[Part]:
    if name in CLASSES:
        return CLASSES[name]
    module, _, attribute = name.rpartition(".")
    if module and module in allow_modules:
        try:
            cls = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise RunError(f"the run uses {name}, which cannot be imported ({error}).") from error
        if isinstance(cls, type) and issubclass(cls, Part):
            return cls
        raise RunError(f"the run uses {name}, which is no part of a model.")
    remedy = f"--allow-module {module} (allow_modules=['{module}'])" if module else "a newer latentode"
    raise RunError(
        f"the run uses the class {name}, which is none of latentode's; if you trust it, load it with {remedy}."
    )
