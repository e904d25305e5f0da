"""`Totals` as torchmetrics: sums and counts that processes add up, so that figures are exact however the batches were dealt out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution
from torchmetrics import Metric

from latentode.data.batch import Batch
from latentode.errors import InputError
from latentode.metrics import PitCounts, Totals, check_metrics, horizon_edges


class ForecastTotals(Metric):
    """Sums of scores per channel and bin of lead time over all processes.

    Averages are taken after the sums have been added up: the mean of the processes' averages would weigh a value by how many others its
    process happened to get.

    Args:
        n_channels: of the data.
        names: of metrics in `METRICS`; "coverage" stands for all of its levels.
        edges: of the bins of lead time, in horizons.
        naive_error: per channel, see `Totals`; metrics in its unit are left out where there is none.
    """

    full_state_update = False
    count: Tensor

    def __init__(
        self,
        n_channels: int,
        names: Sequence[str] | None = None,
        *,
        edges: Sequence[float] = horizon_edges(),
        naive_error: Tensor | None = None,
    ) -> None:
        super().__init__()
        empty = Totals.zero(n_channels, check_metrics(names), edges=edges, naive_error=naive_error)
        self.names, self.edges, self.naive_error = tuple(empty.sums), empty.edges, empty.naive_error
        # float64, which Lightning's precision setting leaves alone: a float32 sum stops growing at 16 million.
        self.add_state("count", empty.count, dist_reduce_fx="sum")
        for name, total in empty.sums.items():
            self.add_state(f"sum_{name}", total, dist_reduce_fx="sum")

    def update(self, forecast: Distribution, batch: Batch) -> None:
        """Add a batch's scores; targets that are padding are left out."""
        lead = batch.lead_time()
        self.totals().add(forecast, batch.target_value, batch.target_channel, batch.target_observed, lead=lead)

    def totals(self) -> Totals:
        """Give the sums as `Totals` that share the memory of this metric's state; of all processes only inside `compute`."""
        sums = {name: getattr(self, f"sum_{name}") for name in self.names}
        return Totals(sums, self.count, self.edges, self.naive_error)

    def compute(self) -> dict[str, Tensor]:
        """Give `<name>_macro` and `<name>_pooled` of each metric, in training deviations, as 0-d tensors."""
        totals = self.totals()
        figures = {f"{name}_macro": totals.macro(name) for name in self.names}
        figures |= {f"{name}_pooled": totals.pooled(name) for name in self.names}
        return {name: self.count.new_tensor(figure) for name, figure in figures.items()}


class ForecastError(Metric):
    """One average of one metric over all processes: a number that Lightning logs and early stopping watches.

    Args:
        n_channels: of the data.
        name: of the metric in `METRICS`.
        average: "macro" over channels, "pooled" over values, or "balanced" between them: a channel weighs as the root of how many values it
            has, so that neither a channel with a handful of values nor one with most of them decides.
        left_out: channels in no average, bool `(C,)`; None: none.
        unit: of the average per channel, in training deviations, `(C,)`; None: 1.

    Raises:
        InputError: there is no such metric, it is a group of them, or it takes naive errors (`ForecastTotals` has them).
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(
        self,
        n_channels: int,
        name: str = "mse",
        average: Literal["macro", "pooled", "balanced"] = "macro",
        left_out: Tensor | None = None,
        unit: Tensor | None = None,
    ) -> None:
        super().__init__()
        empty = Totals.zero(n_channels, check_metrics([name]))
        if list(empty.sums) != [name]:
            raise InputError(
                f"'{name}' is not a single number of forecasts alone; name one, such as mse, mae, crps or nll."
            )
        self.name = name
        self.average = average
        self.left_out = left_out
        self.unit = unit
        self.add_state("total", empty.sums[self.name], dist_reduce_fx="sum")
        self.add_state("count", empty.count, dist_reduce_fx="sum")

    def _totals(self) -> Totals:
        return Totals({self.name: self.total}, self.count)

    def update(self, forecast: Distribution, batch: Batch) -> None:
        """Add a batch's scores; targets that are padding are left out."""
        self._totals().add(forecast, batch.target_value, batch.target_channel, batch.target_observed)

    def compute(self) -> Tensor:
        """Give the average in its units, 0-d float64."""
        totals = self._totals() if self.left_out is None else self._totals().without(self.left_out)
        scale = None if self.unit is None else self.unit.to(self.count).reciprocal()
        if self.average != "balanced":
            average = totals.macro if self.average == "macro" else totals.pooled
            return self.count.new_tensor(average(self.name, scale))
        weight = totals.count.sum(1).sqrt()
        figure = totals.per_channel(self.name, scale)
        return (torch.where(weight > 0, figure, 0.0) * weight).sum() / weight.sum()


class CalibrationCounts(Metric):
    """A PIT histogram over all processes.

    Args:
        n_channels: of the data.
        n_bins: of the histogram, even.
    """

    full_state_update = False
    count: Tensor

    def __init__(self, n_channels: int, n_bins: int = 20) -> None:
        super().__init__()
        self.add_state("count", PitCounts.zero(n_channels, n_bins).count, dist_reduce_fx="sum")

    def update(self, forecast: Distribution, batch: Batch) -> None:
        """Add where a batch's targets fall in their forecasts."""
        PitCounts(self.count).add(forecast, batch.target_value, batch.target_channel, batch.target_observed)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Give nominal levels and the actual coverage of central intervals, pooled over channels, `(n_bins / 2,)` each."""
        nominal, actual = PitCounts(self.count.sum(0, keepdim=True)).reliability()
        return nominal, actual[0]
