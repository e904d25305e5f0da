"""`latentode backtest`: forecasts from several points of the past, scored on what came."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from latentode.cli.parser import (
    OK,
    Parser,
    add_device,
    check_outputs,
    choose_device,
    count,
    give,
    say,
    show_progress,
    show_scores,
    tell,
    words,
)
from latentode.errors import InputError
from latentode.files import write_frame, write_json

SUMMARY = "forecast from rolling origins of the past and score what came"
EXAMPLE = "latentode backtest runs/mine --data data.csv --origins 5 --horizon 30d --refit --out backtest.json"


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder of `latentode fit`")
    parser.add_argument("--data", required=True, help="table to go back in")
    parser.add_argument("--origins", default="5", help="how many per series, one horizon apart (%(default)s)")
    parser.add_argument(
        "--horizon", help='how far to forecast: a duration such as "30d", or a number (that of the fit)'
    )
    parser.add_argument("--refit", action="store_true", help="fit anew at every origin on the rows up to there")
    parser.add_argument("--max_epochs", help="of those fits (that of the run)")
    parser.add_argument("--metrics", help="comma-separated, as for evaluate (all)")
    parser.add_argument("--out", help="JSON file to write; a table goes beside it as .csv")
    parser.add_argument("--plot", help="picture of error by lead time and calibration to write: .png, .pdf or .svg")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    from latentode.forecasting.backtest import backtest, backtest_frame
    from latentode.forecasting.predict import read_history
    from latentode.forecasting.runs import load_run

    check_outputs(report=options.out, picture=options.plot)
    origins = count(options.origins, "origins")
    fit: dict[str, Any] = {}
    if options.max_epochs is not None:
        if not options.refit:
            raise InputError("max_epochs is of the fits that --refit makes; add --refit or leave it out.")
        fit["max_epochs"] = count(options.max_epochs, "max_epochs")
    device = choose_device(options.device)
    fit["device"] = "cpu" if device == "cpu" else "gpu"
    fitted = load_run(options.run_folder, allow_modules=options.allow_module)
    table = read_history(fitted, options.data)
    report = backtest(
        fitted,
        table,
        origins=origins,
        horizon=options.horizon,
        refit=options.refit,
        fit=fit,
        metrics=words(options.metrics),
        device=device,
        say=show_progress,
    )
    say([*table.report.notes, *report["notes"]])
    tell(
        f"{options.data}: {len(report['origins'])} origins, {report['n_windows']:,} windows, {report['n_values']:,} values"
    )
    give(report, lambda: _show(report))
    if options.out:
        out = Path(options.out)
        write_json(out, report)
        write_frame(out.with_suffix(".csv"), backtest_frame(report))
        tell(f"{out}: all figures; {out.with_suffix('.csv')}: the same as a table")
    if options.plot:
        from latentode.plots import plot_scores, save_figure

        save_figure(plot_scores(report, title="over all origins"), Path(options.plot))
        tell(f"{options.plot}: picture")
    return OK


def _show(report: dict[str, Any]) -> None:
    """Print the scores over all origins, and a line for each."""
    from latentode.metrics import METRICS

    show_scores(report, details=True)
    scored = [name for name in METRICS if name in report]
    shown = [name for name in scored if METRICS[name].is_headline] or scored
    for one in report["origins"]:
        ahead = f"{one['origin']} horizon{'s' if one['origin'] > 1 else ''} before the end"
        print(f"  {ahead}: " + ", ".join(f"{name} {one[name]:.4g}" for name in shown))
