"""The latent stochastic equation: its divergence in closed form and in torchsde, its certain limit, forecasts of several paths."""

from __future__ import annotations

import math

import pytest
import torch
import torchsde
from torch import nn

from latentode.errors import InputError
from latentode.models import AugmentedField, LatentSDE, MLPField, MultipleShooting
from latentode.models.dynamics.marginals import LinearPosterior, fluctuation
from latentode.ode import Noise, solve_sde
from tests.data.tables import make_table

B, D, E = 3, 4, 5
DOUBLE = torch.float64


def make(size=D, **settings):
    torch.manual_seed(0)
    field = LatentSDE(**settings)
    field.setup(make_table().schema, size, E)
    with torch.no_grad():
        for p in field.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return field.double()


def ask(n=B, size=D):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(n, k, generator=generator, dtype=DOUBLE) for k in (size, E))


@pytest.mark.statistical
def test_the_divergence_of_two_ornstein_uhlenbeck_processes_is_the_closed_form(monkeypatch):
    a, b, level, span, n = 1.2, 0.5, 0.8, 0.9, 2_000
    field = make(1, step_size=0.004)
    with torch.no_grad():
        field.diffusion_slope.zero_()
    g = float(field.diffusion(torch.zeros(1, dtype=DOUBLE)).detach())
    monkeypatch.setattr(field, "drift", lambda z, drive: a * (level - z))
    monkeypatch.setattr(field, "prior_drift", lambda z: -b * z)
    one = torch.ones(n, dtype=DOUBLE)
    field(2 * one[:, None], 0 * one, span * one[:, None], ask(n)[1])
    # E |f - h|^2 = ((b - a) m + a level)^2 + (b - a)^2 S with the moments m, S of the posterior, integrated over time.
    t = torch.linspace(0, span, 2_001, dtype=DOUBLE)
    mean, variance = level + (2 - level) * torch.exp(-a * t), g**2 * (1 - torch.exp(-2 * a * t)) / (2 * a)
    square = ((b - a) * mean + a * level).square() + (b - a) ** 2 * variance
    expected = float(torch.trapezoid(square, t)) / (2 * g**2)
    assert float(field.divergence.mean().detach()) == pytest.approx(expected, rel=0.015)


def test_states_and_divergence_are_those_of_torchsde_along_one_wiener_path():
    field = make(method="euler_maruyama", step_size=0.125)
    z0, context = ask()
    t = torch.tensor([[0.25, 0.625]] * B, dtype=DOUBLE)
    torch.manual_seed(3)
    z = field(z0, torch.zeros(B, dtype=DOUBLE), t, context)
    torch.manual_seed(3)
    # The last column drives the divergence's own coordinate, which has no noise.
    steps = nn.functional.pad(Noise.draw(5, z0).step * 0.125**0.5, (0, 1))

    class Given(torchsde.BaseBrownian):
        dtype, device, shape, levy_area_approximation = DOUBLE, z0.device, (B, D + 1), "none"

        def __call__(self, ta, tb=None, return_U=False, return_A=False):
            return steps[round(float(ta) / 0.125)]

        def __repr__(self):
            return "Given()"

    class Both(nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, y):
            return field.drift(y, field.from_context(context))

        def h(self, t, y):
            return field.prior_drift(y)

        def g(self, t, y):
            return field.diffusion(y)

    ts = torch.tensor([0.0, 0.25, 0.625], dtype=DOUBLE)
    expected, log_ratio = torchsde.sdeint(Both(), z0, ts, bm=Given(), method="euler", dt=0.125, logqp=True)
    assert torch.allclose(z, expected[1:].transpose(0, 1), rtol=0, atol=1e-10)
    assert torch.allclose(field.divergence, log_ratio.sum(0), rtol=1e-10)


def test_the_divergence_ends_where_the_last_query_of_a_sample_lies():
    field = make()
    z0, context = ask()
    sample, t = torch.tensor([0, 1, 1, 2]), torch.tensor([0.25, 0.1, 1.0, 0.3], dtype=DOUBLE)

    def divergence(sample, t):
        torch.manual_seed(0)
        field.carry(z0, context, sample, t)
        return field.divergence.detach()

    together = divergence(sample, t)
    earlier = divergence(sample, torch.tensor([0.25, 0.1, 1.0, 0.25], dtype=DOUBLE))
    assert torch.equal(together[:2], earlier[:2])
    # A step counts by the part of it that is gone through: here .4 of the third.
    longer = divergence(sample, torch.tensor([0.25, 0.1, 1.0, 0.375], dtype=DOUBLE))
    assert torch.allclose(together[2], earlier[2] + 0.4 * (longer[2] - earlier[2]))
    assert divergence(torch.tensor([0, 1, 2]), torch.zeros(3, dtype=DOUBLE)).abs().max() == 0


