r"""Predictive intervals that hold what they say: a monotone map of probability levels, fitted on forecasts that validation has not tuned.

Where a forecast says :math:`\Phi(z)`, the value turned out to be that improbable as often as the residuals :math:`z_{(1)} \le \dots \le
z_{(n)}` of held-out forecasts say, each as normal score :math:`z = \Phi^{-1}(F(y))` of its probability integral transform. The calibrated
quantile of level :math:`p > 1/2` is the forecast's own at :math:`z_{(\lceil (n+1) p \rceil)}`, and mirrored below: split conformal
prediction (Romano, Patterson and Candès 2019, section 3, for the rank; Vovk, Petej, Nouretdinov, Manokhin and Gammerman 2020 for the
distribution; Kuleshov, Fenner and Ermon 2018 for the map on the probability scale). A central interval whose two levels are among `LEVELS`
then holds a further exchangeable value with the stated probability or up to :math:`2/(n+1)` more.

Maps belong to a cell, a channel and a bin of lead time. A cell with fewer than `MIN_RESIDUALS` takes the map of its channel, a channel with
fewer that of all together; with fewer than that in all there is no map, and the forecast stays as the likelihood has it. Residuals count
alike, though those of one series stand and fall together: the stated coverage is that over values, and its noise is that of the series.

The score is acted on and not the level, in float64, since residuals of nine deviations have the level 1 in float32. Between levels the
map is linear in the score; beyond the outermost it goes on straight, with the slope between `TAIL_FROM` and the end. Rounded values give
residuals that are equal but for rounding; every interval is therefore `MARGIN` wider than the residual that it ends at, so that a tie
lies inside as a whole, and the map rises strictly.

Legend: `C` channels, `L` bins of lead time, `K` levels with an end beyond each side.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from torch.special import ndtr, ndtri

from latentode.data.batch import Batch
from latentode.metrics.probabilistic import crps_from_quantiles
from latentode.metrics.quantiles import at_score, normal_score
from latentode.models.copula import Copula
from latentode.models.interfaces import ForecastModel
from latentode.models.lead import N_LEADS, lead_bin

MIN_RESIDUALS = 200  # fewer do not reach the outermost level
LOWER = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
LEVELS = (*LOWER, 0.5, *(1 - level for level in reversed(LOWER)))
TAIL_FROM = 0.1  # and 0.9: from one level to the next, the slope at the end would be that of three residuals
OUTER = 8.0  # normal scores: how far out the ends of the map lie
MARGIN = 1e-4  # per normal score of the level, in units of the forecast's own deviation
PSEUDO_COUNT = (
    50.0  # how many errors a channel, or a bin of it, needs to weigh as much as what its width is drawn towards
)
OWN, CHANNEL, ALL, NONE = range(4)  # whose residuals made a cell's map


class Calibration(nn.Module):
    """What held-out residuals say of the intervals, per channel and bin of lead time: a width for the likelihood, a map for the quantiles.

    Until `fit` has seen enough residuals there is no map, and a forecast passes through as it is.

    Attributes:
        width: factor `(C, L)` on the deviation of the raw forecast.
        knots: normal scores of the raw forecast at `LEVELS` and beyond, float64 `(C, L, K)`; `(0, L, K)` while there is no map.
        n_residuals: held-out residuals of each cell, int64 `(C, L)`.
        source: `OWN`, `CHANNEL`, `ALL` or `NONE`: whose residuals made the cell's map, int64 `(C, L)`.
    """

    width: Tensor
    knots: Tensor
    n_residuals: Tensor
    source: Tensor
    nodes: Tensor

    def __init__(self, n_channels: int, n_bins: int = N_LEADS) -> None:
        super().__init__()
        self.n_bins = n_bins
        self.register_buffer("width", torch.ones(n_channels, n_bins))
        self.register_buffer("knots", torch.zeros(0, n_bins, len(LEVELS) + 2, dtype=torch.float64))
        self.register_buffer("n_residuals", torch.zeros(n_channels, n_bins, dtype=torch.int64))
        self.register_buffer("source", torch.full((n_channels, n_bins), NONE))
        self.register_buffer("nodes", _nodes(), persistent=False)
        self.copula = Copula(n_channels)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # Whether there is a map is known only from what is loaded.
        stored = state_dict.get(prefix + "knots")
        if stored is not None and stored.shape[1:] == self.knots.shape[1:] and len(stored) in (0, len(self.width)):
            self.register_buffer("knots", self.knots.new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def width_at(self, batch: Batch) -> Tensor:
        """Give the factor on the deviation of every target `(B, M)`."""
        return self.width[batch.target_channel, lead_bin(batch)]

    def fit_width(self, ratio: Tensor, channel: Tensor, lead: Tensor) -> None:
        """Set the widths by errors in units of the raw forecast's deviation, see `choose_width`; no error leaves them as they are."""
        if len(ratio):
            self.width.copy_(choose_width(ratio, channel, lead, len(self.width), self.n_bins))

    def fit(
        self,
        score: Tensor,
        channel: Tensor,
        lead: Tensor,
        time: Tensor | None = None,
        window: Tensor | None = None,
    ) -> None:
        """Fit the maps, and, where it is known which values belong together, how they hang together.

        Args:
            score: normal scores of held-out values in their raw forecasts, float64 `(P,)`.
            channel, lead: of each, int64 `(P,)`; `lead` is the bin.
            time, window: of each, lead time and number of its window, `(P,)`.
        """
        self._fit_maps(score, channel, lead)
        if time is not None and window is not None:
            self.copula.fit(self._calibrated_score(score, channel, lead), channel, time, window)

    def _calibrated_score(self, score: Tensor, channel: Tensor, lead: Tensor) -> Tensor:
        """Give normal scores in the calibrated forecasts from those in the raw ones."""
        standard = Normal(torch.zeros_like(score), torch.ones_like(score), validate_args=False)
        return normal_score(self.mapped(standard, channel, lead), score)

    def _fit_maps(self, score: Tensor, channel: Tensor, lead: Tensor) -> None:
        n_channels, n_bins = self.width.shape
        cell = channel * n_bins + lead
        count = torch.bincount(cell, minlength=n_channels * n_bins).view(n_channels, n_bins)
        self.n_residuals.copy_(count)
        self.source.copy_(choose_source(count))
        if len(score) < MIN_RESIDUALS:
            self.register_buffer("knots", self.knots[:0])
            return
        own = choose_knots(score, cell, count.view(-1)).view(n_channels, n_bins, -1)
        of_channel = choose_knots(score, channel, count.sum(1))[:, None]
        of_all = choose_knots(score, torch.zeros_like(cell), count.sum()[None])
        source = self.source[..., None]
        self.register_buffer(
            "knots", torch.where(source == OWN, own, torch.where(source == CHANNEL, of_channel, of_all))
        )

    def forward(self, raw: Distribution, batch: Batch) -> Distribution:
        """Give the forecast `(B, M)` with its quantiles mapped; the raw one itself while there is no map."""
        return self.mapped(raw, batch.target_channel, lead_bin(batch))

    def mapped(self, raw: Distribution, channel: Tensor, bin_: Tensor) -> Distribution:
        """Give forecasts of these channels and bins, int64 of the raw one's batch shape, with their quantiles mapped."""
        if len(self.knots) == 0:
            return raw
        return Calibrated(raw, self.nodes, self.knots.flatten(0, 1), channel * self.n_bins + bin_)

    def describe(self) -> dict[str, int]:
        """Say from how many held-out residuals the maps are, and how many cells took whose, as plain values.

        Returns:
            `n_residuals`; `n_cells`: pairs of channel and bin of lead time that held a residual; of these `n_own`, `n_by_channel`,
            `n_by_all` and `n_raw`: with a map of their own, of their channel, of all, with none.
        """
        held = self.source[self.n_residuals > 0]
        names = {"n_own": OWN, "n_by_channel": CHANNEL, "n_by_all": ALL, "n_raw": NONE}
        of_source = {name: int((held == source).sum()) for name, source in names.items()}
        return {"n_residuals": int(self.n_residuals.sum()), "n_cells": len(held), **of_source}


