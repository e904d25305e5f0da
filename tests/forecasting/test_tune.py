"""Tuning on small data, with real fits of an epoch or two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
import yaml

from latentode import Forecaster
from latentode.cli import main
from latentode.errors import InputError, LatentODEError, RunError
from latentode.forecasting.runs import FILES
from latentode.forecasting.tune import TuneSettings, Tuning, tune
from tests.data.tables import make_frame

SPACE = """
model.learning_rate: {low: 0.0005, high: 0.01, log: true}
model.network.init_args.latent_size: [4, 8]
"""
CONFIG = """
model:
  network:
    class_path: latentode.models.LatentODE
    init_args:
      latent_size: 4
      has_companion: false
      encoder: {class_path: latentode.models.AttentionEncoder, init_args: {hidden_size: 8, n_layers: 0}}
      dynamics: {class_path: latentode.models.LinearField}
      decoder: {class_path: latentode.models.QuantileDecoder, init_args: {hidden_size: 8}}
data: {horizon: 3, windows_per_epoch: 32, batch_size: 16}
trainer: {max_epochs: 2, accelerator: cpu}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    make_frame(n_series=4).to_csv(folder / "data.csv", index=False)
    (folder / "space.yaml").write_text(SPACE)
    (folder / "fit.yaml").write_text(CONFIG)
    return folder


def arguments(folder, *more):
    return ["--config", str(folder / "fit.yaml"), "--data.path", str(folder / "data.csv"), *more]


def search(folder, name, *more, space="space.yaml", resume=False, said=None, **settings):
    say = (lambda _: None) if said is None else said.append
    return tune(
        folder / space,
        folder / name,
        arguments(folder, *more),
        settings=TuneSettings(**settings),
        resume=resume,
        say=say,
    )


@pytest.fixture(scope="module")
def tuned(folder):
    """A study of three trials that nobody disturbed."""
    said = []
    search(folder, "tuned", said=said, n_trials=3)
    assert [line.split(":")[0] for line in said] == [f"trial {i} ({i + 1} of 3)" for i in range(3)]
    return folder / "tuned"


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def trials(run_dir):
    return pd.read_csv(run_dir / "trials.csv").drop(columns="seconds")


@pytest.mark.slow
def test_the_best_trial_is_left_as_a_run_and_the_test_part_was_not_looked_at_before(tuned, folder):
    study = json.loads((tuned / "study.json").read_text())
    scores = [row["score"] for row in study["trials"]]
    assert study["best"]["score"] == min(scores)
    best = tuned / "trials" / f"{study['best']['number']:03d}"
    for number in range(3):
        assert json.loads((tuned / "trials" / f"{number:03d}" / "metrics.json").read_text())["test"] is None
    # The first trial is the configuration as far as the space holds it.
    assert study["trials"][0]["params"] == {"model.learning_rate": 0.002, "model.network.init_args.latent_size": 4}
    assert {path.name for path in tuned.iterdir()} >= {*FILES, "study.json", "trials.csv", "study.db"}
    assert same_weights(tuned / "best.ckpt", best / "best.ckpt")
    metrics = json.loads((tuned / "metrics.json").read_text())
    report = Forecaster.load(tuned).score(folder / "data.csv")
    assert report["part"] == "test"
    assert metrics["test"]["mse"] == pytest.approx(report["mse"], rel=1e-12)
    assert len(Forecaster.load(tuned).predict(folder / "data.csv", every=1, horizon=3).to_frame()) > 0


@pytest.mark.slow
def test_the_settings_of_the_best_trial_give_its_weights_by_a_plain_fit(tuned, folder):
    assert yaml.safe_load((tuned / "config.yaml").read_text())["run_dir"] == str(tuned)
    assert main(["fit", "--config", str(tuned / "config.yaml"), "--run_dir", str(folder / "again")]) == 0
    assert same_weights(tuned / "best.ckpt", folder / "again" / "best.ckpt")


