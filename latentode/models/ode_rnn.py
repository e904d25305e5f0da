"""The ODE-RNN as a model of its own: the state that has read the history goes on to the queries.

Rubanova, Chen and Duvenaud (2019), section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.distributions import Distribution

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.cross_fit import Base
from latentode.models.decoders import QuantileDecoder
from latentode.models.history import pick
from latentode.models.interfaces import Decoder, Frame, Path
from latentode.models.objectives import Mean
from latentode.models.recurrence import ODERNNCell, SeriesContext, check_reading
from latentode.models.residual import ResidualModel
from latentode.models.statics import StaticContext
from latentode.ode import PIDController, solve

RTOL, ATOL = 1e-3, 1e-4  # of the way to the queries, on which nothing is read that would put an error right


class ODERNNPath(Path):
    """Reads a history into a hidden state, carries it on by the same field and decodes it at the targets.

    Args:
        decoder: without parameters yet.
        hidden_size, field_size, method, n_steps, max_rows, context_size, beta: see `ODERNN`.
    """

    decoder: Decoder
    statics: StaticContext | None

    def __init__(
        self,
        decoder: Decoder,
        *,
        hidden_size: int,
        field_size: int,
        method: str,
        n_steps: int,
        max_rows: int,
        context_size: int,
        beta: float,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.hidden_size = hidden_size
        self.of_cell = {"field_size": field_size, "method": method, "n_steps": n_steps, "max_rows": max_rows}
        self.context_size = context_size
        self.beta = beta

    def setup(self, schema: Schema) -> None:
        """Make the parameters."""
        self.cell = ODERNNCell(schema, self.hidden_size, **self.of_cell)
        self.to_context = SeriesContext(schema, self.hidden_size, self.context_size)
        self.decoder.setup(schema, self.hidden_size, self.context_size)
        self.statics = StaticContext(schema, self.context_size) if schema.static_columns else None

    def watch(self, training: Iterable[Batch]) -> Iterator[Batch]:
        """Let the decoder see training windows pass."""
        return self.decoder.watch(training)

    def forward(self, batch: Batch, frame: Frame) -> Distribution:
        """Forecast the residual of every target `(B, M)`."""
        hidden_BH, origin_B = self.cell(batch)
        context_BCE = self.to_context(hidden_BH)[1]
        if self.statics is not None:
            context_BCE = context_BCE + self.statics(batch)[:, None]
        hidden_BQH = solve(
            self.cell.slope,
            hidden_BH,
            batch.query_time,
            t0=origin_B,
            controller=PIDController(rtol=RTOL, atol=ATOL),
        ).ys
        return self.decoder(pick(hidden_BQH, batch.target_row), batch, context_BCE, frame)

    def loss_means(self, batch: Batch, frame: Frame, weight_BM: Tensor) -> list[Mean]:
        """Give the decoder's score."""
        score = self.decoder.score(self(batch, frame), frame.residual(batch.target_value), self.beta)
        return [Mean.weighted(score, weight_BM, batch.target_observed)]


class ODERNN(ResidualModel):
    """Forecasts `base + unit * residual`: the residual is read off the hidden state of an ODE-RNN, which goes on where it read last.

    There is one state for all channels of a series and no latent variable: what is known at the origin is what the network has made of
    the history on its way, stamp after stamp (the paper's RNN with neural ODE dynamics, its algorithm 1).

    Args:
        decoder: gives the distribution; None: `QuantileDecoder()`.
        hidden_size: width of the hidden state.
        field_size: width of the field's hidden layer.
        method: a name in `latentode.ode.TABLEAUS`, which leads from one stamp to the next; to the queries leads the engine, with its
            steps adapted.
        n_steps: steps of the method from one stamp to the next.
        max_rows: most time stamps read per series, the latest ones.
        context_size: size of what the decoder knows of a channel.
        base, balance, thinning, n_members, has_companion: see `ResidualModel`.
        beta: exponent of `objectives.beta_nll`, see `LatentODE`.

    Raises:
        InputError: a setting is out of its range.
    """

    def __init__(
        self,
        decoder: Decoder | None = None,
        *,
        hidden_size: int = 64,
        field_size: int = 64,
        method: str = "euler",
        n_steps: int = 1,
        max_rows: int = 128,
        context_size: int = 64,
        base: Base = "blend",
        beta: float = 1.0,
        balance: float = 0.5,
        thinning: float = 0.0,
        n_members: int = 1,
        has_companion: bool = True,
    ) -> None:
        check_reading(method, n_steps, max_rows)
        path = ODERNNPath(
            decoder or QuantileDecoder(),
            hidden_size=hidden_size,
            field_size=field_size,
            method=method,
            n_steps=n_steps,
            max_rows=max_rows,
            context_size=context_size,
            beta=beta,
        )
        super().__init__(
            path, base=base, balance=balance, thinning=thinning, n_members=n_members, has_companion=has_companion
        )
        self.hidden_size = hidden_size
        self.field_size = field_size
        self.method = method
        self.n_steps = n_steps
        self.max_rows = max_rows
        self.context_size = context_size
        self.beta = beta

    @property
    def decoder(self) -> Decoder:
        """The decoder of the first member."""
        first = self.paths[0]
        assert isinstance(first, ODERNNPath)
        return first.decoder
