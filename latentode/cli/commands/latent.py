"""`latentode latent`: the path of the latent state, its phase portrait, and where the solver works hard."""

from __future__ import annotations

import argparse
from pathlib import Path

from latentode.cli.parser import OK, Parser, check_outputs, give, say, tell

SUMMARY = "show the path of the latent state, its field, and where the solver works hard"
EXAMPLE = "latentode latent runs/mine --history data.csv --every 6h --plot portrait.png --effort effort.png"


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder of `latentode fit`, of a latent ODE")
    parser.add_argument("--history", required=True, help="table with what was observed so far")
    parser.add_argument("--at", help="times after every series' origin, comma-separated")
    parser.add_argument("--every", help='step from the origin: a duration such as "6h", or a number')
    parser.add_argument("--horizon", help="how far --every goes (left out: the horizon of the fit)")
    parser.add_argument("--origin", help="start every series from this time; later rows are not read")
    parser.add_argument("--channel", help="whose state is drawn (left out: the first)")
    parser.add_argument("--out", help="table of the states to write: CSV, or Parquet by its suffix")
    parser.add_argument("--plot", help="phase portrait to write: .png, .pdf or .svg")
    parser.add_argument("--effort", help="picture of the solver's steps to write: .png, .pdf or .svg")
    parser.add_argument(
        "--allow-module", action="append", default=[], metavar="MODULE", help="own module that the run may import"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    from latentode.errors import InputError
    from latentode.files import write_frame
    from latentode.forecasting.latent import latent
    from latentode.forecasting.predict import Ask
    from latentode.forecasting.runs import load_run

    if not (options.out or options.plot or options.effort):
        raise InputError("nothing is asked for; name --out, --plot or --effort.")
    check_outputs(options.out, picture=options.plot)
    check_outputs(picture=options.effort)
    ask = Ask(at=options.at, every=options.every, horizon=options.horizon, origin=options.origin)
    path = latent(load_run(options.run_folder, allow_modules=options.allow_module), options.history, ask)
    say(path.history.report.notes)
    if options.out:
        frame = path.to_frame()
        write_frame(Path(options.out), frame)
        tell(f"{options.out}: {len(frame):,} rows")
    for name, draw in ((options.plot, path.plot), (options.effort, path.plot_effort)):
        if name:
            from latentode.plots import save_figure

            save_figure(draw(options.channel), Path(name))
            tell(f"{name}: picture")
    written = {name: getattr(options, name) for name in ("out", "plot", "effort")}
    give({**written, "notes": list(path.history.report.notes)}, lambda: None)
    return OK
