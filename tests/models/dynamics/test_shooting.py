"""Multiple shooting: nothing but the path outside of training, gaps that close, and an equation that is found where one path gets stuck."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from latentode.errors import InputError
from latentode.models import LatentSDE, LinearField, MLPField, MultipleShooting
from latentode.models.interfaces import Dynamics
from tests.data.tables import make_table

B, D, E, K = 3, 4, 5, 4
DOUBLE = torch.float64


def make(inner=None, n_segments=K, **settings):
    torch.manual_seed(0)
    field = MultipleShooting(inner or LinearField(), n_segments, **settings)
    field.setup(make_table().schema, D, E)
    with torch.no_grad():
        for p in field.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return field.double()


def ask():
    generator = torch.Generator().manual_seed(1)
    z0, context = (torch.randn(B, n, generator=generator, dtype=DOUBLE) for n in (D, E))
    # The second sample ends in its second segment, the third one goes beyond the horizon.
    t = torch.tensor([[0.1, 0.3, 0.3, 0.9], [0.05, 0.2, 0.45, 0.45], [0.5, 0.75, 1.0, 1.4]], dtype=DOUBLE)
    return z0, torch.zeros(B, dtype=DOUBLE), t, context


def test_outside_of_training_and_at_its_end_there_is_one_path():
    field = make().eval()
    expected = field.dynamics(*ask())
    assert torch.equal(field(*ask()), expected)
    assert field.penalty is None
    field.train().at_progress(0.5)
    assert not torch.allclose(field(*ask()), expected)
    assert field.penalty is not None
    field.at_progress(0.9)
    assert torch.equal(field(*ask()), expected)
    assert float(field.penalty.detach()) == 0
    field.penalty.sum().backward()
    # Every parameter has a gradient all the same, so that processes that train together stay together.
    assert all(p.grad is not None for name, p in field.named_parameters() if not name.startswith("dynamics."))


def test_each_query_is_answered_from_the_start_of_its_segment():
    field = make(weight=6.0, loosen=1.0).train()
    z0, t0, t, context = ask()
    z, starts = field(z0, t0, t, context), field.starts(z0, context)
    assert torch.equal(starts[:, 0], z0)
    for b in range(B):
        one, ends = context[b : b + 1], []
        for q in range(t.shape[1]):
            k = min(int(t[b, q] * K), K - 1)
            after = (t[b, q] - k / K).view(1, 1)
            alone = field.dynamics(starts[b : b + 1, k], t0[:1], after, one)
            assert torch.allclose(z[b, q], alone[0, 0], atol=1e-12)
        n_joints = min(int(t[b].max() * K), K - 1)
        for k in range(n_joints):
            ends.append(field.dynamics(starts[b : b + 1, k], t0[:1], t0[:1, None] + 1 / K, one)[0, 0])
        gap = torch.stack(ends) - starts[b, 1 : n_joints + 1]
        assert torch.allclose(field.penalty[b], 3 * gap.square().mean(), atol=1e-12)


def test_where_segments_join_they_are_the_path():
    field = make().train()
    z0, t0, t, context = ask()
    whole = field.dynamics(z0, t0, torch.arange(K, dtype=DOUBLE).expand(B, -1) / K, context)
    field.starts = lambda z0, context: whole
    assert torch.allclose(field(z0, t0, t, context), field.dynamics(z0, t0, t, context), atol=1e-12)
    assert field.penalty.abs().max() < 1e-20


def test_a_clock_that_starts_elsewhere_moves_the_segments_along():
    field = make().train()
    z0, t0, t, context = ask()
    there = field(z0, t0 - 3, t - 3, context)
    gaps = field.penalty
    assert torch.allclose(there, field(z0, t0, t, context), atol=1e-10)
    assert torch.allclose(gaps, field.penalty, atol=1e-10)


def test_the_weight_of_the_gaps_grows_up_to_the_end_of_segments():
    field = make(weight=5.0, loosen=100.0, until=0.5).train()
    penalties = []
    for fraction in (0.0, 0.499):
        field.at_progress(fraction)
        field(*ask())
        penalties.append(field.penalty)
    assert torch.allclose(penalties[1], 100 * penalties[0])


def test_what_the_dynamics_adds_to_the_loss_is_summed_over_segments():
    field = make(LatentSDE(step_size=0.05)).train()
    z0, t0, t, context = ask()
    field(z0, t0, t, context)
    assert field.divergence.shape == (B,)
    # Segments 0 to 3 of the first sample, 0 and 1 of the second.
    told = field.dynamics.divergence
    assert torch.allclose(field.divergence[:2], torch.stack([told[:4].sum(), told[4:6].sum()]))


class Swing(Dynamics):
    """A pendulum of unknown frequency, in closed form."""

    def __init__(self, frequency):
        super().__init__()
        self.frequency = frequency

    def setup(self, schema, latent_size, context_size):
        self.log = nn.Parameter(torch.tensor(math.log(self.frequency)))

    def forward(self, z0_BD, t0_B, t_BQ, context_BE):
        angle = self.log.exp() * (t_BQ - t0_B[:, None])
        x, v = z0_BD[:, None].unbind(-1)
        return torch.stack([x * angle.cos() + v * angle.sin(), v * angle.cos() - x * angle.sin()], -1)


def fit(n_segments, guess, truth=80.0, n_iterations=200):
    """Find the frequency from thirteen noisy swings; give it."""
    torch.manual_seed(0)
    field = MultipleShooting(Swing(guess), n_segments)
    field.setup(make_table().schema, 2, 1)
    field = field.double()
    t = torch.linspace(0, 1, 201, dtype=DOUBLE)[None]
    seen = torch.stack([torch.cos(truth * t), -torch.sin(truth * t)], -1)
    seen = seen + 0.1 * torch.randn(seen.shape, dtype=DOUBLE)
    start, zero, context = nn.Parameter(seen[:, 0].clone()), t.new_zeros(1), t.new_zeros(1, 1)
    network = [p for name, p in field.named_parameters() if not name.startswith("dynamics.")]
    groups = [{"params": [field.dynamics.log, start], "lr": 2e-2}, {"params": network, "lr": 1e-2}]
    optimiser = torch.optim.Adam(groups)
    for i in range(n_iterations):
        field.train().at_progress(i / n_iterations)
        loss = 0.5 * (field(start, zero, t, context) - seen).square().mean()
        loss = loss if field.penalty is None else loss + field.penalty.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(field.dynamics.log.detach().exp())


@pytest.mark.parametrize("guess", [50.0, 130.0])
def test_a_frequency_is_found_where_one_path_gets_stuck(guess):
    # Over many swings the error has a minimum wherever another half swing fits in.
    assert abs(fit(1, guess) - 80.0) > 10.0
    assert fit(10, guess) == pytest.approx(80.0, rel=5e-3)


def test_segments_take_fewer_steps_in_sequence():
    inner = MLPField(method="rk4", step_size=1 / 32)
    field = make(inner).train()
    z0, t0, t, context = ask()
    t = t.clamp(max=1.0)
    field(z0, t0, t, context)
    # One evaluation looks at the start, four are taken per step.
    in_segments = int(inner.nfe.max()) - 1
    field.eval()(z0, t0, t, context)
    assert int(inner.nfe.max()) - 1 == K * in_segments


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n_segments": 0}, "n_segments is 0"),
        ({"weight": 0.0}, "weight is 0.0"),
        ({"until": 1.5}, "until is 1.5"),
        ({"loosen": 0.5}, "loosen is 0.5"),
    ],
)
def test_wrong_settings_are_refused(settings, match):
    with pytest.raises(InputError, match=match):
        MultipleShooting(LinearField(), **settings)
