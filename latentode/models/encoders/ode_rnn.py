"""ODE-RNN: a hidden state that follows an ODE between observations and jumps at each (Rubanova, Chen and Duvenaud 2019)."""

from __future__ import annotations

from latentode.data.batch import Batch
from latentode.data.schema import Schema
from latentode.models.interfaces import Encoder, Posterior
from latentode.models.recurrence import ODERNNCell, SeriesHead, check_reading


class ODERNNEncoder(Encoder):
    """Reads a history one time stamp after another (the paper's algorithm 1) into one latent state for all channels.

    The paper reads backward: the state stands at the oldest stamp, and the generative ODE runs from there through the history into the
    future. With `direction="forward"` it is read from the oldest stamp to the origin, and what was seen last is fresh when the forecast
    begins. It is a loop over stamps either way; `AttentionEncoder` has none.

    Args:
        hidden_size: width of the hidden state.
        field_size: width of the field's hidden layer.
        method: a name in `latentode.ode.TABLEAUS`.
        n_steps: steps of the method from one stamp to the next.
        max_rows: most time stamps read per series, the latest ones.
        direction: "forward" or "backward".

    Raises:
        InputError: a setting is out of its range.
    """

    def __init__(
        self,
        hidden_size: int = 64,
        *,
        field_size: int = 64,
        method: str = "euler",
        n_steps: int = 1,
        max_rows: int = 128,
        direction: str = "forward",
    ) -> None:
        super().__init__()
        check_reading(method, n_steps, max_rows, direction)
        self.hidden_size = hidden_size
        self.field_size = field_size
        self.method = method
        self.n_steps = n_steps
        self.max_rows = max_rows
        self.direction = direction

    @property
    def reads_backward(self) -> bool:
        """Whether the state stands at the oldest stamp read."""
        return self.direction == "backward"

    def setup(self, schema: Schema, latent_size: int, context_size: int) -> None:
        """Make the layers."""
        self.cell = ODERNNCell(
            schema,
            self.hidden_size,
            field_size=self.field_size,
            method=self.method,
            n_steps=self.n_steps,
            max_rows=self.max_rows,
            direction=self.direction,
        )
        self.head = SeriesHead(schema, self.hidden_size, latent_size, context_size)

    def forward(self, batch: Batch) -> Posterior:
        """Encode every history of the batch."""
        hidden_BH, t0_B = self.cell(batch)
        return self.head(hidden_BH, t0_B if self.reads_backward else None)
