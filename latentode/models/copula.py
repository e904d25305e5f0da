r"""How the forecasts of one series stand and fall together: what turns single distributions into whole trajectories.

A draw of every target from its own distribution is no course that a series could take: its values know nothing of each other. Here each
target's normal score :math:`z`, the deviation at which its value lies in its own forecast, is part of one Gaussian vector (a Gaussian
copula, Sklar 1959; Möller, Lenkoski and Thorarinsdottir 2013 use it on forecasts), so that the single distributions stay exactly what
they are. The vector is a signal, by which channels move together, and a noise of every value's own:

.. math:: \mathrm{Cov}(z_{ct}, z_{c't'}) = (1 - \eta)\,R_{cc'}\,e^{-|\tau(t) - \tau(t')|} + \eta\,[c = c', t = t'],
   \qquad \tau(t) = \alpha \log(t + \epsilon) + t / \ell

at lead times :math:`t`. The signal is a Markov process on a clock :math:`\tau`, so that drawing it takes one pass over the times and no
matrix of them. The clock has to run fast near the origin: errors of a random walk have the correlation :math:`\sqrt{t / t'}`, which is
:math:`\alpha = 1/2`, and those of an Ornstein-Uhlenbeck process go over from that to its rate, :math:`1 / \ell`.

Fitted on the scores of held-out values: :math:`\eta, \alpha, \ell` by the likelihood of pairs of one channel (a composite likelihood,
Varin, Reid and Firth 2011), :math:`R` by the mean product of pairs of two channels, drawn towards 0 where there are few.

Legend: `P` scores, `C` channels, `S` draws; otherwise as in `data.batch`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from latentode.data.batch import Batch

EPSILON = 1e-3  # horizons; at shorter leads the clock does not run faster
FEWEST, FEWEST_PAIRS = 200, 50  # scores that say anything of how they hang together, and pairs of one channel
LAGS = (1, 2, 3, 5, 8, 13, 21, 34, 55)  # of two scores of one channel, in places of a window's list
MAX_WINDOWS, MAX_SCORES, MAX_PAIRS = 1_024, 1 << 15, 8_192
# Of two scores of two channels, in places of a window's list: so many channels of one stamp meet.
MAX_LAG = 64
PSEUDO_COUNT = 50.0  # pairs of two channels that weigh as much as that they have nothing to do with each other
LARGEST = 4.0  # normal scores: one value far out must not say how all hang together
NUGGETS = (0.0, 0.02, 0.1, 0.3, 0.6, 0.9, 1.0)
SLOPES = (0.0, 0.25, 0.5, 1.0)
RATES = (0.0, 0.2, 1.0, 5.0, 25.0, 125.0)
N_REFINED = 4


class Copula(nn.Module):
    """How normal scores of one series hang together.

    Args:
        n_channels: `C`.

    Attributes:
        kernel: share of the noise, weight of the logarithm in the clock, rate of the clock per horizon, `(3,)`.
        correlation: of the channels' signals, `(C, C)`.
        n_pairs: pairs of scores that it was fitted on, int64 `(1,)`; 0: nothing is known, and scores are drawn independently.
    """

    kernel: Tensor
    correlation: Tensor
    n_pairs: Tensor

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
        self.register_buffer("correlation", torch.eye(n_channels, dtype=torch.float64))
        self.register_buffer("n_pairs", torch.zeros(1, dtype=torch.int64))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # A run of an older version has none.
        for name, buffer in self.named_buffers(recurse=False):
            state_dict.setdefault(prefix + name, buffer)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def is_fitted(self) -> bool:
        """Whether held-out values told how scores hang together."""
        return int(self.n_pairs) > 0

    def fit(self, score: Tensor, channel: Tensor, time: Tensor, window: Tensor) -> None:
        """Fit kernel and correlation; too few scores leave them as they are.

        Args:
            score: of held-out values in their calibrated forecasts, float64 `(P,)`.
            channel, time, window: of each, `(P,)`: the channel, the lead time in horizons, and which forecast it belongs to.
        """
        score, time = score.clamp(-LARGEST, LARGEST), time.double()
        names = window.unique()
        every = max(-(-len(names) // MAX_WINDOWS), -(-len(score) // MAX_SCORES))
        if every > 1:
            kept = torch.isin(window, names[::every])
            score, channel, time, window = (x[kept] for x in (score, channel, time, window))
        if len(score) < FEWEST:
            return
        one, other = _pairs(LAGS, time, channel, window)
        n_pairs = len(one)
        if n_pairs < FEWEST_PAIRS:
            # Where a channel hardly ever has two values, nothing is known but what channels have in common at one time.
            self.kernel.copy_(self.kernel.new_tensor([0.0, 0.0, RATES[-1]]))
        else:
            thin = -(-n_pairs // MAX_PAIRS)
            one, other = one[::thin], other[::thin]
            self.kernel.copy_(_fit_kernel(score[one], score[other], time[one], time[other]))
        n_channels = len(self.correlation)
        if n_channels > 1:
            lags = range(1, min(n_channels, MAX_LAG + 1))
            one, other = _pairs(lags, channel, torch.zeros_like(channel), window, time)
            self.correlation.copy_(self._correlate(score, channel, time, one, other))
            n_pairs += len(one)
        self.n_pairs.fill_(n_pairs)

    def _correlate(self, score: Tensor, channel: Tensor, time: Tensor, one: Tensor, other: Tensor) -> Tensor:
        differ = channel[one] != channel[other]
        one, other = one[differ], other[differ]
        weight = (1 - self.kernel[0]) * _signal(self.kernel[1], self.kernel[2], time[one], time[other])
        cell = channel[one] * len(self.correlation) + channel[other]
        empty = score.new_zeros(self.correlation.numel())
        product = empty.index_add(0, cell, weight * score[one] * score[other]).view_as(self.correlation)
        power = empty.index_add(0, cell, weight.square()).view_as(self.correlation)
        found = (product + product.T) / (power + power.T + PSEUDO_COUNT)
        return _nearest_correlation(found.clamp(-1, 1).fill_diagonal_(1.0))

    @torch.no_grad()
    def draw(self, batch: Batch, n_samples: int) -> Tensor:
        """Draw normal scores of every target, `(S, B, M)`, float64: one trajectory per window and draw."""
        noise, slope, rate = self.kernel.unbind()
        n_batch, n_channels = len(batch), batch.n_channels
        root = torch.linalg.cholesky(self.correlation)
        time = batch.query_time.to(self.kernel)
        stay_BQ1 = _signal(slope, rate, time[:, :-1], time[:, 1:])[..., None]
        change_BQ1 = (1 - stay_BQ1.square()).clamp(min=0).sqrt()
        signal_QSBC = torch.randn(time.shape[1], n_samples, n_batch, n_channels, dtype=time.dtype, device=time.device)
        signal_QSBC = signal_QSBC @ root.T
        path = [signal_QSBC[0]]
        for q in range(1, time.shape[1]):
            path.append(stay_BQ1[:, q - 1] * path[-1] + change_BQ1[:, q - 1] * signal_QSBC[q])
        cell = batch.target_row * n_channels + batch.target_channel
        signal = torch.stack(path, 2).flatten(2).gather(2, cell.expand(n_samples, -1, -1))
        return (1 - noise).sqrt() * signal + noise.sqrt() * torch.randn_like(signal)


def _signal(slope: Tensor, rate: Tensor, t: Tensor, other: Tensor) -> Tensor:
    """Give the correlation of the signal between two times; at and before the origin the logarithm says nothing."""
    log_t, log_other = ((x.clamp(min=0) + EPSILON).log() for x in (t, other))
    return torch.exp(-slope * (log_t - log_other).abs() - rate * (t - other).abs())


def _pairs(
    lags: Any, last_key: Tensor, key: Tensor, window: Tensor, time: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Give positions of pairs that stand so many places apart in the list of their window and `key` (or, with `time`, of its stamp)."""
    order = last_key.argsort(stable=True)
    for by in (key if time is None else time, window):
        order = order[by[order].argsort(stable=True)]
    ones, others = [], []
    for lag in lags:
        one, other = order[:-lag], order[lag:]
        same = (window[one] == window[other]) & (key[one] == key[other])
        ones.append(one[same])
        others.append(other[same])
    return torch.cat(ones), torch.cat(others)


