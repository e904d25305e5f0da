"""The neural CDE: its solve beside torchcde and closed forms, and the control that it reads off a history."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchcde

from latentode.errors import InputError
from latentode.models import CDEEncoder
from latentode.models.encoders.cde import COUNT_UNIT, LowRankField, drive, read_control
from latentode.models.splines import hermite_path

T, X, H = 9, 3, 5


def draw(n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(T, dtype=torch.float64).expand(n, T).contiguous()
    x = 0.5 * torch.randn(n, T, X, generator=generator, dtype=torch.float64).cumsum(1)
    z0 = torch.randn(n, H, generator=generator, dtype=torch.float64)
    return t, x, z0


def test_a_state_is_driven_as_in_torchcde():
    t, x, z0 = draw()
    torch.manual_seed(0)
    field = LowRankField(H, X, hidden_size=7, rank=6).double()
    t, x = t[:, :5], x[:, :5]

    def matrix(_, z):
        return field.to_slope.weight @ torch.diag_embed(field.gate(z)) @ field.from_control.weight

    path = torchcde.CubicSpline(torchcde.hermite_cubic_coefficients_with_backward_differences(x, t[0]), t[0])
    with torch.no_grad():
        theirs = torchcde.cdeint(path, matrix, z0, t[0], adjoint=False, method="rk4", options={"step_size": 1 / 16})
        ours = drive(field, z0, hermite_path(t, x), t, method="rk4", step_size=1 / 16)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def commuting(seed=1):
    """Give matrices `A_j = Q diag(.) Q^-1` with the same eigenvectors, `(X, H, H)`."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(H, H, generator=generator, dtype=torch.float64))[0]
    return basis @ torch.diag_embed(torch.randn(X, H, generator=generator, dtype=torch.float64)) @ basis.T


@pytest.mark.parametrize(("method", "order"), [("midpoint", 2), ("rk4", 4)])
def test_a_linear_field_gives_the_exponential_of_what_the_control_moved(method, order):
    t, x, z0 = draw()
    a = commuting()

    def field(z, slope):
        return torch.einsum("bx,xhk,bk->bh", slope, a, z)

    moved = torch.einsum("bx,xhk->bhk", x[:, -1] - x[:, 0], a)
    expected = (torch.matrix_exp(moved) @ z0[..., None])[..., 0]
    errors = []
    for n in (8, 16):
        ours = drive(field, z0, hermite_path(t, x), t[:, -1:], method=method, step_size=1 / n)[:, 0]
        errors.append(float((ours - expected).abs().max() / expected.abs().max()))
    assert errors[1] < 1e-2
    assert torch.log2(torch.tensor(errors[0] / errors[1])).item() == pytest.approx(order, abs=0.35)


def test_a_control_that_goes_the_same_way_at_another_speed_leads_to_the_same_state():
    t, x, z0 = draw()
    torch.manual_seed(0)
    field = LowRankField(H, X, hidden_size=7, rank=6).double()
    # A straight line is the same curve whatever its knots.
    line = x[:, :1] + torch.linspace(0, 1, T, dtype=torch.float64)[:, None] * (x[:, -1:] - x[:, :1])
    fast = hermite_path(t[:, :2], line[:, [0, -1]])
    slow = hermite_path(t, line)
    with torch.no_grad():
        ends = [drive(field, z0, p, p.t[:, -1:], method="rk4", step_size=1 / n) for p, n in ((fast, 64), (slow, 8))]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-8)


def test_every_sample_ends_at_a_knot_of_its_own():
    t, x, z0 = draw()
    torch.manual_seed(0)
    field = LowRankField(H, X, hidden_size=7, rank=6).double()
    path = hermite_path(t, x)
    end = torch.tensor([4.0, 8.0], dtype=torch.float64)
    with torch.no_grad():
        whole = drive(field, z0, path, t, method="midpoint", step_size=1.0)
        own = drive(field, z0, path, end[:, None], method="midpoint", step_size=1.0)[:, 0]
    torch.testing.assert_close(own, torch.stack([whole[0, 4], whole[1, 8]]), rtol=0, atol=1e-14)


def make(prepared, **settings):
    torch.manual_seed(0)
    encoder = CDEEncoder(**settings)
    encoder.setup(prepared.table.schema, 4, 6)
    return encoder.eval()


