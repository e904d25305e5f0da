"""Multiple shooting: a long way is trained in pieces that start on their own and are drawn together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.dynamics.tolerance import check_loosen, looseness
from latentode.models.interfaces import Dynamics, pad


class MultipleShooting(Dynamics):
    """Trains another dynamics over long horizons in segments (Bock 1983; Iakovlev et al. 2022; Turan and Jaschke 2022).

    Over many swings the error of a path is a rugged function of its field, and gradients through it vanish or explode. So in training a
    horizon is cut into `n_segments` of one length, each of which starts from a state of its own: a query is answered from the start of
    its segment, and the loss gains `weight / 2` times the squared gap between where one segment ends and the next one starts, averaged
    over the state and over the joints up to a sample's last query: the continuity prior of Iakovlev et al.
    It is weak at first and grows as training goes on (Turan and Jaschke's penalty). All segments are solved beside each other, which
    takes as many solver steps in sequence as the longest of them.

    The starts are given by a network on the state at the origin, the context and the segment's place, their recognition network but for
    what it reads: a forecast knows the history only. It is used in training alone. Outside of it, and in training once `until` of it
    is behind, one path leads from the origin to every query.

    Args:
        dynamics: what is trained; without parameters yet.
        n_segments: of one horizon; what lies beyond it belongs to the last one.
        weight: of the gaps, once it has grown.
        loosen: by which factor it is smaller at the start of training.
        until: fraction of the planned training from which on there is one path.
        hidden_size: width of the network's hidden layer.

    Raises:
        InputError: a setting is out of its range.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        n_segments: int = 4,
        *,
        weight: float = 10.0,
        loosen: float = 100.0,
        until: float = 0.8,
        hidden_size: int = 64,
    ) -> None:
        super().__init__()
        if n_segments < 1:
            raise InputError(f"n_segments is {n_segments}; give a number of at least 1.")
        if not 0 < weight < float("inf"):
            raise InputError(f"weight is {weight!r}; give a positive number.")
        if not 0 <= until <= 1:
            raise InputError(f"until is {until!r}; give a fraction of training, from 0 to 1.")
        self.dynamics = dynamics
        self.n_segments = n_segments
        self.weight = weight
        self.loosen = check_loosen(loosen)
        self.until = until
        self.hidden_size = hidden_size
        self._fraction = 0.0

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the parameters of the dynamics, and the network of the starts, which begins at the state at the origin."""
        self.dynamics.setup(schema, latent_size, context_size)
        if self.n_segments == 1:
            return
        self.from_state = nn.Linear(latent_size, self.hidden_size)
        self.from_context = nn.Linear(context_size, self.hidden_size, bias=False)
        # A vector for each start but the first: of a single series the starts are as free as if they were parameters.
        self.place = nn.Embedding(self.n_segments - 1, self.hidden_size)
        self.to_start = nn.Linear(self.hidden_size, latent_size)
        nn.init.zeros_(self.to_start.weight)
        nn.init.zeros_(self.to_start.bias)

    def at_progress(self, fraction: float) -> None:
        """Let the weight of the gaps grow, and end with one path."""
        self._fraction = fraction
        self.dynamics.at_progress(fraction)

    def paths(self) -> Iterator[int]:
        """Go through the paths of the dynamics."""
        return self.dynamics.paths()

    def velocity(self, z_BD: Tensor, context_BE: Tensor) -> Tensor:
        """Give how fast states move, `(B, D)`, as the dynamics does."""
        return self.dynamics.velocity(z_BD, context_BE)

    @property
    def is_cut(self) -> bool:
        """Whether segments start on their own now."""
        return self.training and self.n_segments > 1 and self._fraction < self.until

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`."""
        if not self.is_cut:
            return self._take_over(self.dynamics(z0_BD, t0_B, t_BQ, context_BE))
        n_samples, n_queries = t_BQ.shape
        sample_T = torch.arange(n_samples, device=t_BQ.device).repeat_interleave(n_queries)
        return self._shoot(z0_BD, t0_B, context_BE, sample_T, t_BQ.flatten()).view(n_samples, n_queries, -1)

    def carry_from(self, t0_B: Tensor, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Give the state of one sample for each query, `(T, D)`."""
        if not self.is_cut:
            return self._take_over(self.dynamics.carry_from(t0_B, z0_BD, context_BE, sample_T, t_T))
        return self._shoot(z0_BD, t0_B, context_BE, sample_T, t_T)

    def starts(self, z0_BD: Tensor, context_BE: Tensor) -> Tensor:
        """Give the state `(B, K, D)` that each segment starts from, the first one from the state at the origin."""
        drive_B1H = (self.from_state(z0_BD) + self.from_context(context_BE))[:, None]
        move_BKD = self.to_start(torch.tanh(drive_B1H + self.place.weight))
        return torch.cat([z0_BD[:, None], z0_BD[:, None] + move_BKD], 1)

    def _shoot(self, z0_BD: Tensor, t0_B: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Answer every query from the start of its segment; note the gaps."""
        n_samples, k = len(z0_BD), self.n_segments
        after_T = t_T - t0_B.index_select(0, sample_T)
        segment_T = (after_T.detach() * k).long().clamp(0, k - 1)
        # The segments up to each sample's last query, in a row; a segment is a sample of the dynamics.
        last_B = torch.zeros(n_samples, dtype=torch.int64, device=t_T.device)
        last_B = last_B.scatter_reduce(0, sample_T, segment_T, "amax")
        sample_P = torch.arange(n_samples, device=t_T.device).repeat_interleave(last_B + 1)
        first_B = (last_B + 1).cumsum(0) - (last_B + 1)
        segment_P = torch.arange(len(sample_P), device=t_T.device) - first_B.index_select(0, sample_P)
        start_PD = self.starts(z0_BD, context_BE).flatten(0, 1).index_select(0, sample_P * k + segment_P)
        t0_P = t0_B.index_select(0, sample_P) + segment_P.to(t0_B.dtype) / k
        # Behind the queries of a segment stands its end, which the next one begins at; of the last one nothing more is asked.
        joint_J = (segment_P < last_B.index_select(0, sample_P)).nonzero()[:, 0]
        asked = torch.cat([first_B.index_select(0, sample_T) + segment_T, joint_J])
        t = torch.cat([t_T, t0_P.index_select(0, joint_J + 1)])
        rows_PQ, place = pad(asked, t, len(sample_P))
        z_PQD = self.dynamics(start_PD, t0_P, rows_PQ, context_BE.index_select(0, sample_P))
        z_TD, end_JD = z_PQD.flatten(0, 1).index_select(0, place).split([len(t_T), len(joint_J)])
        gap_J = (end_JD - start_PD.index_select(0, joint_J + 1)).square().mean(-1)
        self._take_over(z_TD, sample_P, n_samples)
        weight = self.weight / looseness(self.loosen, self._fraction / max(self.until, 1e-9))
        penalty_B = gap_J.new_zeros(n_samples).index_add(0, sample_P.index_select(0, joint_J), gap_J * weight / 2)
        # The mean over the joints, as the loss is a mean over targets: the weight means the same however many segments there are.
        penalty_B = penalty_B / last_B.clamp(min=1)
        self.penalty = penalty_B if self.penalty is None else self.penalty + penalty_B
        return z_TD

    def _take_over(self, z: Tensor, sample_P: Tensor | None = None, n_samples: int = 0) -> Tensor:
        """Take over what the dynamics adds to the loss, of its samples `sample_P` or as it is; its cost is told by itself."""
        for name in ("penalty", "divergence"):
            told = getattr(self.dynamics, name)
            if told is not None and sample_P is not None:
                told = told.new_zeros(n_samples).index_add(0, sample_P, told)
            setattr(self, name, told)
        if self.training and not self.is_cut and self.n_segments > 1:
            # The network of the starts rests; a gradient of zero keeps processes that train together together.
            network = (self.from_state, self.from_context, self.place, self.to_start)
            rest = 0 * torch.stack([p.sum() for part in network for p in part.parameters()]).sum()
            self.penalty = rest[None] if self.penalty is None else self.penalty + rest
        return z
