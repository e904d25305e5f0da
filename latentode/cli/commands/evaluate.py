"""`latentode evaluate`: score a run and the baselines on held-out windows."""

from __future__ import annotations

import argparse
from pathlib import Path

from latentode.cli.parser import (
    OK,
    Parser,
    add_device,
    check_outputs,
    choose_device,
    give,
    say,
    show_scores,
    tell,
    words,
)
from latentode.files import write_frame, write_json

SUMMARY = "score a run and the baselines on held-out windows"
EXAMPLE = "latentode evaluate runs/mine --data data.csv --metrics mse,mae,coverage --out report.json"


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder of `latentode fit`")
    parser.add_argument("--data", required=True, help="table: its test part if it is the fitted one, else all of it")
    parser.add_argument(
        "--metrics", help="comma-separated: mse,rmse,mae,mae_mean,mase,crps,nll,pinball,coverage,width (all)"
    )
    parser.add_argument("--out", help="JSON file to write; a table goes beside it as .csv")
    parser.add_argument("--plot", help="picture of error by lead time and calibration to write: .png, .pdf or .svg")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    from latentode.forecasting.evaluate import evaluate
    from latentode.forecasting.predict import read_history
    from latentode.forecasting.report import scores_frame
    from latentode.forecasting.runs import load_run

    check_outputs(report=options.out, picture=options.plot)
    fitted = load_run(options.run_folder, allow_modules=options.allow_module)
    table = read_history(fitted, options.data)
    report = evaluate(fitted, table, metrics=words(options.metrics), device=choose_device(options.device))
    say(table.report.notes)
    which = (
        "the test part of the fitted table" if report["part"] == "test" else "all rows (this is not the fitted table)"
    )
    if report["n_seen"]:
        say(
            [
                f"{report['n_seen']:,} of the windows lie in what the model was trained or validated on, so these errors flatter."
            ]
        )
    tell(f"{options.data}: {which}, {report['n_windows']:,} windows, {report['n_values']:,} values")
    give(report, lambda: show_scores(report, details=True))
    if options.out:
        out = Path(options.out)
        write_json(out, report)
        write_frame(out.with_suffix(".csv"), scores_frame(report))
        tell(f"{out}: all figures; {out.with_suffix('.csv')}: the same as a table")
    if options.plot:
        from latentode.plots import plot_scores, save_figure

        save_figure(plot_scores(report, title=which), Path(options.plot))
        tell(f"{options.plot}: picture")
    return OK
