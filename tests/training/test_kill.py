"""Real processes that are killed, stopped, locked out, and run out of disk."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest

from tests.data.tables import make_frame
from tests.training.running import Running
from tests.training.test_resume import assert_same_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="kills, mounts and locks as Linux does"),
]

TASK = "latentode.training.task:ForecastingTask."
FITTED = "latentode.models.fitted:FittedModel."
DATA = ("--data.horizon", "3", "--data.windows_per_epoch", "64", "--data.batch_size", "16")
FIT = ("fit", "--data.path", "../data.csv", *DATA, "--trainer.max_epochs", "3", "--trainer.accelerator", "cpu")
FORECAST = ("--history", "../data.csv", "--every", "1", "--out", "forecast.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    make_frame().to_csv(folder / "data.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """A run that nothing happened to, and its forecast."""
    (folder / "whole").mkdir()
    running = Running(*FIT, "--run_dir", "run", folder=folder / "whole")
    assert running.wait() == 0, running.said
    assert Running("forecast", "run", *FORECAST, folder=folder / "whole").wait() == 0
    return folder / "whole"


def place(folder, name):
    (folder / name).mkdir()
    return folder / name


def test_a_fit_that_is_killed_again_and_again_ends_with_the_same_bits(whole, folder):
    here = place(folder, "again")
    rng = random.Random(0)
    # An attempt gets through what was lost and a little more: 12 steps in all, a checkpoint (two flushes before it is in its place)
    # after each, and what comes in the end.
    moments = [
        (f"{TASK}build", 1),
        (f"{TASK}training_step", rng.randint(1, 3)),
        ("latentode.files:_flush", rng.randint(3, 12)),
        (f"{TASK}validation_step", 1),
        ("latentode.files:_flush_folder", rng.randint(3, 10)),
        (f"{TASK}training_step", rng.randint(2, 4)),
        (f"{TASK}on_save_checkpoint", rng.randint(2, 4)),
        (f"{FITTED}calibrate", 1),
        (f"{FITTED}score", 2),
        (f"{FITTED}save", 1),
    ]
    for moment in moments:
        killed = Running(*FIT, "--run_dir", "run", "--save_every", "0", "--resume", folder=here, moments=[moment])
        assert killed.wait() == -signal.SIGKILL, f"{moment}: {killed.said}"
    # Without the options of the fit: they stand in the run.
    last = Running("fit", "--run_dir", "run", "--resume", folder=here)
    assert last.wait() == 0, last.said
    assert_same_run(here / "run", whole / "run")
    assert not list((here / "run").glob(".*"))
    found, expected = (json.loads((place / "run" / "metrics.json").read_text()) for place in (here, whole))
    differing = {"seconds": 0, "finished_at": ""}
    assert {**found, **differing} == {**expected, **differing}
    assert Running("forecast", "run", *FORECAST, folder=here).wait() == 0
    assert (here / "forecast.csv").read_bytes() == (whole / "forecast.csv").read_bytes()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(whole, folder, signum):
    here = place(folder, signum.name)
    moment = (f"{TASK}training_step", 6)
    stopped = Running(*FIT, "--run_dir", "my run", folder=here, moments=[moment], what=signum)
    assert stopped.wait() == 128 + signum
    assert stopped.said.splitlines()[-1] == "stopped; go on with: latentode fit --run_dir 'my run' --resume"
    assert (here / "my run" / "last.ckpt").is_file()
    went_on = Running("fit", "--run_dir", "my run", "--resume", folder=here)
    assert went_on.wait() == 0, went_on.said
    assert_same_run(here / "my run", whole / "run")


def test_a_second_ctrl_c_ends_it_at_once_and_nobody_else_gets_into_the_folder_meanwhile(folder):
    here = place(folder, "hanging")
    hanging = Running(*FIT, "--run_dir", "run", folder=here, moments=[(f"{TASK}training_step", 3)], what="hang")
    hanging.until(lambda: "hanging" in hanging.said)
    other = Running(*FIT, "--run_dir", "run", "--resume", folder=here)
    assert other.wait() == 2
    assert f"run is in use by process {hanging.process.pid} on " in other.said
    hanging.send(signal.SIGINT)
    hanging.until(lambda: "once more stops at once" in hanging.said)
    assert hanging.process.is_alive()
    hanging.send(signal.SIGINT)
    assert hanging.wait() == 130
    assert "stopped; go on with" in hanging.said
    assert not list((here / "run").glob(".*"))


@pytest.fixture
def disk(tmp_path):
    """Give a function that mounts a disk of so many bytes."""
    mounted = tmp_path / "disk"
    mounted.mkdir()

    def mount(size):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mounted)], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip("only root may mount a small disk")
        return mounted

    yield mount
    subprocess.run(["umount", str(mounted)], capture_output=True, check=False)


def assert_one_sentence(running, *parts):
    assert running.wait() == 1, running.said
    (line,) = [line for line in running.said.splitlines() if not line.startswith("note:")]
    assert line.startswith("error: ")
    assert line.endswith(".")
    for part in parts:
        assert part in line


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(whole, folder, disk):
    mounted = disk("256k")
    here = place(folder, "full")
    running = Running(*FIT, "--run_dir", str(mounted / "run"), folder=here)
    assert_one_sentence(running, "best.ckpt could not be written: No space left on device")
    assert {path.name for path in (mounted / "run").iterdir()} == {"config.yaml", "log.csv"}
    # With room again it goes on as if nothing had happened.
    subprocess.run(["mount", "-o", "remount,size=32M", str(mounted)], check=True)
    went_on = Running("fit", "--run_dir", str(mounted / "run"), "--resume", folder=here)
    assert went_on.wait() == 0, went_on.said
    assert_same_run(mounted / "run", whole / "run")
    # What is there already stays as it was.
    before = (whole / "forecast.csv").read_bytes()
    (mounted / "forecast.csv").write_bytes(before)
    fill(mounted / "filler")
    for name in ("forecast.csv", "forecast.parquet"):
        out = mounted / name
        words = ["forecast", str(whole / "run"), *FORECAST[:-1], str(out), "--every", "0.5"]
        assert_one_sentence(Running(*words, folder=here), "could not be written: No space left on device")
    assert (mounted / "forecast.csv").read_bytes() == before
    assert {path.name for path in mounted.iterdir()} == {"run", "forecast.csv", "filler"}


def fill(path):
    """Write until there is no room for a page more."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    for size in (1 << 20, 4096):
        with contextlib.suppress(OSError):
            while os.write(descriptor, bytes(size)) == size:
                pass
    os.close(descriptor)