class CalibratedModel(ForecastModel):
    """A model whose choices are made on validation and whose intervals are cross-fitted there.

    A subclass says what its forecast is (`raw`) and what validation chooses (`choose`). Its `setup` ends with `self.calibration =
    Calibration(n_channels)`, and `raw` multiplies its deviation by `self.calibration.width_at(batch)`.
    """

    calibration: Calibration

    @abstractmethod
    def raw(self, batch: Batch) -> Distribution:
        """Forecast every target `(B, M)` by what the likelihood says."""

    @abstractmethod
    def choose(self, validation: Sequence[Batch]) -> None:
        """Choose weights and widths on these windows; of none nothing is chosen."""

    def forward(self, batch: Batch) -> Distribution:
        """Forecast every target `(B, M)`: mean, deviation and density as raw, quantiles and draws calibrated."""
        return self.calibration(self.raw(batch), batch)

    @torch.no_grad()
    def calibrate(self, validation: Iterable[Batch]) -> None:
        """Choose on all of validation, and fit the intervals on either half by the forecasts that were chosen on the other.

        No window leaves all as it is.
        """
        batches = list(validation)
        if not batches:
            return
        start = self._state()
        self.choose(batches)
        chosen, residuals, n_windows = self._state(), list[Residuals](), 0
        for half, held in _crossed(batches):
            # From the same start every time: what was chosen on one half must not leak into the choice on the other.
            self._restore(start)
            if half:
                self.choose(half)
            # A residual is told in the width by which it will be scaled: a factor that cancels where the map is the cell's own.
            self.calibration.width.copy_(chosen["calibration.width"])
            residuals += _residuals(self, held, n_windows)
            n_windows += sum(map(len, held))
        self._restore(chosen)
        score, channel, time, row, lead = (torch.cat(column) for column in zip(*residuals, strict=True))
        self.calibration.fit(score, channel, lead, time, row)

    def dependence(self, *, is_smoothed: bool = False) -> Copula | None:
        """Give how the forecasts of one series hang together; None where validation did not tell it."""
        return self.calibration.copula if self.calibration.copula.is_fitted and not is_smoothed else None

    def _state(self) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in self.named_buffers()}

    def _restore(self, state: dict[str, Tensor]) -> None:
        for name, buffer in self.named_buffers():
            buffer.copy_(state[name])


