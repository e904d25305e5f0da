"""How a sample's solve ended, and what to do about it."""

from __future__ import annotations

from torch import Tensor

SUCCESS, MAX_STEPS, STEP_TOO_SMALL, NOT_FINITE, NOT_CONVERGED = range(5)

# What a status means and what to do about it.
STATUS: dict[int, str] = {
    SUCCESS: "reached the last query",
    MAX_STEPS: "reached max_steps: loosen rtol and atol, take longer steps, or raise max_steps (a stiff field needs ever shorter steps)",
    STEP_TOO_SMALL: "the step fell below dtmin or the rounding of t: loosen rtol and atol, use float64, or name jumps of the "
    "field in jump_times",
    NOT_FINITE: "the field or the state became NaN or infinite: look at f there, or at the size of its parameters",
    NOT_CONVERGED: "Newton's iteration for the stages found no solution: take shorter steps or PIDController(...), "
    "loosen rtol and atol, or look whether f is smooth there",
}


def list_samples(chosen: Tensor) -> str:
    """Name the first few of the samples that are `chosen`, `(B,)`, and how many there are."""
    samples = chosen.nonzero()[:, 0].tolist()
    shown = ", ".join(map(str, samples[:5]))
    return shown if len(samples) <= 5 else f"{shown}, ... {len(samples)} in all"
