"""Collects the states at the queries, read off the interpolants in a few large pieces."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .dense import Steps
from .problem import Problem
from .transforms import carries_tangents


@dataclass
class QueryWriter:
    """Collects the states at the queries of a problem.

    Writing into one `(B, Q, D)` output at every step would cost the whole output per step, forward and backward. Where every query is
    a start or an end nothing is read at all.

    Attributes:
        problem: whose queries are read.
        keeps_slopes: whether the slopes at the queries are wanted, too.
        rows: where the samples stand in the whole batch, `(B,)`; None: it is the whole.
        pieces, slope_pieces, places: states and slopes `(P, D)`, and the queries of the whole batch that they belong to, flat `(P,)`.
    """

    problem: Problem
    keeps_slopes: bool = False
    rows: Tensor | None = None
    read_up_to: Tensor | None = None
    pieces: list[Tensor] = field(default_factory=list)
    slope_pieces: list[Tensor] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)

    @property
    def reads(self) -> bool:
        """Whether steps are needed at all."""
        return self.keeps_slopes or self.problem.has_inner_queries or self.follows_times

    @property
    def follows_times(self) -> bool:
        """Whether the times of the queries may have derivatives: the end, too, is then read off its step."""
        return self.problem.tau_eval.requires_grad or carries_tangents()

    def few(self, problem: Problem, rows: Tensor) -> QueryWriter:
        """Give the writer for some of the samples; what it reads goes to the same place."""
        up_to = None if self.read_up_to is None else self.read_up_to.index_select(0, rows)
        whole = rows if self.rows is None else self.rows.index_select(0, rows)
        lists = (self.pieces, self.slope_pieces, self.places)
        return QueryWriter(problem, self.keeps_slopes, whole, up_to, *lists)

    def read(self, steps: Steps, *, is_last: bool) -> None:
        """Read the queries that `steps` have passed; the last time, all that are left (a failed sample's are void)."""
        if not steps.ends or not self.reads:
            return
        tau = self.problem.tau_eval.detach()
        if is_last and self.read_up_to is None and self.rows is None:
            self._take(steps, None)
            return
        is_due = tau >= 0 if self.read_up_to is None else tau > self.read_up_to[:, None]
        if not is_last:
            # A sample that has not moved keeps even its query at the start for later.
            has_moved = steps.ends[-1] > 0
            is_due &= (tau <= steps.ends[-1][:, None]) & has_moved[:, None]
            self.read_up_to = torch.where(has_moved, steps.ends[-1], -1.0)
        place = is_due.flatten().nonzero()[:, 0]
        if len(place) == 0:
            return
        self._take(steps, place)
        if self.rows is not None:
            sample = torch.div(place, tau.shape[1], rounding_mode="floor")
            place = place + (self.rows.index_select(0, sample) - sample) * tau.shape[1]
        self.places.append(place)

    def _take(self, steps: Steps, place: Tensor | None) -> None:
        self.pieces.append(steps.evaluate(self.problem.tau_eval, place))
        if self.keeps_slopes:
            self.slope_pieces.append(steps.evaluate(self.problem.tau_eval, place, slopes=True))

    def collect(self, y1: Tensor, failed: Tensor | None) -> Tensor:
        """Give the states at all queries, `(B, Q, D)`, NaN for the samples that failed; `y1` `(B, D)` are the states at the ends."""
        problem = self.problem
        tau, span = problem.tau_eval.detach(), problem.span
        if not self.reads or not self.pieces:
            ys = torch.where((tau > 0)[..., None], y1[:, None], problem.y0[:, None])
        else:
            ys = self._ordered(self.pieces, problem.y0)
            if not self.follows_times:
                # The end of a solve is its last step's, to the last bit, whoever asks.
                if problem.has_repeats:
                    ys = torch.where(((tau >= span[:, None]) & (tau > 0))[..., None], y1[:, None], ys)
                else:
                    # In a sample with nothing to solve both are the start.
                    ys = torch.cat([ys[:, :-1], y1[:, None]], 1)
        return ys if failed is None else torch.where(failed[:, None, None], torch.nan, ys)

    def slopes(self) -> Tensor:
        """Give the slopes at all queries, per unit of the clock, `(B, Q, D)`; 0 for a sample with nothing to solve."""
        nothing = torch.zeros_like(self.problem.y0)
        return (
            self._ordered(self.slope_pieces, nothing)
            if self.pieces
            else self.problem.tau_eval[..., None] * nothing[:, None]
        )

    def _ordered(self, pieces: list[Tensor], otherwise: Tensor) -> Tensor:
        n_samples, n_queries = self.problem.tau_eval.shape
        if not self.places:
            return pieces[0].view(n_samples, n_queries, -1)
        places = torch.cat(self.places)
        # A sample that rested from the start has queries that no step has passed: they are its start.
        where = torch.full((n_samples * n_queries,), len(places), device=places.device)
        where = where.scatter(0, places, torch.arange(len(places), device=places.device))
        sample = torch.arange(n_samples, device=places.device).repeat_interleave(n_queries)
        is_read = where < len(places)
        found = torch.cat(pieces).index_select(0, where.clamp(max=len(places) - 1))
        found = torch.where(is_read[:, None], found, otherwise.index_select(0, sample))
        return found.view(n_samples, n_queries, -1)
