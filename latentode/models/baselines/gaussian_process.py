r"""An exact Gaussian process per series and channel (Rasmussen and Williams 2006, algorithm 2.1), its kernel shared by a channel's series.

The kernel is :math:`v_0 + a\,M_\nu(|t - t'| / \ell) + \sigma^2 \delta_{t t'}`: a level that never changes, a Matern curve (equation 4.17
there, :math:`\nu` = 1/2 or 3/2), and noise. Its four numbers are fitted, per channel, to the marginal likelihood (equation 2.30) of
training windows, history and targets together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.baselines.shrunk import ShrunkBaseline

# Level and amplitude (variances), length in horizons, noise variance: before any data were seen.
START = (0.5, 0.5, 0.3, 0.2)
# Of their logarithms; the noise so stays above 1e-4 of a training variance, which keeps every matrix regular.
BOUNDS = (-9.0, 4.0)
PRIOR_STD = 2.0  # of the logarithms around the start: decides where a channel has little data
SMOOTHNESS = (0.5, 1.5)
N_FIT, N_STEPS, STEP = 96, 60, 0.12  # curves per channel, steps of Adam and their size in fitting the kernel
AT_ONCE = 1 << 22  # entries of the matrices that are factored together


class GaussianProcess(ShrunkBaseline):
    """Forecasts the posterior mean of each series' own process, with its own deviation up to a factor from validation.

    Args:
        smoothness: 0.5 (rough: an Ornstein-Uhlenbeck process) or 1.5 (once differentiable).
        max_points: latest values of a channel that are conditioned on; the cost grows with the cube.

    Raises:
        InputError: smoothness is neither.
    """

    log_kernel: Tensor

    def __init__(self, smoothness: float = 0.5, *, max_points: int = 64) -> None:
        super().__init__()
        if smoothness not in SMOOTHNESS:
            raise InputError(f"smoothness is {smoothness}; choose 0.5 (rough) or 1.5 (once differentiable).")
        self.smoothness = smoothness
        self.max_points = max_points

    def setup(self, schema: Schema) -> None:
        """Make the buffer of the kernels' logarithms, `(C, 4)`."""
        super().setup(schema)
        self.register_buffer("log_kernel", torch.tensor(START).log().repeat(len(schema.channels), 1))

    def fit(self, training: Sequence[Batch]) -> None:
        """Climb the marginal likelihood of up to `N_FIT` curves per channel."""
        groups = list(_curves_to_fit(training, self.max_points))
        start = self.log_kernel.double()
        with torch.enable_grad():
            kernel = start.clone().requires_grad_()
            optimizer = torch.optim.Adam([kernel], lr=STEP)
            for _ in range(N_STEPS):
                optimizer.zero_grad()
                bounded = kernel.clamp(*BOUNDS)
                score = 0.5 * ((bounded - start) / PRIOR_STD).square().sum()
                for curves in groups:
                    score = score - log_marginal(curves, bounded[curves.channel].exp(), self.smoothness).sum()
                score.backward()
                optimizer.step()
        self.log_kernel.copy_(kernel.detach().clamp(*BOUNDS))

    def own(self, batch: Batch) -> Normal:
        """Forecast every target `(B, M)` by the posterior of its own series and channel."""
        seen = batch.target_observed
        points = _Grouped.of(*_tokens(batch), len(batch) * batch.n_channels)
        asked_key = _key(batch, batch.target_channel)[seen]
        asked = _Grouped.of(asked_key, batch.lead_time()[seen].double(), None, points.n_groups)
        kernel = self.log_kernel.double().exp()
        mean = torch.zeros_like(asked_key, dtype=torch.float64)
        variance = _prior_variance(kernel)[batch.target_channel[seen]]
        for n, group in _by_size(points.count.clamp(max=self.max_points), asked.count):
            curves = points.latest(group, n, batch.n_channels)
            index, inside = asked.first_of(group)
            found = posterior(curves, asked.time[index], kernel[curves.channel], self.smoothness)
            place = asked.order[index[inside]]
            mean[place], variance[place] = found[0][inside], found[1][inside]
        mean_BM = torch.zeros_like(batch.target_value)
        std_BM = torch.ones_like(mean_BM)
        mean_BM[seen], std_BM[seen] = mean.to(mean_BM.dtype), variance.sqrt().to(mean_BM.dtype)
        return Normal(mean_BM, std_BM, validate_args=False)


@dataclass(frozen=True)
class Curves:
    """Values of one channel of one series each, padded at the front.

    Attributes:
        time, value: float64 `(P, n)`.
        observed: bool `(P, n)`.
        channel: int64 `(P,)`.
    """

    time: Tensor
    value: Tensor
    observed: Tensor
    channel: Tensor


def covariance(t: Tensor, s: Tensor, kernel: Tensor, smoothness: float) -> Tensor:
    """Give the covariance, noise left out, of times `(P, n)` and `(P, m)`: `(P, n, m)`.

    Args:
        t, s: times.
        kernel: level, amplitude, length, noise of each curve, `(P, 4)`.
        smoothness: 0.5 or 1.5.
    """
    level, amplitude, length, _ = kernel[:, :, None, None].unbind(1)
    distance = (t[:, :, None] - s[:, None, :]).abs() / length
    if smoothness == SMOOTHNESS[0]:
        return level + amplitude * torch.exp(-distance)
    distance = math.sqrt(3) * distance
    return level + amplitude * (1 + distance) * torch.exp(-distance)


