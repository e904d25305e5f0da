"""What a solve leaves behind for its way back: the steps that were taken, and the states at some of them.

A route may renew some samples' states between two steps. Where it does is decided on the device, sample by sample, so the states before
are kept for a few steps, until one synchronisation for all of them tells which to keep for good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

_STEPS_PER_BLOCK = 64
_STEPS_PER_SIFTING = 8


class Renewer(Protocol):
    """What renews states between two steps."""

    def renew_all(self, y: Tensor, /) -> Tensor:
        """Renew every sample's state, `(B, ...)`."""
        ...

    def renew_some(self, y: Tensor, /) -> tuple[Tensor, Tensor]:
        """Renew the states of those samples that need it; tells which, `(B,)`."""
        ...


@dataclass
class Renewals:
    """Samples whose state was renewed, one entry each.

    Attributes:
        i_step: how many steps were tried before, `(P,)`.
        sample: whose state, `(P,)`.
        y: the state before it was renewed, `(P, ...)`.
    """

    i_step: Tensor
    sample: Tensor
    y: Tensor


@dataclass
class Mark:
    """A state along the way.

    Attributes:
        i_step: how many steps were tried before.
        tau: the clock there, `(B,)`.
        y: the loop's state, `(B, ...)`; where states are renewed, the one before.
        renewals: from here to the next mark.
    """

    i_step: int
    tau: Tensor
    y: Tensor
    renewals: list[Renewals] = field(default_factory=list)


@dataclass
class Segment:
    """The steps between two marks, each sample's own steps moved to the front.

    Attributes:
        start, end: the marks.
        h: length of each step, 0 where a sample has taken fewer, `(S, B)`.
        tau: the clock before each step, `(S, B)`.
        renewed: the samples that were renewed after each number of their own steps, `0..S`, and their states before; empty where none was.
    """

    start: Mark
    end: Mark
    h: Tensor
    tau: Tensor
    renewed: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@dataclass
class Record:
    """The accepted steps of a solve, one number each, and marks every so many steps.

    Attributes:
        stride: steps from one mark to the next.
        most: how many marks may stand before every other one is dropped and the stride doubled; None: none are ever dropped; 0: as
            many as twice the stride, so that `n` steps leave about `sqrt(n)` marks.
        renewer: renews states: all at a mark, some before every other step.
    """

    stride: int
    most: int | None
    renewer: Renewer | None = None
    marks: list[Mark] = field(default_factory=list)
    blocks: list[Tensor] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)
    unsifted: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)

    def before(self, i_step: int, tau: Tensor, y: Tensor) -> Tensor:
        """See the state before a step, and give the one to step from."""
        if i_step % self.stride == 0:
            self._sift()
            self.marks.append(Mark(i_step, tau, y))
            if self.most is not None and len(self.marks) > (self.most or 2 * self.stride):
                self.stride *= 2
                self.marks = [mark for mark in self.marks if mark.i_step % self.stride == 0]
            return y if self.renewer is None else self.renewer.renew_all(y)
        if self.renewer is None:
            return y
        renewed, is_renewed = self.renewer.renew_some(y)
        self.unsifted.append((i_step, is_renewed, y))
        if len(self.unsifted) == _STEPS_PER_SIFTING:
            self._sift()
        return renewed

    def after(self, h: Tensor) -> None:
        """See a step's length, 0 where it was rejected, `(B,)`."""
        self.last.append(h)
        if len(self.last) == _STEPS_PER_BLOCK:
            # One tensor for many steps: a small one is mostly overhead. Where all samples take the same steps, one number each will do.
            block = torch.stack(self.last)
            first = block[:, :1]
            self.blocks.append(first.clone().expand_as(block) if bool((block == first).all()) else block)
            self.last.clear()

    def _sift(self) -> None:
        """Keep the states that were renewed in the last steps, and let go of the others."""
        if not self.unsifted:
            return
        i_steps, is_renewed, ys = zip(*self.unsifted, strict=True)
        self.unsifted.clear()
        i, sample = torch.stack(is_renewed).nonzero().unbind(1)
        if len(i):
            i_step = torch.tensor(i_steps, device=i.device)[i]
            self.marks[-1].renewals.append(Renewals(i_step, sample, torch.stack(ys)[i, sample]))

    def segments_backward(self, i_end: int, tau: Tensor, y: Tensor) -> Iterator[Segment]:
        """Give the segments from the last to the first; `tau` and `y` stand at the end."""
        self._sift()
        blocks = [*self.blocks, torch.stack(self.last)] if self.last else self.blocks
        end = Mark(i_end, tau, y)
        for start in reversed(self.marks):
            if start.i_step < end.i_step:
                i_block, i_first = divmod(start.i_step, _STEPS_PER_BLOCK)
                # No more blocks than the segment needs: all lengths in one piece would take their memory twice.
                h = torch.cat(blocks[i_block : -(-end.i_step // _STEPS_PER_BLOCK)])
                yield pack(start, end, h[i_first : i_first + end.i_step - start.i_step])
            end = start


def pack(start: Mark, end: Mark, h: Tensor) -> Segment:
    """Move each sample's own steps to the front of `h` `(S, B)`: those that were rejected or rested take no time on the way back."""
    is_taken = h > 0
    n_taken = is_taken.cumsum(0)
    n_most = int(n_taken[-1].amax())
    renewed = _sort_renewals(start, n_taken, n_most) if start.renewals else []
    if n_most < len(h) or renewed:
        order = torch.sort(~is_taken, dim=0, stable=True).indices[:n_most]
        h = h.gather(0, order)
    tau = start.tau + torch.cat([torch.zeros_like(h[:1]), h.cumsum(0)[:-1]]) if len(h) else h
    return Segment(start, end, h, torch.minimum(tau, end.tau) if len(h) else tau, renewed)


def _sort_renewals(start: Mark, n_taken: Tensor, n_most: int) -> list[tuple[Tensor, Tensor]]:
    """Sort what was renewed after `start` by the number of steps that the sample had taken from there."""
    i_step, sample = (torch.cat([getattr(r, name) for r in start.renewals]) for name in ("i_step", "sample"))
    n = n_taken[i_step - start.i_step - 1, sample]
    order = torch.sort(n, stable=True).indices
    y = torch.cat([renewals.y for renewals in start.renewals])[order]
    counts = torch.bincount(n, minlength=n_most + 1).tolist()
    return list(zip(sample[order].split(counts), y.split(counts), strict=True))
