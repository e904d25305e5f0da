"""`latentode forecast`: forecast every series of a history."""

from __future__ import annotations

import argparse
from pathlib import Path

from latentode.cli.parser import (
    OK,
    Parser,
    add_device,
    check_outputs,
    choose_device,
    number,
    say,
)
from latentode.files import guard_frame, write_frame

SUMMARY = "forecast every series of a history"
EXAMPLE = (
    "latentode forecast runs/mine --history data.csv --every 6h --horizon 7d --out forecast.csv --plot forecast.png"
)


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder of `latentode fit`")
    parser.add_argument("--history", required=True, help="table with what was observed so far")
    parser.add_argument(
        "--at",
        help="times, comma-separated, for every series; at or before its origin: what was in between, marked smoothed",
    )
    parser.add_argument("--every", help='step from the origin: a duration such as "6h", or a number')
    parser.add_argument("--horizon", help="how far --every goes (left out: the horizon of the fit)")
    parser.add_argument("--queries", help="table with series_id, time and the known columns of every wanted forecast")
    parser.add_argument("--origin", help="forecast every series from this time; later rows are not read")
    parser.add_argument("--quantiles", help="levels, comma-separated (0.025,0.05,0.1,...,0.95,0.975)")
    parser.add_argument("--layout", default="long", choices=("long", "wide"), help="of the output (%(default)s)")
    parser.add_argument("--samples", type=int, help="whole trajectories to draw, written to OUT.samples.parquet")
    parser.add_argument("--out", required=True, help="CSV to write, or Parquet by its suffix")
    parser.add_argument(
        "--safe-csv", action="store_true", help="put an apostrophe before texts that a spreadsheet takes for formulas"
    )
    parser.add_argument("--plot", help="picture to write: .png, .pdf or .svg")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    from latentode.forecasting.forecast import QUANTILES
    from latentode.forecasting.predict import Ask, predict
    from latentode.forecasting.runs import load_run

    ask = Ask(
        at=options.at, every=options.every, horizon=options.horizon, queries=options.queries, origin=options.origin
    )
    levels = QUANTILES
    if options.quantiles:
        levels = tuple(number(part, "quantiles") for part in options.quantiles.split(","))
    check_outputs(options.out, picture=options.plot)
    fitted = load_run(options.run_folder, allow_modules=options.allow_module)
    forecast = predict(fitted, options.history, ask, quantiles=levels, device=choose_device(options.device))
    say(forecast.notes)
    frame = forecast.to_frame(options.layout)
    if options.safe_csv and Path(options.out).suffix != ".parquet":
        frame, n_guarded = guard_frame(frame)
        say(
            [
                f"{n_guarded:,} texts that a spreadsheet would take for formulas begin with an apostrophe in {options.out}."
            ]
        )
    write_frame(Path(options.out), frame)
    print(
        f"{options.out}: {len(frame):,} rows, {len(forecast.time):,} times of {len(set(forecast.series.tolist())):,} series"
    )
    if options.samples is not None:
        samples = Path(f"{options.out}.samples.parquet")
        write_frame(samples, forecast.sample(options.samples, seed=fitted.seed))
        whole = (
            f"{options.samples} trajectories per series"
            if forecast.has_trajectories
            else (
                f"{options.samples} draws per forecast, every value for itself: validation held too few to tell how they hang together"
            )
        )
        print(f"{samples}: {whole}")
    if options.plot:
        from latentode.plots import save_figure

        save_figure(forecast.plot(), Path(options.plot))
        print(f"{options.plot}: picture")
    return OK
