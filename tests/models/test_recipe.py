"""Models written down: a file gives the model that it says, every shipped one trains, and what is wrong is said in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from latentode.data.settings import DataSettings
from latentode.errors import InputError
from latentode.models import MODELS, AttentionEncoder, LatentODE, LinearField, QuantileDecoder
from latentode.models.recipe import Recipe, _build
from latentode.models.registry import to_plain
from latentode.training import FitSettings
from latentode.training.fitting import describe
from tests.models.conftest import whole_loss

FOLDER = Path(__file__).parents[2] / "configs" / "models"
SHIPPED = sorted(FOLDER.glob("*.yaml"))


def write(tmp_path, text, name="mine.yaml"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_variant_says_what_it_is_and_differs_from_the_default(path):
    assert path.read_text().startswith("# ")
    recipe = Recipe.read(str(path))
    assert recipe.name == path.stem
    assert recipe.plain != Recipe.read("latent_ode").plain


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_variant_learns(prepared, path):
    torch.manual_seed(0)
    model = Recipe.read(str(path)).build()
    model.setup(prepared.table.schema)
    model.prepare([prepared.batch])
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    # So few windows, shorter in each of so few steps, would ask for luck.
    model.thinning = 0.0
    before = whole_loss(model, prepared.batch)
    for _ in range(8):
        loss = model.train().loss(prepared.batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert whole_loss(model, prepared.batch) < before
    model.eval().calibrate([prepared.validation])
    assert torch.isfinite(model(prepared.batch).mean).all()


def test_the_papers_latent_ode_is_the_same_network_in_both_of_its_files():
    whole = yaml.safe_load((FOLDER.parent / "rubanova.yaml").read_text())["model"]["network"]
    assert to_plain(_build(whole, "the model")) == Recipe.read(str(FOLDER / "rubanova.yaml")).plain


def test_a_file_gives_the_model_that_it_says(tmp_path):
    text = """
class_path: LatentODE
init_args:
  latent_size: 8
  dynamics: {class_path: latentode.models.LinearField, init_args: {modulated: true}}
  decoder:
    class_path: latentode.models.QuantileDecoder
    init_args: {levels: [0.1, 0.5, 0.9], min_scale: 1e-2}
"""
    recipe = Recipe.read(write(tmp_path, text))
    expected = LatentODE(
        dynamics=LinearField(modulated=True),
        decoder=QuantileDecoder(levels=(0.1, 0.5, 0.9), min_scale=0.01),
        latent_size=8,
    )
    assert recipe.name == "mine"
    assert recipe.is_trained
    assert recipe.plain == to_plain(expected) == to_plain(recipe.build())


@pytest.mark.parametrize("name", MODELS)
def test_a_record_holds_what_builds_its_model_again(tmp_path, name):
    recipe = Recipe.read(name)
    assert recipe.is_trained == MODELS[name].is_trained
    again = Recipe.read(write(tmp_path, yaml.safe_dump(recipe.written), f"{name}.yaml"))
    assert again == recipe


def test_a_run_folders_config_holds_a_recipe(tmp_path):
    model = LatentODE(encoder=AttentionEncoder(states="series"), n_members=2)
    network = yaml.safe_load(describe(model, DataSettings(), FitSettings()))["model"]["network"]
    assert Recipe.read(write(tmp_path, yaml.safe_dump(network))).plain == to_plain(model)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is no YAML"),
        ("", "has no class_path"),
        ("- LatentODE", "has no class_path"),
        ("class_path: latentode.models.LatentOde", "did you mean 'LatentODE'"),
        ("class_path: os.system", "none of latentode's"),
        ("class_path: latentode.models.Path", "none of latentode's"),
        ("class_path: other.models.LatentODE", "none of latentode's"),
        ("class_path: LinearField", "is a part of a model"),
        ("{class_path: LatentODE, latent_size: 8}", "below init_args"),
        ("{class_path: LatentODE, init_args: [8]}", "no list of names"),
        ("{class_path: LatentODE, init_args: {latent_siz: 8}}", "did you mean 'latent_size'"),
        ("{class_path: Constant, init_args: {mean: 8}}", "it has none"),
        ("{class_path: LatentODE, init_args: {latent_size: many}}", "takes a whole number"),
        ("{class_path: LatentODE, init_args: {latent_size: true}}", "takes a whole number"),
        ("{class_path: LatentODE, init_args: {objective: mse}}", "objective is 'mse'"),
        ("{class_path: LatentODE, init_args: {dynamics: LinearField}}", "class_path of Dynamics"),
        ("{class_path: LatentODE, init_args: {dynamics: {class_path: GaussianDecoder}}}", "is GaussianDecoder; it takes"),
        ("{class_path: LatentODE, init_args: {decoder: {init_args: {}}}}", "LatentODE.decoder has no class_path"),
        ("{class_path: LatentODE, init_args: {decoder: {class_path: QuantileDecoder, init_args: {levels: [a]}}}}", "a list"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_said_in_a_sentence(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=words) as caught:
        Recipe.read(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said():
    with pytest.raises(InputError, match="does not exist"):
        Recipe.read("nowhere/mine.yaml")
    with pytest.raises(InputError, match="did you mean 'latent_ode'"):
        Recipe.read("latentode")
