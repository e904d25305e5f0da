"""Tolerances of training: loose early, as stated late, and as stated wherever a forecast is made."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentode.errors import InputError
from latentode.models import MLPField
from latentode.models.dynamics.tolerance import TIGHT_FROM, looseness
from tests.data.tables import make_table

fractions = st.floats(0, 1)


@given(st.floats(1, 1e4), fractions, fractions)
def test_looseness_falls_from_its_start_to_one(loosen, early, late):
    early, late = sorted((early, late))
    assert looseness(loosen, 0.0) == pytest.approx(loosen)
    assert 1 <= looseness(loosen, late) <= looseness(loosen, early) <= loosen * (1 + 1e-12)
    assert looseness(loosen, max(late, TIGHT_FROM)) == 1
    # Geometrically: half of the way is the square root.
    assert looseness(loosen, TIGHT_FROM / 2) ** 2 == pytest.approx(loosen)


@pytest.mark.parametrize("loosen", [0.5, float("inf"), float("nan")])
def test_training_cannot_be_tighter_than_stated(loosen):
    with pytest.raises(InputError, match="at least 1"):
        MLPField(loosen=loosen)


def restless_field(**kwargs):
    torch.manual_seed(0)
    field = MLPField(8, **kwargs)
    field.setup(make_table().schema, 3, 2)
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, std=1.5)
    return field


def states(field):
    torch.manual_seed(1)
    t_BQ = torch.linspace(0, 2, 5).expand(4, 5)
    with torch.no_grad():
        return field(torch.randn(4, 3), torch.zeros(4), t_BQ, torch.randn(4, 2))


def test_forecasts_are_solved_as_stated_and_training_loosely_until_late():
    loose, stated = restless_field(loosen=1e3), restless_field(loosen=1.0)
    loose.at_progress(0.0)
    expected, nfe = states(stated), stated.nfe
    assert nfe.shape == (4,)
    assert not nfe.requires_grad
    early = states(loose)
    assert not torch.equal(early, expected)
    assert (loose.nfe < nfe).all()
    assert torch.equal(states(loose.eval()), expected)
    assert torch.equal(loose.nfe, nfe)
    loose.train().at_progress(TIGHT_FROM)
    assert torch.equal(states(loose), expected)


def test_a_field_that_nobody_trains_is_solved_as_stated():
    assert torch.equal(states(restless_field(loosen=1e3)), states(restless_field(loosen=1.0)))
