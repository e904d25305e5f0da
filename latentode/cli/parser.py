"""What all commands share: the parser that answers with one sentence, and options that several commands have."""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from latentode.errors import InputError

if TYPE_CHECKING:
    from latentode.forecasting.on_ray import RayWorkers

OK, FAILURE, USAGE = 0, 1, 2


class Parser(argparse.ArgumentParser):
    """Refuses abbreviations, and answers a wrong option with one sentence instead of its usage."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def known_options(self) -> list[str]:
        """Give every option string."""
        return [option for action in self._actions for option in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """Raise InputError with the nearest option where one is unknown."""
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        if message.startswith("unrecognized arguments") and unknown:
            known = self.known_options()
            starting = [option for option in known if option.startswith(unknown[0])]
            near = starting or difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see `{self.prog} --help`."
            raise InputError(f"{unknown[0]} is no option of `{self.prog}`; {hint}")
        raise InputError(f"{message}; see `{self.prog} --help`.")


def add_data_settings(parser: Parser, *, skip: Sequence[str], prefix: str) -> None:
    """Add the settings of `data` as options, named `prefix` + field; `skip` leaves some out."""
    from latentode.data.settings import CHOICES, DataSettings

    group = parser.add_argument_group("data")
    for name, text in DataSettings.help_texts().items():
        if name in skip:
            continue
        default = getattr(DataSettings, name)
        shown = text if default is None else f"{text} ({default})"
        group.add_argument(
            f"{prefix}{name}", dest=name, metavar="|".join(CHOICES.get(name, (name.upper(),))), help=shown
        )


def add_device(parser: Parser) -> None:
    """Add where to compute and which own modules a run may import."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument(
        "--allow-module", action="append", default=[], metavar="MODULE", help="own module that the run may import"
    )


def add_engine(parser: Parser) -> None:
    """Add who computes."""
    parser.add_argument(
        "--engine",
        default="local",
        choices=("local", "ray"),
        help="this process, or the workers of Ray: this machine's, or those of the cluster that RAY_ADDRESS names (%(default)s)",
    )


def choose_engine(options: argparse.Namespace) -> RayWorkers | None:
    """Give the workers of Ray where they are asked for, else None.

    Raises:
        InputError: Ray is not installed.
    """
    if options.engine == "local":
        return None
    from importlib.util import find_spec

    from latentode.forecasting.on_ray import MISSING, RayWorkers

    if find_spec("ray") is None:
        raise InputError(MISSING)
    return RayWorkers(options.run_folder, options.allow_module)


def number(text: str, name: str) -> float:
    """Read a finite number.

    Raises:
        InputError: it is none; the message names the option.
    """
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{name} is '{text}', which is no number.") from error
    if not math.isfinite(value):
        raise InputError(f"{name} is '{text}'; give a finite number.")
    return value


def count(text: str, name: str, *, least: int = 1) -> int:
    """Read a whole number from `least` up.

    Raises:
        InputError: it is none; the message names the option.
    """
    value = number(text, name)
    if value < least or value != int(value):
        raise InputError(f"{name} is '{text}'; give a whole number from {least} up.")
    return int(value)


def words(text: str | None) -> list[str] | None:
    """Read a list with commas; None where nothing was given."""
    return None if text is None else [word.strip() for word in text.split(",")]


def choose_device(name: str) -> str:
    """Give the device of this name.

    Raises:
        InputError: this machine does not have it.
    """
    import torch

    if name == "cpu" or (name.startswith("cuda") and torch.cuda.is_available()):
        return name
    raise InputError(f"device is '{name}', which this machine does not have; choose cpu.")


def check_outputs(*paths: str | None, report: str | None = None, picture: str | None = None) -> None:
    """Refuse, before anything is computed, an output that could not be written in the end.

    Args:
        paths: of any form.
        report: a JSON file, beside which others of its name go.
        picture: a picture.

    Raises:
        InputError: its folder does not exist, it is a folder itself, or its suffix is none of its form.
    """
    for path in (*paths, report, picture):
        if path and Path(path).is_dir():
            raise InputError(f"{path} is a folder; name a file.")
        if path and not Path(path).resolve().parent.is_dir():
            raise InputError(f"the folder of {path} does not exist; make it first.")
    if report and Path(report).suffix != ".json":
        raise InputError(f"{report} is to hold JSON; name a file that ends in .json.")
    if picture:
        from latentode.plots import check_picture

        check_picture(Path(picture))


def say(notes: Sequence[str]) -> None:
    """Print notes to the standard error, where they are in nobody's way."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def show_progress(line: str) -> None:
    """Print one line of progress at once, to the standard error."""
    print(line, file=sys.stderr, flush=True)


def show_scores(scores: dict[str, Any], *, details: bool = False) -> None:
    """Print scores beside the baselines', with `details` by lead time and channel too."""
    from latentode.forecasting.report import print_details, print_scores

    print_scores(scores)
    if details:
        print_details(scores)
