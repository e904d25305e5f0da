"""Scores of forecasts: element-wise formulas, and sums and counts from which every average is taken."""

from .point import absolute_error, squared_error
from .probabilistic import coverage, crps, negative_log_likelihood
from .totals import METRICS, Metric, Totals, check_metrics

__all__ = [
    "METRICS",
    "Metric",
    "Totals",
    "absolute_error",
    "check_metrics",
    "coverage",
    "crps",
    "negative_log_likelihood",
    "squared_error",
]
