"""A model that is written down: by its short name, or in YAML with every setting that differs from the defaults.

The YAML is what a run folder's `config.yaml` has under `model.network`:

    class_path: latentode.models.LatentODE
    init_args:
      dynamics:
        class_path: latentode.models.LinearField

Only classes that `registry.py` lists are built from it, so that a file from a stranger runs no code.
"""

from __future__ import annotations

import inspect
import types
import typing
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentode.data.plain import fits, parse_yaml, read_text, shorten
from latentode.errors import InputError, LatentODEError, did_you_mean
from latentode.models.interfaces import ForecastModel, Part
from latentode.models.registry import CLASSES, PACKAGE, as_class_path, from_plain, make_model, to_plain

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Recipe:
    """What a model is built from.

    Attributes:
        name: what it is called: its short name, or the file's name without folder and suffix.
        plain: its class and all of its settings, those that were left out included, as `registry.to_plain` gives them.
    """

    name: str
    plain: dict[str, Any]

    @classmethod
    def read(cls, text: str) -> Recipe:
        """Give the recipe of a short name or of a YAML file.

        Raises:
            InputError: no model has that name; or the file is not there, is no YAML, or names a class or setting that does not exist.
        """
        if not text.endswith(SUFFIXES):
            return cls(text, to_plain(make_model(text)))
        path = Path(text)
        return cls(path.stem, to_plain(read_model(path)))

    def build(self) -> ForecastModel:
        """Build the model; its parameters do not exist yet."""
        return from_plain(self.plain)

    @property
    def is_trained(self) -> bool:
        """Whether gradients train it, see `ForecastModel`."""
        return getattr(CLASSES[self.plain["class"]], "is_trained", False)

    @property
    def written(self) -> dict[str, Any]:
        """The recipe as a YAML file holds it."""
        return as_class_path(self.plain)


def read_model(path: Path) -> ForecastModel:
    """Build the model that a YAML file describes; its parameters do not exist yet.

    Raises:
        InputError: see `Recipe.read`; the message names the file.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the short name of a model or a YAML file of one.")
    content = parse_yaml(read_text(path), str(path))
    try:
        model = _build(content, "the model")
    except LatentODEError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(model, ForecastModel):
        raise InputError(
            f"{path}: {type(model).__name__} is a part of a model; on top stands a model, such as LatentODE."
        )
    return model


def _build(content: Any, where: str) -> Part:
    """Build a part from `class_path` and `init_args`."""
    if not isinstance(content, dict) or "class_path" not in content:
        raise InputError(
            f"{where} has no class_path; write class_path: {PACKAGE}.LatentODE and, below init_args:, its settings."
        )
    unknown = [key for key in content if key not in ("class_path", "init_args")]
    if unknown:
        raise InputError(
            f"{where} has a line {unknown[0]!r} beside class_path and init_args; settings stand below init_args."
        )
    cls = _find_class(str(content["class_path"]))
    given = content.get("init_args") or {}
    if not isinstance(given, dict):
        raise InputError(f"init_args of {cls.__name__} is no list of names with values.")
    known = inspect.signature(cls).parameters
    for name in given:
        if name not in known:
            told = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"{cls.__name__} has no setting {name!r}{did_you_mean(name, known)}; {told}.")
    hints = typing.get_type_hints(cls.__init__)
    return cls(**{name: _read(value, hints[name], f"{cls.__name__}.{name}") for name, value in given.items()})


def _find_class(path: str) -> type[Part]:
    package, _, name = path.rpartition(".")
    if package not in ("", PACKAGE) or name not in CLASSES:
        raise InputError(
            f"class_path is {path!r}, which is none of latentode's{did_you_mean(name, CLASSES)}; only these are built "
            f"from a file: {', '.join(CLASSES)}."
        )
    return CLASSES[name]


def _read(value: Any, hint: Any, name: str) -> Any:
    """Give the value of a setting whose type is `hint`."""
    if isinstance(value, dict):
        value = _build(value, name)
    if float in (hint, *typing.get_args(hint)) and isinstance(value, str):
        # YAML 1.1 takes 1e-3, which has no point, for a text.
        with suppress(ValueError):
            value = float(value)
    if not fits(value, hint):
        shown = type(value).__name__ if isinstance(value, Part) else shorten(value)
        raise InputError(f"{name} is {shown}; it takes {_describe(hint)}.")
    return value


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return " or ".join(_describe(one) for one in inner)
    if inner:
        return f"a list, each {_describe(inner[0])}"
    return names.get(hint, f"a class_path of {hint.__name__}")
