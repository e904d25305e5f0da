"""Write a fitted model as a program of `torch.export`: one file that forecasts wherever PyTorch runs, without latentode."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

import latentode
from latentode.data.calendar import calendar_features
from latentode.data.tables import Table
from latentode.data.windows import Windows, forecast_windows
from latentode.errors import InputError, LatentODEError
from latentode.files import write_json, write_whole
from latentode.metrics.quantiles import quantile
from latentode.models.dynamics.solved import SolvedField
from latentode.models.exportable import N_STEPS, ExportableForecast
from latentode.models.fitted import FittedModel
from latentode.models.interfaces import Decoder, Dynamics, Encoder
from latentode.models.units import in_user_units

FORMAT = 1  # of the JSON beside the program
N_CHECKED = 64  # windows on which the program is compared with the run
SHARES = (0.05, 0.25, 0.5, 1.0)  # of the horizon, where it is compared
# In deviations of the forecast. Fixed steps are compared with adaptive ones, whose own tolerance is 1e-3 of the state.
TOLERANCE = 0.02
CAN = (
    "LatentODE with AttentionEncoder, any dynamics but LatentSDE, and GaussianDecoder or QuantileDecoder (other decoders without "
    "quantiles); and the baselines constant, last_value, blend, ridge, seasonal"
)


@dataclass(frozen=True)
class Example:
    """Windows of a table as a program takes them, and what the run forecasts there.

    Attributes:
        inputs: by name, see `ExportableForecast.forward`.
        mean, std: of the run, `(B, Q, K)`.
        quantiles: `(B, Q, K, L)`.
    """

    inputs: dict[str, Tensor]
    mean: Tensor
    std: Tensor
    quantiles: Tensor


def export(
    fitted: FittedModel,
    table: Table,
    out: str | Path,
    *,
    levels: Sequence[float],
    n_steps: int = N_STEPS,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Write a fitted model as a program, once it was seen to forecast as the run does.

    Args:
        fitted: the model.
        table: series of its kind, such as those it was fitted on; the program is compared with the run on up to `N_CHECKED` of them.
        out: file to write, ending in .pt2; a description goes beside it as .json.
        levels: of the quantiles that the program gives, ascending in (0, 1); none: mean and deviation alone.
        n_steps: of a solve, where the model solves a field: a program has no steps that depend on the error.
        tolerance: how far the program may be from the run, in deviations of the forecast.

    Returns:
        What stands in the .json.

    Raises:
        InputError: the model has a part that `torch.export` cannot take, or `out` has another suffix.
        LatentODEError: the program forecasts otherwise than the run.
    """
    out = Path(out)
    if out.suffix != ".pt2":
        raise InputError(f"{out} is to hold a program of torch.export; name a file that ends in .pt2.")
    example = read_example(fitted, table, levels)
    module = ExportableForecast(fitted, levels, n_steps=n_steps).requires_grad_(False)
    program = _trace(module, example.inputs, type(fitted.network).__name__)
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
        buffer.seek(0)
        # What is compared is what was written.
        agreement = _compare(torch.export.load(buffer), example)
    if not agreement["largest"] <= tolerance:
        hint = f"; take more than {n_steps} steps (--steps)" if module.n_solved else ""
        raise LatentODEError(
            f"the program is up to {agreement['largest']:.2g} deviations of the forecast from the run, more than {tolerance:g} "
            f"(--tolerance){hint}; nothing was written."
        )
    record = describe(fitted, example, module, n_steps) | {"agreement": agreement}
    write_whole(out, lambda part: part.write_bytes(buffer.getvalue()))
    write_json(out.with_suffix(".json"), record)
    return record


