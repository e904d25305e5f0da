"""A fitted model as a file: what is read is what was written, and nothing else is ever run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pandas as pd
import pytest
import torch

from latentode.errors import InputError, RunError
from latentode.forecasting.predict import Ask, predict
from latentode.models import AttentionEncoder, AugmentedField, LatentODE, LinearField, MLPField, NeuralFlow
from latentode.models import fitted as module
from latentode.models.fitted import FORMAT, FittedModel
from latentode.models.registry import MODELS, from_plain, make_model, to_plain
from tests.data.tables import make_frame
from tests.models.conftest import perturb
from tests.models.own_part import Standstill

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def fit(prepared, network=None):
    torch.manual_seed(0)
    p = prepared
    fitted = FittedModel.new(network or LatentODE(latent_size=4), p.table, p.scaler, p.settings, p.spans, 0)
    perturb(fitted.network)
    fitted.calibrate([p.validation])
    return fitted


def test_what_is_read_is_what_was_written(prepared, tmp_path):
    fitted = fit(prepared)
    fitted.save(tmp_path / "best.ckpt")
    again = FittedModel.load(tmp_path / "best.ckpt")
    one, two = fitted.network(prepared.batch), again.network(prepared.batch)
    assert torch.equal(one.mean, two.mean)
    assert torch.equal(one.stddev, two.stddev)
    for name, baseline in fitted.baselines.items():
        assert torch.equal(baseline(prepared.batch).mean, again.baselines[name](prepared.batch).mean)
    for name in ("schema", "settings", "spans", "digest", "seed"):
        assert getattr(again, name) == getattr(fitted, name)
    assert again.scaler.to_dict() == fitted.scaler.to_dict()
    torch.load(tmp_path / "best.ckpt", weights_only=True)


@pytest.mark.parametrize(
    "dynamics",
    [
        LinearField(modulated=True),
        LinearField("dense"),
        MLPField(method="rk4", step_size=0.5),
        AugmentedField(3, dynamics=LinearField(modulated=True), learned_start=True),
        NeuralFlow("gru", n_layers=3),
    ],
    ids=lambda dynamics: type(dynamics).__name__,
)
def test_a_run_holds_its_dynamics(prepared, tmp_path, dynamics):
    fitted = fit(prepared, LatentODE(dynamics=dynamics, latent_size=5))
    fitted.save(tmp_path / "best.ckpt")
    again = FittedModel.load(tmp_path / "best.ckpt").network
    assert isinstance(again, LatentODE)
    assert to_plain(again.dynamics) == to_plain(dynamics)
    assert torch.equal(fitted.network(prepared.batch).mean, again(prepared.batch).mean)


@pytest.mark.parametrize("n_bytes", [0, 100, 20_000])
def test_a_file_that_was_cut_off_is_refused(prepared, tmp_path, n_bytes):
    path = tmp_path / "best.ckpt"
    fit(prepared).save(path)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(RunError, match="cut off"):
        FittedModel.load(path)


class Bomb:
    def __reduce__(self):
        return (exec, ("import builtins; builtins.exploded = True",))


def test_a_file_with_code_in_it_runs_nothing(tmp_path):
    import builtins

    torch.save({"latentode": Bomb()}, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(RunError):
            FittedModel.load(tmp_path / name)
    assert not hasattr(builtins, "exploded")


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {}},
        [1, 2],
        {"latentode": {"format": 99}, "state_dict": {}},
        {"latentode": {"format": 1}, "state_dict": {}},
    ],
)
def test_another_program_s_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(RunError):
        FittedModel.load(tmp_path / "x.ckpt")


def test_damaged_settings_are_refused(prepared, tmp_path):
    path = tmp_path / "best.ckpt"
    fit(prepared).save(path)
    content = torch.load(path, weights_only=True)
    del content["latentode"]["scaler"]["mean"]
    torch.save(content, path)
    with pytest.raises(RunError, match="does not hold together"):
        FittedModel.load(path)


def rewritten(prepared, path, change):
    """A run's checkpoint after somebody has changed its content."""
    fit(prepared).save(path)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (FORMAT + 1, "written by a newer latentode.*upgrade latentode"),
        (0, "does not say its format"),
        ("2", "does not say its format"),
        (None, "does not say its format"),
    ],
)
def test_a_checkpoint_of_a_format_that_is_not_known_is_refused(prepared, tmp_path, found, said):
    path = rewritten(prepared, tmp_path / "best.ckpt", lambda content: content["latentode"].update(format=found))
    with pytest.raises(RunError, match=said):
        FittedModel.load(path)


def test_what_cannot_be_brought_to_the_format_of_today_says_how_to_fit_it_again(prepared, tmp_path, monkeypatch):
    path = rewritten(prepared, tmp_path / "best.ckpt", lambda content: content["latentode"].update(format=1))
    monkeypatch.setattr(module, "MIGRATIONS", {})
    with pytest.raises(
        RunError, match=r"older latentode \(format 1\).*fit it again: latentode fit --config .*config.yaml"
    ):
        FittedModel.load(path)


def test_formats_are_brought_on_one_after_the_other(prepared, tmp_path, monkeypatch):
    path = rewritten(prepared, tmp_path / "best.ckpt", lambda content: content["latentode"].update(seed=1))
    steps = {FORMAT: lambda plain, content: {**plain, "seed": 10 * plain["seed"] + 2}}
    steps[FORMAT + 1] = lambda plain, content: {**plain, "seed": 10 * plain["seed"] + 3}
    monkeypatch.setattr(module, "FORMAT", FORMAT + 2)
    monkeypatch.setattr(module, "MIGRATIONS", steps)
    assert FittedModel.load(path).seed == 123


