"""Pictures: arrays and frames in, figures out. Knows no model.

Colours are those of Okabe and Ito (2008), told apart by every kind of colour vision and in grey print.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from latentode.errors import InputError
from latentode.files import write_whole

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#4D4D4D"
BANDS = ((0.025, 0.975, "95 %", 0.14), (0.1, 0.9, "80 %", 0.22), (0.25, 0.75, "50 %", 0.3))
BAND_LEVELS = (0.5, *(level for low, high, *_ in BANDS for level in (low, high)))
PICTURES = (".png", ".pdf", ".svg")
STROKES = ("-", "--", "-.")
MAX_SERIES, MAX_CHANNELS, MAX_BARS, MAX_PATHS = 3, 4, 40, 4
MAX_PANELS, N_COLUMNS = 12, 3  # of one channel
MAX_STEP = 0.15  # between two levels, for one between them to be read off
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7")


def plot_forecast(
    history: pd.DataFrame,
    forecast: pd.DataFrame,
    truth: pd.DataFrame | None = None,
    series: Sequence[Any] | None = None,
    channels: Sequence[str] | None = None,
    *,
    log_channels: Sequence[str] = (),
    n_series: int | None = None,
    time_label: str = "time",
    title: str | None = None,
) -> Figure:
    """Draw history, median, central bands and truth, one panel per series (rows) and channel (columns); of one channel a panel per series.

    Args:
        history, truth: observed values, columns `series_id, time, channel, value`.
        forecast: the long forecast table; bands are drawn for the levels that it has, and for those that lie close between two that it has.
        series, channels: what to draw, in order; left out, the first few, and how many there are is said.
        log_channels: channels that are drawn on a logarithmic axis.
        n_series: how many series there are, where the forecast is of some of them.
        time_label: of the horizontal axis.
        title: of the figure.

    Raises:
        InputError: a series or channel is not in the forecast.
    """
    n_series = n_series or len(set(forecast["series_id"].tolist()))
    n_channels = len(set(forecast["channel"].tolist()))
    channels = _choose(channels, list(forecast["channel"]), MAX_CHANNELS, "channel")
    is_grid = len(channels) == 1
    series = _choose(series, list(forecast["series_id"]), MAX_PANELS if is_grid else MAX_SERIES, "series")
    n_columns = min(len(series), N_COLUMNS) if is_grid else len(channels)
    n_rows = -(-len(series) // n_columns) if is_grid else len(series)
    figure = Figure(figsize=(1.2 + 3.4 * n_columns, 1.1 + 2.3 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, sharex=False if is_grid else "row", squeeze=False)
    panels = [(one, channel) for one in series for channel in channels]
    for place, (axis, (one, channel)) in enumerate(zip(axes.flat, panels, strict=False)):
        i, j = divmod(place, n_columns)
        parts = [_pick(frame, one, channel) for frame in (history, forecast, truth)]
        _draw_panel(axis, *parts, is_log=channel in log_channels)
        head, side = (f"series {one}", channel) if is_grid else (channel, f"series {one}")
        if i == 0 or is_grid:
            axis.set_title(_shorten(head, 32), fontsize=10, parse_math=False)
        if j == 0:
            axis.set_ylabel(_shorten(side), fontsize=9, parse_math=False)
        if i == n_rows - 1:
            axis.set_xlabel(time_label, fontsize=9, parse_math=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    _add_legend(figure, axes)
    if len(series) < n_series or len(channels) < n_channels:
        shown = f"{len(series):,} of {n_series:,} series, {len(channels):,} of {n_channels:,} channels"
        title = shown if title is None else f"{title} ({shown})"
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _choose(chosen: Sequence[Any] | None, column: list[Any], limit: int, what: str) -> list[Any]:
    names = list(dict.fromkeys(column))
    if chosen is None:
        return names[:limit]
    # Ids are compared as text, so that 7 finds the series 7 whether it was read as a number or not.
    known = {str(name): name for name in names}
    unknown = [name for name in chosen if str(name) not in known]
    if unknown:
        raise InputError(f"{what} '{unknown[0]}' is not in the forecast; it has {', '.join(list(known)[:10])}.")
    return [known[str(name)] for name in chosen]


def _pick(frame: pd.DataFrame | None, series: Any, channel: str) -> pd.DataFrame:
    if frame is None:
        return pd.DataFrame({"time": [], "value": []})
    part = frame.loc[(frame["series_id"] == series) & (frame["channel"] == channel)].sort_values(by="time")
    if part["time"].dtype == object or pd.api.types.is_string_dtype(part["time"]):
        part = part.assign(time=pd.to_datetime(part["time"], utc=True, format="ISO8601").dt.tz_localize(None))
    return part


def _draw_panel(
    axis: Axes, history: pd.DataFrame, forecast: pd.DataFrame, truth: pd.DataFrame, *, is_log: bool
) -> None:
    if is_log:
        axis.set_yscale("log")
    axis.plot(history["time"], history["value"], ".-", color=GREY, ms=4, lw=0.7, alpha=0.9, label="history")
    for low, high, name, alpha in BANDS:
        below, above = _level(forecast, low), _level(forecast, high)
        if below is not None and above is not None:
            axis.fill_between(
                forecast["time"], below, above, color=BLUE, alpha=alpha, lw=0, label=f"{name} of outcomes"
            )
    middle = "q0.5" if "q0.5" in forecast else "mean"
    style = "-" if len(forecast) > 1 else "o"
    axis.plot(forecast["time"], forecast[middle], style, color=BLUE, lw=1.6, ms=4, label="forecast")
    if len(truth):
        axis.plot(truth["time"], truth["value"], "D", color=ORANGE, ms=4.5, mec="white", mew=0.5, label="what happened")
    if len(history):
        axis.axvline(history["time"].iloc[-1], color=GREY, lw=0.6, ls=":")
    if len(forecast) and pd.api.types.is_datetime64_any_dtype(forecast["time"]):
        locator = AutoDateLocator(minticks=3, maxticks=6)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    _limit_view(axis, history, forecast, truth, is_log=is_log)
    axis.grid(alpha=0.25, lw=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _level(forecast: pd.DataFrame, level: float) -> np.ndarray | None:
    """Give the quantile of a level: a column, or what lies between its two neighbours on the scale of normal scores; None without such."""
    if f"q{level:g}" in forecast:
        return forecast[f"q{level:g}"].to_numpy(np.float64)
    known = sorted(float(name[1:]) for name in forecast if re.fullmatch(r"q[01]?\.?\d+(e-\d+)?", str(name)))
    below, above = ([x for x in known if x < level][-1:], [x for x in known if x > level][:1])
    if not below or not above or above[0] - below[0] > MAX_STEP:
        return None
    z = [NormalDist().inv_cdf(x) for x in (below[0], level, above[0])]
    share = (z[1] - z[0]) / (z[2] - z[0])
    low, high = (forecast[f"q{x:g}"].to_numpy(np.float64) for x in (below[0], above[0]))
    return low * (1 - share) + high * share


def _limit_view(
    axis: Axes, history: pd.DataFrame, forecast: pd.DataFrame, truth: pd.DataFrame, *, is_log: bool
) -> None:
    """Show the last part of a long history: three times as much past as future, so that the forecast can be seen."""
    if len(forecast) == 0 or len(history) == 0:
        return
    origin = history["time"].iloc[-1]
    begin, end = forecast["time"].iloc[0], max(forecast["time"].iloc[-1], origin)
    first = max(history["time"].iloc[0], origin - 3 * (end - origin))
    if begin <= origin:
        # What lies inside the history is shown, with as much around it as there is after the origin.
        first = max(history["time"].iloc[0], begin - (end - origin))
    margin = 0.03 * (end - first)
    axis.set_xlim(first - margin, end + margin)
    shown = [history.loc[history["time"] >= first, "value"], truth.get("value", pd.Series(dtype=float))]
    quantiles = [forecast[name] for name in forecast if name in ("mean", "q0.025", "q0.1", "q0.9", "q0.975")]
    values = np.concatenate([np.asarray(part, dtype=np.float64) for part in (*shown, *quantiles)])
    if is_log:
        values = values[values > 0]
        axis.set_ylim(float(values.min()) / 1.3, float(values.max()) * 1.3)
        return
    low, high = float(values.min()), float(values.max())
    pad = 0.06 * (high - low) or 1.0
    axis.set_ylim(low - pad, high + pad)


def _add_legend(figure: Figure, axes: np.ndarray) -> None:
    found: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=len(found), frameon=False, fontsize=9
    )


def plot_overview(
    marks: pd.DataFrame,
    gaps: np.ndarray,
    shares: pd.Series,
    *,
    gap_unit: str,
    time_label: str = "time",
    title: str | None = None,
) -> Figure:
    """Draw when each series is observed, how long the gaps are, and how often each channel is observed.

    Args:
        marks: columns `line` (a name per row of the picture), `time`, and `share` (0 to 1, how dark).
        gaps: positive, `(G,)`.
        shares: 0 to 1, by channel; of more than `MAX_BARS` the least and the most observed are drawn.
        gap_unit: of the gaps, for the axis.
        time_label: of the horizontal axis.
        title: of the figure.
    """
    lines = list(dict.fromkeys(marks["line"]))
    height = 1.4 + max(0.24 * len(lines), 1.4 + 0.24 * min(len(shares), MAX_BARS), 3.2)
    figure = Figure(figsize=(11, height), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.7, 1), height_ratios=(1, max(1.0, min(len(shares), MAX_BARS) / 8)))
    _draw_marks(figure.add_subplot(grid[:, 0]), marks, lines, height, time_label)
    _draw_gaps(figure.add_subplot(grid[0, 1]), gaps, gap_unit)
    _draw_shares(figure.add_subplot(grid[1, 1]), shares)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _draw_marks(axis: Axes, marks: pd.DataFrame, lines: list[Any], height: float, time_label: str) -> None:
    # What is darkest is drawn last, so that it shows where marks meet.
    marks = marks.sort_values(by="share", kind="stable")
    place = pd.Series(range(len(lines)), index=lines)
    depth = 0.3 + 0.7 * marks["share"].to_numpy()[:, None]
    colour = depth * np.asarray(to_rgb(BLUE)) + (1 - depth)
    points = 72 * height / (len(lines) + 2)
    axis.scatter(
        marks["time"], place.loc[list(marks["line"])], c=colour, marker="|", s=min(0.5 * points, 18) ** 2, lw=0.8
    )
    axis.set_yticks(range(len(lines)), [_shorten(line) for line in lines])
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.set_xlabel(time_label, fontsize=9)
    shade = " (darker: more channels)" if len(np.unique(depth)) > 1 else ""
    axis.set_title(f"when it is observed{shade}", fontsize=10, loc="left")
    axis.grid(axis="x", alpha=0.25, lw=0.5)
    if pd.api.types.is_datetime64_any_dtype(marks["time"]):
        locator = AutoDateLocator(minticks=3, maxticks=7)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _draw_gaps(axis: Axes, gaps: np.ndarray, unit: str) -> None:
    axis.set_title("gaps between two rows of a series", fontsize=10, loc="left")
    axis.set_xlabel(unit, fontsize=9)
    axis.set_ylabel("gaps", fontsize=9)
    if len(gaps) == 0:
        axis.text(0.5, 0.5, "no series has two rows", ha="center", va="center", transform=axis.transAxes, fontsize=9)
        return
    low, high = float(gaps.min()), float(gaps.max())
    if low == high:
        low, high = low / 1.5, high * 1.5
    axis.hist(gaps, bins=np.geomspace(low, high, 41).tolist(), color=BLUE, alpha=0.8)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    median = float(np.median(gaps))
    axis.axvline(median, color=ORANGE, lw=1.2)
    axis.annotate(
        f"median {median:.3g}",
        (median, 1),
        (4, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color=ORANGE,
    )
    axis.grid(alpha=0.25, lw=0.5)


def _draw_shares(axis: Axes, shares: pd.Series) -> None:
    shown = shares
    if len(shares) > MAX_BARS:
        half = MAX_BARS // 2
        order = shares.sort_values(ascending=False)
        shown = pd.concat([order.iloc[:half], order.iloc[-half:]])
        axis.set_xlabel(f"the {half} most and the {half} least observed of {len(shares)} channels", fontsize=9)
    axis.barh(range(len(shown)), shown.to_numpy(), color=BLUE, alpha=0.8, height=0.7)
    for i, share in enumerate(shown):
        text = "<1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
        if share > 0.85:
            axis.text(share - 0.01, i, text, va="center", ha="right", fontsize=7, color="white")
        else:
            axis.text(share + 0.01, i, text, va="center", fontsize=7, color=GREY)
    axis.set_yticks(range(len(shown)), [_shorten(name) for name in shown.index])
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_xlim(0, 1.08)
    axis.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axis.set_title("share of rows with a value", fontsize=10, loc="left")


def _shorten(name: object, limit: int = 24) -> str:
    # A dollar sign would begin a formula.
    text = str(name).replace("$", r"\$")
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def plot_scores(scores: dict[str, Any], *, metric: str = "mse", title: str | None = None) -> Figure:
    """Draw an error by lead time, how often values fall into the central intervals, and where in their forecasts they fall.

    Args:
        scores: with `bins` (`after`, `until`, `<metric>_macro`) and `calibration` (`nominal`, `actual`, `pit_counts`), and the same for
            each of `baselines`, as `FittedModel.score` gives them. Without bins, or without the metric in them, the first is left out.
        metric: which error.
        title: of the figure.
    """
    has_error = all(f"{metric}_macro" in part for part in scores.get("bins", ())) and bool(scores.get("bins"))
    figure = Figure(figsize=(4.4 * (2 + has_error), 3.9), layout="constrained")
    axes = list(figure.subplots(1, 2 + has_error))
    rows = {**{name.replace("_", " "): row for name, row in scores["baselines"].items()}, "this model": scores}
    if has_error:
        _draw_by_horizon(axes.pop(0), rows, metric)
    _draw_reliability(axes[0], rows)
    _draw_pit(axes[1], scores["calibration"]["pit_counts"])
    _finish(figure, title)
    return figure


def _draw_by_horizon(axis: Axes, rows: dict[str, dict[str, Any]], metric: str) -> None:
    for i, (name, row) in enumerate(rows.items()):
        middle = [0.5 * (part["after"] + part["until"]) for part in row["bins"]]
        axis.plot(middle, [part[f"{metric}_macro"] for part in row["bins"]], marker="o", ms=3.5, **_line(name, i))
    axis.set_xlabel("time after the origin, in horizons", fontsize=9)
    axis.set_ylabel(f"{metric}, scaled, mean over channels", fontsize=9)
    axis.set_ylim(bottom=0)
    axis.set_title("error by lead time", fontsize=10, loc="left")


def _draw_reliability(axis: Axes, rows: dict[str, dict[str, Any]]) -> None:
    axis.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":", label="calibrated")
    for i, (name, row) in enumerate(rows.items()):
        nominal, actual = row["calibration"]["nominal"], row["calibration"]["actual"]
        axis.plot([0.0, *nominal], [0.0, *actual], **_line(name, i))
    axis.set_xlabel("stated share of the central interval", fontsize=9)
    axis.set_ylabel("share of values inside", fontsize=9)
    axis.set_title("intervals: too narrow below the diagonal", fontsize=10, loc="left")
    axis.legend(frameon=False, fontsize=8)


def _draw_pit(axis: Axes, counts: Sequence[int]) -> None:
    n_bins = len(counts)
    density = np.asarray(counts, dtype=np.float64) / max(sum(counts), 1) * n_bins
    axis.bar((np.arange(n_bins) + 0.5) / n_bins, density, width=0.92 / n_bins, color=BLUE, alpha=0.75)
    # Nine in ten bars of honest forecasts lie within, were all values independent; those of one series are not quite.
    spread = 1.645 * np.sqrt(max(n_bins - 1, 0) / max(sum(counts), 1))
    axis.axhspan(1 - spread, 1 + spread, color=GREY, alpha=0.15, lw=0, label="90 % of bars, by chance alone")
    axis.axhline(1.0, color=GREY, lw=0.8, ls=":")
    axis.set_ylim(0, 1.25 * max(density.max(initial=1.0), 1 + spread))
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    axis.set_xlabel("probability forecast for less than what came", fontsize=9)
    axis.set_ylabel("density", fontsize=9)
    axis.set_title("PIT: flat where forecasts are honest", fontsize=10, loc="left")


def _line(name: str, i: int) -> dict[str, Any]:
    """Give the style of a model's line: its own stands out, a baseline has a stroke by its number."""
    if name == "this model":
        # Wide and beneath: where it coincides with a baseline both are seen.
        return {"color": BLUE, "lw": 3, "alpha": 0.8, "zorder": 1.5, "label": name}
    return {"color": GREY, "lw": 1, "ls": STROKES[i % 3], "alpha": 0.7, "label": name}