def test_the_path_without_noise_is_that_of_the_field():
    field = make(method="heun", step_size=1 / 64, n_paths=1).eval()
    certain = MLPField(rtol=1e-9, atol=1e-9)
    certain.setup(make_table().schema, D, E)
    certain = certain.double()
    certain.load_state_dict(field.state_dict(), strict=False)
    z0, context = ask()
    t = torch.tensor([[0.1, 0.7, 1.3], [-0.2, -0.4, -1.0], [0.3, 0.3, 0.3]], dtype=DOUBLE)
    t0 = torch.tensor([0.0, 0.0, 0.2], dtype=DOUBLE)
    assert torch.allclose(field(z0, t0, t, context), certain(z0, t0, t, context), atol=1e-3)


def test_who_asks_for_a_state_or_its_velocity_gets_the_course_without_noise():
    field = make().eval()
    z0, context = ask()
    t = torch.tensor([[0.4, 0.9]] * B, dtype=DOUBLE)
    noisy = [field(z0, 0 * z0[:, 0], t, context) for _ in field.paths()]
    z = field(z0, 0 * z0[:, 0], t, context)
    field.n_paths = 1
    assert torch.equal(z, field(z0, 0 * z0[:, 0], t, context))
    assert not torch.equal(z, noisy[-1])
    assert torch.allclose(field.velocity(z0, context), field.drift(z0, field.from_context(context)))


def test_paths_of_a_forecast_come_in_pairs_that_do_not_depend_on_what_else_is_asked():
    field = make(n_paths=4).eval()
    with torch.no_grad():
        field.diffusion_slope.zero_()
        field.to_slope.weight.zero_()
    z0, context = ask()

    def states(t):
        return torch.stack([field.carry(z0, context, torch.arange(B), t + 0 * z0[:, 0]) for _ in field.paths()])

    z_SBD = states(0.4)
    assert z_SBD.shape == (4, B, D)
    # Where drift and diffusion are constant the noise of a pair cancels.
    drift = field.to_slope.bias * 0.4
    assert torch.allclose(z_SBD[0::2] + z_SBD[1::2], 2 * (z0 + drift).expand(2, B, D))
    assert (z_SBD[0] - z_SBD[2]).abs().min() > 1e-4
    again = [
        field(z0, 0 * z0[:, 0], torch.tensor([[0.4, 9.0]] * B, dtype=DOUBLE), context)[:, 0] for _ in field.paths()
    ]
    assert torch.allclose(torch.stack(again), z_SBD, rtol=0, atol=1e-12)


def test_training_goes_along_one_path_that_is_drawn_anew():
    field = make().train()
    z0, context = ask()
    t = torch.full((B,), 0.4, dtype=DOUBLE)
    assert list(field.paths()) == [0]
    one, two = (field.carry(z0, context, torch.arange(B), t) for _ in range(2))
    assert not torch.equal(one, two)
    field.eval().carry(z0, context, torch.arange(B), t)
    assert field.divergence is None


@pytest.mark.parametrize("around", [lambda x: AugmentedField(2, dynamics=x), lambda x: MultipleShooting(x, 2)])
def test_what_stands_around_the_equation_goes_along_its_paths(around):
    field = around(LatentSDE(n_paths=4)).eval()
    field.setup(make_table().schema, D, E)
    z0, context = (x.float() for x in ask())
    t = torch.full((B,), 0.4)
    paths = [field.carry(z0, context, torch.arange(B), t) for _ in field.paths()]
    assert len(paths) == 4
    assert not torch.equal(paths[0], paths[1])


