"""`latentode demo`: fit bundled patient data, write forecast.csv and forecast.png."""

from __future__ import annotations

import argparse
from pathlib import Path

from latentode.cli.parser import OK, Parser, count, give, show_scores, tell

SUMMARY = "fit bundled patient data, write forecast.csv and forecast.png"
EXAMPLE = "latentode demo --out runs/demo"


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("--out", default="runs/demo", help="run folder, made anew (%(default)s)")
    parser.add_argument("--seed", default="0", help="of weights and windows (%(default)s)")
    parser.add_argument("--max_epochs", help="fewer epochs for a quicker look")


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    from latentode.forecasting.demo import run_demo

    out, seed = Path(options.out), count(options.seed, "seed", least=0)
    max_epochs = None if options.max_epochs is None else count(options.max_epochs, "max_epochs")
    metrics = run_demo(out, seed=seed, max_epochs=max_epochs, say=tell)
    give({"run_dir": str(out), **metrics}, lambda: show_scores(metrics["test"]), brief=str(out))
    tell(f"next: latentode fit --data.path YOUR.csv --run_dir runs/mine (a table such as {out / 'data.csv'})")
    return OK
