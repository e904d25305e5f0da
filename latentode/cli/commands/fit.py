"""`latentode fit`: fit a model and leave a run folder."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from latentode.cli.parser import (
    OK,
    Parser,
    add_data_settings,
    check_outputs,
    give,
    say,
    show_scores,
    tell,
)

SUMMARY = "fit a model and leave a run folder"
EXAMPLE = "latentode fit --config configs/quickstart.yaml --data.path data.csv --data.horizon 7d --run_dir runs/mine"


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("--config", help="YAML file with any of the settings below, such as configs/quickstart.yaml")
    parser.add_argument("--run_dir", help="run folder (left out: runs/<name>-<n>)")
    parser.add_argument("--seed_everything", metavar="SEED", help="of weights and windows (0)")
    parser.add_argument("--patience", help="epochs without improvement before training ends (30)")
    parser.add_argument("--resume", action="store_true", help="go on with the run of --run_dir, with its settings")
    parser.add_argument("--overwrite", action="store_true", help="replace the run of --run_dir")
    parser.add_argument(
        "--allow-module",
        action="append",
        default=[],
        metavar="MODULE",
        help="own module that --resume may import, where the run's settings name it",
    )
    parser.add_argument("--save_every", metavar="SECONDS", help="between checkpoints within an epoch (60)")
    add_data_settings(parser, skip=(), prefix="--data.")
    parser.add_argument("--plot", metavar="PICTURE", help="learning curves to write: .png, .pdf or .svg")
    group = parser.add_argument_group("model and training (all of them: --help.all)")
    group.add_argument(
        "--model.network", metavar="NAME", help="latent_ode, blend, ..., or a class path with its settings"
    )
    group.add_argument("--model.learning_rate", metavar="RATE", help="highest learning rate (0.002)")
    group.add_argument("--model.weight_decay", metavar="W", help="of AdamW (0.01)")
    group.add_argument("--trainer.max_epochs", metavar="N", help="epochs at most (30)")
    group.add_argument("--trainer.accelerator", metavar="NAME", help="auto, cpu, gpu (auto)")
    group.add_argument("--trainer.devices", metavar="N", help="processes on this machine that train together (1)")
    group.add_argument("--trainer.num_nodes", metavar="N", help="machines that train together (1)")
    group.add_argument("--engine", metavar="NAME", help="local, or ray: Ray starts the processes (local)")
    group.add_argument("--workers", metavar="N", help="processes, with --engine ray (1)")
    group.add_argument("--print_config", action="store_true", help="print all settings as YAML and exit")
    group.add_argument(
        "--help.all", action="store_true", help="show every option of Lightning's trainer too (takes seconds)"
    )


def run_lightning(command: str, arguments: list[str]) -> int:
    """Run `fit` or `validate` through Lightning's command line and print what came of it."""
    # Before torch is there: its library warns of what several processes may leave out, which is no news and not for them all to say.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from latentode.training.command import run_command

    picture, arguments = take_picture(command, arguments)
    run_dir, figures, notes = run_command(command, arguments)
    if figures is None:
        # Another process of this training has them.
        return OK
    say(notes)
    if command == "validate":
        give(figures, lambda: print("\n".join(f"{name} {value:.6g}" for name, value in figures.items())))
        return OK
    following = next_command(run_dir, figures)
    give({"run_dir": str(run_dir), "next": following, **figures}, lambda: _show(figures), brief=str(run_dir))
    tell(f"{figures['horizon']}; {figures['n_epochs']} epochs in {figures['seconds']:.0f} s")
    tell(f"run folder: {run_dir}")
    if figures["known_columns"]:
        # A model with known columns has to be told what they will be.
        tell(
            f"next: write the times to forecast into queries.csv, with the columns {','.join(figures['query_columns'])}, and"
        )
        tell(f"  {following}")
    else:
        tell(f"next: {following}")
    if picture:
        import pandas as pd

        from latentode.plots import plot_learning, save_figure

        save_figure(plot_learning(pd.read_csv(run_dir / "log.csv"), title=str(run_dir)), Path(picture))
        tell(f"{picture}: picture")
    return OK


def take_picture(command: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """Give the picture that `fit` is to draw, once it is known that it can be written, and the arguments that are Lightning's."""
    if command != "fit":
        return None, arguments
    own = Parser(add_help=False)
    own.add_argument("--plot")
    known, rest = own.parse_known_args(arguments)
    check_outputs(picture=known.plot)
    return known.plot, rest


def _show(figures: dict[str, Any]) -> None:
    show_scores(figures["test"] if figures["test"]["n_windows"] else figures["validation"])


def next_command(run_dir: Path, figures: dict[str, Any]) -> str:
    """Write the command that forecasts with a run, quoted so that it can be pasted.

    Args:
        run_dir: the run folder.
        figures: of the fit.
    """
    times = ["--queries", "queries.csv"] if figures["known_columns"] else ["--every", figures["step"]]
    allowed = [word for module in figures["modules"] for word in ("--allow-module", module)]
    history = ["--history", figures["data"] or "data.csv"]
    outputs = ["--out", "forecast.csv", "--plot", "forecast.png"]
    return shlex.join(["latentode", "forecast", str(run_dir), *history, *times, *outputs, *allowed])


def run(options: argparse.Namespace) -> int:
    """Do nothing: Lightning's command line reads the options itself (`run_lightning`)."""
    return OK
