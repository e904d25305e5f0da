"""Scores of forecasts: element-wise formulas, and sums and counts from which every average is taken."""

from .bootstrap import Comparison, Interval, bootstrap_interval, paired_bootstrap
from .calibration import PitCounts
from .point import absolute_error, absolute_error_of_mean, squared_error
from .probabilistic import (
    coverage,
    crps,
    crps_from_samples,
    energy_of_targets,
    energy_score,
    negative_log_likelihood,
    pinball,
    pit_values,
    width,
)
from .quantiles import cumulative, quantile
from .skill import skill_summary
from .table import METRICS, SHARES, Metric, check_metrics
from .totals import Totals, horizon_edges

__all__ = [
    "METRICS",
    "SHARES",
    "Comparison",
    "Interval",
    "Metric",
    "PitCounts",
    "Totals",
    "absolute_error",
    "absolute_error_of_mean",
    "bootstrap_interval",
    "check_metrics",
    "coverage",
    "crps",
    "crps_from_samples",
    "cumulative",
    "energy_of_targets",
    "energy_score",
    "horizon_edges",
    "negative_log_likelihood",
    "paired_bootstrap",
    "pinball",
    "pit_values",
    "quantile",
    "skill_summary",
    "squared_error",
    "width",
]
