"""`python -m latentode.cli`, the same as `latentode`."""

from latentode.cli import run

run()
