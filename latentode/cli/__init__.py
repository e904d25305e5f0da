"""The `latentode` command: a thin dispatcher. Nothing heavy is imported before the command is known and its options are read."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from latentode import __version__
from latentode.cli.commands import COMMANDS, GROUPS
from latentode.cli.parser import FAILURE, OK, USAGE, Parser, add_output, speaking, unknown_option
from latentode.errors import DataError, InputError, LatentODEError, RunError, Stopped, did_you_mean

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
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signum
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
    name = argv[0] if argv else None
    if name in LIGHTNING and not {"-h", "--help"} & set(argv[1:]):
        words, quiet, json = argv[1:], ("-q", "--quiet"), ("--json",)
        rest = [word for word in words if word not in (*quiet, *json)]
        with speaking(is_quiet=bool({*quiet} & {*words}), is_json=bool({*json} & {*words})):
            return COMMANDS[name].run_lightning(name, rest)
    parser, commands = build_parser()
    if name is None:
        parser.print_help()
        return OK
    if name in commands:
        command = commands[name]
        # Before anything that is missing: a misspelt option is most often the one that seems to be missing.
        unknown = [
            word for word in argv[1:] if word.startswith("--") and word.split("=")[0] not in command.known_options()
        ]
        if unknown:
            command.error(f"unrecognized arguments: {' '.join(unknown)}")
        options = command.parse_args(argv[1:])
        with speaking(is_quiet=options.quiet, is_json=getattr(options, "json", False)):
            return options.run(options)
    if name.startswith("-"):
        parser.parse_known_args(argv)
        home = next((key for key, command in commands.items() if name in command.known_options()), None)
        if home:
            raise InputError(
                f"{name} is an option of a command and stands behind its name: `latentode {home} ... {name}`."
            )
        raise InputError(unknown_option(name, parser.known_options(), "latentode"))
    hint = f" (did you mean '{LIGHTNING_WORDS[name]}'?)" if name in LIGHTNING_WORDS else did_you_mean(name, commands)
    raise InputError(
        f"'{name}' is no command of latentode{hint}" + ("." if hint else f"; choose one of {', '.join(commands)}.")
    )


class MainParser(Parser):
    """Shows the commands in groups, by what they are for."""

    def format_help(self) -> str:
        """Give the help."""
        helps = {name: module.SUMMARY for name, module in COMMANDS.items()}
        grouped = [name for names in GROUPS.values() for name in names]
        groups = {**GROUPS, "more": [name for name in helps if name not in grouped]}
        width = max(map(len, helps))
        lines = [f"usage: {self.prog} COMMAND ...", "", str(self.description)]
        for title, names in groups.items():
            if names:
                lines += ["", f"{title}:", *(f"  {name:{width}}  {helps[name]}" for name in names)]
        lines += [
            "",
            f"`{self.prog} COMMAND --help` tells a command's options; `{self.prog} --version` tells the version.",
        ]
        return "\n".join([*lines, "", str(self.epilog), ""])


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """Give the main parser and one per command."""
    parser = MainParser(
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
        add_output(command, has_json=getattr(module, "HAS_JSON", True))
        command.set_defaults(run=module.run)
        commands[name] = command
    return parser, commands


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    raise Stopped("stopped; what was finished before is kept.", signum)


def run() -> NoReturn:
    """Run the command and leave the process with its status.

    Without the interpreter's teardown: threads of the libraries that are still alive then (arrow's readers after a refused file) can abort
    a process that has done its work, and turn its status into a crash.
    """
    status = FAILURE
    # As Ctrl-C, so that what is half written is taken away; nothing where the process was started to ignore it.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)
    try:
        status = main()
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else (OK if leave.code is None else FAILURE)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
