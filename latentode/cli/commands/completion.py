"""`latentode completion`: what a shell needs to complete commands, options, files and choices with the tab key."""

from __future__ import annotations

import argparse
from typing import Any

from latentode.cli.parser import OK, Parser

SUMMARY = "print what lets your shell complete commands and options"
EXAMPLE = """eval "$(latentode completion bash)"   # in ~/.bashrc; for zsh the same in ~/.zshrc, behind compinit
  latentode completion tcsh > ~/.latentode.tcsh   # and `source ~/.latentode.tcsh` in ~/.tcshrc"""
HAS_JSON = False

SHELLS = ("bash", "zsh", "tcsh")
FILES = {"path", "config", "ckpt_path", "history", "queries", "data", "out", "plot"}
FOLDERS = {"run_folder", "run_dir", "data_dir", "folder"}


def add_options(parser: Parser) -> None:
    """Add the options."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"your shell: {', '.join(SHELLS)}")


def run(options: argparse.Namespace) -> int:
    """Run the command and give its exit status."""
    import shtab

    from latentode.cli import build_parser

    parser, commands = build_parser()
    for command in commands.values():
        _mark(command, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, options.shell))
    return OK


def _mark(command: Parser, file: Any, folder: Any) -> None:
    """Say of each option whether files, folders or words complete it."""
    from latentode.data.settings import CHOICES

    for action in command._actions:
        name = action.dest.rpartition(".")[2]
        if name in FILES or name in FOLDERS:
            action.complete = file if name in FILES else folder  # pyright: ignore[reportAttributeAccessIssue]  shtab's way
        elif name in CHOICES and action.choices is None:
            action.choices = CHOICES[name]