@pytest.mark.parametrize("after_last", [0.0, 0.3])
def test_the_control_has_time_values_and_counts_at_every_stamp(prepared, after_last):
    batch, n_channels = prepared.batch, prepared.batch.n_channels
    batch = replace(batch, token_time=batch.token_time - after_last)
    control = read_control(batch, "forward", 512)
    rows = batch.rows()
    assert bool((rows.time.gather(1, rows.row_observed.sum(1)[:, None] - 1) == -after_last).any())
    for w in (0, 5):
        n = int(rows.row_observed[w].sum())
        last = value = torch.zeros(n_channels)
        count = torch.zeros(n_channels)
        for i in range(n):
            seen = rows.observed[w, i]
            value = torch.where(seen, rows.value[w, i].clamp(-5, 5), last)
            count, last = count + seen, value
            # A piece's first coefficient is the value at its first knot.
            x = control.path.coefficients[w, i, 0]
            assert float(x[0]) == pytest.approx(-float(torch.log1p(-rows.time[w, i])), abs=1e-6)
            torch.testing.assert_close(x[1 : 1 + n_channels], value)
            torch.testing.assert_close(x[1 + n_channels : 1 + 2 * n_channels], count / COUNT_UNIT)
        # A stamp at the origin is the origin's knot.
        assert float(control.end[w]) == (n - 1 if rows.time[w, n - 1] == 0 else n)
        origin = control.path.value(control.end)[w]
        torch.testing.assert_close(origin[1:], torch.cat([value, count / COUNT_UNIT]), atol=1e-5, rtol=0)
        assert float(origin[0]) == pytest.approx(0.0, abs=1e-6)


def hide_after(batch, stamp):
    """Hide what was observed after a time of the model."""
    return replace(batch, token_observed=batch.token_observed & (batch.token_time <= stamp))


def test_what_is_observed_later_does_not_change_a_state_before(prepared):
    """Up to the last knot but one, whose piece looks no further than its end (Morrill et al. 2021)."""
    batch = prepared.batch
    stamp = float(batch.token_time[batch.token_observed].median())
    early, whole = hide_after(batch, stamp), batch
    n_early = early.rows().row_observed.sum(1)
    assert int((n_early < whole.rows().row_observed.sum(1)).sum()) > 5

    def states(encoder, b):
        control = read_control(b, encoder.fill, 512)
        knots = torch.arange(int(n_early.max()), dtype=torch.float32).minimum(n_early[:, None] - 1).clamp(min=0)
        with torch.no_grad():
            return encoder.states(control, knots)

    has_both = (n_early > 1)[:, None, None]
    forward, linear = make(prepared), make(prepared, fill="linear")
    before, after = states(forward, early), states(forward, whole)
    assert torch.allclose(before * has_both, after * has_both, atol=1e-6)
    before, after = states(linear, early), states(linear, whole)
    assert not torch.allclose(before * has_both, after * has_both, atol=1e-3)


def test_only_the_latest_stamps_are_read(prepared):
    batch = prepared.batch
    short, whole = read_control(batch, "forward", 5), read_control(batch, "forward", 512)
    assert short.path.t.shape[1] == 6
    torch.testing.assert_close(short.path.value(short.end), whole.path.value(whole.end), atol=1e-5, rtol=0)
    first = short.path.coefficients[:, 0, 0]
    same = whole.path.value(whole.end - short.end)
    torch.testing.assert_close(first, same, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_steps", [1, 4])
def test_a_history_without_a_value_has_a_state(prepared, n_steps):
    batch = prepared.batch
    empty = replace(batch, token_observed=torch.zeros_like(batch.token_observed))
    posterior = make(prepared, n_steps=n_steps)(empty)
    assert bool(posterior.mean.isfinite().all())
    assert torch.allclose(posterior.mean, posterior.mean[:1].expand_as(posterior.mean))


def test_more_steps_come_closer(prepared):
    with torch.no_grad():
        few, many, reference = (make(prepared, n_steps=n)(prepared.batch).mean for n in (1, 4, 16))
    assert (many - reference).abs().max() < 0.2 * (few - reference).abs().max()


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"method": "kvaerno3"}, "explicit"), ({"fill": "zero"}, "fill is 'zero'"), ({"rank": 0}, "rank is 0")],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        CDEEncoder(**settings)