@pytest.mark.slow
def test_a_killed_tuning_goes_on_to_the_same_end(tuned, folder):
    run_dir = folder / "killed"
    command = [
        sys.executable,
        "-m",
        "latentode.cli",
        "tune",
        "--space",
        str(folder / "space.yaml"),
        "--run_dir",
        str(run_dir),
    ]
    process = subprocess.Popen(
        [*command, *arguments(folder), "--trials", "3"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    # In the middle of the second trial: its log is there, its checkpoint is not final.
    until = time.monotonic() + 120
    while not (run_dir / "trials" / "001" / "log.csv").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run_dir / "best.ckpt").exists()
    killed_after = len(Tuning.open(None, run_dir, [], TuneSettings(), resume=True).study.trials)
    assert killed_after < 3
    tune(None, run_dir, settings=TuneSettings(n_trials=3), resume=True)
    pd.testing.assert_frame_equal(trials(run_dir), trials(tuned), check_exact=True)
    assert same_weights(run_dir / "best.ckpt", tuned / "best.ckpt")
    one, other = (json.loads((path / "metrics.json").read_text()) for path in (run_dir, tuned))
    # What the clock says is no result.
    assert {**one, "seconds": 0, "finished_at": ""} == {**other, "seconds": 0, "finished_at": ""}


@pytest.mark.slow
def test_a_study_is_extended_and_not_mixed_with_another(tuned, folder):
    before = trials(tuned)
    study = search(folder, "tuned", n_trials=4, resume=True)
    assert len(study["trials"]) == 4
    pd.testing.assert_frame_equal(trials(tuned)[:3], before, check_exact=True)
    with pytest.raises(InputError, match="--resume"):
        search(folder, "tuned")
    with pytest.raises(RunError, match=r"model.weight_decay 0.01, now it is 0.5"):
        search(folder, "tuned", "--model.weight_decay", "0.5", resume=True)
    with pytest.raises(RunError, match="seed 0, now it is 1"):
        search(folder, "tuned", seed=1, resume=True)
    (folder / "other.yaml").write_text(SPACE.replace("[4, 8]", "[4, 8, 16]"))
    with pytest.raises(RunError, match="latent_size"):
        search(folder, "tuned", space="other.yaml", resume=True)
    make_frame(n_series=4, seed=1).to_csv(folder / "changed.csv", index=False)
    with pytest.raises(RunError, match="table has changed"):
        search(folder, "tuned", "--data.path", str(folder / "changed.csv"), resume=True)


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_and_the_others_go_on(folder):
    # Heads that do not divide the width are found out when the layers are made; the first trial stands on the configuration's own, 4.
    (folder / "heads.yaml").write_text("model.network.init_args.encoder.init_args.n_heads: [4, 3]\n")
    study = search(folder, "heads", "--trainer.max_epochs", "1", space="heads.yaml", n_trials=4)
    failed = [row for row in study["trials"] if row["state"] == "failed"]
    assert failed
    assert all(
        row["params"]["model.network.init_args.encoder.init_args.n_heads"] == 3 and row["error"] for row in failed
    )
    assert study["best"]["params"]["model.network.init_args.encoder.init_args.n_heads"] == 4
    assert not list((folder / "heads" / "trials" / f"{failed[0]['number']:03d}").glob("*.ckpt"))


@pytest.mark.slow
def test_where_every_trial_fails_the_command_fails_in_a_sentence(folder, capsys):
    (folder / "never.yaml").write_text("model.network.init_args.encoder.init_args.n_heads: [3, 5]\n")
    options = ["tune", "--space", str(folder / "never.yaml"), "--run_dir", str(folder / "never"), "--trials", "2"]
    assert main([*options, *arguments(folder)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "none of 2 trials has come to its end" in error


@pytest.mark.slow
def test_a_hopeless_trial_is_ended_early_and_keeps_its_log(folder):
    import optuna

    (folder / "rate.yaml").write_text("model.learning_rate: {low: 0.001, high: 0.01}\n")
    more = arguments(folder, "--trainer.max_epochs", "8")
    tuning = Tuning.open(folder / "rate.yaml", folder / "pruned", more, TuneSettings(), resume=False)
    # Five trials that were better than any of this table can be.
    for rate in (0.002, 0.003, 0.004, 0.005, 0.006):
        distribution = tuning.space[0].distribution()
        tuning.study.add_trial(
            optuna.trial.create_trial(
                value=1e-6,
                params={"model.learning_rate": rate},
                distributions={"model.learning_rate": distribution},
                intermediate_values=dict.fromkeys(range(8), 1e-6),
                user_attrs={"n_epochs": 8, "best_epoch": 7, "seconds": 1.0},
            )
        )
    tuning._try(5)
    trial = tuning.study.trials[5]
    assert trial.state.name == "PRUNED"
    assert 1 <= trial.user_attrs["n_epochs"] < 8
    left = {path.name for path in (folder / "pruned" / "trials" / "005").iterdir()}
    assert left == {"config.yaml", "log.csv"}


@pytest.mark.slow
def test_time_up_leaves_what_there_is_and_best_settings_are_fitted_longer(folder):
    said = []
    study = search(folder, "short", "--trainer.max_epochs", "1", said=said, n_trials=1, final_epochs=2)
    assert len(study["trials"]) == 1
    assert json.loads((folder / "short" / "metrics.json").read_text())["n_epochs"] == 2
    assert yaml.safe_load((folder / "short" / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    study = search(folder, "short", "--trainer.max_epochs", "1", said=said, n_trials=3, timeout=1e-9, resume=True)
    assert len(study["trials"]) == 1
    assert "time is up after 1 of 3 trials" in said[-1]
    with pytest.raises(LatentODEError, match="none of 0 trials"):
        search(folder, "never-begun", n_trials=1, timeout=1e-9)


def test_settings_of_the_search_are_checked():
    with pytest.raises(InputError, match="trials is 0"):
        TuneSettings(n_trials=0)
    with pytest.raises(InputError, match="'mean'; choose one of median, hyperband, none"):
        TuneSettings(pruner="mean")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "options", "words"),
    [
        (
            "model.learning_rte: [0.1, 0.2]",
            [],
            ["space.yaml:1: model.learning_rte is no setting", "'model.learning_rate'"],
        ),
        ("model.learning_rate: [0.1, fast]", [], ["space.yaml:1: model.learning_rate does not take 'fast'"]),
        ("model.learning_rate: [0.1, 0.2]", ["--trails", "3"], ["--trails is no option", "did you mean '--trials'"]),
        ("model.learning_rate: [0.1, 0.2]", ["--timeout", "soon"], ["--timeout is 'soon'"]),
        ("model.learning_rate: [0.1, 0.2]", ["--data.pth", "x"], ["--data.pth is no option", "--data.path"]),
        ("model.learning_rate: [0.1, 0.2]", ["--plot", "x.doc"], ["x.doc"]),
    ],
)
def test_wrong_usage_is_refused_in_a_sentence(space, options, words, folder, tmp_path, capsys):
    (tmp_path / "space.yaml").write_text(space)
    command = ["tune", "--space", str(tmp_path / "space.yaml"), "--run_dir", str(tmp_path / "run"), *arguments(folder)]
    assert main([*command, *options]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert [word for word in words if word not in lines[0]] == []


def test_without_optuna_the_extra_is_named(folder):
    code = "import sys; sys.modules['optuna'] = None; from latentode.cli import main; sys.exit(main(['tune', '--space', 'x.yaml']))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ}, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: tuning needs Optuna; install it with: pip install 'latentode[tune]'"
