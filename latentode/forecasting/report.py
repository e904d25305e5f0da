"""Scores as small tables for a person to read: what was averaged how, in which units, and where the model loses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from latentode.metrics import METRICS
from latentode.progress import make_console

AVERAGES = {"macro": "mean over channels", "pooled": "mean over values"}
MAX_COLUMNS = 7
MAX_DETAILS = 5
# A baseline that is scored as the model itself differs from its twin by rounding at most.
ROUNDING = 1e-6


def print_scores(scores: dict[str, Any], *, console: Console | None = None) -> None:
    """Print the model's figures beside the baselines', the lowest error of each column in bold, and where the model loses.

    Args:
        scores: what `FittedModel.score` gave.
        console: where to print.
    """
    console = console or make_console()
    names = _columns(scores)
    rows = {"this model": scores, **{name.replace("_", " "): row for name, row in scores["baselines"].items()}}
    grid = _grid("held-out error", names)
    for average, meaning in AVERAGES.items():
        grid.add_row(f"[dim]{average}: {meaning}[/dim]")
        columns = {name: [row[f"{name}_{average}"] for row in rows.values()] for name in names}
        for i, title in enumerate(rows):
            grid.add_row(f"  {title}", *(_cell(name, column[i], column) for name, column in columns.items()))
    console.print(grid)
    console.print(_units(names), style="dim")
    if scores.get("left_out"):
        console.print(
            f"constant in training, so in no average: {escape(', '.join(scores['left_out']))}", soft_wrap=True
        )
    for line in (*stated_coverage(scores), verdict(scores)):
        console.print(line, soft_wrap=True)


def stated_coverage(scores: dict[str, Any]) -> list[str]:
    """Say how many of the values the model's intervals held, and from which residuals they are; nothing where neither is known.

    Args:
        scores: what `FittedModel.score` gave.
    """
    calibration = scores.get("calibration", {})
    told = [row for row in calibration.get("coverage", ()) if not math.isnan(row["held"])]
    lines = []
    if told:
        held = ", ".join(f"{row['nominal']:.0%} intervals hold {row['held']:.1%}" for row in told)
        lines.append(f"{held} of {scores['n_values']:,} values")
    n = calibration.get("fitted_on", {})
    if n.get("n_cells"):
        sources = {"their own residuals": n["n_own"], "their channel's": n["n_by_channel"], "all": n["n_by_all"]}
        sources["the likelihood alone"] = n["n_raw"]
        by = ", ".join(f"{k:,} by {source}" for source, k in sources.items() if k)
        lines.append(
            f"calibrated on {n['n_residuals']:,} held-out residuals; of {n['n_cells']:,} pairs of channel and lead time {by}"
        )
    return lines


def print_details(scores: dict[str, Any], *, console: Console | None = None) -> None:
    """Print the model's figures by lead time (macro) and by channel, each with the ratio of its squared error to the blend's.

    Args:
        scores: what `FittedModel.score` gave.
        console: where to print.
    """
    console = console or make_console()
    names = _columns(scores)[:MAX_DETAILS]
    blend = scores["baselines"].get("blend", {})
    bins = scores.get("bins", [])
    grid = _grid("horizons ahead", names, "to blend", "values")
    for row, other in zip(bins, blend.get("bins", bins), strict=True):
        _add_detail(grid, f"{row['after']:g} to {row['until']:g}", names, row, other)
    console.print(grid)
    grid = _grid("own units", names, "to blend", "values")
    for channel, row in scores["channels"].items():
        _add_detail(grid, channel, names, row, blend.get("channels", {}).get(channel, {}))
    console.print(grid)
    console.print("of this model; to blend: its squared error over the blend's", style="dim")


def verdict(scores: dict[str, Any]) -> str:
    """Say in one line against which baselines the model loses, on which metric, in which average and by how much.

    Args:
        scores: what `FittedModel.score` gave.
    """
    names = [name for name in _columns(scores) if METRICS[name].is_error]
    if not scores["n_values"] or not names:
        return "nothing to compare: no held-out value was scored by an error"
    lost = {title.replace("_", " "): losses(scores, title, names) for title in scores["baselines"]}
    parts = [f"to {title} on {', '.join(found)}" for title, found in lost.items() if found]
    if not parts:
        return f"loses to no baseline on {', '.join(names)} (macro and pooled)"
    return f"loses {'; '.join(parts)}"


def scores_frame(scores: dict[str, Any], **key: Any) -> pd.DataFrame:
    """Give scores as a table: a row per model, bin of lead time and channel, a column per metric.

    Args:
        scores: what `FittedModel.score` gave.
        key: further columns, the same in every row.

    Returns:
        Columns of `key`; `model` ("model" or a baseline); `after`, `until`: the bin, in horizons, empty for all of it; `channel`: its
        name, or "macro" and "pooled"; `unit`: "scaled" (training deviations) or "own" (the user's); `n_values`; the metrics.
    """
    rows = []
    for model, figures in {"model": scores, **scores["baselines"]}.items():
        for part in (figures, *figures.get("bins", ())):
            span = {"after": part.get("after"), "until": part.get("until")}
            rows += _rows({**key, "model": model, **span}, part)
    return pd.DataFrame(rows)


def _rows(key: dict[str, Any], figures: dict[str, Any]) -> list[dict[str, Any]]:
    names = [name.removesuffix("_macro") for name in figures if name.endswith("_macro")]
    n_values = figures["n_values"]
    averages = [
        {
            **key,
            "channel": average,
            "unit": "scaled",
            "n_values": n_values,
            **{n: figures[f"{n}_{average}"] for n in names},
        }
        for average in AVERAGES
    ]
    channels = [{**key, "channel": name, "unit": "own", **values} for name, values in figures["channels"].items()]
    return averages + channels


def losses(scores: dict[str, Any], baseline: str, names: Sequence[str]) -> list[str]:
    """Give each error in which a baseline is better: macro under its bare name, else "pooled", with the ratio of the two.

    Args:
        scores: what `FittedModel.score` gave.
        baseline: its name.
        names: of metrics.

    Returns:
        Where the series were drawn anew (`n_draws`), a loss that lies within the noise of the test series is said to do so.
    """
    found, row = [], scores["baselines"][baseline]
    for average in AVERAGES:
        for name in names:
            margin = _margin(name, scores[f"{name}_{average}"], row[f"{name}_{average}"])
            if margin:
                drawn = scores.get("against", {}).get(baseline, {}).get(name, {}).get(average)
                noise = _noise(drawn["difference"]["low"]) if drawn else ""
                found.append(f"{'' if average == 'macro' else 'pooled '}{name} ({margin}{noise})")
    return found


def _noise(low: float | None) -> str:
    """Say what the bootstrap thinks of a loss whose interval begins at `low`; of a single series it has nothing to say."""
    if low is None or math.isnan(low):
        return ", one series: no interval"
    return ", within noise" if low <= 0 else ""


def _margin(name: str, figure: float, other: float) -> str | None:
    """Say by how much a figure is above another; None where it is not, or where there is nothing to be above of."""
    if math.isnan(other):
        return None
    if math.isnan(figure):
        return "not a number"
    if figure <= other + ROUNDING * abs(other):
        return None
    # The zero of a log-density is arbitrary: only the difference means something.
    if METRICS[name].shifts_with_unit or other <= 0:
        return f"by {_digits(figure - other)}"
    return f"ratio {_digits(figure / other)}"


def _digits(x: float) -> str:
    """Give two decimals, more where they would not show that x is above 0 or 1."""
    return next((f"{x:.{n}f}" for n in (2, 4) if round(x, n) not in (0.0, 1.0)), f"{x:.7g}")


def _columns(scores: dict[str, Any]) -> list[str]:
    scored = [name for name in METRICS if name in scores]
    return scored if len(scored) <= MAX_COLUMNS else [name for name in scored if METRICS[name].is_headline]


def _units(names: Sequence[str]) -> str:
    """Say in which units the figures of these metrics are."""
    metrics = [METRICS[name] for name in names]
    single = [metric.heading for metric in metrics if metric.unit_power == 1 or metric.is_root]
    squares = [metric.heading for metric in metrics if metric.unit_power == 2 and not metric.is_root]
    sentences = {
        f"{', '.join(single)} in training standard deviations": single,
        f"{', '.join(squares)} in squares of training standard deviations": squares,
        "NLL in nats, of scaled values": any(metric.shifts_with_unit for metric in metrics),
        "MASE in errors of the last value in training": any(metric.per_naive_error for metric in metrics),
        "lower is better": any(metric.is_error for metric in metrics),
    }
    return "; ".join(text for text, applies in sentences.items() if applies)


def _grid(title: str, names: Sequence[str], *further: str) -> Grid:
    grid = Grid(box=None, pad_edge=True)
    grid.add_column(title, no_wrap=True)
    for heading in (*(METRICS[name].heading for name in names), *further):
        # A number that is cut loses its exponent.
        grid.add_column(heading, justify="right", min_width=9)
    return grid


def _add_detail(grid: Grid, title: str, names: Sequence[str], row: dict[str, Any], other: dict[str, Any]) -> None:
    ratio = row["mse"] / other["mse"] if "mse" in row and other.get("mse") else math.nan
    cells = [f"{row[name]:.1%}" if _is_share(name) else f"{row[name]:.4g}" for name in names]
    grid.add_row(escape(title), *cells, "" if math.isnan(ratio) else f"{ratio:.2f}", f"{row['n_values']:,}")


def _is_share(name: str) -> bool:
    return METRICS[name].unit_power == 0 and not METRICS[name].is_error


def _cell(name: str, value: float, column: Sequence[float]) -> str:
    if math.isnan(value):
        return "-"
    if _is_share(name):
        return f"{value:.1%}"
    text = f"{value:.4f}" if abs(value) < 1e3 else f"{value:.3g}"
    is_best = METRICS[name].is_error and value <= min(figure for figure in column if not math.isnan(figure))
    return f"[bold]{text}[/bold]" if is_best else text
