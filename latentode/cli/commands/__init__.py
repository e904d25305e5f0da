"""Commands by name: one file per command, one line in the table.

A command is a module with `SUMMARY`, `EXAMPLE`, `add_options(parser)` and `run(options) -> status`. It imports what it needs inside `run`.
"""

from __future__ import annotations

from types import ModuleType

from . import backtest, benchmark, demo, describe, evaluate, export, fit, forecast, tune, validate

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "describe": describe,
    "fit": fit,
    "validate": validate,
    "tune": tune,
    "forecast": forecast,
    "evaluate": evaluate,
    "backtest": backtest,
    "benchmark": benchmark,
    "export": export,
}
