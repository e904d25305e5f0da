"""Stochastic differential equations with diagonal noise: `dy = f(t, y) dt + g(t, y) dW`, steps of one length on each sample's own clock.

Legend: `B` samples, `D` state, `K` steps, `T` queries. Kloeden and Platen (1992), "Numerical Solution of Stochastic Differential
Equations", gives the schemes and their orders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latentode.errors import InputError

Rate = Callable[[Tensor, Tensor], Tensor]
"""Drift or diffusion: time `(B,)` and state `(B, D)` to `(B, D)`."""


@dataclass(frozen=True)
class Noise:
    """What drives a path, as independent standard normals.

    Attributes:
        step: `(K, B, D)`, or `(K, 1, D)` for all samples the same: the increments of the Wiener process in units of `sqrt(dt)`.
        bridge: of the same shape: what places the process between the ends of a step.
    """

    step: Tensor
    bridge: Tensor

    @classmethod
    def draw(cls, n_steps: int, y0: Tensor) -> Noise:
        """Draw from torch's own generator, anew for every sample of `y0` `(B, D)`."""
        return cls(*torch.randn(2, n_steps, *y0.shape, dtype=y0.dtype, device=y0.device))


def euler_maruyama(f: Rate, g: Rate, t: Tensor, y: Tensor, dt: Tensor, dw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of strong order 1/2 and weak order 1, Ito (Kloeden and Platen, 10.2.4); of strong order 1 if `g` is constant.

    Returns:
        The state at the end, drift and diffusion at the start, each `(B, D)`.
    """
    drift, diffusion = f(t, y), g(t, y)
    return y + drift * dt + diffusion * dw, drift, diffusion


def milstein(f: Rate, g: Rate, t: Tensor, y: Tensor, dt: Tensor, dw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of strong order 1, Ito, without derivatives (Kloeden and Platen, 11.1.3).

    The derivative of `g` along itself is the difference quotient over `sqrt(dt)`, so each component of `g` may depend on its own
    component of the state only, as Milstein's scheme for diagonal noise asks for anyway.
    """
    drift, diffusion = f(t, y), g(t, y)
    root = dt.abs().sqrt()
    support = y + drift * dt + diffusion * root
    correction = (g(t, support) - diffusion) * (dw.square() - dt.abs()) / (2 * root)
    return y + drift * dt + diffusion * dw + correction, drift, diffusion


def heun(f: Rate, g: Rate, t: Tensor, y: Tensor, dt: Tensor, dw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of strong order 1, Stratonovich (Ruemelin 1982): the trapezoidal rule on drift and diffusion.

    Where `g` is constant it is Ito's solution too, and the drift is followed to second order.
    """
    drift, diffusion = f(t, y), g(t, y)
    guess = y + drift * dt + diffusion * dw
    later = t + dt[:, 0]
    return y + (drift + f(later, guess)) * dt / 2 + (diffusion + g(later, guess)) * dw / 2, drift, diffusion


SCHEMES = {"euler_maruyama": euler_maruyama, "milstein": milstein, "heun": heun}


@dataclass(frozen=True)
class StochasticPath:
    """One path per sample.

    Attributes:
        t0: `(B,)`.
        dt: `(B,)`, of either sign.
        y: `(K + 1, B, D)`, at `t0 + k dt`.
        drift, diffusion: `(K, B, D)`, at the start of each step.
        bridge: as in `Noise`.
    """

    t0: Tensor
    dt: Tensor
    y: Tensor
    drift: Tensor
    diffusion: Tensor
    bridge: Tensor

    def at(self, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Read single states `(T, D)`; before the start of a path its start, after its end its end.

        Between the ends of a step the state is `y_k + s / dt (y_(k+1) - y_k) + g_k b(s)`, `b` a Brownian bridge: its deviation
        `sqrt(s (dt - s) / dt)` times one normal per step. So the Wiener process has the right law at every single time, and states are
        right to the order of the scheme; two states within one step have something more in common than they should.

        Args:
            sample_T: which sample each query asks for, int64.
            t_T: when.
        """
        n_steps, n_samples, _ = self.drift.shape
        progress_T = ((t_T - self.t0.index_select(0, sample_T)) / self.dt.index_select(0, sample_T)).clamp(0, n_steps)
        step_T = progress_T.detach().long().clamp(max=n_steps - 1)
        share_T1 = (progress_T - step_T)[:, None]
        place_T = step_T * n_samples + sample_T
        start, diffusion = (x.flatten(0, 1).index_select(0, place_T) for x in (self.y, self.diffusion))
        end = self.y.flatten(0, 1).index_select(0, place_T + n_samples)
        bridge = self.bridge.expand_as(self.drift).flatten(0, 1).index_select(0, place_T)
        # The root has no slope at either end of a step; there the bridge is 0, and so is what a time would learn from it.
        square_T1 = (share_T1 * (1 - share_T1) * self.dt.abs().index_select(0, sample_T)[:, None]).detach()
        return torch.lerp(start, end, share_T1) + diffusion * bridge * square_T1.sqrt()


def solve_sde(
    f: Rate, g: Rate, y0: Tensor, noise: Noise, *, t0: Tensor, dt: Tensor, method: str = "milstein"
) -> StochasticPath:
    """Solve `dy = f(t, y) dt + g(t, y) dW` along the Wiener process that `noise` gives; gradients go through every operation.

    Args:
        f: drift.
        g: diffusion, the noise being diagonal: `(B, D)`, each component of which may depend on its own component of the state.
        y0: `(B, D)`.
        noise: as many steps as it holds are taken.
        t0: `(B,)`.
        dt: `(B,)`, length of each sample's steps; where it is negative, time runs backward and the noise disturbs the way back.
        method: a name in `SCHEMES`; "heun" solves the Stratonovich equation, the others Ito's.

    Raises:
        InputError: the method has another name, or there is no step.
    """
    if method not in SCHEMES:
        raise InputError(f"method is {method!r}; choose one of {', '.join(SCHEMES)}.")
    if len(noise.step) == 0:
        raise InputError("noise holds no step; give it one at least.")
    scheme = SCHEMES[method]
    dt_B1, y, ys, drifts, diffusions = dt[:, None], y0, [y0], [], []
    dw_KBD = noise.step * dt_B1.abs().sqrt()
    for k, dw in enumerate(dw_KBD.unbind(0)):
        y, drift, diffusion = scheme(f, g, t0 + k * dt, y, dt_B1, dw)
        ys.append(y)
        drifts.append(drift)
        diffusions.append(diffusion)
    return StochasticPath(t0, dt, torch.stack(ys), torch.stack(drifts), torch.stack(diffusions), noise.bridge)