def _fit_kernel(x: Tensor, y: Tensor, t: Tensor, other: Tensor) -> Tensor:
    """Give share of noise, slope and rate under which the pairs are most likely, over grids that close in on the best."""
    product, square = x * y, x.square() + y.square()

    def cost(kernel: Tensor) -> Tensor:
        rho = ((1 - kernel[0]) * _signal(kernel[1], kernel[2], t, other)).clamp(max=1 - 1e-4)
        rest = 1 - rho.square()
        return (rest.log() + (square - 2 * rho * product) / rest).mean()

    axes = [t.new_tensor(axis) for axis in (NUGGETS, SLOPES, RATES)]
    best = _lowest(cost, axes)
    spread = [0.1, 0.2, 2.5]
    for _ in range(N_REFINED):
        noise, slope, rate = best.tolist()
        axes = [
            t.new_tensor([max(noise - spread[0], 0.0), noise, min(noise + spread[0], 1.0)]),
            t.new_tensor([max(slope - spread[1], 0.0), slope, slope + spread[1]]),
            t.new_tensor([rate / spread[2], rate, rate * spread[2]] if rate > 0 else [0.0, 0.05, 0.1]),
        ]
        best = _lowest(cost, axes)
        spread = [0.6 * spread[0], 0.6 * spread[1], spread[2] ** 0.6]
    return best


def _lowest(cost: Any, axes: list[Tensor]) -> Tensor:
    candidates = torch.cartesian_prod(*axes)
    return candidates[torch.stack([cost(candidate) for candidate in candidates]).argmin()]


def _nearest_correlation(matrix: Tensor) -> Tensor:
    """Give a positive definite matrix with ones on its diagonal: the eigenvalues cut off from below, then scaled back."""
    value, vector = torch.linalg.eigh(matrix)
    matrix = (vector * value.clamp(min=1e-6)) @ vector.T
    size = matrix.diagonal().sqrt()
    matrix = matrix / size / size[:, None]
    return (matrix + matrix.T) / 2
