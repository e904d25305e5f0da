"""Scores as a small table for a person to read."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table as Grid

HEADINGS = {
    "mse": "MSE",
    "mae": "MAE",
    "crps": "CRPS",
    "nll": "NLL",
    "coverage_80": "in 80 % band",
    "coverage_95": "in 95 % band",
}


def print_scores(scores: dict[str, Any], *, console: Console | None = None) -> None:
    """Print the model's figures beside the baselines', the lowest error of each column in bold.

    Args:
        scores: what `FittedModel.score` gave.
        console: where to print.
    """
    console = console or Console(highlight=False)
    names = [name for name in HEADINGS if name in scores]
    rows = {"this model": scores, **{name.replace("_", " "): row for name, row in scores["baselines"].items()}}
    grid = Grid(box=None, pad_edge=True)
    grid.add_column("held-out error")
    for name in names:
        grid.add_column(HEADINGS[name], justify="right")
    for title, row in rows.items():
        grid.add_row(title, *(_cell(name, row[name], [other[name] for other in rows.values()]) for name in names))
    console.print(grid)
    console.print("errors in training standard deviations, averaged over channels; lower is better", style="dim")


def _cell(name: str, value: float, column: list[float]) -> str:
    if name.startswith("coverage"):
        return f"{value:.1%}"
    return f"[bold]{value:.4f}[/bold]" if value <= min(column) else f"{value:.4f}"
