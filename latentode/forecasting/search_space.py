"""What a tuning may change: settings of a fit by their dotted keys, each with a range or a list of choices, as a YAML file.

    model.learning_rate: {low: 0.0005, high: 0.01, log: true}   # any number between, by its logarithm
    model.network.init_args.latent_size: [8, 16, 32]            # one of these
    data.max_history: {low: 64, high: 512, step: 64}            # whole numbers, since all of them are

A value of a choice may be anything that the setting takes: a number, a text, null, a class path, or a class path with its settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from latentode.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

BOUNDS = ("low", "high", "log", "step")
# Of the data only what leaves validation as it is: scores on other windows, or in other units, could not be compared.
TUNABLE_DATA = ("history", "max_history", "batch_size", "windows_per_epoch", "calendar")
NOT_TUNABLE = {
    "seed_everything": "a lucky seed is no better setting",
    "run_dir": "every trial has a folder of its own",
    "ckpt_path": "every trial starts anew",
}


def check_optuna() -> None:
    """Refuse to tune without Optuna.

    Raises:
        InputError: it is missing.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError("tuning needs Optuna; install it with: pip install 'latentode[tune]'") from error
    # What is to be said of a trial, we say.
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Setting:
    """One setting and what it may be.

    Attributes:
        key: dotted, as an option of `latentode fit` without its dashes.
        line: of the file, from 1.
        choices: what it may be, in order; None: a range.
        low, high: ends of the range, both within it.
        is_log: whether values are drawn evenly by their logarithm.
        step: between values of the range; None: any number.
    """

    key: str
    line: int
    choices: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether its range is one of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def extremes(self) -> tuple[Any, ...]:
        """Give the values by which one sees whether the setting takes what the space offers: both ends, or every choice."""
        return (self.low, self.high) if self.choices is None else self.choices

    def distribution(self) -> BaseDistribution:
        """Give it as Optuna has it; a choice that is no plain value stands as its JSON."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution([as_text(value) for value in self.choices])
        if self.is_whole:
            return IntDistribution(int(self.low), int(self.high), log=self.is_log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.is_log, step=self.step)

    def holds(self, value: Any) -> bool:
        """Whether a value is one that a trial may take."""
        if self.choices is not None:
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        step = self.step or (1 if self.is_whole else None)
        on_grid = step is None or math.isclose(
            (value - self.low) / step, round((value - self.low) / step), abs_tol=1e-9
        )
        return self.low <= value <= self.high and on_grid


def as_text(value: Any) -> Any:
    """Give a value as a plain one: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def as_option(key: str, value: Any) -> str:
    """Give a setting as an option of the command line; `value` is one that `as_text` gave."""
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def read_space(path: str | Path) -> list[Setting]:
    """Read a search space.

    Raises:
        InputError: the file is not there, is no YAML, or has an entry that is neither a range nor a list; the message names file, line
            and key.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a search space, such as configs/tune/default.yaml.")
    try:
        return parse_space(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8; give a search space in YAML.") from error


def parse_space(text: str, source: str) -> list[Setting]:
    """Read the text of a search space; `source` is what messages call it.

    Raises:
        InputError: see `read_space`.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source} is no YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise InputError(
            f"{source} names no setting; write a line such as model.learning_rate: {{low: 0.0005, high: 0.01, log: true}}."
        )
    settings: dict[str, Setting] = {}
    for node, _ in root.value:
        key, line = str(node.value), node.start_mark.line + 1
        where = f"{source}:{line}: {key}"
        if key in settings:
            raise InputError(f"{where} stands on line {settings[key].line}, too; keep one of them.")
        settings[key] = _read_setting(key, line, content[next(k for k in content if str(k) == key)], where)
    return list(settings.values())


def _read_setting(key: str, line: int, value: Any, where: str) -> Setting:
    if key in NOT_TUNABLE:
        raise InputError(f"{where} is not to be tuned: {NOT_TUNABLE[key]}; leave the line out.")
    name = key.removeprefix("data.")
    if name != key and name not in TUNABLE_DATA:
        raise InputError(
            f"{where} is not to be tuned: it changes what is scored, so that trials could not be compared; of data there are "
            f"{', '.join(TUNABLE_DATA)}."
        )
    if isinstance(value, list):
        if len(value) < 2 or len({json.dumps(entry, sort_keys=True, default=str) for entry in value}) < len(value):
            raise InputError(f"{where} lists {value!r}; give two or more values, each once.")
        return Setting(key, line, choices=tuple(value))
    if not isinstance(value, dict):
        raise InputError(
            f"{where} is {value!r}; give a list of values, or a range such as {{low: 8, high: 64, step: 8}}."
        )
    unknown = [name for name in value if name not in BOUNDS]
    if unknown:
        raise InputError(
            f"{where} has {unknown[0]!r}{did_you_mean(unknown[0], BOUNDS)}; a range has low and high, and may have log or step."
        )
    return _read_range(key, line, value, where)


def _read_range(key: str, line: int, value: Mapping[str, Any], where: str) -> Setting:
    missing = [name for name in ("low", "high") if name not in value]
    if missing:
        raise InputError(f"{where} has no {missing[0]}; a range has low and high.")
    low, high = (_number(value[name], f"{where}: {name}") for name in ("low", "high"))
    step = None if value.get("step") is None else _number(value["step"], f"{where}: step")
    is_log = value.get("log", False)
    if not isinstance(is_log, bool):
        raise InputError(f"{where}: log is {is_log!r}; write true or false.")
    if not low < high:
        raise InputError(f"{where} goes from {low} to {high}; low has to be less than high.")
    if is_log and low <= 0:
        raise InputError(f"{where} has log: true and low: {low}; a logarithm needs a low above 0.")
    if is_log and step is not None:
        raise InputError(f"{where} has log and step; keep one of them.")
    if step is not None and not 0 < step <= high - low:
        raise InputError(f"{where}: step is {step}; give a number above 0 and at most high - low.")
    if not (isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None)):
        low, high = float(low), float(high)
    elif step is not None:
        # What no step reaches is no value of the range.
        high = low + (high - low) // step * step
    return Setting(key, line, low=low, high=high, is_log=is_log, step=step)


def _number(value: Any, where: str) -> int | float:
    try:
        # YAML 1.1 takes 1e-3, which has no point, for a text.
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise InputError(f"{where} is {value!r}; give a number.")
    return number


def check_keys(settings: Sequence[Setting], known: Iterable[str], source: str) -> None:
    """Refuse a key that a fit does not know.

    Raises:
        InputError: naming file, line and the nearest known key.
    """
    known = list(known)
    for setting in settings:
        if setting.key not in known:
            near = did_you_mean(setting.key, known)
            raise InputError(
                f"{source}:{setting.line}: {setting.key} is no setting of this fit{near}; `latentode fit --print_config` with the "
                "same --config shows all."
            )
