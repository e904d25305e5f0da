"""Panels of R's data sets, as the Rdatasets collection writes them: rows named, then one column per variable of the data frame.

A user's own copy is read, as <item>.csv or <package>/<item>.csv in the data folder or in its folder rdatasets; one protocol per panel:
    ChickWeight (datasets): weights (grams) of 50 chicks on four diets over 21 days; Crowder and Hand, Analysis of Repeated Measures, 1990.
    Orange (datasets): trunk circumference (mm) of 5 orange trees over 1,582 days; Draper and Smith, Applied Regression Analysis, 1998.
    Indometh (datasets): indometacin in the plasma of 6 subjects (micrograms per ml) over 8 hours; Kwan et al. 1976.
    Theoph (datasets): theophylline in the serum of 12 subjects (mg per l) over a day; Boeckmann, Sheiner and Beal, NONMEM, 1994.
    Orthodont (nlme): distance pituitary to fissure (mm) of 27 children, ages 8 to 14; Potthoff and Roy, Biometrika 51, 1964.
    Oxboys (nlme): heights (cm) of 26 boys in Oxford on nine occasions; Goldstein, Efficient Statistical Modelling of Longitudinal Data,
    1987.

Columns: series_id: the panel's unit; time and channels under the names of the R data frame.

Source: V. Arel-Bundock, Rdatasets, https://vincentarelbundock.github.io/Rdatasets, licence of the R packages (GPL-2 or later); each csv has
a documentation page beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from latentode.data.panels import Panel, time_cut
from latentode.data.protocols import Protocol, find_files


@dataclass(frozen=True)
class Item:
    """Which columns of an item are series, time and channels."""

    package: str
    id_column: str
    time_column: str
    channels: tuple[str, ...]


ITEMS = {
    "ChickWeight": Item("datasets", "Chick", "Time", ("weight",)),
    "Orange": Item("datasets", "Tree", "age", ("circumference",)),
    "Indometh": Item("datasets", "Subject", "time", ("conc",)),
    "Theoph": Item("datasets", "Subject", "Time", ("conc",)),
    "Orthodont": Item("nlme", "Subject", "age", ("distance",)),
    "Oxboys": Item("nlme", "Subject", "age", ("height",)),
}


def _find(name: str, data_dir: Path | None) -> Path:
    folders = ("rdatasets", f"rdatasets/{ITEMS[name].package}", ITEMS[name].package, ".")
    return find_files(
        f"rdatasets ({name})",
        [f"{folder}/{name}.csv" for folder in folders],
        data_dir,
        how=f"download csv/{ITEMS[name].package}/{name}.csv from https://github.com/vincentarelbundock/Rdatasets and put it there.",
    )


def _protocol(name: str, item: Item) -> Protocol:
    reading = {"id_column": item.id_column, "time_column": item.time_column, "channels": list(item.channels)}
    panel = Panel(
        name, partial(_find, name), source="this package: the default split of `latentode fit`", reading=reading
    )
    return time_cut(panel, name=name)


PROTOCOLS: dict[str, Protocol] = {name: _protocol(name, item) for name, item in ITEMS.items()}
