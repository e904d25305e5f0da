"""GRU-ODE-Bayes on a particle between two wells, forecast from every observation up to the next, beside the exact law.

    python benchmarks/double_well.py [--out FILE] [--plot FIGURE]

The figure has the shape of those in De Brouwer et al. (2019): at an observation the mean jumps to the well that was seen and the deviation
shrinks; until the next one the mean slides back to the middle, since the particle may have changed wells, and the deviation grows. The
model is trained without a base on noisy, sparse observations of other particles. The exact law of a particle that starts at the bottom of
a well is a simulation of 20,000 paths.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from latentode import Forecaster
from latentode.data.datasets.double_well import DIFFUSION, SYSTEM
from latentode.data.simulation import Options, Simulation, simulate
from latentode.data.trajectories import euler_maruyama
from latentode.models import GRUODEBayes
from latentode.plots import BLUE, GREY, ORANGE, save_figure

HORIZON = 5.0
LAGS = np.array([0.05, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0])
WELL = 0.7  # observed beyond it, the particle is in a well
N_PATHS = 20_000


@dataclass(frozen=True)
class Filtering:
    """Forecasts of particles from every observation.

    Attributes:
        truth: their simulation.
        at_lags: of every observation (`series_id, time, value`) mean and std at every lag, columns `lag, mean, std`.
        between: mean and std on a fine grid up to the next observation, columns `series_id, time, mean, std`.
    """

    truth: Simulation
    at_lags: pd.DataFrame
    between: pd.DataFrame


def particles(n_series: int, seed: int) -> Simulation:
    """Simulate particles, each observed some twelve times in 20 units of time, with noise of a twentieth of their deviation."""
    return simulate(SYSTEM, Options(n_series=n_series, n_observations=12, noise=0.05, seed=seed))


def observations(truth: Simulation) -> pd.DataFrame:
    """Give what was observed, `series_id, time, x`."""
    table = truth.table
    counts = np.diff(table.starts)
    return pd.DataFrame(
        {"series_id": np.repeat(np.arange(len(counts)), counts), "time": table.time, "x": table.values[:, 0]}
    )


def fit(*, n_series: int = 400, max_epochs: int = 40, seed: int = 0) -> Forecaster:
    """Train the model."""
    forecaster = Forecaster(
        GRUODEBayes(base=None, hidden_size=32, beta=0.0),
        horizon=HORIZON,
        split="series",
        max_epochs=max_epochs,
        windows_per_epoch=1024,
        learning_rate=4e-3,
        seed=seed,
        show_progress=False,
    )
    return forecaster.fit(observations(particles(n_series, seed)))


def filter_particles(forecaster: Forecaster, *, n_series: int = 60, seed: int = 1) -> Filtering:
    """Forecast other particles from every observation, at the lags and on the way to the next observation."""
    truth = particles(n_series, seed)
    seen = observations(truth)
    # A history for every observation: the rows up to it.
    number = seen.groupby("series_id").cumcount()
    histories, queries = [], []
    for i, row in enumerate(seen.itertuples()):
        before = (seen["series_id"] == row.series_id) & (number <= number[i])
        histories.append(seen[before].assign(series_id=i))
        later = seen["time"][(seen["series_id"] == row.series_id) & (number == number[i] + 1)]
        end = float(later.iloc[0]) if len(later) else SYSTEM.duration
        fine = np.linspace(row.time, end, 12)[1:] if end > row.time else np.empty(0)
        queries.append(pd.DataFrame({"series_id": i, "time": row.time + LAGS, "lag": LAGS}))
        queries.append(pd.DataFrame({"series_id": i, "time": np.append(row.time + 1e-3, fine), "lag": np.nan}))
    asked = pd.concat(queries, ignore_index=True)
    said = forecaster.predict(pd.concat(histories), queries=asked[["series_id", "time"]]).to_frame()
    asked = asked.assign(mean=said["mean"], std=said["std"], observation=asked["series_id"])
    asked["series_id"] = seen["series_id"].to_numpy()[asked["observation"]]
    at_lags = asked[asked["lag"].notna()]
    at_lags = at_lags.assign(value=seen["x"].to_numpy()[at_lags["observation"]])
    return Filtering(truth, at_lags, asked[asked["lag"].isna()].sort_values(["series_id", "time"]))


def exact_law(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Give mean and deviation, at the lags, of a particle that starts at the bottom of the right well."""
    paths = euler_maruyama(
        lambda x: x - x**3, DIFFUSION, np.ones((N_PATHS, 1)), HORIZON, 500, np.random.default_rng(seed)
    )
    state = np.stack([paths(np.arange(N_PATHS), np.full(N_PATHS, lag))[:, 0] for lag in LAGS])
    return state.mean(1), state.std(1)


