r"""A normal carried by the flow of a differential equation, one for each value, coupled across the values of one time.

A value is :math:`x = \mu + \sigma (T(u) - m) / d`, where :math:`u` is standard normal, :math:`T(u) = y(K)` the end of

.. math:: \frac{dy}{ds} = f(y, s) = \frac{v_k}{w_k} \sqrt{1 + r^2}, \quad r = w_k (y - c_k), \quad k = \lceil s \rceil, \quad y(0) = u,

and :math:`m, d` are mean and deviation of :math:`T(u)`, so that :math:`\mu, \sigma` are those of :math:`x`. The field is a bend at
:math:`c_k`, of slope :math:`-v_k` before and :math:`v_k` behind it, another one in each unit of :math:`s`. So the equation has a closed
form: :math:`\operatorname{asinh} r` grows by :math:`v_k`, and each unit takes :math:`r` to

.. math:: \sinh(\operatorname{asinh} r + v_k) = r \cosh v_k + \sqrt{1 + r^2} \sinh v_k,

the sinh-arcsinh transformation of Jones and Pewsey (2009, equation 2), whose inverse has :math:`-v_k`. Nothing is solved by steps, and
forth and back are each other's inverse to rounding. The log-density follows the instantaneous change of variables,
:math:`d \log p / ds = -\partial f / \partial y` (Chen, Rubanova, Bettencourt and Duvenaud 2018, equation 8; Grathwohl et al. 2019), whose
integral over a unit is :math:`\log \sqrt{1 + r^2}` before less behind: the trace is exact.

Values that stand in one row (of one series, at one time) are joined by their normal scores, :math:`(u_1, \dots, u_n) \sim N(0, R)` with
:math:`R_{ij} = \rho_i \cdot \rho_j` for :math:`i \ne j`. As one flow of :math:`n` numbers this has the Gaussian base :math:`N(0, R)` and
a field whose Jacobian is diagonal; the marginals are exactly the flows above, and leaving values out of a row leaves the others' joint
distribution as it was (a Gaussian copula: Nelsen 2006, section 2.3). So rows of any channels belong to one law.

Legend: `K` units, `R` factors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.special import ndtr, ndtri

from latentode.errors import InputError

N_NODES = 16  # of the Gauss-Hermite rule for mean and deviation
LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class ScalarField:
    """Fields `f(y, s)` of one number, `s` from 0 to `K`, one for each entry of a batch.

    Attributes:
        bend, sharpness, place: `v`, `w`, `c` of each unit, `(*batch_shape, K)`, `w` positive.
    """

    bend: Tensor
    sharpness: Tensor
    place: Tensor

    def __call__(self, s: float, y: Tensor) -> Tensor:
        """Give the slope of points `(*more, *batch_shape)` at one `s`; the closed form of its flow is `carry`."""
        k = min(max(math.ceil(s), 1), self.bend.shape[-1]) - 1
        v, w, c = self.bend[..., k], self.sharpness[..., k], self.place[..., k]
        return v / w * _root(w * (y - c))

    def carry(self, u: Tensor) -> Tensor:
        """Carry points `(*more, *batch_shape)` from 0 to `K`."""
        return self._through(u, is_back=False)[0]

    def carry_back(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Carry points `(*more, *batch_shape)` from `K` to 0; also give the logarithm of how much longer a step there is than here."""
        return self._through(y, is_back=True)

    def _through(self, y: Tensor, *, is_back: bool) -> tuple[Tensor, Tensor]:
        bend = -self.bend if is_back else self.bend
        units = list(zip(*(x.unbind(-1) for x in (bend.cosh(), bend.sinh(), self.sharpness, self.place)), strict=True))
        stretch = torch.ones_like(y)
        for cosh, sinh, w, c in reversed(units) if is_back else units:
            r = w * (y - c)
            root = _root(r)
            r = torch.addcmul(r * cosh, root, sinh)
            y, stretch = torch.addcdiv(c, r, w), stretch * (_root(r) / root)
        return y, stretch.log()


