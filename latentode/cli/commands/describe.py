"""`latentode describe`: show what is in a table: series, channels, gaps, what a fit would do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentode.cli.parser import OK, Parser, add_data_settings, check_outputs, give, number, say, tell

if TYPE_CHECKING:
    from latentode.data.describe import Description
    from latentode.data.tables import Table

MAX_SHOWN = 8  # categories

SUMMARY = "show what is in a table: series, channels, gaps, what a fit would do"
EXAMPLE = "latentode describe data.csv --id_column station --time_column date --plot overview.png"


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("data", help="CSV (plain or .gz) or Parquet")
    add_data_settings(
        parser, skip=("path", "batch_size", "windows_per_epoch", "streaming", "max_history", "history"), prefix="--"
    )
    parser.add_argument("--plot", help="picture of the table to write (.png, .pdf, .svg)")


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    from latentode.data.describe import describe

    check_outputs(picture=options.plot)
    table, settings = _read_described(options)
    description = describe(table, settings)
    give(description.to_dict(), lambda: _print_description(description))
    say(description.notes)
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
    tell(f"{path}: picture")


def _list_categories(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN:,} more" if len(names) > MAX_SHOWN else ""
    return f"{len(names):,} categories: {', '.join(names[:MAX_SHOWN])}{more}"


def _read_described(options: argparse.Namespace) -> tuple[Table, Any]:
    import yaml

    from latentode.data.settings import COLUMN_LISTS, DataSettings
    from latentode.data.tables import read_table

    given = {name: getattr(options, name, None) for name in DataSettings.help_texts()}
    given = {name: value for name, value in given.items() if value is not None}
    for name in COLUMN_LISTS:
        if name in given:
            given[name] = _split_names(given[name])
    if "bounded_channels" in given:
        given["bounded_channels"] = yaml.safe_load(given["bounded_channels"])
    if given.get("calendar", "auto") not in ("auto", "none"):
        given["calendar"] = _split_names(given["calendar"])
    for name in ("val_fraction", "test_fraction"):
        if name in given:
            given[name] = number(given[name], name)
    settings = DataSettings(**given)
    return read_table(Path(options.data), **settings.reading()), settings


def _split_names(text: str) -> list[str]:
    """Read a list of names, with or without the brackets that `fit` takes."""
    return [part.strip() for part in text.removeprefix("[").removesuffix("]").split(",")]


def _print_description(d: Description) -> None:
    from rich.markup import escape
    from rich.table import Table as Grid

    from latentode.progress import make_console

    console = make_console()
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
        grid.add_row(escape(c.name), f"{c.n_values:,}", f"{c.share:.0%}", f"{c.n_series:,}", *figures)
    console.print(grid)
    for name, kind in d.statics.items():
        print(f"  {name}: one value per series, {kind if isinstance(kind, str) else _list_categories(kind)}")
    for name in d.known:
        print(f"  {name}: known in the future; query tables hold it")
    if d.calendar:
        print(f"  {d.settings['time_column']}: a model reads {', '.join(d.calendar)} of every time (--data.calendar)")
