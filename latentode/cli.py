"""The `latentode` command: a thin dispatcher. Nothing heavy is imported before the command is known and its options are read."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from latentode import __version__
from latentode.errors import DataError, InputError, LatentODEError, RunError
from latentode.files import write_frame, write_json

if TYPE_CHECKING:
    from latentode.data.describe import Description
    from latentode.data.tables import Table

OK, FAILURE, USAGE = 0, 1, 2
LIGHTNING = ("fit", "validate")
# What Lightning's own command line would call them.
LIGHTNING_WORDS = {"test": "evaluate", "predict": "forecast"}


class Parser(argparse.ArgumentParser):
    """Refuses abbreviations, and answers a wrong option with one sentence instead of its usage."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def known_options(self) -> list[str]:
        """Give every option string."""
        return [option for action in self._actions for option in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """Raise InputError with the nearest option where one is unknown."""
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        if message.startswith("unrecognized arguments") and unknown:
            known = self.known_options()
            starting = [option for option in known if option.startswith(unknown[0])]
            near = starting or difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see `{self.prog} --help`."
            raise InputError(f"{unknown[0]} is no option of `{self.prog}`; {hint}")
        raise InputError(f"{message}; see `{self.prog} --help`.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit status: 0, 2 for wrong usage or data, 1 for a failure."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    shows_traceback = "--traceback" in argv
    argv = [word for word in argv if word != "--traceback"]
    try:
        return _dispatch(argv)
    except (DataError, InputError, RunError) as error:
        return _report(error, USAGE, shows_traceback)
    except LatentODEError as error:
        return _report(error, FAILURE, shows_traceback)
    except KeyboardInterrupt:
        print("stopped; what was finished before is kept.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has left: nothing is wrong, and nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        message = (
            f"{type(error).__name__}: {' '.join(text.split())[:500]}{where}; run with --traceback for the details."
        )
        return _report(LatentODEError(message), FAILURE, shows_traceback)


def _report(error: Exception, status: int, shows_traceback: bool) -> int:
    if shows_traceback:
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    return status


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] in LIGHTNING and not {"-h", "--help"} & set(argv[1:]):
        return _lightning(argv[0], argv[1:])
    parser, commands = build_parser()
    if not argv:
        parser.print_help()
        return OK
    if argv[0] in commands:
        command = commands[argv[0]]
        # Before anything that is missing: a misspelt option is most often the one that seems to be missing.
        unknown = [
            word for word in argv[1:] if word.startswith("--") and word.split("=")[0] not in command.known_options()
        ]
        if unknown:
            command.error(f"unrecognized arguments: {' '.join(unknown)}")
        options = command.parse_args(argv[1:])
        return options.run(options)
    if argv[0].startswith("-"):
        parser.parse_args(argv)
    near = difflib.get_close_matches(argv[0], commands, n=1)
    near = [LIGHTNING_WORDS[argv[0]]] if argv[0] in LIGHTNING_WORDS else near
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(commands)}."
    raise InputError(f"'{argv[0]}' is no command of latentode; {hint}")


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """Give the main parser and one per command."""
    parser = Parser(
        prog="latentode",
        description="Forecast irregular, partly observed time series with continuous-time models.",
        epilog="example:\n  latentode demo\n  latentode fit --data.path data.csv --run_dir runs/mine\n"
        "  latentode forecast runs/mine --history data.csv --every 6h --horizon 7d --out forecast.csv",
    )
    parser.add_argument("--version", action="version", version=f"latentode {__version__}")
    group = parser.add_subparsers(title="commands", metavar="command", parser_class=Parser)
    commands = {}
    for name, (text, example, add_options, run) in COMMANDS.items():
        command = group.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"example:\n{example}"
        )
        add_options(command)
        command.add_argument("--traceback", action="store_true", help="show where an error came from")
        command.set_defaults(run=run)
        commands[name] = command
    return parser, commands


# --- options -------------------------------------------------------------------------------------------------------


def _demo_options(parser: Parser) -> None:
    parser.add_argument("--out", default="runs/demo", help="run folder, made anew (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and windows (%(default)s)")
    parser.add_argument("--max_epochs", type=int, default=None, help="fewer epochs for a quicker look")