def test_a_run_of_the_first_format_forecasts_what_it_did():
    """The file and the forecast were written by the version of that time."""
    run = FittedModel.load(GOLDEN / "format-1.ckpt")
    found = predict(run, make_frame(n_series=3), Ask(every=1.5)).to_frame()
    pd.testing.assert_frame_equal(found, pd.read_csv(GOLDEN / "format-1.csv"), rtol=1e-6)


def test_weights_of_another_version_of_a_model_say_how_to_fit_it_again(prepared, tmp_path):
    path = rewritten(
        prepared, tmp_path / "best.ckpt", lambda content: content["state_dict"].update({"network.gate": torch.ones(1)})
    )
    with pytest.raises(RunError, match=r"weights of another version of .*fit it again: latentode fit --config"):
        FittedModel.load(path)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_models_survive_being_written_as_plain_values(name):
    plain = to_plain(make_model(name))
    assert to_plain(from_plain(plain)) == plain


def test_settings_of_parts_are_kept():
    model = LatentODE(encoder=AttentionEncoder(32, n_layers=1), latent_size=3)
    again = from_plain(to_plain(model))
    assert isinstance(again.encoder, AttentionEncoder)
    assert (again.encoder.hidden_size, again.encoder.n_layers, again.latent_size) == (32, 1, 3)


def test_an_own_class_is_built_only_where_its_module_is_named(prepared, tmp_path):
    fit(prepared, LatentODE(dynamics=Standstill())).save(tmp_path / "best.ckpt")
    with pytest.raises(RunError, match=r"--allow-module tests\.models\.own_part"):
        FittedModel.load(tmp_path / "best.ckpt")
    again = FittedModel.load(tmp_path / "best.ckpt", allow_modules=["tests.models.own_part"])
    assert isinstance(again.network.dynamics, Standstill)


def test_names_that_are_no_models_are_refused():
    with pytest.raises(InputError, match="did you mean 'latent_ode'"):
        make_model("latentode")
    for name in ("os.system", "Nothing", "builtins.exec"):
        with pytest.raises(RunError):
            from_plain({"class": name, "settings": {}}, allow_modules=["builtins"])


def test_scoring_gives_the_model_beside_its_baselines(prepared):
    from latentode.data.windows import heldout_windows

    fitted = fit(prepared)
    windows = heldout_windows(prepared.table, prepared.split, "val", prepared.spans)
    scores = fitted.score(prepared.table, windows)
    error = (fitted.network(prepared.validation).mean - prepared.validation.target_value).square().detach()
    seen, channel = prepared.validation.target_observed, prepared.validation.target_channel
    macro = sum(float(error[seen & (channel == c)].mean()) for c in range(3)) / 3
    assert scores["mse"] == pytest.approx(macro, rel=1e-4)
    assert set(scores["baselines"]) == {"constant", "last_value", "blend"}
    assert scores["ratio_to_blend"] == pytest.approx(scores["mse"] / scores["baselines"]["blend"]["mse"])


def test_the_naive_error_is_that_of_the_last_value_and_makes_mase(prepared, tmp_path):
    from latentode.data.windows import heldout_windows

    fitted = fit(prepared)
    windows = heldout_windows(prepared.table, prepared.split, "val", prepared.spans)
    assert "mase" not in fitted.score(prepared.table, windows)
    fitted.measure_naive_error([prepared.batch])
    seen, channel = prepared.batch.target_observed, prepared.batch.target_channel
    error = (fitted.baselines["last_value"](prepared.batch).mean - prepared.batch.target_value).abs()
    expected = [float(error[seen & (channel == c)].mean()) for c in range(3)]
    assert fitted.naive_error == pytest.approx(expected, rel=1e-5)
    scores = fitted.score(prepared.table, windows)
    std = prepared.scaler.std
    for c, name in enumerate(prepared.table.schema.channels):
        row = scores["channels"][name]
        assert row["mase"] == pytest.approx(row["mae"] / std[c] / expected[c], rel=1e-5)
    fitted.save(tmp_path / "best.ckpt")
    assert FittedModel.load(tmp_path / "best.ckpt").naive_error == fitted.naive_error


def test_intervals_and_skill_are_of_the_figures_beside_them(prepared):
    from latentode.data.windows import heldout_windows

    fitted = fit(prepared)
    windows = heldout_windows(prepared.table, prepared.split, "val", prepared.spans)
    scores = fitted.score(prepared.table, windows, n_draws=100)
    assert set(scores["intervals"]) == {"mse", "mae", "crps", "nll"}
    low, high = scores["intervals"]["mse"]["macro"]
    assert low < scores["mse"] < high
    for name, row in scores["baselines"].items():
        against = scores["against"][name]
        assert against["mse"]["macro"]["skill"]["estimate"] == pytest.approx(1 - scores["mse"] / row["mse"])
        difference = against["nll"]["pooled"]["difference"]["estimate"]
        assert difference == pytest.approx(scores["nll_pooled"] - row["nll_pooled"])
        assert "skill" not in against["nll"]["pooled"]
    assert sum(scores["calibration"]["pit_counts"]) == scores["n_values"]
    held = {row["nominal"]: row["held"] for row in scores["calibration"]["coverage"]}
    assert held == {share: scores[f"coverage_{round(100 * share)}_pooled"] for share in (0.5, 0.8, 0.95)}
    for row in (scores, *scores["baselines"].values()):
        assert row["calibration"]["fitted_on"]["n_residuals"] == scores["n_values"]
    assert sum(part["n_values"] for part in scores["bins"]) == scores["n_values"]