def shape(filtering: Filtering) -> dict[str, Any]:
    """Say in figures what the picture shows.

    Returns:
        `right_well`: share of observations in a well after which the mean is in that well; `mean`, `std`: of forecasts from a well, at each
        lag, the mean counted towards that well, and `exact_mean`, `exact_std`; `shrinks`: share of observations in a well, some time after
        the last one, at which the deviation falls.
    """
    frame = filtering.at_lags[filtering.at_lags["value"].abs() > WELL]
    towards = frame["mean"] * np.sign(frame["value"])
    by_lag = frame.assign(mean=towards).groupby("lag")[["mean", "std"]].mean()
    between = filtering.between
    by_observation = between.groupby(["series_id", "observation"])["std"].agg(["first", "last"]).reset_index()
    same = by_observation["series_id"].eq(by_observation["series_id"].shift())
    last = by_observation["last"].shift()[same]
    in_well = by_observation["observation"].isin(frame["observation"])[same]
    gap = between.groupby(["series_id", "observation"])["time"].agg(np.ptp).reset_index(drop=True).shift()[same]
    falls = (by_observation["first"][same] < last)[in_well & (gap > 0.5)]
    exact_mean, exact_std = exact_law()
    return {
        "lag": LAGS.tolist(),
        "right_well": float((towards[frame["lag"] == LAGS[0]] > 0.5).mean()),
        "shrinks": float(falls.mean()),
        "mean": by_lag["mean"].round(3).tolist(),
        "exact_mean": exact_mean.round(3).tolist(),
        "std": by_lag["std"].round(3).tolist(),
        "exact_std": exact_std.round(3).tolist(),
    }


def draw(filtering: Filtering, n_series: int = 3) -> Figure:
    """Draw the particles that change wells most often: path, observations, mean and two deviations."""
    seen = observations(filtering.truth)
    changes = seen.groupby("series_id")["x"].agg(lambda x: (np.diff(np.sign(x)) != 0).sum())
    chosen = changes.sort_values(ascending=False, kind="stable").index[:n_series]
    figure = Figure(figsize=(9, 2.3 * n_series), layout="constrained")
    axes = figure.subplots(n_series, 1, sharex=True, squeeze=False)[:, 0]
    for axis, series in zip(axes, chosen, strict=True):
        time = np.linspace(0, SYSTEM.duration, 1000)
        path = filtering.truth.truth(np.full(len(time), series), time)[:, 0]
        axis.plot(time, path, color=GREY, lw=0.5, label="particle")
        rows = filtering.between[filtering.between["series_id"] == series]
        for i, (_, one) in enumerate(rows.groupby("observation")):
            label = {"label": "mean, two deviations"} if i == 0 else {}
            axis.fill_between(
                one["time"], one["mean"] - 2 * one["std"], one["mean"] + 2 * one["std"], color=BLUE, alpha=0.2, lw=0
            )
            axis.plot(one["time"], one["mean"], color=BLUE, lw=1.4, **label)
        marks = seen[seen["series_id"] == series]
        axis.plot(marks["time"], marks["x"], "o", color=ORANGE, ms=4, label="observed")
        axis.set_ylim(-2.4, 2.4)
        axis.set_ylabel("x")
    axes[-1].set_xlabel("time")
    axes[0].legend(loc="upper right", ncols=3, fontsize=8)
    return figure


def main() -> None:
    """Train, forecast, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--max_epochs", type=int, default=40)
    options = parser.parse_args()
    filtering = filter_particles(fit(max_epochs=options.max_epochs))
    result = shape(filtering)
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    if options.plot:
        save_figure(draw(filtering), options.plot)


if __name__ == "__main__":
    main()
