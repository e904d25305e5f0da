"""`latentode tune`: search for the settings of a fit that forecast best."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from latentode.cli.commands.fit import next_command
from latentode.cli.parser import OK, Parser, check_outputs, count, give, number, show_progress, show_scores, tell
from latentode.errors import InputError, did_you_mean

SUMMARY = "search for the settings of a fit that forecast best, and leave the best fit as a run"
EXAMPLE = (
    "latentode tune --config configs/quickstart.yaml --space configs/tune/default.yaml --data.path data.csv --trials 20 "
    "--run_dir runs/tuned"
)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_options(parser: Parser) -> None:
    """Add the options."""
    _add_own_options(parser)
    group = parser.add_argument_group("of the fits: every option of `latentode fit`, such as")
    group.add_argument("--config", help="YAML file of settings, such as configs/quickstart.yaml")
    group.add_argument("--data.path", metavar="PATH", help="table")
    group.add_argument("--data.horizon", metavar="HORIZON", help="how far to forecast")
    group.add_argument("--trainer.max_epochs", metavar="N", help="epochs of a trial at most (30)")


def _add_own_options(parser: Parser) -> None:
    parser.add_argument(
        "--space", help="YAML file: what may be changed, and between what, such as configs/tune/default.yaml"
    )
    parser.add_argument("--run_dir", help="folder of the study, and of the run in the end (runs/tuned)")
    parser.add_argument("--trials", default="20", help="trials in all (%(default)s)")
    parser.add_argument("--timeout", help="begin no trial after so long: seconds, or 90m, 8h, 2d (no limit)")
    parser.add_argument("--resume", action="store_true", help="go on with the study in --run_dir, if there is one")
    parser.add_argument(
        "--pruner", default="median", help="median, hyperband or none: ends hopeless trials (%(default)s)"
    )
    parser.add_argument("--seed", default="0", help="of what is tried (%(default)s)")
    parser.add_argument("--final_epochs", metavar="N", help="fit the best settings once more, over so many epochs")
    parser.add_argument("--plot", help="picture of the study to write: .png, .pdf or .svg")


def run_lightning(command: str, arguments: list[str]) -> int:
    """Split the options into the search's and the fits', and run."""
    own = Parser(prog=f"latentode {command}", add_help=False)
    _add_own_options(own)
    options, rest = own.parse_known_args(arguments)
    known = [name for name in own.known_options() if name != "--config"]
    for word in rest:
        name = word.split("=")[0]
        # A fit's own options have a dot or are checked by the fit.
        if name.startswith("--") and "." not in name and did_you_mean(name, known) and name not in FIT_OPTIONS:
            raise InputError(f"{name} is no option of `latentode {command}`{did_you_mean(name, known)}.")
    return _run(options, rest)


FIT_OPTIONS = ("--config", "--seed_everything", "--patience", "--ckpt_path", "--print_config")


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    from latentode.forecasting.search_space import check_optuna

    # Before what takes seconds to load.
    check_optuna()
    from latentode.forecasting.tune import TuneSettings, tune

    check_outputs(picture=options.plot)
    settings = TuneSettings(
        n_trials=count(options.trials, "--trials"),
        timeout=None if options.timeout is None else _seconds(options.timeout),
        pruner=options.pruner,
        seed=count(options.seed, "--seed", least=0),
        final_epochs=None if options.final_epochs is None else count(options.final_epochs, "--final_epochs"),
    )
    run_dir = options.run_dir or "runs/tuned"
    study = tune(options.space, run_dir, arguments, settings=settings, resume=options.resume, say=show_progress)
    metrics = json.loads((Path(run_dir) / "metrics.json").read_text(encoding="utf-8"))
    following = next_command(Path(run_dir), metrics)
    content = {"run_dir": run_dir, "next": following, **study, "test": metrics["test"]}
    give(content, lambda: _show(study, metrics), brief=run_dir)
    tell(f"run folder: {run_dir} (trials.csv, study.json: all trials)")
    tell(f"next: {following}")
    if options.plot:
        from latentode.plots import plot_study, save_figure

        save_figure(plot_study(study), Path(options.plot))
        tell(f"{options.plot}: picture")
    return OK


def _seconds(text: str) -> float:
    """Read a duration: seconds, or a number with s, m, h or d behind it."""
    unit = UNITS.get(text[-1:].lower())
    seconds = number(text if unit is None else text[:-1], "--timeout") * (unit or 1)
    if seconds <= 0:
        raise InputError(f"--timeout is '{text}'; give a duration above 0, such as 600, 90m or 8h.")
    return seconds


def _show(study: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Print the trials, best first, what mattered, and how good the best one is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    best = study["best"]
    keys = list(best["params"])
    short = _shortened(keys)
    table = Table(
        title="trials, best first; score: squared error on validation; 1 is what a blend of last value and means leaves in training",
        title_justify="left",
    )
    for name in ("trial", "score", "epochs", "seconds", *(short[key] for key in keys)):
        table.add_column(Text(name), justify="right")
    order = {"complete": 0, "pruned": 1, "failed": 2}
    for row in sorted(study["trials"], key=lambda row: (order[row["state"]], row["score"] or 0, row["number"])):
        score = f"{row['score']:.4f}" if row["state"] == "complete" else row["state"]
        values = [_value(row["params"].get(key)) for key in keys]
        table.add_row(
            *map(Text, (str(row["number"]), score, str(row["n_epochs"] or ""), f"{row['seconds']:.0f}", *values))
        )
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    for row in study["trials"]:
        if row["error"]:
            print(f"trial {row['number']} failed: {row['error']}")
    if study["importance"]:
        shares = ", ".join(f"{short[key]} {share:.0%}" for key, share in study["importance"].items())
        print(f"what scores depended on: {shares}")
    print(
        f"best: trial {best['number']}, {', '.join(f'{key} {_value(value)}' for key, value in best['params'].items())}"
    )
    show_scores(metrics["test"] if metrics["test"]["n_windows"] else metrics["validation"])


def _value(value: Any) -> str:
    # Of a class path the class is enough.
    return f"{value:.4g}" if isinstance(value, float) else str(value).removeprefix("latentode.models.")


def _shortened(keys: list[str]) -> dict[str, str]:
    """Give each key by its last words, as many as tell it from the others."""
    words = {key: [word for word in key.split(".") if word != "init_args"] for key in keys}
    short = {}
    for key in keys:
        n = 1
        while any(words[other][-n:] == words[key][-n:] for other in keys if other != key):
            n += 1
        short[key] = ".".join(words[key][-n:])
    return short


def run(options: argparse.Namespace) -> int:
    """Do nothing: `run_lightning` reads the options, since most of them are the fit's."""
    return OK
