"""Everything that latentode raises on purpose.

A message is one sentence or two: what is wrong, where (file, line, column, series, sample), and what to do. The command line prints it
without a traceback; a library user catches `LatentODEError` or the built-in class that each error also is.
"""


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