def _root(r: Tensor) -> Tensor:
    return torch.addcmul(r.new_ones(()), r, r).sqrt()


@dataclass(frozen=True)
class Rows:
    """Which values belong together, and how closely.

    Attributes:
        row: of each value in its batch entry, int64 `(B, M)`.
        observed: bool `(B, M)`; what is False is padding, and in no row.
        loading: `rho`, `(B, M, R)`, each shorter than 1.
    """

    row: Tensor
    observed: Tensor
    loading: Tensor

    @cached_property
    def own(self) -> Tensor:
        """Give what of a score's variance no factor explains, `(B, M)`."""
        return 1 - self.loading.square().sum(-1)

    def log_copula(self, score: Tensor) -> Tensor:
        r"""Give :math:`\log N(u; 0, R) - \sum_i \log N(u_i; 0, 1)` of every row, `(B, M)`: row `q` at place `q`, 0 where there is none.

        By the identities of Woodbury and of the determinant, from `R` by `R` matrices: nothing is of the size of a row.
        """
        rho, own = self.loading, self.own
        zero = torch.where(self.observed, 0.0, torch.nan).isnan()
        u = score.masked_fill(zero, 0.0)
        share = (self.observed / own)[..., None] * rho
        n_factors = rho.shape[-1]
        eye = torch.eye(n_factors, dtype=rho.dtype, device=rho.device)
        inner = eye + self.by_row(share[..., :, None] * rho[..., None, :])
        pull = self.by_row(share * u[..., None])
        root = torch.linalg.cholesky(inner)
        explained = torch.linalg.solve_triangular(root, pull[..., None], upper=False)[..., 0].square().sum(-1)
        log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        single = self.by_row(torch.where(self.observed, own.log() + u.square() * (1 / own - 1), 0.0))
        return -0.5 * (single + log_det - explained)

    def draw(self, sample_shape: torch.Size) -> Tensor:
        """Draw scores `(*sample_shape, B, M)` that are normal each and hang together in a row."""
        shape, like = (*sample_shape, *self.row.shape), self.loading
        factor = torch.randn(*shape, like.shape[-1], dtype=like.dtype, device=like.device)
        index = self.row[..., None].expand_as(factor)
        shared = (factor.gather(-2, index) * like).sum(-1)
        return shared + self.own.sqrt() * torch.randn(shape, dtype=like.dtype, device=like.device)

    def of_values(self, of_row: Tensor) -> Tensor:
        """Share out what `log_copula` gave per row among the row's values, `(B, M)`, evenly."""
        count = self.by_row(self.observed.to(of_row.dtype)).clamp(min=1)
        return torch.where(self.observed, (of_row / count).gather(1, self.row), 0.0)

    def by_row(self, x: Tensor) -> Tensor:
        """Add up what belongs to one row, `(B, M, ...)`: row `q` at place `q`, 0 where there is none."""
        index = self.row.view(*self.row.shape, *[1] * (x.ndim - 2)).expand_as(x)
        return torch.zeros_like(x).scatter_add(1, index, x)


