"""GRU-ODE-Bayes: its equations beside plain NumPy, what the paper proves of its state, and the steps between observations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.distributions import Normal, kl_divergence

from benchmarks.double_well import filter_particles, fit, shape
from latentode.errors import InputError
from latentode.models import GRUODEBayes
from latentode.models.gru_ode_bayes import MAX_STEPS, MIN_STD, BayesJump, Clock, GRUField
from latentode.models.history import CLAMP
from latentode.models.objectives import gaussian_kl, gaussian_product
from latentode.ode import TABLEAUS
from latentode.ode.runge_kutta import explicit_step
from tests.models.conftest import perturb


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def arrays(module):
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def numpy_field(h, p):
    """Equation 3 for one state."""
    reset, rest = np.split(sigmoid(p["gates.weight"] @ h + p["gates.bias"]), 2)
    aim = np.tanh(p["aim.weight"] @ (reset * h) + p["aim.bias"])
    return (1 - rest) * (aim - h)


def numpy_jump(h, value, observed, p, known):
    """The observation model, the prepared errors and the gated unit, for one state and channel after channel."""
    hidden = np.maximum(p["observe.layers.0.weight"] @ h + p["observe.layers.0.bias"], 0)
    mean, width = np.split(p["observe.layers.2.weight"] @ hidden + p["observe.layers.2.bias"], 2)
    std = np.logaddexp(width, 0) + MIN_STD
    prepared = []
    for c in range(len(value)):
        figures = np.array([value[c], mean[c], std[c], np.clip((value[c] - mean[c]) / std[c], -CLAMP, CLAMP)])
        prepared.append(observed[c] * np.maximum(figures @ p["jump.weight"][c] + p["jump.bias"][c], 0))
    x = p["jump.update.from_input.weight"] @ np.concatenate([*prepared, known]) + p["jump.update.from_input.bias"]
    n = len(h)
    reset, keep = np.split(sigmoid(x[: 2 * n] + p["jump.update.gates_from_hidden.weight"] @ h), 2)
    new = np.tanh(x[2 * n :] + p["jump.update.state_from_hidden.weight"] @ (reset * h))
    return (keep * h + (1 - keep) * new if observed.any() else h), mean, std


def make(prepared, **settings):
    torch.manual_seed(0)
    model = GRUODEBayes(hidden_size=6, prep_size=3, has_companion=False, **settings)
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    return perturb(model)


def test_a_history_is_filtered_by_the_papers_equations(prepared):
    path = make(prepared, step_size=0.25).path.double()
    batch = as_double(prepared.batch)
    # So that some of the way to the origin is left behind the last stamp of the longest history, too.
    batch = replace(batch, token_time=batch.token_time - 0.3)
    filtered = path.filter(batch)
    rows = batch.rows()
    p = arrays(path)
    counts = rows.row_observed.sum(1)
    for w in (int(counts.argmin()), int(counts.argmax())):
        n = int(counts[w])
        h = np.tanh(p["start"])
        now = rows.time[w, 0].item()
        for i in range(n):
            h = numpy_euler(h, (rows.time[w, i].item() - now) * 4.0, 0.25, arrays(path.field))
            now = rows.time[w, i].item()
            observed = rows.observed[w, i].numpy().astype(float)
            h, mean, std = numpy_jump(h, rows.value[w, i].clamp(-5, 5).numpy(), observed, p, rows.known[w, i].numpy())
            np.testing.assert_allclose(filtered.before[0][w, i].detach(), mean, atol=1e-10)
            np.testing.assert_allclose(filtered.before[1][w, i].detach(), std, atol=1e-10)
            np.testing.assert_allclose(filtered.after[w, i].detach(), h, atol=1e-10)
        h = numpy_euler(h, -now * 4.0, 0.25, arrays(path.field))
        np.testing.assert_allclose(filtered.h0[w].detach(), h, atol=1e-10)


def numpy_euler(h, gap, step_size, p):
    n = int(np.ceil(gap / step_size - 1e-3))
    for _ in range(n):
        h = h + gap / n * numpy_field(h, p)
    return h


def as_double(batch):
    names = ("token_time", "token_value", "query_time", "target_value", "token_known", "known", "statics")
    return replace(batch, **{name: getattr(batch, name).double() for name in names})


def large_field(seed=0, size=8):
    """Give a field with weights far larger than training would make them."""
    torch.manual_seed(seed)
    field = GRUField(size).double()
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, std=3.0)
    return field.requires_grad_(False)


def test_the_ode_is_what_scipy_solves():
    field = large_field()
    p = arrays(field)
    h0 = np.random.default_rng(0).uniform(-1, 1, 8)
    expected = solve_ivp(lambda t, h: numpy_field(h, p), (0, 3), h0, method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]

    def end(n):
        h = torch.from_numpy(h0)[None]
        dt = torch.full((1, 1), 3 / n, dtype=torch.float64)
        for _ in range(n):
            h = explicit_step(field, dt[:, 0], h, dt, TABLEAUS["rk4"])
        return h[0].numpy()

    np.testing.assert_allclose(end(300), expected, atol=1e-6)


def test_the_state_stays_between_minus_one_and_one():
    """A bound that the paper proves, here for Euler steps of at most 1 without the limit of small steps."""
    for seed in range(5):
        field = large_field(seed)
        h = torch.empty(200, 8, dtype=torch.float64).uniform_(-1, 1).sign()  # on the edge
        dt = torch.linspace(0.01, 1, 200, dtype=torch.float64)[:, None]
        for _ in range(50):
            h = explicit_step(field, dt[:, 0], h, dt, TABLEAUS["euler"])
            assert float(h.abs().max()) <= 1


def test_no_part_of_the_state_moves_faster_than_two():
    """The Lipschitz bound that the paper proves."""
    field = large_field()
    h = torch.empty(2_000, 8, dtype=torch.float64).uniform_(-1, 1)
    assert float(field(torch.zeros(2_000), h).abs().max()) <= 2
    assert float(field(torch.zeros(2_000), h.sign()).abs().max()) > 1.9


def test_an_euler_step_of_one_is_a_step_of_the_gated_unit():
    field = large_field()
    h = torch.empty(5, 8, dtype=torch.float64).uniform_(-1, 1)
    reset, rest = torch.sigmoid(field.gates(h)).chunk(2, -1)
    one = torch.ones(5, 1, dtype=torch.float64)
    after = explicit_step(field, one[:, 0], h, one, TABLEAUS["euler"])
    torch.testing.assert_close(after, rest * h + (1 - rest) * torch.tanh(field.aim(reset * h)))


def test_a_filtered_state_is_bounded(prepared):
    batch = prepared.batch
    path = make(prepared).path
    with torch.no_grad():
        for parameter in path.parameters():
            parameter.mul_(20)
        wild = replace(batch, token_time=batch.token_time * 50, token_value=batch.token_value * 1e3)
        filtered = path.filter(wild)
        assert float(filtered.after.abs().max()) <= 1
        assert float(filtered.h0.abs().max()) <= 1


def test_nothing_is_read_of_a_channel_that_was_not_observed():
    torch.manual_seed(0)
    jump = BayesJump(3, 0, 5, prep_size=4, memory=16)
    value, mean, std = torch.randn(2, 3), torch.randn(2, 3), torch.rand(2, 3) + 0.1
    observed = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    other = torch.where(observed > 0, value, 100.0)
    prepared, changed = (jump.prepare(x, observed, mean, std) for x in (value, other))
    assert torch.equal(prepared, changed)
    h = torch.rand(2, 5)
    after = jump(h, prepared, torch.empty(2, 0), observed.sum(1, keepdim=True) > 0)
    assert torch.equal(after[1], h[1])
    assert not torch.equal(after[0], h[0])


def test_steps_fill_each_gap_and_no_more():
    clock = Clock(4.0, "euler", 0.5)
    gap = torch.tensor([[0.0, 0.1, 0.125, 0.25, 0.26], [0.3, 0.0, 0.125, 0.3, 1e4]])
    lengths, counts = clock.steps(gap)
    assert counts == [3, 1, 1, 3, MAX_STEPS]
    parts = lengths[..., 0].split(counts)
    passed = torch.stack([part.sum(0) for part in parts], 1)
    torch.testing.assert_close(passed[:, :4], gap[:, :4] * 4)
    assert passed[1, 4] == MAX_STEPS * 0.5
    assert float(lengths.max()) <= 0.5 * (1 + 1e-3)
    # Two steps of its own gap, whatever the other series needs.
    assert (parts[3][:, 0] > 0).tolist() == [True, True, False]


def test_rounding_of_a_gap_is_not_one_step_more():
    clock = Clock(4.0, "euler", 0.5)
    exact = torch.tensor([[0.25]])
    for gap in (exact, torch.nextafter(exact, torch.tensor(1.0)), torch.nextafter(exact, torch.tensor(0.0))):
        assert clock.steps(gap)[1] == [2]


def test_the_divergence_of_two_normals_is_torchs():
    torch.manual_seed(0)
    m0, m1 = torch.randn(2, 20, dtype=torch.float64)
    s0, s1 = torch.rand(2, 20, dtype=torch.float64) + 0.1
    torch.testing.assert_close(gaussian_kl(m0, s0, m1, s1), kl_divergence(Normal(m0, s0), Normal(m1, s1)))


def test_bayes_rule_for_two_normals_is_the_product_of_their_densities():
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    mean, std = gaussian_product(*(torch.tensor(v, dtype=torch.float64) for v in (0.3, 0.8, -1.1)), 0.5)
    product = (Normal(0.3, 0.8).log_prob(x) + Normal(-1.1, 0.5).log_prob(x)).exp()
    product = product / product.sum()
    assert float(mean) == pytest.approx(float((product * x).sum()), abs=1e-6)
    assert float(std) == pytest.approx(float((product * (x - (product * x).sum()).square()).sum().sqrt()), abs=1e-6)


@torch.no_grad()
def test_the_history_teaches_by_its_likelihood_and_by_bayes_rule(prepared):
    path = make(prepared, update_weight=0.7, obs_std=0.2).path.double()
    filtered = path.filter(as_double(prepared.batch))
    stamps, total, count = filtered.stamps, 0.0, 0
    after = path.observe(filtered.after)
    for w, i, c in stamps.observed.nonzero().tolist():
        y = stamps.value[w, i, c]
        before = Normal(filtered.before[0][w, i, c], filtered.before[1][w, i, c])
        aim = Normal(*gaussian_product(before.mean, before.stddev, y, 0.2))
        total += float(-before.log_prob(y) + 0.7 * kl_divergence(aim, Normal(after[0][w, i, c], after[1][w, i, c])))
        count += 1
    assert float(path.history_loss(filtered).value) == pytest.approx(total / count, abs=1e-9)


def test_what_was_expected_does_not_move_towards_the_jump(prepared):
    """The divergence teaches the jump alone: without it the gradient of what was expected is the same."""
    gradients = []
    for weight in (0.0, 5.0):
        path = make(prepared, update_weight=weight).path
        filtered = path.filter(prepared.batch)
        before = tuple(x.detach().requires_grad_() for x in filtered.before)
        gradients.append(torch.autograd.grad(path.history_loss(replace(filtered, before=before)).value, before))
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def test_the_history_loss_adds_to_that_of_the_targets(prepared):
    losses = [float(make(prepared, history_weight=w).loss(prepared.batch).detach()) for w in (0.0, 1.0)]
    path = make(prepared).path
    expected = float(path.history_loss(path.filter(prepared.batch)).value.detach())
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)


def test_the_state_goes_on_after_the_origin_by_the_same_ode(prepared):
    path = make(prepared, step_size=1 / 64, method="rk4").path.double()
    h0 = torch.rand(3, 6, dtype=torch.float64)
    t = torch.tensor([[0.1, 0.5], [0.2, 1.0], [0.7, 0.9]], dtype=torch.float64)
    with torch.no_grad():
        ours = path.carry_on(h0, t)
    p = arrays(path.field)
    for b in range(3):
        end = float(t[b, -1]) * 4.0
        solved = solve_ivp(
            lambda s, h: numpy_field(h, p), (0, end), h0[b].numpy(), t_eval=t[b].numpy() * 4.0, rtol=1e-9, atol=1e-11
        )
        np.testing.assert_allclose(ours[b], solved.y.T, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "kvaerno3"}, "explicit"),
        ({"pace": 0.0}, "pace is 0"),
        ({"obs_std": -1.0}, "obs_std is -1"),
        ({"history_weight": -0.1}, "history_weight"),
    ],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        GRUODEBayes(**settings)


@pytest.mark.slow
@pytest.mark.statistical
def test_a_particle_between_two_wells_is_filtered_as_in_the_papers_figure():
    """Beside the exact law of a particle that starts at the bottom of a well; `benchmarks/double_well.py` draws it."""
    found = shape(filter_particles(fit()))
    # An observation in a well puts the mean into that well and narrows what was wide.
    assert found["right_well"] > 0.97
    assert found["shrinks"] > 0.95
    # From then on the mean slides to the middle and the deviation grows, as they do for the particle.
    assert all(np.diff(found["mean"]) < 0.02)
    assert all(np.diff(found["std"]) > -0.02)
    np.testing.assert_allclose(found["mean"], found["exact_mean"], atol=0.12)
    np.testing.assert_allclose(found["std"], found["exact_std"], atol=0.12)
