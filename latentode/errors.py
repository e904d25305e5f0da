"""Everything that latentode raises on purpose.

A message is one sentence or two: what is wrong, where (file, line, column, series, sample), and what to do. The command line prints it
without a traceback; a library user catches `LatentODEError` or the built-in class that each error also is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LatentODEError(Exception):
    """Base of every error that latentode raises on purpose."""


class DataError(LatentODEError, ValueError):
    """A table breaks the data contract; the message names file, line, column or series."""


class InputError(LatentODEError, ValueError):
    """An argument or option is not of the form that its function takes."""


class SolveError(LatentODEError, RuntimeError):
    """A differential equation could not be solved; the message names samples, time, step size and remedy."""


class RunError(LatentODEError, RuntimeError):
    """A run folder or checkpoint is not one, is cut off, or belongs to another schema."""


class WriteError(LatentODEError, OSError):
    """A file could not be written (a full disk, a folder that can only be read); what was there before is as it was."""


class Stopped(KeyboardInterrupt):
    """A signal ended a fit; the message says how to go on with it.

    Not an error of ours: like the KeyboardInterrupt of a Ctrl-C it passes through whatever catches exceptions.

    Attributes:
        signum: of the signal.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Give the hint to the known name that is nearest, in brackets behind a space; nothing where none is near.

    A name that begins as it was written is nearer than one that only resembles it.
    """
    known = list(known)
    begun = [entry for entry in known if str(name) and entry.startswith(str(name))]
    near = begun or difflib.get_close_matches(str(name), known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
