"""The latent stochastic differential equation: the state is driven by noise, and training keeps its law close to a prior's."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.dynamics.marginals import LinearPosterior, fluctuation
from latentode.models.interfaces import Dynamics
from latentode.ode import SCHEMES, Noise, StochasticPath, solve_sde

SEED = 2020  # of the noise that forecasts share
LEAST, MOST = 0.02, 1.0  # diffusion, in units of the state per square root of a horizon
UNTRAINED = 0.1
N_TIMES = 8  # per sample, at which posterior and equation are compared


class LatentSDE(Dynamics):
    """Follows `dz = f(z, context) dt + g(z) dW` (Li, Wong, Chen and Duvenaud 2020, section 5).

    The posterior's drift `f` knows the series by its context, the prior's `h` is the same for all, and both share the diffusion `g`. The
    divergence of the two laws of a path up to a sample's last query is `E 1/2 int |(f - h) / g|^2 dt` (their equation 10, by Girsanov's
    theorem); here the integral is the sum over steps, which is the exact divergence of the Euler-Maruyama chains, and the expectation
    one path. The paper's context follows the data up to the time it is asked for; a forecast has the history only.

    Component `d` of `g` depends on component `d` of the state only, and lies between bounds, so that the divergence stays finite. As in
    `MLPField` nothing sees the time.

    - `is_simulated=True`: training goes along one path of the posterior, and so do forecasts.
    - `is_simulated=False` (Course and Nair 2023): the equation is the prior itself, its drift `f(z, context)`, which forecasts follow. In
      training the states are drawn from a posterior whose law at any time is known in closed form (`LinearPosterior`), and the integral
      above, of its drift less `f`, is averaged over `N_TIMES` random times per sample: nothing is solved, and no gradient goes through
      a solver. The diffusion is then one number per component. The loss holds posterior and equation together by the divergence
      alone: give it weight, such as `LatentODE(kl_weight=0.1)`.

    In training every sample has noise of its own. A forecast takes `n_paths` paths along the same Wiener processes for every sample, in
    pairs of opposite sign: it is the same whatever else is asked, and smooth in what the model reads. Their forecasts are made one by
    `distributions.mix`. Who asks for a state without going through `paths` gets the course without noise, `dz = f dt`. A query inside a
    step is read by a Brownian bridge (`StochasticPath.at`).

    Args:
        hidden_size: width of the hidden layers of both drifts.
        method: a name in `latentode.ode.SCHEMES`; with "heun" the equation is Stratonovich's, else Ito's.
        step_size: length of every step, in horizons.
        n_paths: an even number, of paths in a forecast; 1: the path without noise.
        is_simulated: whether training solves the equation.

    Raises:
        InputError: a setting is out of its range.
    """

    def __init__(
        self,
        hidden_size: int = 64,
        *,
        method: str = "milstein",
        step_size: float = 0.125,
        n_paths: int = 8,
        is_simulated: bool = True,
    ) -> None:
        super().__init__()
        if method not in SCHEMES:
            raise InputError(f"method is {method!r}; choose one of {', '.join(SCHEMES)}.")
        if not 0 < step_size < math.inf:
            raise InputError(f"step_size is {step_size!r}; give a positive number of horizons.")
        if n_paths != 1 and (n_paths < 2 or n_paths % 2):
            raise InputError(f"n_paths is {n_paths!r}; give an even number, or 1 for the path without noise.")
        self.hidden_size = hidden_size
        self.method = method
        self.step_size = step_size
        self.n_paths = n_paths
        self.is_simulated = is_simulated
        self._path: int | None = None

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make both drifts, which start small, and the diffusion, which starts at a tenth of a unit per square root of a horizon."""
        self.from_state = nn.Linear(latent_size, self.hidden_size)
        self.from_context = nn.Linear(context_size, self.hidden_size, bias=False)
        self.to_slope = _small(self.hidden_size, latent_size)
        if self.is_simulated:
            self.prior_from_state = nn.Linear(latent_size, self.hidden_size)
            self.prior_to_slope = _small(self.hidden_size, latent_size)
            self.diffusion_slope = nn.Parameter(torch.zeros(latent_size))
        else:
            self.posterior = LinearPosterior(latent_size, context_size, self.hidden_size)
        level = (math.log(UNTRAINED) - math.log(LEAST)) / (math.log(MOST) - math.log(LEAST))
        self.diffusion_level = nn.Parameter(torch.full((latent_size,), math.log(level / (1 - level))))

    def drift(self, z: Tensor, drive: Tensor) -> Tensor:
        """Give the posterior's drift `(..., D)`; `drive` `(..., H)` is the context's share of the first layer."""
        return self.to_slope(torch.tanh(self.from_state(z) + drive))

    def prior_drift(self, z: Tensor) -> Tensor:
        """Give the prior's drift `(..., D)`."""
        return self.prior_to_slope(torch.tanh(self.prior_from_state(z)))

    def diffusion(self, z: Tensor) -> Tensor:
        """Give the diffusion `(..., D)`, between `LEAST` and `MOST` on a scale of logarithms."""
        level = self.diffusion_level.expand_as(z)
        share = torch.sigmoid(torch.addcmul(level, self.diffusion_slope, z) if self.is_simulated else level)
        return torch.exp(math.log(LEAST) + (math.log(MOST) - math.log(LEAST)) * share)

    def paths(self) -> Iterator[int]:
        """Go through the paths of a forecast; in training there is one."""
        if self.training:
            yield 0
            return
        try:
            for i in range(self.n_paths):
                self._path = i
                yield i
        finally:
            self._path = None

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`."""
        n_samples, n_queries = t_BQ.shape
        sample_T = torch.arange(n_samples, device=t_BQ.device).repeat_interleave(n_queries)
        return self._read(z0_BD, t0_B, context_BE, sample_T, t_BQ.flatten(), t_BQ[:, -1]).view(n_samples, n_queries, -1)

    def carry_from(self, t0_B: Tensor, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Give the state of one sample for each query, `(T, D)`; every path goes on to the last query of all."""
        last_B = t0_B.to(t_T.dtype).scatter_reduce(0, sample_T, t_T, "amax")
        return self._read(z0_BD, t0_B, context_BE, sample_T, t_T, last_B)

    def _read(
        self, z0_BD: Tensor, t0_B: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor, last_B: Tensor
    ) -> Tensor:
        if self.training and not self.is_simulated:
            return self._draw(z0_BD, context_BE, sample_T, t_T - t0_B.index_select(0, sample_T), last_B - t0_B)
        return self._solve(z0_BD, t0_B, last_B, context_BE).at(sample_T, t_T)

    def _draw(self, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, after_T: Tensor, span_B: Tensor) -> Tensor:
        """Draw the states of the queries from the posterior's law in closed form `(T, D)`; note the divergence from the equation."""
        posterior, diffusion_BD = self.posterior, self.diffusion(z0_BD)
        drive_BH, rate_BD = posterior.drive(z0_BD, context_BE), posterior.rate(context_BE)
        # One number per component and sample, at all of its queries: each has its law, and equal times have equal states.
        normal_BD = torch.randn_like(z0_BD)
        start_TD, drive_TH, rate_TD, noise_TD = (
            x.index_select(0, sample_T) for x in (z0_BD, drive_BH, rate_BD, diffusion_BD * normal_BD)
        )
        z_TD = posterior.mean(start_TD, drive_TH, after_T) + noise_TD * fluctuation(rate_TD, after_T)
        # One time in each of `N_TIMES` equal parts of the span: the mean is that of uniform times, and its variance smaller.
        part_N1 = torch.arange(N_TIMES, device=span_B.device)[:, None]
        after_NB = (part_N1 + torch.rand_like(span_B.expand(N_TIMES, -1))) / N_TIMES * span_B
        away_NBD = diffusion_BD * fluctuation(rate_BD, after_NB) * torch.randn_like(z0_BD.expand(N_TIMES, -1, -1))
        z_NBD = posterior.mean(z0_BD, drive_BH, after_NB) + away_NBD
        drift_NBD = posterior.slope(drive_BH, after_NB) - rate_BD * away_NBD
        gap_NBD = (drift_NBD - self.drift(z_NBD, self.from_context(context_BE))) / diffusion_BD
        self.nfe = torch.zeros_like(span_B)
        self.divergence = 0.5 * gap_NBD.square().sum(-1).mean(0) * span_B.abs()
        return z_TD

    def _solve(self, z0_BD: Tensor, t0_B: Tensor, last_B: Tensor, context_BE: Tensor) -> StochasticPath:
        drive_BH = self.from_context(context_BE)
        span_B = last_B - t0_B
        dt_B = torch.where(span_B < 0, -self.step_size, self.step_size).to(span_B)
        n_steps = max(math.ceil(float(span_B.detach().abs().max()) / self.step_size - 1e-6), 1)
        is_certain = not self.training and (self.n_paths == 1 or self._path is None)
        path = solve_sde(
            lambda t_B, z_BD: self.drift(z_BD, drive_BH),
            # Not along a silent Wiener process, which Milstein's scheme would follow with a drift of its own.
            lambda t_B, z_BD: torch.zeros_like(z_BD) if is_certain else self.diffusion(z_BD),
            z0_BD,
            Noise.draw(n_steps, z0_BD) if self.training else self._shared_noise(n_steps, z0_BD),
            t0=t0_B,
            dt=dt_B,
            method=self.method,
        )
        self.nfe = torch.full_like(last_B, n_steps * (2 if self.method == "heun" else 1)).detach()
        self.divergence = self._divergence(path, span_B) if self.training and self.is_simulated else None
        return path

    def _shared_noise(self, n_steps: int, z0_BD: Tensor) -> Noise:
        """Give the noise of the path in hand `(K, 1, D)`: the first steps are the same however many there are."""
        pair, sign = divmod(self._path or 0, 2)
        generator = torch.Generator().manual_seed(SEED + pair)
        normals = [torch.randn(2, 1, z0_BD.shape[-1], generator=generator) for _ in range(n_steps)]
        return Noise(*(torch.stack(normals, 1) * (1 - 2 * sign)).to(z0_BD))

    def _divergence(self, path: StochasticPath, span_B: Tensor) -> Tensor:
        """Give the divergence of the posterior's law from the prior's along a path, up to the last query of each sample, `(B,)`."""
        n_steps = len(path.drift)
        step_K1 = torch.arange(n_steps, device=span_B.device)[:, None]
        # The step in which the last query lies counts by the part of it that is gone through.
        share_KB = (span_B / path.dt - step_K1).clamp(0, 1)
        gap_KBD = (path.drift - self.prior_drift(path.y[:-1])) / path.diffusion
        return 0.5 * (gap_KBD.square().sum(-1) * share_KB).sum(0) * self.step_size


def _small(n_inputs: int, n_outputs: int) -> nn.Linear:
    """Give a layer without which an untrained state hardly moves."""
    layer = nn.Linear(n_inputs, n_outputs)
    nn.init.normal_(layer.weight, std=0.1 / n_inputs**0.5)
    nn.init.zeros_(layer.bias)
    return layer
