"""Small tables for tests."""

from __future__ import annotations

import numpy as np
import pandas as pd

from latentode.data.tables import read_table


def make_frame(n_series=4, n_rows=30, n_channels=2, *, seed=0, share=0.7, unit=1.0, start=0.0, datetimes=False):
    """Uneven stamps, values that move slowly, gaps; every row holds at least one value."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n_series):
        n = n_rows - 3 * i if n_rows > 15 else n_rows
        time = np.cumsum(np.round(rng.exponential(1.0, n) + 0.05, 3))
        phase = rng.uniform(0, 6, n_channels)
        values = np.sin(time[:, None] / 4 + phase) + 0.1 * rng.normal(size=(n, n_channels)) + np.arange(n_channels)
        hidden = rng.random(values.shape) > share
        hidden[np.arange(n), rng.integers(0, n_channels, n)] = False
        values[hidden] = np.nan
        frame = pd.DataFrame(values, columns=[f"x{c}" for c in range(n_channels)])
        stamps = start + unit * time
        if datetimes:
            stamps = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.round(stamps * 3600), unit="s")
        frame.insert(0, "time", stamps)
        frame.insert(0, "series_id", f"s{i}")
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def make_table(*args, **kwargs):
    return read_table(make_frame(*args, **kwargs))


ROLES = {
    "channels": ["y", "p", "lead"],
    "static_columns": ["kind", "age"],
    "known_columns": ["dose"],
    "log_channels": ["p"],
}


def make_covariate_frame(n_series=8, n_rows=40, *, seed=0):
    """`y` is `dose` plus noise, `p` is positive, `lead` is what `y` was due to before; `kind` and `age` hold for a series."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n_series):
        time = np.cumsum(np.round(rng.exponential(1.0, n_rows) + 0.05, 3))
        dose = rng.normal(size=n_rows)
        frames.append(
            pd.DataFrame(
                {
                    "series_id": f"s{i}",
                    "time": time,
                    "y": 3 * dose + 0.3 * rng.normal(size=n_rows) + 10,
                    "p": np.exp(np.sin(time) + 0.2 * rng.normal(size=n_rows)),
                    "lead": rng.normal(size=n_rows),
                    "dose": dose,
                    "kind": "ABC"[i % 3],
                    "age": 40.0 + 5 * i,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