def _trace(module: ExportableForecast, inputs: dict[str, Tensor], name: str) -> ExportedProgram:
    sizes = {size: Dim(size) for size in ("batch", "observations", "queries")}
    shapes = {key: {i: sizes[size] for i, size in enumerate(AXES[key]) if size in sizes} for key in inputs}
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(module, (), inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        parts = [
            type(part).__name__ for part in module.network.modules() if isinstance(part, Encoder | Dynamics | Decoder)
        ]
        shown = ", ".join(dict.fromkeys(parts))
        raise InputError(
            f"{name}{f' ({shown})' if shown else ''} cannot be exported, since the steps that it computes by depend on the data; "
            f"what can be: {CAN}."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what torch says of its own internals while it exports: where it fails, the whole program so far."""
    try:
        logging.disable(logging.CRITICAL)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _compare(program: ExportedProgram, example: Example) -> dict[str, Any]:
    """Give how far the program is from the run, in deviations of the forecast, on all windows at once and on each alone."""
    module = program.module()
    with torch.no_grad():
        found = module(**example.inputs)
        alone = [module(**{name: x[:1] for name, x in example.inputs.items()})]
    figures = (example.mean, *(() if example.quantiles.shape[-1] == 0 else (example.quantiles,)))
    std = example.std.clamp(min=torch.finfo(torch.float64).tiny)
    compared = [(found[0], example.mean, std)]
    if len(figures) == 2:
        compared.append((found[2], example.quantiles, std[..., None]))
    apart = [float(((a - b).abs() / s).max()) for a, b, s in compared]
    wide = float((found[1] / std - 1).abs().max())
    # A row must not depend on those beside it.
    by_itself = max(float(((a[0][0] - found[0][0]).abs() / std[0]).max()) for a in alone)
    return {
        "n_windows": len(example.mean),
        "mean": apart[0],
        "quantiles": apart[1] if len(apart) == 2 else None,
        "std": wide,
        "largest": max([*apart, wide, by_itself], key=lambda x: x if np.isfinite(x) else np.inf),
    }


AXES: dict[str, tuple[str, ...]] = {
    "time": ("batch", "observations"),
    "channel": ("batch", "observations"),
    "value": ("batch", "observations"),
    "observed": ("batch", "observations"),
    "origin": ("batch",),
    "query_time": ("batch", "queries"),
    "known": ("batch", "observations", "known"),
    "query_known": ("batch", "queries", "known"),
    "statics": ("batch", "statics"),
    "categories": ("batch", "categories"),
}
MEANINGS = {
    "time": "time of each observation, in any order, at or before the origin",
    "channel": "its channel, by number in `channels`",
    "value": "its value, in the user's units",
    "observed": "False is padding",
    "origin": "time after which is forecast",
    "query_time": "times that are asked for, after the origin",
    "known": "what each of `known` is at the time of each observation",
    "query_known": "what each of `known` is at each query time",
    "statics": "each of `statics`; NaN where it is not known",
    "categories": "number of each of `categories` in its list, from 1; 0 where it is none of them",
}


def describe(fitted: FittedModel, example: Example, module: ExportableForecast, n_steps: int) -> dict[str, Any]:
    """Say what goes into a program and what comes out, as plain values."""
    schema = fitted.schema
    sizes = {
        "known": schema.n_known,
        "statics": len(schema.static_numbers),
        "categories": len(schema.static_categories),
    }
    inputs = [
        {
            "name": name,
            "dtype": str(x.dtype).removeprefix("torch."),
            "shape": [sizes.get(size, size) for size in AXES[name]],
            "meaning": MEANINGS[name],
        }
        for name, x in example.inputs.items()
    ]
    grid = ["batch", "queries", len(module.target)]
    outputs = [{"name": name, "dtype": "float64", "shape": grid} for name in ("mean", "std")]
    if module.levels:
        outputs.append({"name": "quantiles", "dtype": "float64", "shape": [*grid, len(module.levels)]})
    solved = [part for part in fitted.network.modules() if isinstance(part, SolvedField)]
    is_date = schema.time_kind == "datetime"
    return {
        "format": FORMAT,
        "latentode": latentode.__version__,
        "torch": torch.__version__,
        "model": type(fitted.network).__name__,
        "inputs": inputs,
        "outputs": outputs,
        "channels": list(schema.channels),
        "target_channels": [schema.channels[i] for i in module.target.tolist()],
        "levels": list(module.levels),
        "time": "nanoseconds since 1970-01-01 (UTC where the table has a zone)" if is_date else "the table's own unit",
        "horizon": fitted.spans.horizon,
        "max_history": fitted.settings.max_history,
        "history": fitted.spans.history,
        "known": [*schema.known_columns, *(f"{p}: {f}" for p in schema.calendar for f in ("sine", "cosine"))],
        "time_zone": schema.time_zone,
        "statics": list(schema.static_numbers),
        "categories": dict(zip(schema.static_categories, map(list, schema.categories), strict=True)),
        "solver": {"method": solved[0].method, "n_steps": n_steps} if solved else None,
    }


def read_example(fitted: FittedModel, table: Table, levels: Sequence[float]) -> Example:
    """Read windows that end where their series do, and ask the run for forecasts over its horizon.

    Raises:
        InputError: no series of the table holds an observation.
    """
    reader, windows = fitted.reader(table), forecast_windows(table, history=fitted.spans.history)
    full = np.flatnonzero(reader.count_tokens(windows) > 0)[:N_CHECKED]
    if len(full) == 0:
        raise InputError(f"{table.source} holds no observation, on which the program could be compared with the run.")
    # Two at least: torch takes a size of one for a size that never changes.
    windows = windows.take(np.resize(full, max(len(full), 2)))
    n_windows, table = len(windows), reader.table
    query_time = windows.origin[:, None] + _as_time(np.asarray(SHARES) * fitted.spans.horizon, table)
    row = np.repeat(np.arange(n_windows), len(SHARES))
    # Whatever the known columns will be: both are told the same.
    last = np.searchsorted(table.row_series, windows.series, side="right") - 1
    known = None if table.known is None else np.repeat(table.known[last], len(SHARES), axis=0)
    batch, column = reader.read_queries(windows, row, query_time.reshape(-1), known)
    with torch.no_grad():
        said = in_user_units(fitted.network.cpu().eval()(batch), batch.target_channel, fitted.scaler)
        figures = [said.mean, said.stddev, *(quantile(said, level) for level in levels)]
    n_targets = len(reader.target_channels)
    place = torch.from_numpy(column.reshape(n_windows, -1))[..., None] * n_targets + torch.arange(n_targets)
    rows = torch.arange(n_windows)[:, None, None]
    mean, std, *quantiles = (x[rows, place] for x in figures)
    inputs = _inputs(
        fitted, table, windows, query_time, None if known is None else known.reshape(n_windows, len(SHARES), -1)
    )
    empty = mean.new_zeros((*mean.shape, 0))
    return Example(inputs, mean, std, torch.stack(quantiles, -1) if quantiles else empty)


def _as_time(span: np.ndarray, table: Table) -> np.ndarray:
    return np.round(span).astype(np.int64) if table.time.dtype == np.int64 else span


def _inputs(
    fitted: FittedModel, table: Table, windows: Windows, query_time: np.ndarray, query_known: np.ndarray | None
) -> dict[str, Tensor]:
    """Take the observations of windows from the table's own columns, as whoever calls the program would."""
    cells = []
    for series, origin, after in zip(windows.series, windows.origin, windows.history_from, strict=True):
        rows = np.flatnonzero(table.row_series == series)
        rows = rows[(table.time[rows] <= origin) & (table.time[rows] > after)]
        row, channel = np.nonzero(~np.isnan(table.values[rows]))
        cells.append((rows[row][-fitted.settings.max_history :], channel[-fitted.settings.max_history :]))
    width = max(2, *(len(row) for row, _ in cells))
    row, channel, observed = (np.zeros((len(cells), width), kind) for kind in (np.int64, np.int64, bool))
    for i, (rows, channels) in enumerate(cells):
        row[i, : len(rows)], channel[i, : len(rows)], observed[i, : len(rows)] = rows, channels, True
    arrays = {
        "time": table.time[row],
        "channel": channel,
        "value": np.where(observed, table.values[row, channel], 0.0),
        "observed": observed,
        "origin": windows.origin,
        "query_time": query_time,
    }
    schema = fitted.schema
    if schema.n_known:
        held = np.zeros((*row.shape, 0)) if table.known is None else table.known[row]
        asked = np.zeros((*query_time.shape, 0)) if query_known is None else query_known
        for name, columns, time in (("known", held, table.time[row]), ("query_known", asked, query_time)):
            said = calendar_features(time, schema.calendar, schema.time_zone) if schema.calendar else columns[..., :0]
            arrays[name] = np.concatenate([columns, said], -1).astype(np.float64)
    if table.statics is not None:
        if schema.static_numbers:
            arrays["statics"] = table.statics.numbers[windows.series]
        if schema.static_categories:
            arrays["categories"] = table.statics.codes(schema.categories)[windows.series]
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