def test_a_folder_that_can_only_be_read_is_one_sentence(whole, folder, disk):
    mounted = disk("8M")
    shutil.copytree(whole / "run", mounted / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    here = place(folder, "read-only")
    for name in ("new", "run"):
        running = Running(*FIT, "--run_dir", str(mounted / name), folder=here)
        assert_one_sentence(running, f"{name} could not be written: Read-only file system")
    words = ["forecast", str(whole / "run"), *FORECAST[:-1], str(mounted / "forecast.csv")]
    assert_one_sentence(Running(*words, folder=here), "Read-only file system")
    # To read from it is nothing out of the ordinary.
    assert Running("forecast", str(mounted / "run"), *FORECAST, folder=here).wait() == 0
    assert (here / "forecast.csv").read_bytes() == (whole / "forecast.csv").read_bytes()


def test_a_benchmark_that_is_killed_goes_on_within_the_fit(folder):
    words = ("benchmark", "lotka_volterra", "--model", "blend,latent_ode", "--seeds", "1", "--max_epochs", "2")
    words = (*words, "--n_series", "30", "--out", "results.json")
    figures = []
    # 64 steps of the blend, which learns nothing, then 64 and some of the network.
    for name, moments in {"undisturbed": (), "killed": [(f"{TASK}training_step", 140)]}.items():
        here = place(folder, name)
        if moments:
            assert Running(*words, folder=here, moments=moments).wait() == -signal.SIGKILL
            (begun,) = (here / "results.json.runs").glob("*latent_ode*/last.ckpt")
            stamp = begun.stat().st_mtime_ns
        running = Running(*words, folder=here)
        assert running.wait() == 0, running.said
        figures.append(
            [
                (one["model"], one["metrics"], one["validation"])
                for one in json.loads((here / "results.json").read_text())
            ]
        )
    assert begun.stat().st_mtime_ns > stamp
    assert "1 of 2 runs were there already" in running.said
    assert figures[0] == figures[1]


def test_a_backtest_that_is_killed_does_not_fit_again_what_it_had(whole, folder):
    words = ("backtest", str(whole / "run"), "--data", "../data.csv", "--origins", "2", "--refit", "--max_epochs", "1")
    words = (*words, "--out", "backtest.json")
    here = place(folder, "backtest")
    assert Running(*words, folder=here, moments=[(f"{TASK}training_step", 6)]).wait() == -signal.SIGKILL
    first = here / "backtest.json.runs" / "origin-2" / "best.ckpt"
    stamp = first.stat().st_mtime_ns
    running = Running(*words, folder=here)
    assert running.wait() == 0, running.said
    assert first.stat().st_mtime_ns == stamp
    other = place(folder, "backtest-whole")
    assert Running(*words, folder=other).wait() == 0
    assert (here / "backtest.json").read_bytes() == (other / "backtest.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--run_dir", "run", "--resume", "--trainer.gradient_clip_val", "5"), "trainer.gradient_clip_val 1.0, not 5"),
        (("--run_dir", "run", "--resume", "--data.horizon", "7"), "data.horizon 3, not 7"),
        (("--run_dir", "run", "--resume", "--overwrite"), "give one of them"),
        (("--run_dir", "run", "--data.path", "../data.csv"), "holds a run already"),
        (("--run_dir", "run", "--resume", "--ckpt_path", "run/last.ckpt"), "is for validate"),
        (("--resume",), "name its folder with --run_dir RUN"),
        (("--run_dir", "none", "--resume"), "holds no run to go on with"),
    ],
)
def test_options_that_contradict_a_run_are_refused(whole, words, said):
    refused = Running("fit", *words, folder=whole)
    assert refused.wait() == 2, refused.said
    assert said in refused.said
    assert len(refused.said.splitlines()) == 1
    assert not (whole / "none").exists()
