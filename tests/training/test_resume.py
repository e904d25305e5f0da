"""A fit that is stopped, killed or cut off by a full disk goes on as if nothing had happened."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from dataclasses import replace

import pandas as pd
import pytest
import torch

from latentode import Forecaster
from latentode.data.settings import DataSettings
from latentode.errors import DataError, InputError, RunError, Stopped
from latentode.files import LOCK, hold_folder
from latentode.models import LatentODE
from latentode.training import FitSettings, fit_network
from latentode.training.stopping import StopRequest
from tests.data.tables import make_table

SETTINGS = DataSettings(horizon=3.0, windows_per_epoch=64, batch_size=16)
FIT = FitSettings(max_epochs=3, device="cpu")


class Signalled(LatentODE):
    """Sends its own process a signal while it computes one of its losses."""

    at: int | None = None
    signum = signal.SIGINT
    n_losses = 0

    def loss(self, batch):
        self.n_losses += 1
        if self.n_losses == self.at:
            os.kill(os.getpid(), self.signum)
        return super().loss(batch)


def fit(folder, *, at=None, signum=signal.SIGINT, settings=SETTINGS, seed=0, **options):
    network = Signalled(latent_size=4)
    network.at, network.signum = at, signum
    options = {"data": make_table(), "show_progress": False, **options}
    return fit_network(network, settings, replace(FIT, seed=seed), folder, **options)


def weights(folder):
    content = torch.load(folder / "best.ckpt", weights_only=True)
    return {**content["state_dict"], **{f"baselines.{key}": value for key, value in content["baselines"].items()}}


def training_state(folder):
    """Everything that training holds in the end, the average and the optimiser among it."""
    content = torch.load(folder / "last.ckpt", weights_only=True)
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "generators")
    return {name: content[name] for name in names} | {"losses": content["callbacks"]["Rescue"]["best_loss"]}


def log_rows(folder):
    with (folder / "log.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def assert_same_run(found, expected):
    assert_equal(weights(found), weights(expected))
    assert_equal(training_state(found), training_state(expected))
    assert log_rows(found) == log_rows(expected)


def assert_equal(found, expected):
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    _, metrics = fit(folder)
    return folder, metrics


# Epochs have 4 batches: within the first and the second one, and in the last batch of one, after which validation comes.
@pytest.mark.parametrize("stops", [[1, 5], [6], [8, 3], [12]])
def test_a_fit_that_was_stopped_ends_with_the_same_bits(whole, tmp_path, stops):
    for at in stops:
        with pytest.raises(Stopped, match="--resume") as stopped:
            fit(tmp_path, at=at, start="resume")
        assert stopped.value.signum == signal.SIGINT
        assert (tmp_path / "last.ckpt").is_file()
    _, metrics = fit(tmp_path, start="resume")
    assert_same_run(tmp_path, whole[0])
    differing = {"seconds", "finished_at"}
    assert {k: v for k, v in metrics.items() if k not in differing} == {
        k: v for k, v in whole[1].items() if k not in differing
    }
    assert not list(tmp_path.glob(".*"))


def test_sigterm_stops_as_well_and_a_handler_of_before_is_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped:
        fit(tmp_path, at=3, signum=signal.SIGTERM)
    assert stopped.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_process_was_started_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopRequest().listening():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_ctrl_c_does_not_wait_and_neither_does_one_outside_of_training(capsys):
    stop = StopRequest()
    with stop.training():
        stop(signal.SIGINT, None)
        assert "once more stops at once" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            stop(signal.SIGTERM, None)
    assert stop.signum == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        StopRequest()(signal.SIGINT, None)


def test_a_folder_with_a_run_is_refused_unless_it_is_to_be_replaced(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    with pytest.raises(RunError, match=r"holds a run already.*--resume.*--overwrite"):
        fit(folder)
    # A table that cannot be trained on costs nobody the run of before.
    with pytest.raises(DataError):
        fit(folder, start="overwrite", data=make_table(n_series=1, n_rows=2))
    assert_same_run(folder, whole[0])
    fit(folder, start="overwrite", seed=1)
    assert any(not torch.equal(weights(folder)[name], value) for name, value in weights(whole[0]).items())


def test_a_finished_run_is_read_back(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*.ckpt")}
    # What training left is not needed any more.
    fitted, metrics = fit(folder, start="resume")
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.ckpt")} == stamps
    assert metrics["test"]["mse"] == whole[1]["test"]["mse"]
    (folder / "last.ckpt").unlink()
    again, _ = fit(folder, start="resume")
    assert_equal(dict(again.network.state_dict()), dict(fitted.network.state_dict()))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"settings": replace(SETTINGS, horizon=4.0)}, "data.horizon 3.0, not 4.0"),
        ({"data": make_table(seed=3)}, "another table"),
    ],
)
def test_a_run_is_not_gone_on_with_by_other_settings(whole, tmp_path, changed, named):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    with pytest.raises(RunError, match=named):
        fit(folder, start="resume", **changed)
    assert_same_run(folder, whole[0])


def test_a_run_of_another_model_or_without_its_weights_is_not_gone_on_with(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    with pytest.raises(RunError, match="another model"):
        fit_network(Signalled(latent_size=5), SETTINGS, FIT, folder, data=make_table(), start="resume")
    (folder / "best.ckpt").unlink()
    with pytest.raises(RunError, match=r"lost its best\.ckpt"):
        fit(folder, start="resume")


def test_a_folder_is_refused_while_another_fit_is_in_it(tmp_path):
    with hold_folder(tmp_path), pytest.raises(RunError, match=f"in use by process {os.getpid()} on "):
        fit(tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_the_run_that_went_on_is_the_forecaster_of_one_that_did_not(tmp_path):
    chosen = {"horizon": 3.0, "windows_per_epoch": 64, "batch_size": 16, "max_epochs": 2, "device": "cpu"}
    network = Signalled(latent_size=4)
    forecaster = Forecaster(network, show_progress=False, **chosen)
    expected = forecaster.fit(make_table()).predict(make_table(), every=1.0).to_frame()
    network.at = 3
    with pytest.raises(Stopped, match="resume=True"):
        forecaster.fit(make_table(), run_dir=tmp_path)
    network.at = None
    with pytest.raises(RunError, match="holds a run already"):
        forecaster.fit(make_table(), run_dir=tmp_path)
    found = forecaster.fit(make_table(), run_dir=tmp_path, resume=True).predict(make_table(), every=1.0).to_frame()
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    with pytest.raises(InputError, match="run_dir"):
        forecaster.fit(make_table(), resume=True)


def test_a_fit_that_cannot_begin_leaves_no_run(tmp_path):
    with pytest.raises(DataError, match="no such data file"):
        fit_network(LatentODE(), DataSettings(path=str(tmp_path / "nothing.csv")), FitSettings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