class ScalarFlow(Distribution):
    """A normal carried by scalar flows, of a given mean and deviation.

    Its mean and deviation are those of `N_NODES` nodes of Gauss and Hermite: within a few 1e-3 deviations for sharp bends.

    Args:
        loc: the mean, of the batch shape.
        scale: the deviation, likewise, positive.
        field: of the batch shape.
        rows: which values are joined; None: none are.
    """

    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, field: ScalarField, rows: Rows | None = None) -> None:
        super().__init__(loc.shape, validate_args=False)
        self.loc, self.scale, self.field, self.rows = loc, scale, field, rows

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of `T(u)`."""
        node, weight = _gauss_hermite(self.loc)
        ends = self.field.carry(node.view(-1, *[1] * self.loc.ndim).expand(-1, *self.loc.shape))
        mean = torch.tensordot(weight, ends, 1)
        return mean, torch.tensordot(weight, (ends - mean).square(), 1).sqrt()

    def moved(self, loc: Tensor, scale: Tensor) -> ScalarFlow:
        """Give the same shape and the same rows with another mean and deviation."""
        found = ScalarFlow(loc, scale, self.field, self.rows)
        # A copy need not carry the nodes again.
        if "_moments" in self.__dict__:
            found.__dict__["_moments"] = self._moments
        return found

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.loc

    @property
    def stddev(self) -> Tensor:
        """The deviation."""
        return self.scale

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self.scale.square()

    def at_score(self, score: Tensor) -> Tensor:
        r"""Give the quantiles of levels :math:`\Phi(\mathrm{score})`, `(*more, *batch_shape)`."""
        mean, std = self._moments
        score = score.to(self.loc.dtype)
        score = score.expand(torch.broadcast_shapes(score.shape, self.batch_shape))
        return self.loc + self.scale * (self.field.carry(score) - mean) / std

    def score_and_log_prob(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Give the normal score of values and the logarithm of their density, by one way back."""
        mean, std = self._moments
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        u, log_slope = self.field.carry_back(mean + std * (value - self.loc) / self.scale)
        return u, log_slope + (std / self.scale).log() - 0.5 * u.square() - LOG_ROOT_TWO_PI

    def normal_score(self, value: Tensor) -> Tensor:
        r"""Give :math:`\Phi^{-1}(F(\mathrm{value}))`: where the flow came from."""
        return self.score_and_log_prob(value)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Give the logarithm of each value's own density."""
        return self.score_and_log_prob(value)[1]

    def joint_log_prob(self, value: Tensor) -> Tensor:
        """Give the logarithm of the joint density of every row's observed values, `(B, M)`: row `q` at place `q`, 0 where there is none.

        Raises:
            InputError: no values are joined.
        """
        if self.rows is None:
            raise InputError("this distribution joins no values; let FlowDecoder have n_factors above 0")
        u, log_prob = self.score_and_log_prob(value)
        own = self.rows.by_row(torch.where(self.rows.observed, log_prob, 0.0))
        return own + self.rows.log_copula(u)

    def icdf(self, value: Tensor) -> Tensor:
        """Give the quantiles of levels that broadcast with the batch shape."""
        return self.at_score(ndtri(value))

    def cdf(self, value: Tensor) -> Tensor:
        """Give the probability of a value at or below `value`."""
        return ndtr(self.normal_score(value))

    def draw_scores(self, sample_shape: torch.Size) -> Tensor:
        """Draw normal scores `(*sample_shape, *batch_shape)`, those of a row together."""
        if self.rows is not None:
            return self.rows.draw(sample_shape)
        return torch.randn(*sample_shape, *self.batch_shape, dtype=self.loc.dtype, device=self.loc.device)

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw values `(*sample_shape, *batch_shape)`, those of a row together."""
        return self.at_score(self.draw_scores(torch.Size(sample_shape)))


def stack(members: Sequence[ScalarFlow]) -> ScalarFlow:
    """Give flows of one batch shape as one, with the members along a further axis at its end; it joins no values."""
    loc, scale = (torch.stack([getattr(flow, name) for flow in members], -1) for name in ("loc", "scale"))
    fields = [flow.field for flow in members]
    names = ("bend", "sharpness", "place")
    units = (torch.stack([getattr(field, name) for field in fields], -2) for name in names)
    return ScalarFlow(loc, scale, ScalarField(*units))


def _gauss_hermite(like: Tensor) -> tuple[Tensor, Tensor]:
    """Give nodes and weights for the mean over a standard normal (Golub and Welsch 1969)."""
    node, weight = np.polynomial.hermite_e.hermegauss(N_NODES)
    return like.new_tensor(node), like.new_tensor(weight / weight.sum())
