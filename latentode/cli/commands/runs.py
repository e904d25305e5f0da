"""`latentode runs`: which runs there are, how good they are, and which did not come to their end."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from latentode.cli.parser import OK, Parser, give, say, tell

if TYPE_CHECKING:
    from latentode.forecasting.index import Run

SUMMARY = "list the runs in a folder, with their errors beside the blend's"
EXAMPLE = "latentode runs runs --sort test"

SORTS = ("date", "name", "model", "data", "validation", "test", "epochs", "state")
NARROW = 110  # columns below which the table leaves out the data and the time of day


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("folder", nargs="?", default="runs", help="to search, with all below it (%(default)s)")
    parser.add_argument(
        "--sort",
        metavar="BY",
        choices=SORTS,
        default="date",
        help=f"{', '.join(SORTS)} (%(default)s, the newest first)",
    )
    parser.add_argument("--reverse", action="store_true", help="the other way round")


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    from latentode.forecasting.index import list_runs

    runs = list_runs(options.folder, sort=options.sort, reverse=options.reverse)
    give([one.to_dict() for one in runs], lambda: _show(runs))
    say([f"{one.path}: {one.reason}." for one in runs if one.reason])
    if not runs:
        tell(f"{options.folder} holds no run; `latentode fit` leaves one.")
    return OK


def _show(runs: list[Run]) -> None:
    from rich.markup import escape
    from rich.table import Table as Grid

    from latentode.progress import make_console

    if not runs:
        return
    console = make_console()
    is_narrow = console.width < NARROW
    grid = Grid(box=None, pad_edge=False)
    for name in ("run", "model", *(() if is_narrow else ("data",)), "date"):
        grid.add_column(name, overflow="fold")
    for name in ("validation", "test", "epochs"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("state", no_wrap=True)
    for one in runs:
        texts = [one.name, one.model or "-", *([] if is_narrow else [one.data or "-"])]
        date = (one.date or "-").replace("T", " ")[: 10 if is_narrow else 16]
        errors = [_error(one, part) for part in ("validation", "test")]
        n_epochs = "-" if one.n_epochs is None else f"{one.n_epochs:,}"
        grid.add_row(*(escape(_printable(text)) for text in texts), date, *errors, n_epochs, one.state)
    console.print(grid)
    console.print(
        "errors: macro mse in squared training deviations; in brackets as ratio to the blend's (below 1: better than it)",
        style="dim",
    )


def _error(one: Run, part: str) -> str:
    figures = one.errors.get(part, {})
    if "mse" not in figures:
        return "-"
    return f"{figures['mse']:.4g}" + (f" ({figures['ratio']:.2f})" if "ratio" in figures else "")


def _printable(text: str) -> str:
    """Give a text without what would move a terminal's cursor: names come from other people's folders."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