def plot_latent(
    paths: Sequence[np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    field: np.ndarray,
    *,
    names: Sequence[Any] = (),
    share: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a phase portrait: paths in a plane of the latent space, from a ring at their start, and the field along it.

    Args:
        paths: of each series, `(Q, 2)`.
        x, y: coordinates of the grid, `(n,)` and `(m,)`.
        field: how fast a state moves at each point, `(m, n, 2)`; the arrows say whither, and how fast by their shade.
        names: of the series; with up to `MAX_PATHS` of them a legend is drawn.
        share: of the paths' variance that lies in the plane.
        title: of the figure.
    """
    figure = Figure(figsize=(6.2, 5.4), layout="constrained")
    axis = figure.subplots()
    speed = np.hypot(field[..., 0], field[..., 1])
    way = field / np.maximum(speed, 1e-12)[..., None]
    arrows = axis.quiver(x, y, way[..., 0], way[..., 1], speed, cmap="Greys", angles="xy", pivot="mid", width=0.003)
    # The slowest are still to be seen.
    arrows.set_clim(-0.5 * float(speed.max()), float(speed.max()))
    few = 0 < len(names) <= MAX_PATHS
    for i, path in enumerate(paths):
        colour = COLOURS[i % len(COLOURS)] if few else BLUE
        axis.plot(
            path[:, 0], path[:, 1], color=colour, lw=1.6 if few else 0.7, label=f"series {names[i]}" if few else None
        )
        axis.plot(*path[0], "o", color=colour, mfc="white", ms=5 if few else 2.5)
    axis.set_xlabel("first direction", fontsize=9)
    axis.set_ylabel("second direction", fontsize=9)
    if share is not None:
        axis.set_title(f"{share:.0%} of the paths' variance lies in this plane", fontsize=9, loc="left")
    if few:
        axis.legend(frameon=False, fontsize=8)
    _finish(figure, title)
    return figure


def plot_effort(
    step_ends: np.ndarray,
    k: int,
    *,
    names: Sequence[Any],
    channels: Sequence[str] = (),
    title: str | None = None,
) -> Figure:
    """Draw how long the solver's steps are over time, and how many it takes per channel: short steps are where it works hard.

    Args:
        step_ends: where steps ended, in horizons, `(S, K, N)`, NaN behind the last.
        k: the channel whose steps are drawn over time, one line per series.
        names: of the series; with up to `MAX_PATHS` of them a legend is drawn.
        channels: names, `K` of them; empty where all share one state, of which there is then no second panel.
        title: of the figure.
    """
    figure = Figure(figsize=(9.2 if channels else 5.4, 3.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, 2 if channels else 1, width_ratios=(3, 2) if channels else None))
    few = len(names) <= MAX_PATHS
    for i, ends in enumerate(step_ends[:, k]):
        edges = np.concatenate([[0.0], ends[~np.isnan(ends)]])
        colour = COLOURS[i % len(COLOURS)] if few else BLUE
        style: dict[str, Any] = {"color": colour, "lw": 1.6 if few else 0.6, "alpha": 1.0 if few else 0.5}
        label = f"series {names[i]}" if few else None
        axes[0].stairs(np.diff(edges), edges, baseline=None, ls=STROKES[i % 3] if few else "-", label=label, **style)
    axes[0].set_yscale("log")
    axes[0].set_xlabel("time after the origin, in horizons", fontsize=9)
    axes[0].set_ylabel("length of the step, in horizons", fontsize=9)
    if few and len(names):
        axes[0].legend(frameon=False, fontsize=8)
    if channels:
        # The busiest channels; of many the names would overlap.
        count = (~np.isnan(step_ends)).sum(-1).mean(0)
        order = np.argsort(-count, kind="stable")[:MAX_BARS][::-1]
        figure.set_figheight(max(3.6, 1.2 + 0.17 * len(order)))
        axes[1].barh(np.arange(len(order)), count[order], color=BLUE, height=0.7)
        axes[1].set_yticks(np.arange(len(order)), [_shorten(channels[i]) for i in order])
        axes[1].set_xlabel("steps, mean over series", fontsize=9)
        axes[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _finish(figure, title)
    return figure


def plot_learning(log: pd.DataFrame, *, title: str | None = None) -> Figure:
    """Draw the losses of a fit by epoch, with the epoch whose weights were kept, and what solving its field cost.

    Args:
        log: columns `epoch, train_loss, val_score, nfe`, one row per epoch; a figure that was not measured is NaN.
        title: of the figure.
    """
    has_nfe = "nfe" in log and bool(log["nfe"].notna().any())
    figure = Figure(figsize=(4.6 * (1 + has_nfe), 3.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, 1 + has_nfe))
    epoch = np.arange(1, len(log) + 1)
    axes[0].plot(epoch, log["train_loss"], "--", color=GREY, marker=".", lw=1.2, label="training loss")
    axes[0].plot(epoch, log["val_score"], "-", color=BLUE, marker=".", lw=1.6, label="validation score")
    score = log["val_score"].to_numpy(np.float64)
    if not np.isnan(score).all():
        best = int(np.nanargmin(score))
        axes[0].plot([best + 1], [score[best]], "D", color=ORANGE, ms=6, label="kept: the lowest score")
    axes[0].set_ylabel("in units of what the base leaves", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    if has_nfe:
        axes[1].plot(epoch, log["nfe"], "-", color=BLUE, marker=".", lw=1.6)
        axes[1].set_ylabel("evaluations of the field per sample", fontsize=9)
        axes[1].set_ylim(0, 1.2 * log["nfe"].max())
    for axis in axes:
        axis.set_xlabel("epoch", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(figure, title)
    return figure


def plot_leaderboard(records: Sequence[dict[str, Any]], *, metric: str = "mse", title: str | None = None) -> Figure:
    """Draw an error of every model, the lowest on top, with one standard deviation over runs.

    Args:
        records: dicts of `model` and `metrics: {name: {mean, sd}}`; a model without the figure is left out.
        metric: which figure.
        title: of the figure.
    """
    known = [record for record in records if record["metrics"][metric]["mean"] is not None]
    known = sorted(known, key=lambda record: record["metrics"][metric]["mean"])
    figure = Figure(figsize=(6.6, 1.2 + 0.36 * max(len(known), 2)), layout="constrained")
    axis = figure.subplots()
    mean = [record["metrics"][metric]["mean"] for record in known]
    # A single run has no spread: no bar is drawn.
    spread = [
        np.nan if record["metrics"][metric]["sd"] is None else record["metrics"][metric]["sd"] for record in known
    ]
    place = range(len(known))
    axis.errorbar(mean, place, xerr=spread, fmt="o", color=BLUE, ecolor=BLUE, capsize=3, ms=5)
    axis.set_yticks(place, [record["model"].replace("_", " ") for record in known])
    axis.set_ylim(len(known) - 0.5, -0.5)
    if known:
        axis.axvline(mean[0], color=GREY, lw=0.6, ls=":")
    single = "; without a bar: a single run" if np.isnan(spread).any() else ""
    axis.set_xlabel(f"{metric} on the test part (± 1 sd over runs{single}); lower is better", fontsize=9)
    _finish(figure, title)
    return figure


def plot_study(study: dict[str, Any], *, title: str | None = None, max_settings: int = 6) -> Figure:
    """Draw a tuning: how its scores came down, what they depended on, and the score by each of the settings that mattered most.

    Args:
        study: as `study.json` holds it: `trials` with `number, state, score, epochs, params`, and `importance` by setting.
        title: of the figure.
        max_settings: settings that get a panel, the most important first.
    """
    trials, importance = study["trials"], study["importance"]
    names = list(dict.fromkeys([*importance, *(key for row in trials for key in row["params"])]))
    shown = names[:max_settings]
    n_rows = -(-len(shown) // 3)
    figure = Figure(figsize=(9.6, 2.9 * (1 + n_rows)), layout="constrained")
    top, bottom = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=(1, max(n_rows, 0.01)))))
    course, shares = top.subplots(1, 2)
    _draw_course(course, trials)
    _draw_importance(shares, importance)
    ended = [row for row in trials if row["state"] == "complete"]
    for i, key in enumerate(shown):
        _draw_setting(bottom.add_subplot(n_rows, 3, i + 1), key, ended, has_label=i % 3 == 0)
    _finish(figure, title)
    return figure


def _draw_course(axis: Axes, trials: Sequence[dict[str, Any]]) -> None:
    ended = [row for row in trials if row["state"] == "complete"]
    number = [row["number"] for row in ended]
    score = [row["score"] for row in ended]
    axis.plot(number, score, "o", color=BLUE, ms=4, label="trial")
    if ended:
        last = trials[-1]["number"]
        axis.step(
            [*number, last],
            [*np.minimum.accumulate(score), min(score)],
            where="post",
            color=ORANGE,
            lw=1.2,
            label="best so far",
        )
    cut = [(row["number"], min(row["epochs"])) for row in trials if row["state"] == "pruned" and row["epochs"]]
    if cut:
        axis.plot(*zip(*cut, strict=True), "o", mfc="none", color=GREY, ms=4, label="ended early (its best epoch)")
    failed = [row["number"] for row in trials if row["state"] == "failed"]
    if failed:
        # At the upper edge, whatever the scores are: a failed trial has none.
        axis.plot(
            failed, [0.97] * len(failed), "x", color=GREY, ms=5, transform=axis.get_xaxis_transform(), label="failed"
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("trial", fontsize=9)
    axis.set_ylabel("score (lower is better)", fontsize=9)
    axis.legend(frameon=False, fontsize=8)


def _draw_importance(axis: Axes, importance: dict[str, float]) -> None:
    if not importance:
        axis.text(0.5, 0.5, "too few trials to tell\nwhat scores depended on", ha="center", va="center", fontsize=9)
        axis.set_axis_off()
        return
    place = range(len(importance))
    axis.barh(place, list(importance.values()), color=BLUE, height=0.6)
    axis.set_yticks(place, [_last_words(key) for key in importance])
    axis.invert_yaxis()
    axis.set_xlabel("share of how much scores differ", fontsize=9)


def _draw_setting(axis: Axes, key: str, ended: Sequence[dict[str, Any]], *, has_label: bool) -> None:
    """Draw the scores by one setting: numbers along an axis, what is none in columns."""
    value = [row["params"][key] for row in ended]
    score = [row["score"] for row in ended]
    if all(isinstance(x, int | float) and not isinstance(x, bool) for x in value):
        axis.plot(value, score, "o", color=BLUE, ms=4)
        if len(set(value)) <= 5:
            axis.set_xticks(sorted(set(value)))
        positive = [x for x in value if x > 0]
        if len(set(value)) > 5 and len(positive) == len(value) and max(positive) > 4 * min(positive):
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        words = sorted({str(x) for x in value})
        axis.plot([words.index(str(x)) for x in value], score, "o", color=BLUE, ms=4)
        axis.set_xticks(range(len(words)), [_shorten(word.rsplit(".", 1)[-1], 16) for word in words])
        axis.set_xlim(-0.5, len(words) - 0.5)
    axis.set_xlabel(_last_words(key), fontsize=9)
    if has_label:
        axis.set_ylabel("score", fontsize=9)


def _last_words(key: str) -> str:
    """Give the last two words of a dotted key, which tell the part and its setting."""
    return ".".join([word for word in key.split(".") if word != "init_args"][-2:])


def _finish(figure: Figure, title: str | None) -> None:
    for axis in figure.axes:
        axis.grid(alpha=0.25, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, fontsize=11)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its suffix.

    Raises:
        InputError: matplotlib does not know the suffix.
    """
    check_picture(path)
    form = path.suffix[1:].lower()
    # Without a date in the file, and with ids that do not depend on chance, the same figure gives the same bytes.
    metadata: dict[str, Any] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[form]
    with rc_context({"svg.hashsalt": "latentode"}):
        write_whole(path, lambda part: figure.savefig(part, dpi=140, format=form, metadata=metadata))


def check_picture(path: Path) -> None:
    """Refuse a picture that cannot be written, before anything is computed for it.

    Raises:
        InputError: the suffix is none of .png, .pdf and .svg.
    """
    if path.suffix.lower() not in PICTURES:
        raise InputError(f"{path} has no suffix of a picture; name a picture that ends in .png, .pdf or .svg.")
