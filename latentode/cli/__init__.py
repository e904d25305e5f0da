"""The `latentode` command: a thin dispatcher. Nothing heavy is imported before the command is known and its options are read."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from latentode import __version__
from latentode.cli.commands import COMMANDS
from latentode.cli.parser import FAILURE, OK, USAGE, Parser
from latentode.errors import DataError, InputError, LatentODEError, RunError

LIGHTNING = ("fit", "validate", "tune")
# What Lightning's own command line would call them.
LIGHTNING_WORDS = {"test": "evaluate", "predict": "forecast"}


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
        return COMMANDS[argv[0]].run_lightning(argv[0], argv[1:])
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
    for name, module in COMMANDS.items():
        text = module.SUMMARY
        command = group.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"example:\n  {module.EXAMPLE}"
        )
        module.add_options(command)
        command.add_argument("--traceback", action="store_true", help="show where an error came from")
        command.set_defaults(run=module.run)
        commands[name] = command
    return parser, commands


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
