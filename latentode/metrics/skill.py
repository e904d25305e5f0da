"""How sure a figure is, and how it stands to the baselines', as plain values for a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .table import METRICS
from .totals import Totals


def skill_summary(
    totals: Totals, baselines: Mapping[str, Totals], names: Sequence[str], *, n_draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Give bootstrap intervals over series, and the skill against each baseline on the same windows, in training deviations.

    Args:
        totals: of the model, with sums per series.
        baselines: by name, of the same windows.
        names: of errors in `METRICS` whose sums per series were kept.
        n_draws, seed: of the bootstrap.

    Returns:
        `intervals`: by metric and average ("macro", "pooled") the ends of the 95 % interval. `against`: by baseline, metric and average
        `difference` (model less baseline) and `skill` (1 - ratio; not for a density, whose zero is arbitrary), each with `estimate`, `low`
        and `high`. Both are empty where no value was scored.
    """
    if not bool((totals.series_count > 0).any()):
        return {"intervals": {}, "against": {}}
    intervals = {
        name: {
            average: [one.low, one.high] for average, one in totals.interval(name, n_draws=n_draws, seed=seed).items()
        }
        for name in names
    }
    against = {
        baseline: {name: _against(totals, other, name, n_draws=n_draws, seed=seed) for name in names}
        for baseline, other in baselines.items()
    }
    return {"intervals": intervals, "against": against}


def _against(totals: Totals, other: Totals, name: str, *, n_draws: int, seed: int) -> dict[str, Any]:
    found = {}
    for average, one in totals.compare(other, name, n_draws=n_draws, seed=seed).items():
        found[average] = {"difference": asdict(one.difference)}
        if not METRICS[name].shifts_with_unit:
            found[average]["skill"] = asdict(one.skill)
    return found
