"""Data sets by name: one file per data set, one line in the table.

A data set is a module with `path() -> Path`, which gives a file that follows the data contract, and a docstring that
says where the data come from, under which licence, and what every column is.
"""

from __future__ import annotations

from types import ModuleType

from . import pbcseq

DATASETS: dict[str, ModuleType] = {
    "pbcseq": pbcseq,
}
