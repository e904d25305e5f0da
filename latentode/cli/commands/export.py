"""`latentode export`: write a run as a program of torch.export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from latentode.cli.parser import OK, Parser, check_outputs, count, give, number, say, tell, words
from latentode.errors import InputError

SUMMARY = "write a run as a program of torch.export, which forecasts without latentode"
EXAMPLE = "latentode export runs/mine --out model.pt2 --quantiles 0.1,0.5,0.9"


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder of `latentode fit`")
    parser.add_argument(
        "--out", required=True, help="file to write, ending in .pt2; its description goes beside it as .json"
    )
    parser.add_argument("--data", help="table on which the program is compared with the run (the one that was fitted)")
    parser.add_argument("--quantiles", default="0.1,0.5,0.9", help="levels that it gives, or none (%(default)s)")
    parser.add_argument("--steps", default="32", help="of a solve, where the model solves an equation (%(default)s)")
    parser.add_argument(
        "--tolerance",
        default="0.02",
        help="most that it may differ from the run, in deviations of the forecast (%(default)s)",
    )
    parser.add_argument(
        "--allow-module", action="append", default=[], metavar="MODULE", help="own module that the run may import"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    check_outputs(options.out)
    n_steps, tolerance = count(options.steps, "--steps"), number(options.tolerance, "--tolerance")

    from latentode.forecasting.export import export
    from latentode.forecasting.forecast import check_levels
    from latentode.forecasting.predict import read_history
    from latentode.forecasting.runs import load_run

    levels = ()
    if options.quantiles != "none":
        levels = check_levels([number(word, "--quantiles") for word in words(options.quantiles) or ()])
    fitted = load_run(options.run_folder, allow_modules=options.allow_module)
    data = options.data or fitted.settings.path
    if data is None or not Path(data).exists():
        raise InputError(
            f"the table that {options.run_folder} was fitted on is not there ({data}); name one of its kind with --data."
        )
    table = read_history(fitted, data)
    say(table.report.notes)
    record = export(fitted, table, options.out, levels=levels, n_steps=n_steps, tolerance=tolerance)
    give(record, lambda: _show(record, options.out))
    tell(f"{Path(options.out).with_suffix('.json')}: inputs, outputs and units")
    return OK


def _show(record: dict[str, Any], out: str) -> None:
    agreement, solver = record["agreement"], record["solver"]
    print(
        f"{out}: forecasts {', '.join(record['target_channels'])}; within {agreement['largest']:.1e} deviations of the run's "
        f"forecasts of {agreement['n_windows']} windows"
    )
    if solver:
        print(
            f"solves by {solver['n_steps']} steps of {solver['method']} to every query, where the run adapts its steps"
        )
