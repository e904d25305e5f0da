"""What all commands share: the parser that answers with one sentence, options that several commands have, and how they speak.

A command says its result by `give`, which file it has written by `tell`, and what is to be known of the data by `say`: what of it comes
where under `--quiet` and `--json` is decided here alone.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from latentode.errors import InputError, did_you_mean
from latentode.files import to_json

OK, FAILURE, USAGE = 0, 1, 2

# What argparse says where an option lacks its value, or has too many.
_LACKS = re.compile(r"argument (.+): expected (?:one|at least one) argument")


class Parser(argparse.ArgumentParser):
    """Refuses abbreviations, and answers a wrong option with one sentence instead of its usage."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def known_options(self) -> list[str]:
        """Give every option string."""
        return [option for action in self._actions for option in action.option_strings]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse what is none of an option's choices, with the nearest one."""
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest
            raise InputError(f"{name} is '{value}', which is none of {', '.join(known)}{did_you_mean(value, known)}.")

    def error(self, message: str) -> NoReturn:
        """Raise InputError with the nearest option where one is unknown."""
        see = f"see `{self.prog} --help`."
        kind, _, rest = message.partition(": ")
        if kind == "unrecognized arguments":
            word = next((word for word in rest.split() if word.startswith("-")), rest).split("=")[0]
            if not word.startswith("-"):
                raise InputError(f"`{self.prog}` does not know what to do with '{rest}'; {see}")
            raise InputError(unknown_option(word, self.known_options(), self.prog))
        if kind == "the following arguments are required":
            raise InputError(f"`{self.prog}` lacks {rest}; {see}")
        lacks = _LACKS.fullmatch(message)
        raise InputError(f"{lacks[1]} lacks its value; {see}" if lacks else f"{message}; {see}")


def unknown_option(word: str, known: Iterable[str], prog: str) -> str:
    """Give the sentence on an option that does not exist, with the nearest one that does."""
    hint = did_you_mean(word, known)
    return f"{word} is no option of `{prog}`" + (f"{hint}." if hint else f"; see `{prog} --help`.")


def add_output(parser: Parser, *, has_json: bool = True) -> None:
    """Add how much is said, and in which form."""
    group = parser.add_argument_group("output")
    group.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors and the result")
    if has_json:
        group.add_argument(
            "--json", action="store_true", help="print the result as one JSON document, and all else to standard error"
        )
    group.add_argument("--traceback", action="store_true", help="show where an error came from")


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


def number(text: str, name: str) -> float:
    """Read a finite number.

    Args:
        text: as it was given.
        name: of the option, without its dashes.

    Raises:
        InputError: it is none; the message names the option.
    """
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"--{name} is '{text}', which is no number.") from error
    if not math.isfinite(value):
        raise InputError(f"--{name} is '{text}'; give a finite number.")
    return value


def count(text: str, name: str, *, least: int = 1) -> int:
    """Read a whole number from `least` up.

    Raises:
        InputError: it is none; the message names the option.
    """
    value = number(text, name)
    if value < least or value != int(value):
        raise InputError(f"--{name} is '{text}'; give a whole number from {least} up.")
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
    raise InputError(f"--device is '{name}', which this machine does not have; choose cpu.")


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


@dataclass(frozen=True)
class _Manner:
    """How a command speaks."""

    is_quiet: bool = False
    is_json: bool = False


_PLAIN = _Manner()
_manner: ContextVar[_Manner] = ContextVar("manner", default=_PLAIN)


@contextmanager
def speaking(*, is_quiet: bool, is_json: bool) -> Iterator[None]:
    """Let what runs inside speak in this manner: whoever is not to be quiet also shows progress."""
    from latentode.progress import showing_progress

    token = _manner.set(_Manner(is_quiet, is_json))
    # Of several processes that train together one speaks.
    is_first = all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK"))
    try:
        with showing_progress(is_first and not is_quiet), warnings.catch_warnings():
            if is_quiet:
                warnings.simplefilter("ignore")
                logging.disable(logging.WARNING)
            yield
    finally:
        _manner.reset(token)
        if is_quiet:
            logging.disable(logging.NOTSET)


def give(result: Any, show: Callable[[], object], *, brief: str | None = None) -> None:
    """Give a command's result on the standard output.

    Args:
        result: plain values, for `--json`.
        show: prints the same for a person.
        brief: a line that says enough under `--quiet`; left out, all is shown there too.
    """
    manner = _manner.get()
    if manner.is_json:
        print(to_json(result), end="")
    elif manner.is_quiet and brief is not None:
        print(brief)
    else:
        show()


def tell(line: str) -> None:
    """Print what was done, such as the file that was written: on the standard output, unless a JSON document stands there."""
    manner = _manner.get()
    if not manner.is_quiet:
        print(line, file=sys.stderr if manner.is_json else sys.stdout, flush=True)


def say(notes: Sequence[str]) -> None:
    """Print notes to the standard error, where they are in nobody's way."""
    for note in notes:
        show_progress(f"note: {note}")


def show_progress(line: str) -> None:
    """Print one line of progress at once, to the standard error."""
    if not _manner.get().is_quiet:
        print(line, file=sys.stderr, flush=True)


def show_scores(scores: dict[str, Any], *, details: bool = False) -> None:
    """Print scores beside the baselines', with `details` by lead time and channel too."""
    from latentode.forecasting.report import print_details, print_scores

    print_scores(scores)
    if details:
        print_details(scores)