class UntrainedModel(CalibratedModel):
    """A model that gradients do not train: it is fitted in `prepare` and `choose`, without chance."""

    is_trained = False

    def loss(self, batch: Batch) -> Tensor:
        """Give the mean squared error over the targets; nothing here is learned from it."""
        with torch.no_grad():
            error = self.raw(batch).mean - batch.target_value
        return error[batch.target_observed].square().mean()


Residuals = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _residuals(model: CalibratedModel, held: Sequence[Batch], first: int) -> list[Residuals]:
    """Give, of every known target, normal score, channel, lead time, window (counted from `first`) and bin of lead time."""
    found = []
    for batch in held:
        score = normal_score(model.raw(batch), batch.target_value)
        # One forecast that is not a number must not take the intervals of all others with it; scores and forecasts say that it is none.
        seen = batch.target_observed & score.isfinite()
        window = torch.arange(first, first + len(batch), device=seen.device)[:, None].expand_as(seen)
        columns = (score, batch.target_channel, batch.lead_time(), window, lead_bin(batch))
        found.append(tuple(column[seen] for column in columns))
        first += len(batch)
    return found


def _crossed(batches: Sequence[Batch]) -> list[tuple[list[Batch], list[Batch]]]:
    one, other = split_in_halves(batches)
    return [(one, other), (other, one)]


