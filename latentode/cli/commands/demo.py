"""`latentode demo`: fit bundled patient data, write forecast.csv and forecast.png."""

from __future__ import annotations

import argparse
from pathlib import Path

from latentode.cli.parser import (
    Parser,
)

SUMMARY = "fit bundled patient data, write forecast.csv and forecast.png"
EXAMPLE = "latentode demo --out runs/demo"


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("--out", default="runs/demo", help="run folder, made anew (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and windows (%(default)s)")
    parser.add_argument("--max_epochs", type=int, default=None, help="fewer epochs for a quicker look")


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    from latentode.forecasting.demo import run_demo

    return run_demo(Path(options.out), seed=options.seed, max_epochs=options.max_epochs)
