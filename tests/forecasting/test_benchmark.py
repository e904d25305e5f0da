"""Benchmarks: the protocol's figures, records that survive a kill, and nothing that leaks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from latentode.data.datasets import DATASETS, protocols_of, van_der_pol
from latentode.errors import InputError, SolveError
from latentode.forecasting import benchmark
from latentode.forecasting.benchmark import ERRORS, BenchmarkSettings, run_benchmark, summarise
from latentode.forecasting.leaderboard import leaderboard, losses
from latentode.models.recipe import Recipe

SMALL = {"n_series": 30, "n_observations": 30}
QUICK = {"max_epochs": 2, "device": "cpu"}


def settings(**changes):
    given = {"dataset": "lotka_volterra", "models": ("constant", "latent_ode"), "seeds": (0, 1)}
    return BenchmarkSettings(**{**given, "observing": SMALL, "fit": QUICK, **changes})


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "results.json"
    lines: list[str] = []
    return out, run_benchmark(settings(), out, say=lines.append), lines


def test_a_record_holds_what_the_design_promises(ran):
    out, records, _ = ran
    assert json.loads(out.read_text()) == records
    by_model = {record["model"]: record for record in records}
    assert by_model["constant"]["n_seeds"] == 1  # nothing is drawn
    assert by_model["latent_ode"]["n_seeds"] == 2
    for record in records:
        for key in ("dataset", "protocol", "split", "seeds", "n_parameters", "seconds_per_epoch", "peak_mb"):
            assert record[key] is not None
        names = ("mse", "mae", *ERRORS, "nll", "coverage_80", "coverage_95", "ratio_to_blend", "ratio_to_blend_mae")
        for name in (*names, *(f"ratio_to_blend_{name}" for name in ERRORS)):
            for part in ("metrics", "validation"):
                assert set(record[part][name]) == {"mean", "sd"}
        # No channel has 500 test targets here.
        assert record["metrics"]["mse_common"]["mean"] is None
    assert by_model["constant"]["metrics"]["mse"]["sd"] is None
    assert by_model["latent_ode"]["metrics"]["mse"]["sd"] >= 0
    assert 50 < by_model["constant"]["peak_mb"] < 20_000


def test_the_constant_has_the_error_that_the_protocols_definition_gives(ran):
    """By hand: the mean over channels of the squared distance from the scaler's mean, over the protocol's unit."""
    _, records, _ = ran
    task = protocols_of("lotka_volterra", **SMALL)["half"].build(None, 0)
    table, test = task.table, task.test
    series = table.row_series
    origin = np.full(table.n_series, np.inf)
    until = np.full(table.n_series, -np.inf)
    origin[test.series], until[test.series] = test.origin, test.until
    is_target = (table.time > origin[series]) & (table.time <= until[series])
    error = ((table.values[is_target] - task.scaler.mean) / task.unit) ** 2
    expected = np.nanmean(error, axis=0).mean()
    constant = next(record for record in records if record["model"] == "constant")
    assert constant["metrics"]["mse"]["mean"] == pytest.approx(expected, rel=1e-5)
    assert constant["n_test"] == int((~np.isnan(error)).sum())


def test_a_finished_run_is_read_back_and_one_of_other_settings_is_not(ran, monkeypatch):
    out, records, _ = ran
    calls: list[str] = []
    once = benchmark.run_once

    def counted(*args):
        calls.append(args[3].name)
        return once(*args)

    monkeypatch.setattr(benchmark, "run_once", counted)
    lines: list[str] = []
    assert run_benchmark(settings(), out, say=lines.append) == records
    assert calls == []
    assert any("3 of 3 runs were there already" in line for line in lines)
    run_benchmark(settings(seeds=(0, 1, 2)), out, say=lines.append)
    assert calls == ["latent_ode"]
    run_benchmark(settings(models=("constant",), batch_size=32), out, say=lines.append)
    assert calls == ["latent_ode", "constant"]


def test_a_file_is_a_row_of_its_own_that_the_record_can_tell_again(tmp_path, monkeypatch):
    path = tmp_path / "stiff.yaml"
    path.write_text("class_path: Ridge")
    chosen = settings(models=("ridge", str(path)))
    ridge, stiff = sorted(run_benchmark(chosen, tmp_path / "r.json", say=lambda _: None), key=lambda one: one["model"])
    assert (ridge["model"], stiff["model"]) == ("ridge", "stiff")
    assert ridge["metrics"] == stiff["metrics"]
    assert stiff["network"] == {"class_path": "latentode.models.Ridge", "init_args": {}}
    assert not stiff["is_trained"]
    # Under the same name, with other settings: what was kept does not stand for it.
    path.write_text("{class_path: GradientBoosting, init_args: {n_trees: 2}}")
    lines: list[str] = []
    records = run_benchmark(chosen, tmp_path / "r.json", say=lines.append)
    assert any("1 of 2 runs were there already" in line for line in lines)
    (stiff,) = (record for record in records if record["model"] == "stiff")
    assert stiff["network"]["init_args"]["n_trees"] == 2
    assert json.loads((tmp_path / "r.json").read_text()) == records


def test_a_model_on_another_base_is_told_apart_from_the_baseline_alone(tmp_path):
    (tmp_path / "mine.yaml").write_text("{class_path: LatentODE, init_args: {base: ridge}}")
    (tmp_path / "own.yaml").write_text("{class_path: LatentODE, init_args: {base: {class_path: Ridge}}}")
    models = ("ridge", "latent_ode", *(str(tmp_path / f"{name}.yaml") for name in ("mine", "own")))
    chosen = settings(models=models, seeds=(0,), fit={**QUICK, "max_epochs": 1})
    records = run_benchmark(chosen, tmp_path / "r.json", say=lambda _: None)
    text = leaderboard(records)
    for title in ("ridge", "latent_ode", "mine (on ridge)", "own (on Ridge)"):
        assert text.count(f"| {title} |") == 2
    # Never worse than its base where the choice is made: over channels, on validation.
    on_validation = {record["model"]: record["validation"]["mse_macro"]["mean"] for record in records}
    assert on_validation["mine"] == on_validation["own"] <= on_validation["ridge"] * (1 + 1e-6)


def test_two_models_of_one_name_are_refused(tmp_path):
    (tmp_path / "ridge.yaml").write_text("class_path: Ridge")
    with pytest.raises(InputError, match="two models are called 'ridge'"):
        run_benchmark(settings(models=("ridge", str(tmp_path / "ridge.yaml"))), tmp_path / "r.json", say=lambda _: None)


def test_what_was_finished_before_a_failure_is_kept(tmp_path, monkeypatch):
    once = benchmark.run_once

    def failing(chosen, protocol, task, model, *rest):
        if model.name == "blend":
            raise KeyboardInterrupt
        return once(chosen, protocol, task, model, *rest)

    monkeypatch.setattr(benchmark, "run_once", failing)
    out = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(settings(models=("constant", "blend")), out, say=lambda _: None)
    assert [record["model"] for record in json.loads(out.read_text())] == ["constant"]


def test_nothing_before_the_test_depends_on_what_is_held_out(tmp_path, monkeypatch):
    """The held-out future is changed; weights, calibration and validation figures may not be."""
    protocol = protocols_of("lotka_volterra", **SMALL)["half"]

    def run(folder, spoil):
        task = protocol.build(None, 0)
        if spoil:
            series = task.table.row_series
            origin = np.full(task.table.n_series, np.inf)
            origin[task.test.series] = task.test.origin
            task.table.values[task.table.time > origin[series]] *= -7.0
        folder.mkdir()
        record = benchmark.run_once(settings(), protocol, task, Recipe.read("latent_ode"), 0, 0, folder, {})
        content = torch.load(folder / "best.ckpt", weights_only=True)
        return record, content, json.loads((folder / "metrics.json").read_text())

    honest, spoilt = run(tmp_path / "honest", spoil=False), run(tmp_path / "spoilt", spoil=True)
    for key, value in honest[1]["state_dict"].items():
        assert torch.equal(value, spoilt[1]["state_dict"][key]), key
    for key, value in honest[1]["baselines"].items():
        assert torch.equal(value, spoilt[1]["baselines"][key]), key
    assert honest[2]["validation"] == spoilt[2]["validation"]
    assert honest[2]["best_epoch"] == spoilt[2]["best_epoch"]
    assert honest[0]["metrics"]["mse"] < spoilt[0]["metrics"]["mse"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "lotka"}, "lotka_volterra"),
        ({"protocol": "hlaf"}, "half"),
        ({"models": ("latentode",)}, "latent_ode"),
        ({"splits": (99,)}, "published ones"),
    ],
)
def test_what_does_not_exist_is_refused_in_a_sentence(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        run_benchmark(settings(**changes), tmp_path / "x.json", say=lambda _: None)


def test_means_and_deviations_are_over_all_runs_of_a_model():
    runs = [
        {**_run("latent_ode", seed), "metrics": {"mse": mse, "nll": nll}}
        for seed, mse, nll in ((0, 1.0, None), (1, 3.0, 2.0))
    ]
    (record,) = summarise(runs, protocols_of("lotka_volterra")["half"])
    assert record["metrics"]["mse"] == {"mean": 2.0, "sd": pytest.approx(2**0.5)}
    # No run is left out of a mean.
    assert record["metrics"]["nll"] == {"mean": None, "sd": None}


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), None])
def test_a_run_without_a_figure_leaves_its_model_without_one_last_and_losing(broken):
    runs = [_run("latent_ode", 0, 0.5), _run("latent_ode", 1, broken), _run("blend", 0, 1.0)]
    records = summarise(runs, protocols_of("lotka_volterra")["half"])
    assert [record["model"] for record in records] == ["blend", "latent_ode"]
    assert records[1]["n_failed"] == 1
    assert losses(records)[0].startswith("latent_ode loses to blend on mse")
    assert "(1 failed)" in leaderboard(records)


def test_a_model_that_breaks_down_costs_the_others_nothing(tmp_path, monkeypatch):
    once = benchmark.run_once

    def failing(chosen, protocol, task, model, *rest):
        if model.name == "latent_ode":
            raise SolveError("the state ran off")
        return once(chosen, protocol, task, model, *rest)

    monkeypatch.setattr(benchmark, "run_once", failing)
    chosen = settings(models=("latent_ode", "constant", "constant"))
    records = run_benchmark(chosen, tmp_path / "r.json", say=lambda _: None)
    assert [record["model"] for record in records] == ["constant", "latent_ode"]
    assert records[0]["n_runs"] == 1  # what is named twice is run once
    assert records[1]["n_failed"] == records[1]["n_runs"] == 2
    assert any("the state ran off" in note for note in records[1]["notes"])


def test_a_model_alone_is_compared_with_the_blend_of_its_own_run():
    run = _run("latent_ode", 0, 0.5)
    run["metrics"] |= {"ratio_to_blend": 1.0, "ratio_to_blend_mae": 1.25}
    records = summarise([run], protocols_of("lotka_volterra")["half"])
    assert losses(records) == [
        "latent_ode ties with blend on mse (ratio 1.000)",
        "latent_ode loses to blend on mae (ratio 1.250)",
    ]


def _run(model, seed, mse=1.0):
    fixed = {"dataset": "d", "protocol": "p", "split": 0, "n_parameters": 1, "seconds_per_epoch": 1.0, "seconds": 1.0}
    metrics = {"mse": mse, "mae": mse}
    recipe = Recipe.read(model)
    made = {"model": model, "network": recipe.written, "is_trained": recipe.is_trained}
    figures = {"metrics": metrics, "validation": dict(metrics)}
    return {**fixed, **made, "seed": seed, "peak_mb": 1.0, "n_test": 9, "notes": [], **figures}


def test_a_model_that_loses_to_a_baseline_is_said_to_lose(ran):
    protocol = protocols_of("lotka_volterra")["half"]
    records = summarise([_run("latent_ode", 0, 1.2), _run("blend", 0, 1.0), _run("constant", 0, 2.0)], protocol)
    assert losses(records) == [
        "latent_ode loses to blend on mse (ratio 1.200)",
        "latent_ode loses to blend on mae (ratio 1.200)",
    ]
    records = summarise([_run("latent_ode", 0, 0.9), _run("blend", 0, 1.0)], protocol)
    assert losses(records)[0] == "latent_ode beats blend on mse (ratio 0.900)"
    assert records[0]["loses_to"] == {}
    text = leaderboard(ran[1])
    assert text.index("| constant |") > 0
    assert "mean ± sd" in text


def test_a_row_is_marked_by_the_baselines_it_loses_to():
    protocol = protocols_of("lotka_volterra")["half"]
    runs = [_run("latent_ode", 0, 1.2), _run("blend", 0, 1.0), _run("constant", 0, 2.0), _run("ridge", 0, 1.1)]
    runs[0]["metrics"]["mae"] = 1.05
    records = {record["model"]: record for record in summarise(runs, protocol)}
    assert records["latent_ode"]["loses_to"] == {"blend": ["mse", "mae"], "ridge": ["mse"]}
    # A baseline is no model that has to beat the others.
    assert records["constant"]["loses_to"] == {}
    (row, *_) = (line for line in leaderboard(list(records.values())).splitlines() if line.startswith("| latent_ode"))
    assert row.endswith("| blend on mse, mae; ridge on mse |")


def test_every_error_stands_beside_its_ratio_to_the_blend(ran):
    _, records, _ = ran
    for record in records:
        for name in set(ERRORS) - {"mse_common"}:
            own, ratio = record["metrics"][name]["mean"], record["metrics"][f"ratio_to_blend_{name}"]["mean"]
            assert ratio > 0
            if record["model"] == "constant":
                blend = json.loads(_only(ran[0], "constant").read_text())["blend"][name]
                assert ratio == pytest.approx(own / blend)
    heads = [line for line in leaderboard(records).splitlines() if line.startswith("| model")]
    shown = "macro mse, common mse, pooled mse, mae of mean, mae of median, crps, nll, in 80 % band, in 95 % band, parameters, s per epoch"
    for title in shown.split(", "):
        assert any(f"| {title} |" in head for head in heads), title


def test_errors_stand_beside_what_the_noise_alone_makes(ran):
    _, records, _ = ran
    task = protocols_of("lotka_volterra", **SMALL)["half"].build(None, 0)
    for record in records:
        floor, ratio = record["metrics"]["floor_macro"]["mean"], record["metrics"]["ratio_to_floor"]["mean"]
        assert floor == pytest.approx(task.floor.mean())
        # One seed, or the mean of two with the same floor.
        assert ratio == pytest.approx(record["metrics"]["mse"]["mean"] / floor)
    assert "| mse over noise floor |" in leaderboard(records)


def test_without_noise_or_truth_there_is_no_floor(tmp_path):
    quiet = settings(models=("constant",), observing={**SMALL, "noise": 0.0})
    (record,) = run_benchmark(quiet, tmp_path / "r.json", say=lambda _: None)
    assert "ratio_to_floor" not in record["metrics"]
    assert "floor" not in leaderboard([record])


def _only(out, model):
    (path,) = out.with_name(f"{out.name}.runs").glob(f"*-{model}-0-0/record.json")
    return path


def test_a_data_set_is_added_by_copying_one_file(tmp_path, monkeypatch):
    """As a new user would: another module's file under another name, one line changed, one line in the table."""
    source = Path(van_der_pol.__file__).read_text(encoding="utf-8")
    path = tmp_path / "my_oscillator.py"
    path.write_text(source.replace("van_der_pol", "my_oscillator"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("my_oscillator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(DATASETS, "my_oscillator", module)
    own = settings(dataset="my_oscillator", models=("blend",))
    (record,) = run_benchmark(own, tmp_path / "r.json", say=lambda _: None)
    assert record["dataset"] == "my_oscillator"
    assert record["metrics"]["mse"]["mean"] > 0