def _describe_options(parser: Parser) -> None:
    parser.add_argument("data", help="CSV (plain or .gz) or Parquet")
    _add_data_settings(parser, skip=("path", "batch_size", "windows_per_epoch", "max_history", "history"), prefix="--")
    parser.add_argument(
        "--json", action="store_true", help="print plain JSON, the fields of latentode.data.Description"
    )
    parser.add_argument("--plot", help="picture of the table to write (.png, .pdf, .svg)")


def _fit_options(parser: Parser) -> None:
    parser.add_argument("--config", help="YAML file with any of the settings below, such as configs/quickstart.yaml")
    parser.add_argument("--run_dir", help="run folder (left out: runs/<name>-<n>)")
    parser.add_argument("--seed_everything", metavar="SEED", help="of weights and windows (0)")
    parser.add_argument("--patience", help="epochs without improvement before training ends (30)")
    parser.add_argument("--ckpt_path", help="checkpoint to go on from, or to validate")
    _add_data_settings(parser, skip=(), prefix="--data.")
    group = parser.add_argument_group("model and training (all of them: --help.all)")
    group.add_argument(
        "--model.network", metavar="NAME", help="latent_ode, blend, ..., or a class path with its settings"
    )
    group.add_argument("--model.learning_rate", metavar="RATE", help="highest learning rate (0.004)")
    group.add_argument("--model.weight_decay", metavar="W", help="of AdamW (0.01)")
    group.add_argument("--trainer.max_epochs", metavar="N", help="epochs at most (30)")
    group.add_argument("--trainer.accelerator", metavar="NAME", help="auto, cpu, gpu (auto)")
    group.add_argument("--print_config", action="store_true", help="print all settings as YAML and exit")
    group.add_argument(
        "--help.all", action="store_true", help="show every option of Lightning's trainer too (takes seconds)"
    )


def _add_data_settings(parser: Parser, *, skip: Sequence[str], prefix: str) -> None:
    from latentode.data.settings import CHOICES, DataSettings

    group = parser.add_argument_group("data")
    for name, text in DataSettings.help_texts().items():
        if name in skip:
            continue
        default = getattr(DataSettings, name)
        shown = text if default is None else f"{text} ({default})"
        group.add_argument(
            f"{prefix}{name}", dest=name, metavar="|".join(CHOICES.get(name, (name.upper(),))), help=shown
        )


def _forecast_options(parser: Parser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="run folder of `latentode fit`")
    parser.add_argument("--history", required=True, help="table with what was observed so far")
    parser.add_argument("--at", help="times, comma-separated, for every series")
    parser.add_argument("--every", help='step from the origin: a duration such as "6h", or a number')
    parser.add_argument("--horizon", help="how far --every goes (left out: the horizon of the fit)")
    parser.add_argument("--queries", help="table with series_id and time of every wanted forecast")
    parser.add_argument("--origin", help="forecast every series from this time; later rows are not read")
    parser.add_argument("--quantiles", help="levels, comma-separated (0.025,0.05,0.1,...,0.95,0.975)")
    parser.add_argument("--layout", default="long", choices=("long", "wide"), help="of the output (%(default)s)")
    parser.add_argument("--samples", type=int, help="draws per forecast, written to OUT.samples.parquet")
    parser.add_argument("--out", required=True, help="CSV to write, or Parquet by its suffix")
    parser.add_argument("--plot", help="picture to write: .png, .pdf or .svg")
    _add_device(parser)


def _evaluate_options(parser: Parser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="run folder of `latentode fit`")
    parser.add_argument("--data", required=True, help="table: its test part if it is the fitted one, else all of it")
    parser.add_argument(
        "--metrics", help="comma-separated: mse,rmse,mae,mae_mean,mase,crps,nll,pinball,coverage,width (all)"
    )
    parser.add_argument("--out", help="JSON file to write")
    _add_device(parser)


