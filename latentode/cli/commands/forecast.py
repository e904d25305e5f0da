"""`latentode forecast`: forecast every series of a history."""

from __future__ import annotations

import argparse
from pathlib import Path

from latentode.cli.parser import (
    OK,
    Parser,
    add_device,
    add_engine,
    check_outputs,
    choose_device,
    choose_engine,
    count,
    give,
    number,
    say,
    tell,
)

PLOTTED = 12  # series at most
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
    parser.add_argument("--out", required=True, help="CSV to write (.csv, .csv.gz), or Parquet by its suffix")
    parser.add_argument("--resume", action="store_true", help="go on with what an interrupted forecast has left")
    add_engine(parser)
    parser.add_argument(
        "--safe-csv", action="store_true", help="put an apostrophe before texts that a spreadsheet takes for formulas"
    )
    parser.add_argument("--plot", help="picture to write: .png, .pdf or .svg")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    from latentode.forecasting.forecast import QUANTILES
    from latentode.forecasting.histories import open_histories
    from latentode.forecasting.parts import answer_here
    from latentode.forecasting.predict import Ask
    from latentode.forecasting.runs import load_run
    from latentode.forecasting.stream import forecast_some, write_forecast
    from latentode.progress import track

    ask = Ask(
        at=options.at, every=options.every, horizon=options.horizon, queries=options.queries, origin=options.origin
    )
    levels = QUANTILES
    if options.quantiles:
        levels = tuple(number(part, "quantiles") for part in options.quantiles.split(","))
    n_samples = 0 if options.samples is None else count(options.samples, "samples")
    check_outputs(options.out, picture=options.plot)
    device = choose_device(options.device)
    workers = choose_engine(options)
    fitted = load_run(options.run_folder, allow_modules=options.allow_module)
    histories = open_histories(fitted, options.history)
    with track("forecasting", len(histories.series_ids), "series") as advance:
        written = write_forecast(
            fitted,
            histories,
            ask,
            options.out,
            quantiles=levels,
            layout=options.layout,
            n_samples=n_samples,
            device=device,
            resume=options.resume,
            is_safe=options.safe_csv,
            engine=workers.answer if workers else answer_here,
            advance=advance,
        )
    if options.safe_csv:
        say([f"{written.n_guarded:,} texts that a spreadsheet would take for formulas begin with an apostrophe."])
    if written.n_kept:
        say([f"{written.n_kept:,} parts were there from before."])
    say(written.notes)
    tell(f"{options.out}: {written.n_rows:,} rows, {written.n_times:,} times of {written.n_series:,} series")
    if written.samples:
        whole = (
            f"{n_samples:,} trajectories per series"
            if written.has_trajectories
            else (
                f"{n_samples:,} draws per forecast, every value for itself: validation held too few to tell how they hang together"
            )
        )
        tell(f"{written.samples}: {whole}")
    if options.plot:
        from latentode.plots import BAND_LEVELS, save_figure

        shown = forecast_some(
            fitted,
            histories,
            ask,
            quantiles=tuple(sorted({*levels, *BAND_LEVELS})),
            device=device,
            n_series=PLOTTED,
        )
        save_figure(shown.plot(n_series=written.n_series), Path(options.plot))
        tell(f"{options.plot}: picture")
    result = {
        "out": options.out,
        "samples": None if written.samples is None else str(written.samples),
        "plot": options.plot,
        "n_rows": written.n_rows,
        "n_times": written.n_times,
        "n_series": written.n_series,
        "n_parts_kept": written.n_kept,
        "notes": list(written.notes),
    }
    give(result, lambda: None)
    return OK