def _factor(curves: Curves, kernel: Tensor, smoothness: float) -> Tensor:
    """Give the Cholesky factor `(P, n, n)` of the covariance of what was observed; padding is independent and of unit variance."""
    both = curves.observed[:, :, None] & curves.observed[:, None, :]
    matrix = torch.where(both, covariance(curves.time, curves.time, kernel, smoothness), 0.0)
    diagonal = torch.where(curves.observed, kernel[:, 3:], 1.0)
    return torch.linalg.cholesky(matrix + torch.diag_embed(diagonal))


def log_marginal(curves: Curves, kernel: Tensor, smoothness: float) -> Tensor:
    """Give the logarithm of the density of each curve's values, `(P,)`."""
    factor = _factor(curves, kernel, smoothness)
    white = torch.linalg.solve_triangular(factor, curves.value[..., None], upper=False)[..., 0]
    n = curves.observed.sum(1).to(white.dtype)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(1)
    return -0.5 * white.square().sum(1) - log_det - 0.5 * n * math.log(2 * math.pi)


def posterior(curves: Curves, at: Tensor, kernel: Tensor, smoothness: float) -> tuple[Tensor, Tensor]:
    """Give mean and variance, noise included, of values at times `(P, m)`."""
    factor = _factor(curves, kernel, smoothness)
    cross = torch.where(curves.observed[:, :, None], covariance(curves.time, at, kernel, smoothness), 0.0)
    both = torch.cat([curves.value[..., None], cross], -1)
    white = torch.linalg.solve_triangular(factor, both, upper=False)
    mean = (white[..., :1] * white[..., 1:]).sum(1)
    variance = _prior_variance(kernel)[:, None] - white[..., 1:].square().sum(1)
    return mean, torch.maximum(variance, kernel[:, 3:])


def _prior_variance(kernel: Tensor) -> Tensor:
    return kernel[:, 0] + kernel[:, 1] + kernel[:, 3]


@dataclass(frozen=True)
class _Grouped:
    """Flat points sorted by group, in the order of time within it; the channel of group `g` is `g % C`."""

    time: Tensor
    value: Tensor | None
    order: Tensor
    first: Tensor
    count: Tensor

    @property
    def n_groups(self) -> int:
        return len(self.count)

    @classmethod
    def of(cls, key: Tensor, time: Tensor, value: Tensor | None, n_groups: int) -> _Grouped:
        order = key.argsort(stable=True)
        count = torch.bincount(key, minlength=n_groups)
        sorted_value = None if value is None else value[order]
        return cls(time[order], sorted_value, order, count.cumsum(0) - count, count)

    def latest(self, group: Tensor, n: int, n_channels: int) -> Curves:
        """Give the last `n` points of each of these groups."""
        assert self.value is not None
        first = self.first[group][:, None]
        index = first + self.count[group][:, None] - n + torch.arange(n, device=group.device)
        observed = index >= first
        index = index.clamp(min=0)
        value = torch.where(observed, self.value[index], 0.0)
        return Curves(self.time[index], value, observed, group % n_channels)

    def first_of(self, group: Tensor) -> tuple[Tensor, Tensor]:
        """Give positions `(P, m)` of all points of these groups, and which are no padding."""
        count = self.count[group][:, None]
        step = torch.arange(int(count.max()), device=group.device)
        return self.first[group][:, None] + torch.minimum(step, count - 1), step < count


def _by_size(size: Tensor, n_asked: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Give the groups that have points and are asked for, together with those of like size: the size to pad to, and the groups."""
    n, largest = 1, int(size.max()) if len(size) else 0
    while n < 2 * largest:
        group = ((size > n // 2) & (size <= n) & (n_asked > 0)).nonzero()[:, 0]
        group = group[n_asked[group].argsort(stable=True)]
        widest = int(n_asked[group].max()) if len(group) else 0
        for part in group.split(max(AT_ONCE // (n * (n + widest)), 1)):
            if len(part):
                yield min(n, largest), part
        n *= 2


def _key(batch: Batch, channel: Tensor) -> Tensor:
    """Number the pairs of window and channel, `(B, X)`."""
    window = torch.arange(len(batch), device=channel.device)[:, None]
    return window * batch.n_channels + channel


def _tokens(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Give group, time and value of every observed token, flat."""
    seen = batch.token_observed
    key = _key(batch, batch.token_channel)[seen]
    return key, batch.token_time[seen].double(), batch.token_value[seen].double()


def _curves_to_fit(training: Sequence[Batch], max_points: int) -> Iterator[Curves]:
    """Give up to `N_FIT` curves per channel, history and targets together, in groups of like size."""
    parts, n_groups, n_channels = [], 0, training[0].n_channels
    for batch in training:
        seen = batch.target_observed
        targets = _key(batch, batch.target_channel)[seen], batch.lead_time()[seen].double(), batch.target_value[seen]
        key, time, value = (torch.cat([a, b]) for a, b in zip(_tokens(batch), targets, strict=True))
        parts.append((key + n_groups, time, value))
        n_groups += len(batch) * n_channels
    key, time, value = (torch.cat(column) for column in zip(*parts, strict=True))
    points = _Grouped.of(key, time, value, n_groups)
    size = points.count.clamp(max=max_points)
    chosen = torch.zeros_like(size)
    # One value alone says nothing about time; of the rest some, evenly over all windows.
    usable = (size.view(-1, n_channels) > 1).T
    for channel in range(n_channels):
        window = usable[channel].nonzero()[:, 0]
        chosen[window[:: -(-len(window) // N_FIT) or 1] * n_channels + channel] = 1
    for n, group in _by_size(size, chosen):
        yield points.latest(group, n, n_channels)
