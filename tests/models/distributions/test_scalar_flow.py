"""Scalar flows against the differential equation that they solve, closed forms and quadrature; rows against multivariate normals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from latentode.errors import InputError
from latentode.metrics import crps
from latentode.metrics.quantiles import at_score, normal_score
from latentode.models.conformal import Calibrated
from latentode.models.distributions import Rows, ScalarField, ScalarFlow, about, affine, pool
from latentode.ode import FlowField, PIDController, divergence, rademacher_like, solve

DOUBLE = torch.float64
SHAPE = (3, 2)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def make_field(shape=SHAPE, n_units=4, seed=0, size=1.0):
    bend = size * draw(*shape, n_units, seed=seed)
    sharpness = 3 * torch.sigmoid(draw(*shape, n_units, seed=seed + 1) - 0.7)
    return ScalarField(
        3 * bend / (3 + bend.abs().sum(-1, keepdim=True)), sharpness, draw(*shape, n_units, seed=seed + 2)
    )


def make_flow(seed=0, rows=None, **settings):
    return ScalarFlow(draw(*SHAPE, seed=seed + 3), draw(*SHAPE, seed=seed + 4).exp(), make_field(seed=seed), rows)


def make_rows(n_factors=2, seed=5):
    """Two rows in the first series, one of three in the others would not fit: `(3, 2)` values, the last one padding."""
    raw = draw(*SHAPE, n_factors, seed=seed)
    loading = 0.95 * raw / (1 + raw.square().sum(-1, keepdim=True)).sqrt()
    observed = torch.ones(SHAPE, dtype=torch.bool)
    observed[2, 1] = False
    return Rows(torch.tensor([[0, 1], [0, 0], [0, 0]]), observed, loading)


def by_equation(field: ScalarField, start: Tensor, s0: float, s1: float) -> tuple[Tensor, Tensor]:
    """Solve for points `(N, *batch_shape)` and for the logarithm of their density, one unit of `s` after another."""
    n = start.numel()
    y, log_p = start.reshape(n, 1), torch.zeros(n, dtype=DOUBLE)
    step = 1 if s1 > s0 else -1

    def slope(t, y):
        # The field jumps at whole numbers; inside a unit it does not depend on s.
        return field(middle, y.view(start.shape)).reshape(n, 1)

    flow = FlowField(slope)
    for k in range(int(abs(s1 - s0))):
        ends = torch.tensor([s0 + step * k, s0 + step * (k + 1)], dtype=DOUBLE)
        middle = float(ends.mean())
        controller = PIDController(rtol=1e-9, atol=1e-9)
        ys, log_ps = solve(flow, (y, log_p), ends, method="dopri8", controller=controller).ys
        y, log_p = ys[:, -1], log_ps[:, -1]
    return y.view(start.shape), log_p.view(start.shape)


# --- the flow of one number ---


def test_the_closed_form_solves_the_differential_equation_and_its_density_the_change_of_variables():
    field, u = make_field(n_units=2), 2 * draw(3, *SHAPE, seed=9)
    y, log_p = by_equation(field, u, 0.0, 2.0)
    assert torch.allclose(field.carry(u), y, atol=1e-7)
    back, log_stretch = field.carry_back(y)
    assert torch.allclose(back, u, atol=1e-8)
    assert torch.allclose(log_stretch, log_p, atol=1e-7)


def test_the_divergence_of_the_field_is_its_trace_exact_or_by_random_signs():
    field = make_field()

    def joint(s, y):
        # All values of the batch as the state of one sample: its Jacobian is diagonal.
        return field(1.5, y.view(-1, *SHAPE)).reshape(y.shape)

    y = draw(5, 6)
    _, exact = divergence(joint, 0.0, y)
    jacobian = torch.autograd.functional.jacobian(lambda row: joint(0.0, row[None])[0], y[0])
    assert torch.allclose(exact[0], jacobian.trace())
    _, estimated = divergence(joint, 0.0, y, method="hutchinson", noise=rademacher_like(y))
    assert torch.allclose(estimated, exact)


def test_with_one_unit_it_is_sinh_arcsinh():
    v, w, c = 0.7, 1.3, -0.4
    field = ScalarField(*(torch.tensor([x], dtype=DOUBLE) for x in (v, w, c)))
    u = torch.linspace(-3, 3, 13, dtype=DOUBLE)
    assert torch.allclose(field.carry(u), c + torch.sinh(torch.asinh(w * (u - c)) + v) / w)


def test_without_bends_it_is_a_normal():
    plain = replace(make_field(), bend=torch.zeros(*SHAPE, 4, dtype=DOUBLE))
    flow = ScalarFlow(draw(*SHAPE), draw(*SHAPE, seed=1).exp(), plain)
    normal = Normal(flow.loc, flow.scale)
    x = draw(5, *SHAPE, seed=2)
    assert torch.allclose(flow.log_prob(x), normal.log_prob(x))
    assert torch.allclose(flow.cdf(x), normal.cdf(x))
    level = torch.tensor(0.83, dtype=DOUBLE)
    assert torch.allclose(flow.icdf(level), normal.icdf(level))


def test_a_scale_beyond_all_bends_is_a_linear_flow():
    # Far to one side of a bend the field is linear with slope v: a normal of e^v times the deviation.
    field = ScalarField(*(torch.tensor([x], dtype=DOUBLE) for x in (0.5, 3.0, -1e4)))
    u = torch.linspace(-2, 2, 9, dtype=DOUBLE)
    assert torch.allclose(field.carry(u).diff(), math.exp(0.5) * u.diff(), rtol=1e-6)


def test_the_density_integrates_to_1_and_its_integral_is_the_distribution_function():
    flow = make_flow()
    score = torch.linspace(-9, 9, 4001, dtype=DOUBLE)
    x = flow.at_score(score.view(-1, 1, 1))
    density = flow.log_prob(x).exp()
    piece = (density[1:] + density[:-1]) / 2 * x.diff(dim=0)
    assert torch.allclose(piece.sum(0), torch.ones(SHAPE, dtype=DOUBLE), atol=1e-4)
    assert torch.allclose(piece.cumsum(0)[2000], flow.cdf(x[2001]), atol=1e-4)


def test_the_density_is_that_of_the_map_by_automatic_differentiation():
    flow, u = make_flow(), draw(5, *SHAPE).requires_grad_()
    x = flow.at_score(u)
    (stretch,) = torch.autograd.grad(x.sum(), u)
    assert torch.allclose(flow.log_prob(x), Normal(0.0, 1.0).log_prob(u) - stretch.log())


def test_there_and_back_is_the_identity_in_single_precision():
    flow = make_flow()
    field = ScalarField(flow.field.bend.float(), flow.field.sharpness.float(), flow.field.place.float())
    single = ScalarFlow(flow.loc.float(), flow.scale.float(), field)
    score = torch.linspace(-6, 6, 25).view(-1, 1, 1).expand(-1, *SHAPE)
    assert torch.allclose(single.normal_score(single.at_score(score)), score, atol=1e-4)
    assert (single.at_score(score).diff(dim=0) > 0).all()


def test_mean_and_deviation_are_those_stated():
    flow = make_flow()
    score = torch.linspace(-9, 9, 6001, dtype=DOUBLE)
    weight = Normal(0.0, 1.0).log_prob(score).exp() * (score[1] - score[0])
    x = flow.at_score(score.view(-1, 1, 1))
    mean = torch.tensordot(weight, x, 1)
    std = torch.tensordot(weight, (x - mean).square(), 1).sqrt()
    assert torch.allclose(mean, flow.mean + 0 * mean, atol=5e-3 * float(flow.scale.max()))
    assert torch.allclose(std, flow.stddev, rtol=5e-3)


def test_gradients_are_those_of_finite_differences():
    field = make_field((2,), 3)
    inputs = [x.clone().requires_grad_() for x in (draw(2), field.bend, field.sharpness, field.place)]

    def density(x, *units):
        return ScalarFlow(torch.zeros(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE), ScalarField(*units)).log_prob(x)

    assert torch.autograd.gradcheck(density, inputs)


def test_draws_have_its_moments_and_its_quantiles():
    flow = make_flow()
    torch.manual_seed(0)
    x = flow.sample((20_000,))
    assert torch.allclose(x.mean(0), flow.mean, atol=0.03 * float(flow.scale.max()))
    assert torch.allclose(
        (x < flow.icdf(torch.tensor(0.8, dtype=DOUBLE))).double().mean(0), torch.tensor(0.8).double(), atol=0.015
    )


def test_moved_and_stretched_and_about_another_mean_it_keeps_its_scores():
    flow, x = make_flow(), draw(*SHAPE, seed=8)
    shift, scale = draw(*SHAPE, seed=6), draw(*SHAPE, seed=7).exp()
    moved = affine(flow, shift, scale)
    assert torch.allclose(moved.log_prob(shift + scale * x), flow.log_prob(x) - scale.log())
    assert torch.allclose(moved.cdf(shift + scale * x), flow.cdf(x))
    other = about(flow, shift, scale)
    assert torch.equal(other.mean, shift)
    assert torch.allclose(other.stddev, scale * flow.stddev)
    assert torch.allclose(other.cdf(shift + scale * (x - flow.mean)), flow.cdf(x))


def test_scores_far_out_are_told_apart():
    flow = make_flow()
    far = torch.tensor([-20.0, 20.0], dtype=DOUBLE).view(-1, 1, 1).expand(-1, *SHAPE)
    assert torch.allclose(normal_score(flow, at_score(flow, far)), far)


def test_several_are_pooled_as_a_mixture():
    flows = [make_flow(seed=seed) for seed in (0, 20, 40)]
    pooled, x = pool(flows), draw(*SHAPE, seed=8)
    assert torch.allclose(pooled.mean, torch.stack([flow.mean for flow in flows]).mean(0))
    density = torch.stack([flow.log_prob(x).exp() for flow in flows]).mean(0)
    assert torch.allclose(pooled.log_prob(x).exp(), density)
    again = affine(pooled, torch.ones(SHAPE, dtype=DOUBLE), torch.full(SHAPE, 2.0, dtype=DOUBLE))
    assert torch.allclose(again.log_prob(1 + 2 * x), pooled.log_prob(x) - math.log(2))


def test_its_crps_is_that_of_a_normal_where_it_is_one():
    plain = replace(make_field(), bend=torch.zeros(*SHAPE, 4, dtype=DOUBLE))
    flow, x = ScalarFlow(draw(*SHAPE), draw(*SHAPE, seed=1).exp(), plain), draw(*SHAPE, seed=2)
    assert torch.allclose(crps(flow, x), crps(Normal(flow.loc, flow.scale), x), rtol=0.02)


# --- rows ---


def correlation(rows: Rows, b: int, members: list[int]) -> Tensor:
    rho = rows.loading[b, members]
    return rho @ rho.T + torch.diag(1 - rho.square().sum(-1))


def test_without_bends_a_row_is_a_multivariate_normal():
    rows = make_rows()
    plain = replace(make_field(), bend=torch.zeros(*SHAPE, 4, dtype=DOUBLE))
    flow, x = ScalarFlow(draw(*SHAPE), draw(*SHAPE, seed=1).exp(), plain, rows), draw(*SHAPE, seed=2)
    said = flow.joint_log_prob(x)
    own = Normal(flow.loc, flow.scale).log_prob(x)
    for b, row, members in ((0, 0, [0]), (0, 1, [1]), (1, 0, [0, 1]), (2, 0, [0])):
        scale = torch.diag(flow.scale[b, members])
        whole = MultivariateNormal(flow.loc[b, members], scale @ correlation(rows, b, members) @ scale)
        assert torch.allclose(said[b, row], whole.log_prob(x[b, members]))
        if len(members) == 1:
            assert torch.allclose(said[b, row], own[b, members[0]])
    assert said[1, 1] == said[2, 1] == 0


def test_a_row_is_a_continuous_normalizing_flow_of_a_correlated_normal():
    rows, b = make_rows(), 1
    flow, x = make_flow(rows=rows), draw(*SHAPE, seed=8)
    mean, std = (moment[b] for moment in flow._moments)
    field = ScalarField(flow.field.bend[b], flow.field.sharpness[b], flow.field.place[b])
    y, gained = (mean + std * (x - flow.loc)[b] / flow.scale[b])[None], torch.zeros(1, dtype=DOUBLE)
    for k in reversed(range(field.bend.shape[-1])):

        def slope(t, y, k=k):
            return field(k + 0.5, y)

        # By the exact trace and by Hutchinson's in turn: of a diagonal Jacobian signs make no error.
        noise = rademacher_like(y, torch.Generator().manual_seed(k)) if k % 2 else None
        joint = FlowField(slope, method="hutchinson" if k % 2 else "exact", noise=noise)
        ends, controller = torch.tensor([k + 1.0, k], dtype=DOUBLE), PIDController(rtol=1e-10, atol=1e-10)
        ys, log_ps = solve(joint, (y, gained), ends, method="dopri8", controller=controller).ys
        y, gained = ys[:, -1], log_ps[:, -1]
    base = MultivariateNormal(torch.zeros(2, dtype=DOUBLE), correlation(rows, b, [0, 1]))
    found = base.log_prob(y[0]) - gained[0] + (std / flow.scale[b]).log().sum()
    assert torch.allclose(flow.joint_log_prob(x)[b, 0], found, atol=1e-7)


def test_integrated_over_one_value_a_row_gives_the_other_ones_own_density():
    flow, b = make_flow(rows=make_rows()), 1
    score = torch.linspace(-9, 9, 3001, dtype=DOUBLE)
    other = flow.at_score(score.view(-1, 1, 1))[:, b, 1]
    x = draw(*SHAPE, seed=8)
    density = []
    for value in other[::10]:
        at = x.clone()
        at[b, 1] = value
        density.append(flow.joint_log_prob(at)[b, 0].exp())
    density = torch.stack(density)
    whole = ((density[1:] + density[:-1]) / 2 * other[::10].diff()).sum()
    assert torch.allclose(whole.log(), flow.log_prob(x)[b, 0], atol=2e-3)


def test_draws_of_a_row_hang_together_as_stated_calibrated_or_not():
    rows = make_rows()
    flow = make_flow(rows=rows)
    torch.manual_seed(0)
    nodes = torch.linspace(-8, 8, 9, dtype=DOUBLE)
    knots = (1.3 * nodes + 0.2)[None]
    calibrated = Calibrated(flow, nodes, knots, torch.zeros(SHAPE, dtype=torch.int64))
    for drawn, back in ((flow, lambda u: u), (calibrated, lambda u: (u - 0.2) / 1.3)):
        u = back(flow.normal_score(drawn.sample((20_000,))))
        found = torch.corrcoef(u.flatten(1).T)
        assert found[2, 3] == pytest.approx(float(correlation(rows, 1, [0, 1])[0, 1]), abs=0.03)
        # Of different rows or series they do not.
        apart = [float(found[i, j]) for i in range(6) for j in range(i) if (i, j) not in ((3, 2), (5, 4))]
        assert max(abs(x) for x in apart) < 0.04


def test_what_a_row_adds_is_shared_among_its_values():
    rows = make_rows()
    of_row = rows.log_copula(draw(*SHAPE, seed=8))
    assert of_row[1, 0] != 0
    shared = rows.of_values(of_row)
    assert torch.allclose(rows.by_row(shared), of_row)
    assert torch.allclose(shared[1, 0], shared[1, 1])
    assert shared[2, 1] == 0


def test_without_rows_there_is_no_joint_density():
    with pytest.raises(InputError, match="n_factors"):
        make_flow().joint_log_prob(torch.zeros(SHAPE, dtype=DOUBLE))
