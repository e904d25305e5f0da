"""On a GPU the engine gives what it gives on the CPU, and waits for the device once per step."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from latentode.ode import (
    ADJOINTS,
    SOLVERS,
    Event,
    FixedStep,
    PIDController,
    divergence,
    odeint,
    odeint_adjoint,
    odeint_event,
    solve,
    steady_state,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

CONTROLLER = PIDController(rtol=1e-4, atol=1e-6)
N_SAMPLES = 37


class Field(nn.Module):
    """A network driven by time and by an argument."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)).double()

    def forward(self, t, y, rate):
        return self.net(y) * torch.cos(t)[:, None] + rate * y


def run(device, *, n_samples=N_SAMPLES, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(1)
    field = Field().to(device, dtype)
    y0 = torch.randn(n_samples, 3, dtype=dtype, generator=generator).to(device).requires_grad_()
    rate = (0.1 * torch.randn(n_samples, 3, dtype=dtype, generator=generator)).to(device).requires_grad_()
    t = (torch.rand(n_samples, 7, dtype=torch.float64, generator=generator) * 2).sort(1).values.to(device)
    options = {"controller": CONTROLLER, **options}
    solution = solve(field, y0, t, t0=0.0, args=(rate,), **options)
    gradients = torch.autograd.grad(solution.ys.square().sum(), [y0, rate, *field.parameters()])
    return solution, gradients


def assert_alike(options, *, tol=1e-9):
    here, there = run("cpu", **options), run("cuda", **options)
    assert there[0].ys.device.type == there[0].status.device.type == "cuda"
    torch.testing.assert_close(there[0].ys.cpu(), here[0].ys, rtol=tol, atol=tol)
    torch.testing.assert_close([g.cpu() for g in there[1]], list(here[1]), rtol=1e3 * tol, atol=1e3 * tol)
    return here, there


@pytest.mark.parametrize("method", SOLVERS)
def test_every_method_gives_the_states_and_gradients_of_the_cpu(method):
    is_paired = SOLVERS[method].b_hat is not None
    # Newton's method stops where the stages are solved well enough: there two machines may differ.
    tol = 1e-6 if method.startswith("kvaerno") else 1e-9
    here, there = assert_alike({"method": method, "controller": CONTROLLER if is_paired else FixedStep(0.05)}, tol=tol)
    if not method.startswith("kvaerno"):
        for name, count in here[0].stats.items():
            assert torch.equal(there[0].stats[name].cpu(), count)


@pytest.mark.parametrize("controller", [CONTROLLER, FixedStep(0.05)], ids=["adaptive", "fixed"])
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_every_gradient_route_gives_the_gradients_of_the_cpu(adjoint, controller):
    assert_alike({"adjoint": adjoint, "controller": controller})


@pytest.mark.parametrize("step_mode", ["per_sample", "joint"])
def test_compiled_steps_give_the_states_of_the_cpu(step_mode):
    assert_alike({"compile": True, "step_mode": step_mode})


def test_jumps_are_met_on_the_gpu():
    jumps = torch.tensor([0.5, 1.0], dtype=torch.float64)
    results = {}
    for device in ("cpu", "cuda"):
        controller = PIDController(rtol=1e-8, atol=1e-10, jump_times=jumps.to(device))
        y0 = torch.ones(4, 1, dtype=torch.float64, device=device)
        t = torch.linspace(0, 2, 5, dtype=torch.float64, device=device)
        results[device] = solve(lambda t, y: torch.floor(2 * t)[:, None] * y, y0, t, controller=controller)
    torch.testing.assert_close(results["cuda"].ys.cpu(), results["cpu"].ys, rtol=1e-10, atol=1e-10)
    assert torch.equal(results["cuda"].stats["nfe"].cpu(), results["cpu"].stats["nfe"])


def test_events_and_their_gradients_are_those_of_the_cpu():
    found = {}
    for device in ("cpu", "cuda"):
        speed = torch.linspace(1.0, 3.0, 9, dtype=torch.float64, device=device).requires_grad_()
        y0 = torch.stack([torch.zeros_like(speed), speed], 1)

        def fall(t, y):
            return torch.stack([y[:, 1], torch.full_like(y[:, 1], -9.81)], 1)

        t = torch.linspace(0, 2, 5, dtype=torch.float64, device=device)
        ground = Event(lambda t, y: y[:, 0], direction=-1)
        solution = solve(fall, y0, t, events=[ground], controller=CONTROLLER)
        (gradient,) = torch.autograd.grad(solution.event_times.sum(), speed)
        found[device] = (solution.event_times.detach().cpu(), gradient.cpu())
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found["cuda"][1], torch.full((9,), 2 / 9.81, dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_rest_of_the_engine_runs_there():
    y0 = torch.ones(5, 2, dtype=torch.float64, device="cuda")
    settled = steady_state(lambda t, y: torch.cos(y) - y, y0)
    torch.testing.assert_close(settled.y, torch.full_like(y0, 0.7390851332151607), rtol=1e-6, atol=1e-8)
    t = torch.linspace(0, 1, 5, dtype=torch.float64, device="cuda")
    decay = nn.Linear(2, 2, bias=False).double().cuda()
    for solver in (odeint, odeint_adjoint):
        ys = solver(lambda t, y: decay(y), y0, t) if solver is odeint else solver(_OnState(decay), y0, t)
        expected = torch.einsum("tij,bj->tbi", torch.linalg.matrix_exp(decay.weight * t[:, None, None]), y0)
        torch.testing.assert_close(ys, expected, rtol=1e-6, atol=1e-7)
    at, _ = odeint_event(lambda t, y: -y, y0, t[0], event_fn=lambda t, y: y[0, 0] - 0.5)
    torch.testing.assert_close(at.cpu(), torch.tensor(0.6931471805599453, dtype=torch.float64), rtol=1e-6, atol=0)
    _, trace = divergence(lambda t, y: y**3, 0.0, y0)
    torch.testing.assert_close(trace, torch.full_like(trace, 6.0))


class _OnState(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t, y):
        return self.net(y)


def count_waits(t_end):
    """Count the synchronisations of a solve, and the steps it took."""
    field = Field().cuda().float()
    y0, rate = torch.randn(64, 3, device="cuda"), torch.zeros(64, 3, device="cuda")
    t = torch.linspace(0, t_end, 9, device="cuda")
    solve(field, y0, t, args=(rate,), controller=PIDController(rtol=1e-5, atol=1e-7))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter("always")
            solution = solve(field, y0, t, args=(rate,), controller=PIDController(rtol=1e-5, atol=1e-7))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    n_waits = sum("synchroniz" in str(warning.message) for warning in caught)
    return n_waits, int(solution.stats["n_steps"].max())


def test_there_is_one_synchronisation_per_step_and_a_few_per_solve():
    short, long = count_waits(2.0), count_waits(40.0)
    assert long[1] > 3 * short[1]
    assert long[0] - short[0] <= 1.1 * (long[1] - short[1]) + 2
    assert short[0] - short[1] <= 8


def test_a_failing_sample_leaves_the_others_on_the_gpu_intact():
    y0 = torch.tensor([[2.0], [0.1]], dtype=torch.float64, device="cuda")
    t = torch.tensor([0.0, 1.0], dtype=torch.float64, device="cuda")
    solution = solve(lambda t, y: y**2, y0, t, controller=CONTROLLER, on_failure="return")
    assert solution.status.tolist()[0] != 0
    assert bool(solution.ys[0].isnan().all())
    assert float(solution.ys[1, -1, 0]) == pytest.approx(1 / 9, rel=1e-3)


def test_autocast_keeps_the_state_in_float32():
    net = nn.Linear(4, 4).cuda()
    y0 = torch.randn(8, 4, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        solution = solve(lambda t, y: -y + 0.1 * net(y), y0, torch.tensor([0.0, 1.0], device="cuda"))
    assert solution.ys.dtype == torch.float32
    assert bool(solution.ys.isfinite().all())


def test_resting_samples_leave_a_large_batch_and_the_result_is_the_same():
    rate = torch.logspace(0, 2.5, 2048, dtype=torch.float64, device="cuda")[:, None]
    y0 = torch.ones(2048, 4, dtype=torch.float64, device="cuda")
    t = torch.tensor([0.0, 3.0], dtype=torch.float64, device="cuda")
    results = [
        solve(lambda t, y, k: -k * (y - torch.cos(t)[:, None]), y0, t, args=(rate,), compact=compact).ys
        for compact in (True, False)
    ]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
