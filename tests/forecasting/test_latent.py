"""The latent path and its field, as arrays: what the model's own parts say, on the grid that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentode import Forecaster
from latentode.errors import DataError, InputError
from latentode.models import AttentionEncoder, LatentODE, LinearField, MLPField, NeuralCDE
from tests.data.tables import make_frame

QUICK = {"max_epochs": 1, "windows_per_epoch": 32, "batch_size": 16, "device": "cpu", "show_progress": False}


@pytest.fixture(scope="module")
def frame():
    return make_frame(n_series=3)


MODELS = {
    "channel": lambda: LatentODE(AttentionEncoder(states="channel"), LinearField(), latent_size=6),
    "series": lambda: LatentODE(AttentionEncoder(states="series"), LinearField(), latent_size=6),
    "neural_cde": lambda: NeuralCDE(dynamics=LinearField(), latent_size=6),
}


@pytest.fixture(scope="module", params=MODELS)
def fitted(frame, request):
    return Forecaster(MODELS[request.param](), horizon=3.0, **QUICK).fit(frame)


def test_a_path_has_a_row_per_time_and_state(fitted, frame):
    path = fitted.latent(frame, every=0.5)
    table = path.to_frame()
    is_per_channel = getattr(fitted.fitted_.network.encoder, "states", "series") == "channel"
    assert list(table.columns) == ["series_id", "time", *["channel"] * is_per_channel, *(f"z{i}" for i in range(1, 7))]
    assert len(table) == 3 * 6 * (2 if is_per_channel else 1)
    forecast = fitted.predict(frame, every=0.5).to_frame()
    assert table["time"].tolist()[:: 2 if is_per_channel else 1] == forecast["time"].tolist()[::2]


def test_the_path_follows_the_field(fitted, frame):
    path = fitted.latent(frame, every=0.01, horizon=0.05)
    k = path.state.shape[1] - 1
    state, context = (x[path.series == 1][:, k] for x in (path.state, path.context))
    moved = path.velocity(state, context)
    # Times count in the table's unit, of which a horizon has three.
    slope = (state[2:] - state[:-2]) / (0.02 / 3)
    assert np.allclose(slope, moved[1:-1], rtol=0.02, atol=0.02)


def test_the_plane_holds_the_paths_and_most_of_their_variance(fitted, frame):
    path = fitted.latent(frame, every=0.1)
    plane = path.plane(series="s1", n_grid=7)
    assert plane.field.shape == (7, 7, 2)
    assert np.allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-9)
    assert 1 / 3 < plane.share <= 1
    for i, inside in enumerate(plane.paths):
        own = path.state[path.series == i, 0]
        assert np.allclose(inside, (own - plane.centre) @ plane.axes.T)
        assert (inside > [plane.x[0], plane.y[0]]).all()
        assert (inside < [plane.x[-1], plane.y[-1]]).all()


def test_the_arrows_are_the_fields_own(fitted, frame):
    path = fitted.latent(frame, every=0.5)
    plane = path.plane(n_grid=5)
    point = plane.centre + plane.x[3] * plane.axes[0] + plane.y[1] * plane.axes[1]
    moved = path.velocity(point[None], path.context[:1, 0])
    assert np.allclose(plane.field[1, 3], moved[0] @ plane.axes.T, atol=1e-4)


def test_a_linear_field_moves_as_its_matrix_says():
    torch.manual_seed(0)
    field = LinearField("dense")
    field.setup(None, 4, 3)
    z, context = torch.randn(5, 4), torch.randn(5, 3)
    expected = (z - field.level(context)) @ field.matrix().T
    assert torch.allclose(field.velocity(z, context), expected, rtol=0.02, atol=0.02)


def test_a_solved_field_moves_as_it_says():
    torch.manual_seed(0)
    field = MLPField().eval()
    field.setup(None, 4, 3)
    z, context = torch.randn(5, 4), torch.randn(5, 3)
    expected = field.field(torch.zeros(5), z, field.from_context(context))
    assert torch.allclose(field.velocity(z, context), expected, rtol=0.01, atol=1e-3)


def test_a_portrait_is_drawn(fitted, frame, tmp_path):
    figure = fitted.latent(frame, every=0.5).plot()
    figure.savefig(tmp_path / "portrait.png")
    assert len(figure.axes[0].lines) == 6


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [({"at": [5.0]}, DataError, "where the latent path begins"), ({}, InputError, "one of at, every")],
)
def test_what_cannot_be_asked_is_refused(fitted, frame, ask, error, words):
    with pytest.raises(error, match=words):
        fitted.latent(frame, **ask)


def test_names_that_are_not_there_are_refused(fitted, frame):
    path = fitted.latent(frame, every=0.5)
    with pytest.raises(InputError, match="series 'nobody'"):
        path.plane(series="nobody")
    if path.channels:
        with pytest.raises(InputError, match="channel 'y'"):
            path.plane("y")


def test_a_model_without_a_state_says_so(frame):
    blend = Forecaster("blend", horizon=3.0, **QUICK).fit(frame)
    with pytest.raises(InputError, match="Blend has no latent state"):
        blend.latent(frame, every=0.5)