def _add_device(parser: Parser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument(
        "--allow-module", action="append", default=[], metavar="MODULE", help="own module that the run may import"
    )


# --- commands ------------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    from latentode.forecasting.demo import run_demo

    return run_demo(Path(options.out), seed=options.seed, max_epochs=options.max_epochs)


def _describe(options: argparse.Namespace) -> int:
    from latentode.data.describe import describe

    table, settings = _read_described(options)
    description = describe(table, settings)
    if options.json:
        print(json.dumps(description.to_dict(), indent=2))
    else:
        _print_description(description)
    if options.plot:
        _plot_overview(table, Path(options.plot))
    return OK


def _plot_overview(table: Table, path: Path) -> None:
    from latentode.data.describe import overview
    from latentode.plots import plot_overview, save_figure

    shown = overview(table)
    title = f"{Path(table.source).name}: {table.n_series:,} series, {table.n_rows:,} rows"
    label = (
        table.schema.time_column
        if table.schema.time_zone is None
        else f"{table.schema.time_column} ({table.schema.time_zone})"
    )
    figure = plot_overview(
        shown.marks, shown.gaps, shown.shares, gap_unit=shown.gap_unit, time_label=label, title=title
    )
    save_figure(figure, path)
    print(f"picture: {path}", file=sys.stderr)


def _read_described(options: argparse.Namespace) -> tuple[Table, Any]:
    from latentode.data.settings import DataSettings
    from latentode.data.tables import read_table

    given = {name: getattr(options, name, None) for name in DataSettings.help_texts()}
    given = {name: value for name, value in given.items() if value is not None}
    for name in ("channels", "target_channels"):
        if name in given:
            # With or without the brackets that `fit` takes.
            given[name] = [part.strip() for part in given[name].removeprefix("[").removesuffix("]").split(",")]
    for name in ("val_fraction", "test_fraction"):
        if name in given:
            given[name] = _number(given[name], name)
    settings = DataSettings(**given)
    return read_table(Path(options.data), **settings.reading()), settings


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{name} is '{text}', which is no number.") from error


def _print_description(d: Description) -> None:
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console(highlight=False)
    print(f"{d.source}: {d.n_series:,} series, {d.n_rows:,} rows, {d.n_values:,} values")
    print(
        f"  {d.observed_share:.0%} of the cells are observed; times from {d.first} to {d.last}, median span {d.median_span}"
    )
    print(f"  rows per series (5, 25, 50, 75, 95 %): {', '.join(f'{n:.0f}' for n in d.rows_per_series)}")
    if d.gaps:
        print(f"  gaps between rows (5, 25, 50, 75, 95 %): {', '.join(d.gaps)}")
    if d.n_repeats:
        print(f"  rows that repeat a series and time and were merged: {d.n_repeats:,}")
    if d.horizon:
        held = ", ".join(f"{n:,} {part}" for part, n in d.n_heldout.items())
        print(f"  a fit would forecast {d.horizon} ahead (--data.horizon sets it) and hold out {held} windows")
    grid = Grid(box=None, pad_edge=True)
    for name in ("channel", "values", "rows", "series", "mean", "std", "min", "max"):
        grid.add_column(name, justify="left" if name == "channel" else "right")
    for c in d.channels:
        figures = ["-" if x is None else f"{x:.4g}" for x in (c.mean, c.std, c.low, c.high)]
        grid.add_row(c.name, f"{c.n_values:,}", f"{c.share:.0%}", f"{c.n_series:,}", *figures)
    console.print(grid)
    for note in d.notes:
        print(f"note: {note}")


def _lightning(command: str, arguments: list[str]) -> int:
    from latentode.training.command import run_command

    run_dir, figures, notes = run_command(command, arguments)
    _say(notes)
    if command == "validate":
        for name, value in figures.items():
            print(f"{name} {value:.6g}")
        return OK
    _print_scores(figures["test"] if figures["test"]["n_windows"] else figures["validation"])
    print(f"{figures['horizon']}; {figures['n_epochs']} epochs in {figures['seconds']:.0f} s")
    print(f"run folder: {run_dir}")
    print(f"next: latentode forecast {run_dir} --history DATA --every STEP --out forecast.csv --plot forecast.png")
    return OK


def _forecast(options: argparse.Namespace) -> int:
    from latentode.forecasting.forecast import QUANTILES
    from latentode.forecasting.predict import Ask, predict
    from latentode.forecasting.runs import load_run

    ask = Ask(
        at=options.at, every=options.every, horizon=options.horizon, queries=options.queries, origin=options.origin
    )
    levels = QUANTILES
    if options.quantiles:
        levels = tuple(_number(part, "quantiles") for part in options.quantiles.split(","))
    _check_folders(options.out, options.plot)
    fitted = load_run(options.run_folder, allow_modules=options.allow_module)
    forecast = predict(fitted, options.history, ask, quantiles=levels, device=_device(options.device))
    _say(forecast.notes)
    frame = forecast.to_frame(options.layout)
    write_frame(Path(options.out), frame)
    print(
        f"{options.out}: {len(frame):,} rows, {len(forecast.time):,} times of {len(set(forecast.series.tolist())):,} series"
    )
    if options.samples is not None:
        samples = Path(f"{options.out}.samples.parquet")
        write_frame(samples, forecast.sample(options.samples, seed=fitted.seed))
        print(f"{samples}: {options.samples} draws per forecast")
    if options.plot:
        from latentode.plots import save_figure

        save_figure(forecast.plot(), Path(options.plot))
        print(f"{options.plot}: picture")
    return OK


def _evaluate(options: argparse.Namespace) -> int:
    from latentode.forecasting.evaluate import evaluate
    from latentode.forecasting.predict import read_history
    from latentode.forecasting.runs import load_run

    _check_folders(options.out)
    fitted = load_run(options.run_folder, allow_modules=options.allow_module)
    table = read_history(fitted, options.data)
    metrics = options.metrics.split(",") if options.metrics else None
    report = evaluate(fitted, table, metrics=metrics, device=_device(options.device))
    _say(table.report.notes)
    which = (
        "the test part of the fitted table" if report["part"] == "test" else "all rows (this is not the fitted table)"
    )
    print(f"{options.data}: {which}, {report['n_windows']:,} windows, {report['n_values']:,} values")
    _print_scores(report, details=True)
    if options.out:
        write_json(Path(options.out), report)
        print(f"{options.out}: all figures")
    return OK


def _device(name: str) -> str:
    import torch

    if name == "cpu" or (name.startswith("cuda") and torch.cuda.is_available()):
        return name
    raise InputError(f"device is '{name}', which this machine does not have; choose cpu.")


def _check_folders(*paths: str | None) -> None:
    """Refuse an output whose folder is not there before anything is computed."""
    for path in paths:
        if path and not Path(path).resolve().parent.is_dir():
            raise InputError(f"the folder of {path} does not exist; make it first.")


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _print_scores(scores: dict[str, Any], *, details: bool = False) -> None:
    from latentode.forecasting.report import print_details, print_scores

    print_scores(scores)
    if details:
        print_details(scores)


COMMANDS: dict[str, tuple[str, str, Callable[[Parser], None], Callable[[argparse.Namespace], int]]] = {
    "demo": ("fit bundled patient data, write forecast.csv and forecast.png", "  latentode demo --out runs/demo", _demo_options, _demo),
    "describe": (
        "show what is in a table: series, channels, gaps, what a fit would do",
        "  latentode describe data.csv --id_column station --time_column date --plot overview.png",
        _describe_options,
        _describe,
    ),
    "fit": (
        "fit a model and leave a run folder",
        "  latentode fit --config configs/quickstart.yaml --data.path data.csv --data.horizon 7d --run_dir runs/mine",
        _fit_options,
        lambda options: OK,
    ),
    "validate": (
        "give the validation error of a checkpoint",
        "  latentode validate --config runs/mine/config.yaml --ckpt_path runs/mine/best.ckpt",
        _fit_options,
        lambda options: OK,
    ),
    "forecast": (
        "forecast every series of a history",
        "  latentode forecast runs/mine --history data.csv --every 6h --horizon 7d --out forecast.csv --plot forecast.png",
        _forecast_options,
        _forecast,
    ),
    "evaluate": (
        "score a run and the baselines on held-out windows",
        "  latentode evaluate runs/mine --data data.csv --metrics mse,mae,coverage --out report.json",
        _evaluate_options,
        _evaluate,
    ),
}  # fmt: skip


def run() -> NoReturn:
    """Run the command and leave the process with its status.

    Without the interpreter's teardown: threads of the libraries that are still alive then (arrow's readers after a refused file) can abort
    a process that has done its work, and turn its status into a crash.
    """
    status = FAILURE
    try:
        status = main()
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else (OK if leave.code is None else FAILURE)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    run()
