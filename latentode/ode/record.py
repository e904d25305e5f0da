"""What a solve leaves behind for its way back: the steps that were taken, and the states at some of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

_STEPS_PER_BLOCK = 64


@dataclass
class Mark:
    """A state along the way.

    Attributes:
        i_step: how many steps were tried before.
        tau: the clock there, `(B,)`.
        y: the loop's state, `(B, ...)`.
    """

    i_step: int
    tau: Tensor
    y: Tensor


@dataclass
class Segment:
    """The steps between two marks, each sample's own steps moved to the front.

    Attributes:
        start, end: the marks.
        h: length of each step, 0 where a sample has taken fewer, `(S, B)`.
        tau: the clock before each step, `(S, B)`.
    """

    start: Mark
    end: Mark
    h: Tensor
    tau: Tensor


@dataclass
class Record:
    """The accepted steps of a solve, one number each, and marks every so many steps.

    Attributes:
        stride: steps from one mark to the next.
        most: how many marks may stand before every other one is dropped and the stride doubled; None: none are ever dropped; 0: as
            many as twice the stride, so that `n` steps leave about `sqrt(n)` marks.
    """

    stride: int
    most: int | None
    marks: list[Mark] = field(default_factory=list)
    blocks: list[Tensor] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)

    def before(self, i_step: int, tau: Tensor, y: Tensor) -> None:
        """See the state before a step."""
        if i_step % self.stride:
            return
        self.marks.append(Mark(i_step, tau, y))
        if self.most is not None and len(self.marks) > (self.most or 2 * self.stride):
            self.stride *= 2
            self.marks = [mark for mark in self.marks if mark.i_step % self.stride == 0]

    def after(self, h: Tensor) -> None:
        """See a step's length, 0 where it was rejected, `(B,)`."""
        self.last.append(h)
        if len(self.last) == _STEPS_PER_BLOCK:
            # One tensor for many steps: a small one is mostly overhead.
            self.blocks.append(torch.stack(self.last))
            self.last.clear()

    def segments_backward(self, i_end: int, tau: Tensor, y: Tensor) -> Iterator[Segment]:
        """Give the segments from the last to the first; `tau` and `y` stand at the end."""
        lengths = torch.cat([*self.blocks, torch.stack(self.last)] if self.last else self.blocks)
        end = Mark(i_end, tau, y)
        for start in reversed(self.marks):
            if start.i_step < end.i_step:
                yield pack(start, end, lengths[start.i_step : end.i_step])
            end = start


def pack(start: Mark, end: Mark, h: Tensor) -> Segment:
    """Move each sample's own steps to the front of `h` `(S, B)`: those that were rejected or rested take no time on the way back."""
    is_taken = h > 0
    n_most = int(is_taken.sum(0).amax())
    if n_most < len(h):
        order = torch.sort(~is_taken, dim=0, stable=True).indices[:n_most]
        h = h.gather(0, order)
    tau = start.tau + torch.cat([torch.zeros_like(h[:1]), h.cumsum(0)[:-1]]) if len(h) else h
    return Segment(start, end, h, torch.minimum(tau, end.tau) if len(h) else tau)
