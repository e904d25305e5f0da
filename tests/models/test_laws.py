"""The laws that every model keeps: those in `MODELS` that gradients train, and every variant in `configs/models/`.

What is asked is what a user may rely on without knowing the model. The parameters are moved from their start, so that each part has its say.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from latentode.data.batch import Batch
from latentode.data.windows import forecast_windows
from latentode.models.fitted import FittedModel
from latentode.models.recipe import Recipe
from latentode.models.registry import MODELS
from tests.data.tables import make_table
from tests.models.conftest import Prepared, perturb, prepare
from tests.models.test_recipe import SHIPPED

RECIPES = {name: name for name, model in MODELS.items() if model.is_trained} | {
    path.name: str(path) for path in SHIPPED
}
# A solver may take another step; the forecasts themselves are of the order of 1.
CLOSE = 2e-3


@cache
def make_prepared(unit: float = 1.0, start: float = 0.0) -> Prepared:
    return prepare(make_table(n_channels=3, unit=unit, start=start), horizon=3.0 * unit)


@cache
def make_model(name: str, unit: float = 1.0, start: float = 0.0):
    """Give a model as it would be after training that moved every parameter."""
    prepared = make_prepared(unit, start)
    torch.manual_seed(0)
    model = Recipe.read(RECIPES[name]).build()
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch], [prepared.validation])
    return perturb(model)


def forecast(model, batch: Batch) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        said = model(batch)
        return said.mean, said.stddev


def ask(prepared: Prepared, after: np.ndarray) -> tuple[Batch, np.ndarray]:
    """Ask every series for times `after` its origin, in units of the first table, in this order."""
    windows = forecast_windows(prepared.table)
    row = np.repeat(np.arange(len(windows)), len(after))
    unit = prepared.spans.horizon / 3.0
    return prepared.reader.read_queries(windows, row, windows.origin[row] + unit * np.tile(after, len(windows)))


def widen(batch: Batch, n: int) -> Batch:
    """Put `n` further columns of padding behind histories, queries and targets."""

    def padded(x: Tensor, filler: Tensor | float | bool) -> Tensor:
        more = x[:, :1].expand(-1, n, *x.shape[2:])
        more = more.clone().fill_(filler) if not isinstance(filler, Tensor) else filler.expand_as(more)
        return torch.cat([x, more], 1)

    zeros = ("token_time", "token_value", "token_channel", "token_known", "known")
    zeros += ("target_row", "target_channel", "target_value")
    wide = {name: padded(getattr(batch, name), 0) for name in zeros}
    wide |= {
        name: padded(getattr(batch, name), False) for name in ("token_observed", "query_observed", "target_observed")
    }
    return replace(batch, **wide, query_time=padded(batch.query_time, batch.query_time[:, -1:]))


@pytest.mark.parametrize("name", RECIPES)
def test_padding_changes_nothing(name):
    model, batch = make_model(name), make_prepared().batch
    n_targets = batch.target_row.shape[1]
    for narrow, wide in zip(forecast(model, batch), forecast(model, widen(batch, 3)), strict=True):
        seen = batch.target_observed
        assert torch.allclose(narrow[seen], wide[:, :n_targets][seen], atol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_a_row_of_a_batch_equals_the_row_alone(name):
    model, prepared = make_model(name), make_prepared()
    together = forecast(model, prepared.batch)
    for w in (0, 1, 5, 7, 11):
        batch = prepared.reader.read(prepared.windows.take(np.asarray([w])))
        known = batch.target_observed[0]
        for alone, whole in zip(forecast(model, batch), together, strict=True):
            assert torch.allclose(alone[0][known], whole[w, : len(known)][known], atol=CLOSE)


@pytest.mark.parametrize("name", RECIPES)
def test_neither_the_order_nor_the_number_of_queries_matters(name):
    model, prepared = make_model(name), make_prepared()
    after = np.asarray([0.3, 2.9, 1.1, 1.7])
    n_channels = len(prepared.reader.target_channels)

    def answers(after: np.ndarray) -> np.ndarray:
        """Give means as they were asked for, `(B, len(after), C)`."""
        batch, column = ask(prepared, after)
        mean = forecast(model, batch)[0].view(len(batch), -1, n_channels).numpy()
        return mean[np.arange(len(batch))[:, None], column.reshape(len(batch), -1)]

    all_at_once = answers(after)
    assert np.array_equal(answers(after[::-1])[:, ::-1], all_at_once)
    np.testing.assert_allclose(answers(after[1:2]), all_at_once[:, 1:2], atol=CLOSE)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    ("unit", "start"), [(1.0, 1e6), (60.0, 0.0), (1 / 24, -2_000.0), (86_400.0, -2_000.0), (1 / 24, 1e6)]
)
def test_neither_the_unit_nor_the_start_of_numeric_time_matters(name, unit, start):
    after = np.asarray([0.5, 1.0, 2.9])
    said = [
        forecast(make_model(name, *moved), ask(make_prepared(*moved), after)[0])[0]
        for moved in ((1.0, 0.0), (unit, start))
    ]
    assert torch.allclose(*said, atol=CLOSE)


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_holds_the_model(name, tmp_path):
    p = make_prepared()
    fitted = FittedModel.new(Recipe.read(RECIPES[name]).build(), p.table, p.scaler, p.settings, p.spans, 0)
    # Not calibrated: validation would find no use for random weights, and the base would speak alone.
    fitted.network.prepare([p.batch])
    perturb(fitted.network)
    fitted.save(tmp_path / "best.ckpt")
    again = FittedModel.load(tmp_path / "best.ckpt")
    for one, two in zip(forecast(fitted.network, p.batch), forecast(again.network, p.batch), strict=True):
        assert torch.equal(one, two)
