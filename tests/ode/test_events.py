"""Events: times against closed forms, gradients by the implicit function theorem, and who they leave alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentode.errors import InputError
from latentode.ode import Event, FixedStep, PIDController, solve
from latentode.ode.events import locate

TIGHT = PIDController(rtol=1e-10, atol=1e-10)
ROUTES = ["direct", "checkpointed", "reversible", "backsolve"]
GRAVITY = 9.81


def fall(t: Tensor, y: Tensor, gravity: Tensor | float = GRAVITY) -> Tensor:
    """A body in free fall: height and velocity."""
    return torch.stack([y[:, 1], -gravity * torch.ones_like(y[:, 1])], 1)


def height(t: Tensor, y: Tensor) -> Tensor:
    return y[:, 0]


def swing(t: Tensor, y: Tensor) -> Tensor:
    """A harmonic oscillator of period 2 pi."""
    return torch.stack([y[:, 1], -y[:, 0]], 1)


def landing(y0: Tensor, gravity: Tensor | float = GRAVITY) -> Tensor:
    h, v = y0.unbind(1)
    return (v + (v**2 + 2 * gravity * h).sqrt()) / gravity


def some_bodies() -> Tensor:
    return torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.5, -2.0]], dtype=torch.float64)


@pytest.mark.parametrize("method", ["tsit5", "bosh3", "dopri8", "kvaerno5"])
def test_a_body_lands_when_the_closed_form_says(method: str) -> None:
    y0 = some_bodies()
    solution = solve(fall, y0, torch.tensor([0.0, 9.0]), method=method, events=height)
    torch.testing.assert_close(solution.event_times, landing(y0)[:, None].to(solution.ts), rtol=1e-6, atol=0)
    assert (solution.ys[:, -1, 0].abs() < 1e-10).all()


@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("controller", [TIGHT, FixedStep(dt=0.1)])
@pytest.mark.parametrize("step_mode", ["per_sample", "joint"])
def test_all_zeros_of_an_oscillator_are_recorded(
    direction: float, controller: PIDController | FixedStep, step_mode: str
) -> None:
    y0 = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    t_eval = torch.tensor([0.0, 20.0 * direction], dtype=torch.float64)
    solution = solve(
        swing, y0, t_eval, controller=controller, step_mode=step_mode, events=Event(height, terminal=False)
    )
    # The second starts at 0, which is no event.
    expected = direction * math.pi * torch.tensor([[0.5, 1.5, 2.5, 3.5, 4.5, 5.5], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    torch.testing.assert_close(solution.events[0].times, expected.double(), rtol=1e-5, atol=0)
    assert (solution.events[0].ys[..., 0].abs() < 1e-9).all()
    torch.testing.assert_close(solution.event_times[:, 0], solution.events[0].times[:, 0])


def test_one_way_events_see_one_kind_of_zero() -> None:
    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    both = [Event(height, terminal=False, direction=d) for d in (1, -1)]
    rising, falling = solve(
        swing, y0, torch.tensor([0.0, 12.0], dtype=torch.float64), controller=TIGHT, events=both
    ).events
    torch.testing.assert_close(rising.times / math.pi, torch.tensor([[1.5, 3.5]]).double())
    torch.testing.assert_close(falling.times / math.pi, torch.tensor([[0.5, 2.5]]).double())


def test_samples_have_their_own_number_of_events() -> None:
    speed = torch.tensor([1.0, 2.0, 0.1], dtype=torch.float64)
    y0 = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)
    solution = solve(
        lambda t, y, w: swing(t, y) * w[:, None],
        y0,
        torch.tensor([0.0, 6.0], dtype=torch.float64),
        args=(speed,),
        controller=TIGHT,
        events=Event(height, terminal=False),
    )
    times = solution.events[0].times
    assert (~times.isnan()).sum(1).tolist() == [2, 4, 0]
    torch.testing.assert_close(times[1], math.pi * torch.tensor([0.25, 0.75, 1.25, 1.75]).double())
    assert solution.event_times[2].isnan().all()
    assert solution.events[0].ys[2].isnan().all()


@pytest.mark.parametrize("adjoint", ROUTES)
def test_gradients_go_through_the_time_and_the_state_of_an_event(adjoint: str) -> None:
    y0, gravity, t0 = some_bodies(), torch.tensor(GRAVITY).double(), torch.zeros(3).double()
    wanted = [x.requires_grad_() for x in (y0, gravity, t0)]
    weights = torch.tensor([1.0, -0.5, 2.0]).double()
    solution = solve(
        fall,
        y0,
        torch.linspace(0, 2, 5).double(),
        t0=t0,
        args=(gravity,),
        adjoint=adjoint,
        controller=TIGHT,
        events=height,
    )
    exact = t0 + landing(y0, gravity)
    # What the state at the last query is, the body having landed before: its velocity then.
    impact = -((y0[:, 1] ** 2 + 2 * gravity * y0[:, 0]).sqrt())
    for found, truth in ((solution.event_times[:, 0], exact), (solution.ys[:, -1, 1], impact)):
        found = torch.autograd.grad((found * weights).sum(), wanted, retain_graph=True)
        truth = torch.autograd.grad((truth * weights).sum(), wanted, retain_graph=True, allow_unused=True)
        for g, g_exact in zip(found, truth, strict=True):
            torch.testing.assert_close(g, torch.zeros_like(g) if g_exact is None else g_exact, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("adjoint", ["direct", "checkpointed", "reversible"])
def test_the_gradient_is_that_of_the_solution_computed(adjoint: str) -> None:
    # Fixed steps: loose enough that the gradient of the exact solution would not do.
    def outcome(y0: Tensor, rate: Tensor, level: Tensor) -> tuple[Tensor, ...]:
        solution = solve(
            lambda t, y, rate: swing(t, y) * rate + 0.1 * torch.sin(t)[:, None] * y,
            y0,
            torch.tensor([0.0, 1.7, 4.0], dtype=torch.float64),
            args=(rate,),
            method="rk4",
            adjoint=adjoint,
            controller=FixedStep(dt=0.4),
            events=[lambda t, y: y[:, 0] - level - 0.1 * t, Event(lambda t, y: y[:, 1], terminal=False)],
        )
        return solution.event_times[:, 0], solution.ys, torch.nan_to_num(solution.events[1].ys)

    y0 = torch.tensor([[1.0, 0.2], [1.5, -0.2]], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    level = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outcome, (y0, rate, level), atol=1e-6)


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    y0 = some_bodies().requires_grad_()
    time = solve(fall, y0, torch.tensor([0.0, 9.0]).double(), events=height).event_times.sum()
    with pytest.raises(InputError, match="first derivatives only"):
        torch.autograd.grad(time, y0, create_graph=True)


def test_after_its_end_a_sample_stays_where_it_was() -> None:
    y0, t_eval = some_bodies(), torch.linspace(0, 1, 11).double()
    ended = solve(fall, y0, t_eval, events=height, dense=True, controller=TIGHT)
    free = solve(fall, y0, t_eval, controller=TIGHT)
    before = t_eval < ended.event_times
    assert 0 < int(before.sum()) < before.numel()
    assert torch.equal(ended.ys[before], free.ys[before])
    at_end = ended.events[0].ys.expand_as(ended.ys)
    assert torch.equal(ended.ys[~before], at_end[~before])
    torch.testing.assert_close(ended(t_eval), ended.ys)
    assert (ended.stats["nfe"] <= free.stats["nfe"]).all()


def test_recording_changes_nothing() -> None:
    y0, t_eval = some_bodies(), torch.linspace(0, 1, 11).double()
    watched = solve(swing, y0, t_eval, events=Event(height, terminal=False))
    free = solve(swing, y0, t_eval)
    assert torch.equal(watched.ys, free.ys)
    assert torch.equal(watched.stats["nfe"], free.stats["nfe"])


def test_the_first_end_counts_and_nothing_after_it() -> None:
    # All within one step.
    solution = solve(
        fall,
        torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        torch.tensor([0.0, 1.0], dtype=torch.float64),
        controller=FixedStep(dt=1.0),
        method="rk4",
        events=[height, lambda t, y: y[:, 0] - 0.5, Event(lambda t, y: t < 0.1), Event(lambda t, y: t < 0.05, False)],
    )
    expected = torch.tensor([[math.nan, math.nan, 0.1, 0.05]]).double()
    torch.testing.assert_close(solution.event_times, expected, equal_nan=True)
    torch.testing.assert_close(solution.ys[0, -1, 0], torch.tensor(1 - 0.5 * GRAVITY * 0.01).double())


def test_a_bouncing_ball_bounces_at_the_times_of_the_geometric_series() -> None:
    bounce, y, t, times = 0.5, torch.tensor([[1.0, 0.0], [2.0, 0.0]]).double(), torch.zeros(2).double(), []
    for _ in range(5):
        solution = solve(fall, y, t[:, None] + 2.0, t0=t, events=height)
        t, y = solution.event_times[:, 0], solution.ys[:, -1] * torch.tensor([1.0, -bounce])
        times.append(t)
    first = (2 * torch.tensor([1.0, 2.0]).double() / GRAVITY).sqrt()
    expected = torch.stack([first * (1 + 2 * sum(bounce**k for k in range(1, n + 1))) for n in range(5)])
    torch.testing.assert_close(torch.stack(times), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("adjoint", ROUTES)
def test_a_sample_has_the_events_that_it_has_alone(adjoint: str) -> None:
    y0 = some_bodies()
    kwargs = {"controller": FixedStep(dt=0.05), "events": height, "adjoint": adjoint}
    together = solve(fall, y0.requires_grad_(), torch.tensor([0.0, 0.7]).double(), **kwargs)
    assert together.event_times[0].isfinite().all()
    assert together.event_times[1].isnan().all()
    for i in range(3):
        alone = solve(fall, y0[i : i + 1], torch.tensor([0.0, 0.7]).double(), **kwargs)
        torch.testing.assert_close(alone.event_times[0], together.event_times[i], rtol=1e-12, atol=0, equal_nan=True)
        torch.testing.assert_close(alone.ys[0], together.ys[i], rtol=1e-12, atol=1e-12)


def test_states_come_as_they_went_in() -> None:
    y0 = {"height": torch.tensor([1.0, 2.0]), "velocity": torch.zeros(2)}
    solution = solve(
        lambda t, y: {"height": y["velocity"], "velocity": torch.full_like(y["height"], -GRAVITY)},
        y0,
        torch.tensor([0.0, 2.0]),
        events=lambda t, y: y["height"],
    )
    assert solution.event_times.dtype == torch.float32
    assert solution.events[0].ys["velocity"].shape == (2, 1)
    torch.testing.assert_close(solution.events[0].ys["velocity"][0, 0], torch.tensor(-math.sqrt(2 * GRAVITY)))
    turn = solve(
        lambda t, y: 1j * y,
        torch.ones(1, 1, dtype=torch.complex128),
        torch.tensor([0.0, 9.0]),
        events=lambda t, y: y[:, 0].real,
    )
    torch.testing.assert_close(turn.event_times, torch.tensor([[math.pi / 2]]), rtol=1e-3, atol=0)


def test_a_compiled_solve_ends_where_the_eager_one_does() -> None:
    y0 = some_bodies()
    eager, compiled = (
        solve(fall, y0, torch.tensor([0.0, 9.0]).double(), events=height, compile=c).event_times for c in (False, True)
    )
    torch.testing.assert_close(compiled, eager)


def test_a_sample_that_fails_has_no_events_and_takes_none_from_the_others() -> None:
    def sick(t: Tensor, y: Tensor) -> Tensor:
        slope = fall(t, y)
        return torch.where((torch.arange(3) == 1)[:, None] & (t > 0.1)[:, None], torch.nan, slope)

    y0 = some_bodies()
    solution = solve(sick, y0, torch.tensor([0.0, 9.0]).double(), events=height, on_failure="return")
    assert solution.event_times[1].isnan().all()
    assert solution.ys[1].isnan().all()
    healthy = [0, 2]
    torch.testing.assert_close(solution.event_times[healthy, 0], landing(y0)[healthy], rtol=1e-6, atol=0)


def test_bad_events_get_one_sentence() -> None:
    y0, t_eval = some_bodies(), torch.tensor([0.0, 9.0]).double()
    for events, message in (
        (lambda t, y: y, r"event 0 gave torch.float64 \(3, 2\).*one real number per sample, \(3,\)"),
        (lambda t, y: 1.0, "event 0 gave float"),
        ([height, lambda t, y: (y[:, 0] - 0.9).sqrt()], r"event 1 gave NaN for samples 0, 1, 2|event 1 gave NaN"),
        ("height", "give functions"),
        ([height, 3], "events holds 3"),
    ):
        with pytest.raises(InputError, match=message):
            solve(fall, y0, t_eval, events=events)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="direction is 2"):
        Event(height, direction=2)


@pytest.mark.parametrize("transform", ["vmap", "jacrev", "jacfwd"])
def test_transforms_that_would_lose_an_event_are_refused(transform: str) -> None:
    def time(y0: Tensor) -> Tensor:
        return solve(fall, y0, torch.tensor([0.0, 9.0]).double(), events=height).event_times

    with pytest.raises(InputError, match=r"events do not work under torch\.func"):
        getattr(torch.func, transform)(time)(some_bodies()[None] if transform == "vmap" else some_bodies())


@given(
    root=st.floats(0.001, 0.999),
    power=st.sampled_from([1, 3, 9]),
    scale=st.floats(1e-9, 1e9),
    kind=st.sampled_from(["power", "step", "exponential"]),
    sign=st.sampled_from([1.0, -1.0]),
)
@settings(max_examples=30, deadline=None)
def test_a_crossing_is_located_hardly_later_than_by_halving(
    root: float, power: int, scale: float, kind: str, sign: float
) -> None:
    n_calls = 0

    def value(theta: Tensor) -> Tensor:
        nonlocal n_calls
        n_calls += 1
        gap = theta - root
        shapes = {
            "power": gap**power,
            "step": torch.where(gap < 0, -1.0, 1.0).double(),
            "exponential": torch.expm1(3 * gap),
        }
        return sign * scale * shapes[kind]

    zero = torch.zeros(1, dtype=torch.float64)
    theta = locate(value, value(zero), value(zero + 1))
    # At the root a high power is 0 to rounding: any zero will do.
    assert abs(float(theta) - root) <= 1e-12 or float(value(theta + 2.0**-42)) == 0.0
    assert n_calls <= 2 + 42 + 8 + 1
    if kind == "exponential":
        assert n_calls <= 16
