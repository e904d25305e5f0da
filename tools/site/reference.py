"""A hook of MkDocs: reference pages from what the packages offer (`__all__`) and from the parsers of the command.

A public name without a docstring, or one that the site's reader of the source cannot find, ends the build.
"""

from __future__ import annotations

import argparse
import html
import importlib
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent.parent.parent))


@dataclass(frozen=True)
class Page:
    """A reference page.

    Attributes:
        title: its heading.
        text: what stands under it.
        packages: whose names it shows.
        left_out: packages whose names have a page of their own.
        shows_methods: whether methods are told, too; not where they are those of an interface that is told elsewhere.
    """

    title: str
    text: str
    packages: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    shows_methods: bool = True


PARTS = tuple(f"latentode.models.{folder}" for folder in ("encoders", "dynamics", "decoders", "equations"))
PAGES = {
    "forecasting": Page(
        "Forecaster and forecasts",
        "From a table to a forecast, a score, a backtest. `Forecaster`, `Forecast` and `read_table` are also names of `latentode` itself.",
        (
            "latentode.forecasting",
            "latentode.forecasting.backtest",
            "latentode.forecasting.latent",
            "latentode.forecasting.estimates",
        ),
    ),
    "data": Page(
        "Data", "Tables to batches. Nothing here knows a model.", ("latentode.data", "latentode.data.simulation")
    ),
    "models": Page(
        "Models",
        "Whole models, baselines, and what their parts promise each other. The parts themselves are on [a page of their own](parts.md).",
        ("latentode.models",),
        PARTS,
    ),
    "parts": Page(
        "Encoders, dynamics, decoders, equations",
        "What a latent ODE is put together from; all are names of `latentode.models`. "
        "Their methods are those of the [interfaces](models.md).",
        PARTS,
        shows_methods=False,
    ),
    "ode": Page(
        "The engine",
        "Initial value problems of batches, each sample on its own clock. Tensors in, tensors out.",
        ("latentode.ode",),
    ),
    "metrics": Page("Metrics", "Scores of forecasts, as sums and counts.", ("latentode.metrics",)),
    "errors": Page(
        "Errors",
        "Everything that is raised on purpose. Each message says what is wrong, where, and what to do.",
        ("latentode.errors",),
    ),
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, page in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=write_page(page)))
    files.append(File.generated(config, "reference/cli.md", content=write_commands()))
    return files


# -- the packages ------------------------------------------------------------------------------------------------------


def write_page(page: Page) -> str:
    """Give the Markdown of a page: one block per name, which mkdocstrings fills from the source."""
    elsewhere = {name for package in page.left_out for name in public_names(package)}
    parts = [f"# {page.title}", page.text]
    told: set[str] = set()
    for package in page.packages:
        names = [name for name in public_names(package) if name not in elsewhere | told]
        told |= set(names)
        parts.append(f"## `{package}`")
        parts.append(_first_paragraph(importlib.import_module(package)))
        parts += [_write_name(package, name, page.shows_methods) for name in sorted(names, key=str.lower)]
    return "\n\n".join(parts) + "\n"


def public_names(package: str) -> list[str]:
    """Give what a package offers; of a module without `__all__`, the functions and classes that are its own."""
    module = importlib.import_module(package)
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == package and callable(value)
    ]


def _write_name(package: str, name: str, shows_methods: bool) -> str:
    value = getattr(importlib.import_module(package), name)
    if inspect.isclass(value) or inspect.isfunction(value):
        if not value.__doc__:
            raise PluginError(f"{package}.{name} has no docstring; write one, since the site shows it.")
        options = "" if shows_methods else "\n    options:\n      members: false"
        return f"::: {value.__module__}.{value.__qualname__}{options}"
    return f"### `{name}` {{: #{package}.{name} }}\n\n{_describe(value)}"


def _describe(value: Any) -> str:
    """Say what a table or constant holds."""
    if isinstance(value, dict):
        keys = ", ".join(f"`{key}`" for key in value)
        return f"A table with the entries {keys}."
    if isinstance(value, list | tuple | set | frozenset):
        return f"The values {', '.join(f'`{entry}`' for entry in value)}."
    return f"`{value!r}`"


def _first_paragraph(module: Any) -> str:
    if not module.__doc__:
        raise PluginError(f"{module.__name__} has no docstring; write one, since the site shows it.")
    return " ".join(inspect.cleandoc(module.__doc__).split("\n\n")[0].split())


# -- the command -------------------------------------------------------------------------------------------------------


def write_commands() -> str:
    """Give the page of the command: every subcommand with its options, as its own parser has them."""
    from latentode.cli import build_parser
    from latentode.cli.commands import COMMANDS

    _, parsers = build_parser()
    parts = [
        "# The command line",
        "Every command ends with status 0, or with one sentence on the standard error and status 2 (usage, data) or 1 (failure); "
        "`--traceback` shows where an error came from. `latentode COMMAND --help` shows the same as this page.",
    ]
    for name, parser in parsers.items():
        summary, example = COMMANDS[name].SUMMARY, COMMANDS[name].EXAMPLE
        parts.append(f"## `latentode {name}`\n\n{summary[0].upper()}{summary[1:]}.")
        parts.append(f"```text\n{example}\n```")
        parts += [_write_group(group.title or "", group._group_actions) for group in parser._action_groups]
    return "\n\n".join(part for part in parts if part) + "\n"


def _write_group(title: str, actions: list[argparse.Action]) -> str:
    rows = [_write_option(action) for action in actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    if not rows:
        return ""
    return "\n".join([f"**{title}**", "", "| option | meaning |", "| --- | --- |", *rows])


def _write_option(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None and action.metavar is None:
        value = "|".join(str(choice) for choice in action.choices)
    takes_value = action.nargs != 0 and action.option_strings
    shown = ", ".join(action.option_strings) if action.option_strings else value
    text = f"{shown} {value}" if takes_value else shown
    meaning = (action.help or "") % {"default": action.default, "prog": "latentode"}
    return f"| <code>{_cell(text)}</code> | {_cell(meaning)} |"


def _cell(text: str) -> str:
    """Give text that ends no cell, opens no tag and marks nothing up."""
    text = html.escape(text.replace("\n", " "), quote=False)
    return re.sub(r"[|*_`\[\]{}$]", lambda found: f"&#{ord(found[0])};", text)
