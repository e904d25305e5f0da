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
    count,
    give,
    number,
    say,
    tell,
)
from latentode.files import write_frame

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
    parser.add_argument("--samples", metavar="N", help="whole trajectories to draw, written to OUT.samples.parquet")
    parser.add_argument("--out", required=True, help="CSV to write, or Parquet by its suffix")
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
    n_samples = None if options.samples is None else count(options.samples, "samples")
    check_outputs(options.out, picture=options.plot)
    fitted = load_run(options.run_folder, allow_modules=options.allow_module)
    forecast = predict(fitted, options.history, ask, quantiles=levels, device=choose_device(options.device))
    say(forecast.notes)
    frame = forecast.to_frame(options.layout)
    write_frame(Path(options.out), frame)
    n_series = len(set(forecast.series.tolist()))
    tell(f"{options.out}: {len(frame):,} rows, {len(forecast.time):,} times of {n_series:,} series")
    if n_samples is not None:
        samples = Path(f"{options.out}.samples.parquet")
        write_frame(samples, forecast.sample(n_samples, seed=fitted.seed))
        whole = (
            f"{n_samples:,} trajectories per series"
            if forecast.has_trajectories
            else (
                f"{n_samples:,} draws per forecast, every value for itself: validation held too few to tell how they hang together"
            )
        )
        tell(f"{samples}: {whole}")
    if options.plot:
        from latentode.plots import save_figure

        save_figure(forecast.plot(), Path(options.plot))
        tell(f"{options.plot}: picture")
    written = {
        "out": options.out,
        "samples": None if n_samples is None else f"{options.out}.samples.parquet",
        "plot": options.plot,
        "n_rows": len(frame),
        "n_times": len(forecast.time),
        "n_series": n_series,
        "notes": list(forecast.notes),
    }
    give(written, lambda: None)
    return OK
