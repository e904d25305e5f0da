"""Neural flows: a network gives the solution of a differential equation itself, without its field and without a solver."""

from __future__ import annotations

from torch import Tensor, nn

from latentode.data.schema import Schema
from latentode.errors import InputError
from latentode.models.dynamics.flow_layers import CouplingLayer, FlowLayer, GRULayer, ResidualLayer
from latentode.models.interfaces import Dynamics

KINDS = ("resnet", "gru", "coupling")


class NeuralFlow(Dynamics):
    """Carries the state by `F(t, z0)`, with `F(0, z0) = z0` and `F(t, .)` invertible for every `t` (Biloš et al. 2021).

    So paths never cross, as those of `dz/dt = f(t, z)` never do, and a query costs a few products of matrices wherever it lies. Time
    counts from where the state was given; since `f` sees it, going on from a state on the way is not the path that went there at once.
    What a layer does to a state is bounded and comes to rest after some horizons, and so do forecasts far ahead. Before `t0` the
    flow is defined and invertible too, but nothing in training says how it goes there.

    - `kind="resnet"`: `z + phi(t) g(t, z)`, `g` with a Lipschitz constant below 1, `phi = tanh(w t)`.
    - `kind="gru"`: towards a candidate, as far as gates let it, the flow of a GRU.
    - `kind="coupling"`: halves of the state, of two numbers at least, stretch and move each other in turn; the inverse is a formula.

    Args:
        kind: "resnet", "gru" or "coupling".
        hidden_size: width of the hidden layer of each map; a GRU has none.
        n_layers: how many maps follow each other; of "coupling" two at least, so that both halves move.

    Raises:
        InputError: there is no such kind, or too few layers.
    """

    def __init__(self, kind: str = "resnet", *, hidden_size: int = 64, n_layers: int = 2) -> None:
        super().__init__()
        if kind not in KINDS:
            raise InputError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}.")
        fewest = 2 if kind == "coupling" else 1
        if n_layers < fewest:
            raise InputError(f"n_layers is {n_layers}; a flow of kind {kind!r} has {fewest} at least.")
        self.kind = kind
        self.hidden_size = hidden_size
        self.n_layers = n_layers

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers, and the map that tells all of them of the context.

        Raises:
            InputError: a coupling flow of a state of one number, which has no halves.
        """
        if self.kind == "coupling" and latent_size < 2:
            raise InputError(f"latent_size is {latent_size}; kind 'coupling' moves one half of a state by the other.")
        self.layers = nn.ModuleList(self._layer(i, latent_size) for i in range(self.n_layers))
        self.n_drives = [layer.n_drive for layer in self._layers()]
        self.from_context = nn.Linear(context_size, sum(self.n_drives), bias=False)

    def _layer(self, i: int, size: int) -> FlowLayer:
        if self.kind == "coupling":
            return CouplingLayer(size, self.hidden_size, moves_first=i % 2 == 0)
        return GRULayer(size) if self.kind == "gru" else ResidualLayer(size, self.hidden_size)

    def _layers(self) -> list[FlowLayer]:
        return [layer for layer in self.layers if isinstance(layer, FlowLayer)]

    def forward(self, z0_BD: Tensor, t0_B: Tensor, t_BQ: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states `(B, Q, D)`."""
        z_BQD = z0_BD[:, None].expand(-1, t_BQ.shape[1], -1)
        return self._flow(z_BQD, t_BQ - t0_B[:, None], self.from_context(context_BE)[:, None])

    def carry_from(self, t0_B: Tensor, z0_BD: Tensor, context_BE: Tensor, sample_T: Tensor, t_T: Tensor) -> Tensor:
        """Give the state of one sample for each query, `(T, D)`."""
        drive_BH = self.from_context(context_BE)
        after_T = t_T - t0_B.index_select(0, sample_T)
        return self._flow(z0_BD.index_select(0, sample_T), after_T, drive_BH.index_select(0, sample_T))

    def _flow(self, z: Tensor, after: Tensor, drive: Tensor) -> Tensor:
        """Carry `z` `(..., D)` for a time `after` `(...)`."""
        for layer, part in zip(self._layers(), drive.split(self.n_drives, -1), strict=True):
            z = layer(after[..., None], z, part)
        return z

    def inverse(self, z_BD: Tensor, t0_B: Tensor, t_B: Tensor, context_BE: Tensor) -> Tensor:
        """Give the states at `t0_B` of what are `z_BD` at `t_B`, `(B, D)`: to rounding, by iteration where there is no formula."""
        drives = self.from_context(context_BE).split(self.n_drives, -1)
        after_B1 = (t_B - t0_B)[:, None]
        for layer, drive in zip(reversed(self._layers()), reversed(drives), strict=True):
            z_BD = layer.inverse(after_B1, z_BD, drive)
        return z_BD
