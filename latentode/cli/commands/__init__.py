"""Commands by name: one file per command, one line in the table.

A command is a module with `SUMMARY`, `EXAMPLE`, `add_options(parser)` and `run(options) -> status`. It imports what it needs inside `run`,
and speaks by `latentode.cli.parser`: `give`, `tell`, `say`. `HAS_JSON = False` where its result is no data.
"""

from __future__ import annotations

from types import ModuleType

from . import (
    backtest,
    benchmark,
    completion,
    demo,
    describe,
    evaluate,
    export,
    fit,
    forecast,
    latent,
    runs,
    tune,
    validate,
)

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "describe": describe,
    "fit": fit,
    "validate": validate,
    "tune": tune,
    "forecast": forecast,
    "latent": latent,
    "evaluate": evaluate,
    "backtest": backtest,
    "benchmark": benchmark,
    "export": export,
    "runs": runs,
    "completion": completion,
}

# As `latentode --help` shows them; one that is in no group stands at the end.
GROUPS: dict[str, list[str]] = {
    "to begin with": ["demo", "describe"],
    "fit": ["fit", "validate", "tune", "runs"],
    "forecast": ["forecast", "latent", "export"],
    "how good is it": ["evaluate", "backtest", "benchmark"],
    "your shell": ["completion"],
}