@pytest.mark.statistical
def test_many_paths_have_the_moments_of_the_equation():
    field = make(n_paths=200, step_size=0.25).eval()
    with torch.no_grad():
        field.diffusion_slope.zero_()
        field.to_slope.weight.zero_()
    z0, context = ask()
    t = torch.full((B,), 0.6, dtype=DOUBLE)
    z_SBD = torch.stack([field.carry(z0, context, torch.arange(B), t) for _ in field.paths()]).detach()
    deviation = field.diffusion(z0).detach() * math.sqrt(0.6)
    assert torch.allclose(z_SBD.std(0), deviation, rtol=0.2)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"method": "euler"}, "method is 'euler'"),
        ({"step_size": 0.0}, "step_size is 0.0"),
        ({"n_paths": 3}, "n_paths is 3"),
        ({"n_paths": 0}, "n_paths is 0"),
    ],
)
def test_wrong_settings_are_refused(settings, match):
    with pytest.raises(InputError, match=match):
        LatentSDE(**settings)


def make_posterior(size=2):
    torch.manual_seed(0)
    posterior = LinearPosterior(size, E, 16).double()
    with torch.no_grad():
        for p in posterior.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=DOUBLE))
    return posterior


def test_the_mean_of_the_posterior_starts_at_the_state_and_has_its_slope():
    posterior = make_posterior(D)
    z0, context = ask()
    drive, after = posterior.drive(z0, context), torch.tensor([0.0, 0.4, 1.1], dtype=DOUBLE)
    assert torch.equal(posterior.mean(z0, drive, 0 * after), z0)
    step = 1e-5
    quotient = (posterior.mean(z0, drive, after + step) - posterior.mean(z0, drive, after - step)) / (2 * step)
    assert torch.allclose(posterior.slope(drive, after), quotient, atol=1e-8)


def follow_posterior(posterior, z0, context, g, n_steps):
    """Solve the posterior's equation; give its path."""
    drive, rate = posterior.drive(z0, context), posterior.rate(context)

    def drift(t, z):
        return posterior.slope(drive, t) - rate * (z - posterior.mean(z0, drive, t))

    zero = torch.zeros(len(z0), dtype=DOUBLE)
    return solve_sde(drift, lambda t, z: g, z0, Noise.draw(n_steps, z0), t0=zero, dt=zero + 1 / n_steps, method="heun")


@pytest.mark.statistical
def test_the_law_of_the_posterior_is_that_of_its_equation():
    n, posterior = 4_000, make_posterior()
    z0, context = (x.expand(n, -1) for x in ask(1, 2))
    g = torch.full_like(z0, 0.7)
    after = torch.full((n,), 0.8, dtype=DOUBLE)
    with torch.no_grad():
        z = follow_posterior(posterior, z0, context, g, 50).at(torch.arange(n), after)
        mean = posterior.mean(z0, posterior.drive(z0, context), after)[0]
        deviation = 0.7 * fluctuation(posterior.rate(context), after)[0]
    assert torch.allclose(z.mean(0), mean, atol=4 * float(deviation.max()) / n**0.5 + 1e-3)
    assert torch.allclose(z.std(0), deviation, rtol=0.05)


@pytest.mark.statistical
def test_without_a_simulation_the_divergence_is_that_along_simulated_paths():
    n, n_steps, field = 2_000, 100, make(2, is_simulated=False)
    z0, context = (x.expand(n, -1) for x in ask(1, 2))
    with torch.no_grad():
        # Much noise and a strong pull back, so that the fluctuation has its share of the divergence.
        field.diffusion_level.fill_(3.0)
        field.posterior.to_rate.bias.fill_(2.0)
        field(z0, 0 * z0[:, 0], torch.ones(n, 1, dtype=DOUBLE), context)
        g = field.diffusion(z0)
        path = follow_posterior(field.posterior, z0, context, g, n_steps)
        gap = (path.drift - field.drift(path.y[:-1], field.from_context(context))) / g
        simulated = 0.5 * gap.square().sum(-1).mean(0)
    assert float(field.divergence.mean()) == pytest.approx(float(simulated.mean()), rel=0.05)


def test_without_a_simulation_nothing_is_solved_in_training():
    field = make(is_simulated=False).train()
    z0, context = ask()
    sample, t = torch.tensor([0, 1, 1, 2]), torch.tensor([0.4, 0.1, 0.1, 0.9], dtype=DOUBLE)
    z = field.carry(z0, context, sample, t)
    assert field.nfe.max() == 0
    assert torch.equal(z[1], z[2])
    torch.manual_seed(5)
    here = field(z0, 0 * z0[:, 0], t[:3, None], context)
    torch.manual_seed(5)
    assert torch.allclose(field(z0, 0 * z0[:, 0] + 7, t[:3, None] + 7, context), here)
    field.eval().carry(z0, context, sample, t)
    assert field.nfe.max() > 0
    assert field.divergence is None
