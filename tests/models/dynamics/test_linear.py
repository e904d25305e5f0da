"""The closed form is the exponential of its matrix: against PyTorch's, SciPy's and our own solver, in float64."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch

from latentode.errors import InputError
from latentode.models import LinearField
from latentode.ode import PIDController, solve
from tests.data.tables import make_table

KINDS = {"diagonal": {}, "modulated": {"modulated": True}, "dense": {"kind": "dense"}}
B, Q, E = 3, 4, 5
SCHEMA = make_table().schema


def make(kind, size=6, seed=0):
    torch.manual_seed(seed)
    field = LinearField(**KINDS[kind])
    field.setup(SCHEMA, size, E)
    with torch.no_grad():
        for p in field.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return field.double()


def ask(size=6, seed=1, high=1.0):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    z0, context = torch.randn(B, size, **draw), torch.randn(B, E, **draw)
    return z0, torch.zeros(B, dtype=torch.float64), high * torch.rand(B, Q, **draw).sort(1).values, context


def matrix_of(field, context_E):
    """Write out `A` of one series from the definition of the pairs."""
    if field.kind == "dense":
        return (field.skew - field.skew.T) / 2 - field.root @ field.root.T
    decay, frequency = field.raw_decay.exp().log1p(), field.frequency
    if field.modulated:
        factor = torch.exp(2 * torch.tanh(field.modulation(context_E)))
        decay, frequency = decay * factor[: len(decay)], frequency * factor[len(decay) :]
    n = len(frequency)
    matrix = torch.zeros(n + len(decay), n + len(decay), dtype=torch.float64)
    for i in range(n):
        matrix[i, i] = matrix[n + i, n + i] = -decay[i]
        matrix[i, n + i], matrix[n + i, i] = -frequency[i], frequency[i]
    for i in range(n, len(decay)):
        matrix[n + i, n + i] = -decay[i]
    return matrix


@pytest.mark.parametrize("size", [1, 2, 5, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_exponential_of_its_matrix(kind, size):
    field = make(kind, size)
    z0, t0, t, context = ask(size)
    z = field(z0, t0, t, context)
    level = field.level(context)
    for b in range(B):
        matrix = matrix_of(field, context[b]).detach()
        for q in range(Q):
            for exponential in (
                torch.linalg.matrix_exp(matrix * t[b, q]),
                scipy.linalg.expm((matrix * t[b, q]).numpy()),
            ):
                expected = level[b] + torch.as_tensor(exponential) @ (z0[b] - level[b])
                assert torch.allclose(z[b, q], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_solver_gives_with_the_same_forcing(kind):
    field = make(kind)
    z0, t0, t, context = ask()
    matrices = torch.stack([matrix_of(field, row) for row in context])
    forcing = -(matrices @ field.level(context)[..., None])[..., 0]
    slope = lambda t, z: (matrices @ z[..., None])[..., 0] + forcing  # noqa: E731
    solved = solve(slope, z0, t, t0=t0, method="dopri8", controller=PIDController(rtol=1e-11, atol=1e-11))
    assert torch.allclose(field(z0, t0, t, context), solved.ys, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_a_state_is_going_there_at_once(kind):
    field = make(kind)
    z0, t0, t, context = ask()
    half = field(z0, t0, t[:, :1], context)[:, 0]
    assert torch.allclose(field(half, t[:, 0], t, context), field(z0, t0, t, context), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_back_after_forth_is_where_it_began(kind):
    field = make(kind)
    z0, t0, t, context = ask()
    z1 = field(z0, t0, t[:, -1:], context)[:, 0]
    assert torch.allclose(field(z1, t[:, -1], t0[:, None], context)[:, 0], z0, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_comes_back_to_the_rounding_that_the_decay_allows(kind):
    field = make(kind).float()
    z0, t0, t, context = (x.float() for x in ask())
    there = t[:, -1]
    back = field(field(z0, t0, there[:, None], context)[:, 0], there, t0[:, None], context)[:, 0]
    # What has decayed by a factor comes back with its rounding multiplied by it.
    fastest = max(-torch.linalg.eigvals(matrix_of(field, row).double()).real.min().item() for row in context)
    allowed = 50 * torch.finfo(torch.float32).eps * math.exp(fastest * there.max()) * z0.abs().max()
    assert (back - z0).abs().max() < allowed


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_queries_and_rows_does_not_matter(kind):
    field = make(kind)
    z0, t0, t, context = ask()
    z = field(z0, t0, t, context)
    assert torch.equal(field(z0, t0, t.flip(1), context).flip(1), z)
    alone = field(z0[1:2], t0[1:2], t[1:2], context[1:2])
    assert torch.allclose(alone[0], z[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_only_differences_of_time_count(kind):
    field = make(kind)
    z0, t0, t, context = ask()
    assert torch.allclose(field(z0, t0 + 2.0, t + 2.0, context), field(z0, t0, t, context), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_settles_at_the_level_of_its_series(kind):
    field = make(kind)
    z0, t0, _, context = ask()
    late = field(z0, t0, torch.full((B, 1), 1e3, dtype=torch.float64), context)[:, 0]
    assert torch.allclose(late, field.level(context), atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_no_state_of_the_dense_kind_ever_grows(seed):
    field = make("dense", seed=seed)
    with torch.no_grad():
        field.skew.mul_(3)
        field.root.add_(torch.randn_like(field.root))
    z0, t0, _, context = ask(seed=seed)
    t = torch.linspace(0, 3, 40, dtype=torch.float64).expand(B, -1)
    distance = (field(z0, t0, t, context) - field.level(context)[:, None]).norm(dim=-1)
    assert (distance.diff(dim=1) <= 1e-10).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind):
    field = make(kind, size=5)
    names, values = zip(*field.named_parameters(), strict=True)
    values = [value.detach().requires_grad_() for value in values]
    inputs = [x.requires_grad_() for x in ask(5)]

    def forward(z0, t0, t, context, *parameters):
        return torch.func.functional_call(field, dict(zip(names, parameters, strict=True)), (z0, t0, t, context))

    assert torch.autograd.gradcheck(forward, (*inputs, *values))


def test_equal_eigenvalues_leave_values_and_gradients_finite():
    field = make("dense")
    with torch.no_grad():
        field.skew.zero_()
        field.root.copy_(torch.eye(6))
    z0, t0, t, context = ask()
    z = field(z0, t0, t, context)
    level = field.level(context)[:, None]
    assert torch.allclose(z, level + torch.exp(-t)[..., None] * (z0[:, None] - level))
    z.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in field.parameters())


def test_an_untrained_dense_field_begins_with_the_spectrum_of_the_pairs():
    torch.manual_seed(0)
    fields = [LinearField(kind) for kind in ("diagonal", "dense")]
    for field in fields:
        field.setup(SCHEMA, 8, E)
    frequency = [torch.linalg.eigvals(matrix_of(field, None)).imag.sort().values for field in fields]
    assert torch.allclose(frequency[0].double(), frequency[1].double(), atol=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_batch_takes_no_matrix_per_row_or_time(kind):
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes = [x.numel() for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, torch.Tensor)]
            largest[0] = max(largest[0], *sizes, 0)
            return out

    field = make(kind, size=16)
    rows, queries = 50, 7
    with Watch():
        field(
            torch.randn(rows, 16).double(),
            torch.zeros(rows).double(),
            torch.rand(rows, queries).double(),
            torch.randn(rows, E).double(),
        )
    # A complex number counts twice.
    assert largest[0] <= 2 * rows * queries * 16


@pytest.mark.parametrize("settings", [{"kind": "sparse"}, {"kind": "dense", "modulated": True}])
def test_settings_that_do_not_go_together_are_refused(settings):
    with pytest.raises(InputError, match="kind"):
        LinearField(**settings)