def split_in_halves(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Deal windows to two halves: every other series to each; of a single series, the earlier and the later half of its origins.

    Of a single window the second half has none.
    """
    series = torch.cat([batch.series for batch in batches]).unique()
    if len(series) > 1:
        name, key = "series", series
        is_second = torch.arange(len(key), device=key.device) % 2 == 1
    else:
        name, key = "origin", torch.cat([batch.origin for batch in batches]).unique()
        is_second = torch.arange(len(key), device=key.device) >= len(key) / 2
    halves: tuple[list[Batch], list[Batch]] = ([], [])
    for batch in batches:
        second = is_second[torch.searchsorted(key, getattr(batch, name))]
        for half, inside in zip(halves, (~second, second), strict=True):
            if bool(inside.any()):
                half.append(batch.take(inside))
    return halves


def choose_source(count: Tensor) -> Tensor:
    """Say whose residuals make the map of each cell `(C, L)`, from their counts: its own, its channel's or all."""
    enough = count >= MIN_RESIDUALS
    of_channel = torch.where(count.sum(1, keepdim=True) >= MIN_RESIDUALS, CHANNEL, ALL)
    source = torch.where(enough, OWN, of_channel.expand_as(count))
    return torch.where(count.sum() >= MIN_RESIDUALS, source, NONE)


def choose_knots(score: Tensor, group: Tensor, count: Tensor) -> Tensor:
    """Give the map of each of `G` groups: normal scores of the raw forecast at `LEVELS`, and at `OUTER` beyond, float64 `(G, K)`.

    Args:
        score: float64 `(P,)`.
        group: of each, int64 `(P,)`.
        count: scores of each group, int64 `(G,)`; the map of one with fewer than `MIN_RESIDUALS` means nothing.
    """
    order = score.argsort()
    order = order[group[order].argsort(stable=True)]
    sorted_score, first = score[order], (count.cumsum(0) - count)[:, None]
    level = score.new_tensor(LEVELS)
    rank = (count[:, None] + 1) * level
    # The rounding of (n + 1) p must not push a whole number to its neighbour.
    down, up = (rank + 1e-9).floor(), (rank - 1e-9).ceil()
    value = score.new_zeros(len(count), len(LEVELS))
    # Outwards on either side; the median lies half-way between the two.
    for is_lower in (level < 0.5, level <= 0.5):
        place = torch.where(is_lower, down, up).long().clamp(min=1).minimum(count[:, None]) - 1 + first
        value = value + 0.5 * sorted_score[place.clamp(0, len(score) - 1)]
    nodes = _nodes().to(score)
    value = value + MARGIN * nodes[1:-1]
    i = LEVELS.index(TAIL_FROM)
    j = len(LEVELS) - 1 - i
    below = (value[:, i] - value[:, 0]) / (nodes[1 + i] - nodes[1]) * (nodes[1] - nodes[0])
    above = (value[:, -1] - value[:, j]) / (nodes[-2] - nodes[1 + j]) * (nodes[-1] - nodes[-2])
    return torch.cat([(value[:, 0] - below)[:, None], value, (value[:, -1] + above)[:, None]], -1)


def _nodes() -> Tensor:
    """Give the normal scores at which a map is told, float64 `(K,)`."""
    outer = torch.tensor([OUTER], dtype=torch.float64)
    return torch.cat([-outer, ndtri(torch.tensor(LEVELS, dtype=torch.float64)), outer])


def choose_width(ratio: Tensor, channel: Tensor, lead: Tensor, n_channels: int, n_bins: int = N_LEADS) -> Tensor:
    """Give the factor `(C, L)` on the deviation under which the errors have unit variance: the Gaussian likelihood's own choice.

    A bin with few errors leans on its channel, a channel with few on all of them.

    Args:
        ratio: errors in units of the forecast's deviation, `(P,)`, float64.
        channel, lead: of each error, int64 `(P,)`.
        n_channels, n_bins: `C` and `L`.
    """
    place = channel * n_bins + lead
    empty = ratio.new_zeros(n_channels * n_bins)
    total = empty.index_add(0, place, ratio.square()).view(n_channels, n_bins)
    count = empty.index_add(0, place, torch.ones_like(ratio)).view(n_channels, n_bins)
    # A channel without any error never moved: it says nothing of the others.
    has_error = total.sum(1) > 0
    overall = total.sum() / count[has_error].sum().clamp(min=1)
    own = _lean(total.sum(1), count.sum(1), overall)
    return _lean(total, count, own[:, None]).sqrt()


def _lean(total: Tensor, count: Tensor, towards: Tensor) -> Tensor:
    return (total + PSEUDO_COUNT * towards) / (count + PSEUDO_COUNT)


class Calibrated(Distribution):
    """A forecast whose probabilities went through a monotone map: quantiles, distribution function, draws and CRPS are calibrated.

    Mean, deviation and density are those of the raw forecast: the mean is what validation chose for its squared error, and a density of
    the map would be that of a handful of residuals. So the mean of many draws differs from `mean` by what the residuals' mean is.

    Args:
        base: the raw forecast, `(B, M)`.
        nodes: normal scores of the levels at which maps are told, ascending, float64 `(K,)`.
        knots: what each map makes of them, ascending, float64 `(G, K)`.
        cell: the map of each forecast, int64 `(B, M)`.
    """

    def __init__(self, base: Distribution, nodes: Tensor, knots: Tensor, cell: Tensor) -> None:
        super().__init__(base.batch_shape, validate_args=False)
        self.base = base
        self._nodes, self._knots, self._cell = nodes, knots, cell

    def over(self, base: Distribution) -> Calibrated:
        """Give the same maps over another base: the raw forecast in another unit."""
        return Calibrated(base, self._nodes, self._knots, self._cell)

    @property
    def mean(self) -> Tensor:
        """The mean of the raw forecast."""
        return self.base.mean

    @property
    def stddev(self) -> Tensor:
        """The deviation of the raw forecast."""
        return self.base.stddev

    @property
    def variance(self) -> Tensor:
        """The variance of the raw forecast."""
        return self.base.variance

    def log_prob(self, value: Tensor) -> Tensor:
        """Give the logarithm of the raw forecast's density."""
        return self.base.log_prob(value)

    def cdf(self, value: Tensor) -> Tensor:
        """Give the probability of a value at or below `value`."""
        return ndtr(self.normal_score(value)).to(self.base.mean.dtype)

    def icdf(self, value: Tensor) -> Tensor:
        """Give the quantile of one level, 0-d, or of levels that broadcast with the batch shape."""
        score = ndtri(value.double())
        if score.ndim == 0:
            # One level for all: mapped once per cell.
            every = torch.arange(len(self._knots), device=self._cell.device)
            return at_score(self.base, self._map(score.expand(len(every)), every)[self._cell])
        return at_score(self.base, self._map(*torch.broadcast_tensors(score, self._cell)))

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Draw values `(*sample_shape, B, M)`; what the raw forecast joins stays joined, since the map is monotone."""
        shape = torch.Size(sample_shape) + self._cell.shape
        joined = getattr(self.base, "draw_scores", None)
        if joined is None:
            score = torch.randn(shape, dtype=self._knots.dtype, device=self._cell.device)
        else:
            score = joined(torch.Size(sample_shape)).to(self._knots.dtype)
        return self.at_score(score)

    def at_score(self, score: Tensor) -> Tensor:
        """Give the quantiles of normal scores `(..., B, M)`, float64."""
        return at_score(self.base, self._map(score, self._cell.expand(score.shape)))

    def normal_score(self, value: Tensor) -> Tensor:
        """Give the normal scores of values `(B, M)`, float64."""
        return self._undo(normal_score(self.base, value))

    def crps(self, value: Tensor) -> Tensor:
        """Give the CRPS of the calibrated forecast: in closed form over a normal, else from its quantiles."""
        if not isinstance(self.base, Normal):
            return crps_from_quantiles(self, value)
        z = (value.double() - self.base.loc.double()) / self.base.scale.double()
        return (self.base.scale * self._crps(z)).to(value.dtype)

    def _segment(self, score: Tensor) -> Tensor:
        return torch.bucketize(score.contiguous(), self._nodes[1:-1])

    def _map(self, score: Tensor, cell: Tensor) -> Tensor:
        """Give the raw forecast's normal scores where the calibrated one has `score`."""
        i = self._segment(score)
        intercept, slope = self._lines
        return intercept[cell, i] + slope[cell, i] * score

    def _undo(self, score: Tensor) -> Tensor:
        """Give the calibrated normal scores where the raw forecast has `score`, both of the batch shape."""
        n_inner = self._knots.shape[1] - 2
        inner = self._knots[:, 1:-1]
        # All maps as one ascending list, each in a range of its own.
        reach = inner.abs().max() + 1
        start = 2 * reach * torch.arange(len(inner), device=inner.device)
        asked = (start[self._cell] + score.clamp(-reach, reach)).contiguous()
        i = torch.searchsorted((start[:, None] + inner).flatten(), asked) - n_inner * self._cell
        intercept, slope = self._lines
        i = i.clamp(0, n_inner)
        return (score - intercept[self._cell, i]) / slope[self._cell, i]

    @cached_property
    def _lines(self) -> tuple[Tensor, Tensor]:
        """Give intercept and slope of every straight piece of every map, `(G, K - 1)`."""
        slope = self._knots.diff(dim=-1) / self._nodes.diff()
        return self._knots[:, :-1] - slope * self._nodes[:-1], slope

    def _crps(self, z: Tensor) -> Tensor:
        r"""Give :math:`E|X - z| - E|X - X'|/2` of :math:`X = T(S)`, `S` standard normal and `T` the piecewise linear map.

        On a piece :math:`T(s) = a + b s`, :math:`\int T \varphi = a \Phi - b \varphi`; and :math:`E|X - X'|/2` is
        :math:`\int (2 \Phi - 1) T \varphi`, whose piece is
        :math:`a (\Phi^2 - \Phi) + b (\Phi(\sqrt 2 s) / \sqrt\pi - (2 \Phi - 1) \varphi)`.
        """
        intercept, slope = self._lines
        # The outer pieces go on for ever: their ends are those of the integral.
        end = torch.cat(
            [self._nodes.new_full((1,), -math.inf), self._nodes[1:-1], self._nodes.new_full((1,), math.inf)]
        )
        p, density = ndtr(end), _density(end)
        twice = ndtr(math.sqrt(2) * end) / math.sqrt(math.pi) - (2 * p - 1) * density
        apart = (intercept * (p.square() - p).diff() + slope * twice.diff()).sum(-1)
        until = torch.nn.functional.pad((intercept * p.diff() - slope * density.diff()).cumsum(-1), (1, 0))
        s = self._undo(z)
        i, cell = self._segment(s), self._cell
        inside = intercept[cell, i] * (ndtr(s) - p[i]) - slope[cell, i] * (_density(s) - density[i])
        below = until[cell, i] + inside
        return z * (2 * ndtr(s) - 1) + until[cell, -1] - 2 * below - apart[cell]


def _density(s: Tensor) -> Tensor:
    return torch.exp(-0.5 * s.square()) / math.sqrt(2 * math.pi)
