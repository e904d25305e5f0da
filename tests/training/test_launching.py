"""`latentode fit` in several processes and on several hosts: the run of one, said once, and an end for all where one fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from latentode.cli import main
from latentode.errors import InputError
from latentode.training.command import run_command
from latentode.training.launching import WORKER, _interface_towards, check_processes
from tests.conftest import ROOT
from tests.data.tables import make_frame

# No dropout: its draws are each process' own. 71 windows by 16: the last batch is uneven.
CONFIG = """
model:
  network:
    class_path: latentode.models.LatentODE
    init_args:
      latent_size: 4
      context_size: 8
      has_companion: false
      encoder: {class_path: latentode.models.AttentionEncoder, init_args: {hidden_size: 16, dropout: 0}}
      decoder: {class_path: latentode.models.QuantileDecoder, init_args: {hidden_size: 16}}
data: {path: data.csv, horizon: 3, windows_per_epoch: 71, batch_size: 16}
trainer: {max_epochs: 2, accelerator: cpu}
"""
DEADLINE = 300.0  # seconds after which a process is given up; on a machine to itself none takes 20

# jsonargparse's own of what the next version will call otherwise.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def arguments(folder, *more):
    return ["fit", "--config", "config.yaml", "--run_dir", str(folder), *more]


def start(folder, *more, prefix=(), **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [*prefix, sys.executable, "-m", "latentode.cli", *arguments(folder, *more)]
    return subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)


def without_progress(text):
    """Leave out how far a long work has come: on a pipe a line now and then."""
    return re.sub(r"^[a-z ]+: [\d,]+ of [\d,]+ .*\n", "", text, flags=re.MULTILINE)


def check_same(one, two):
    """Assert that two runs have the same weights and figures to what single precision leaves of other sums."""
    ours, theirs = (torch.load(folder / "best.ckpt", weights_only=True) for folder in (one, two))
    assert ours["epoch"] == theirs["epoch"]
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, value in ours["state_dict"].items():
        torch.testing.assert_close(value, theirs["state_dict"][name], rtol=1e-4, atol=1e-5, msg=name)
    figures, others = (json.loads((folder / "metrics.json").read_text()) for folder in (one, two))
    for name in ("seconds", "finished_at"):
        del figures[name], others[name]
    assert figures["notes"] == others["notes"]
    check_close(figures, others)
    logs = [(folder / "log.csv").read_text().splitlines() for folder in (one, two)]
    for row, other in zip(*logs, strict=True):
        cells = [cell for i, cell in enumerate(zip(row.split(","), other.split(","), strict=True)) if i != 2]
        assert all(a == b or float(a) == pytest.approx(float(b), rel=1e-5) for a, b in cells)


def check_close(one, two):
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one:
            check_close(one[name], two[name])
    elif isinstance(one, list):
        for a, b in zip(one, two, strict=True):
            check_close(a, b)
    else:
        assert one == two if not isinstance(one, float) else one == pytest.approx(two, rel=1e-4, abs=1e-6)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_frame(n_series=6, n_rows=40).to_csv("data.csv", index=False)
    Path("config.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_frame(n_series=6, n_rows=40).to_csv("data.csv", index=False)
        Path("config.yaml").write_text(CONFIG)
        assert main(arguments(folder / "run")) == 0
    return folder / "run"


@pytest.mark.slow
def test_two_processes_leave_the_run_of_one(folder, alone):
    process = start(folder / "run", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    said, complaint = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, complaint
    assert said.count("run folder: ") == said.count("this model") / 2 == 1
    assert all(line.startswith("note: ") for line in without_progress(complaint).splitlines() if line), complaint
    assert {path.name for path in (folder / "run").iterdir()} == {path.name for path in alone.iterdir()}
    check_same(alone, folder / "run")


@pytest.fixture
def hosts():
    """Two network namespaces joined by a cable, as two hosts: their names, and the address of the first."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (iproute2) with which two hosts could be made")
    names = [f"latentode-{os.getpid()}-{i}" for i in range(2)]
    cable = [f"lt{os.getpid()}{end}" for end in "ab"]
    ends = [f"10.231.{os.getpid() % 250}.{i + 1}" for i in range(2)]

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True)

    made = ip("netns", "add", names[0])
    if made.returncode:
        pytest.skip(f"two hosts cannot be made: {made.stderr.strip()}")
    try:
        steps = [("netns", "add", names[1])]
        steps += [("link", "add", cable[0], "netns", names[0], "type", "veth", "peer", cable[1], "netns", names[1])]
        for name, end, address in zip(names, cable, ends, strict=True):
            steps += [("-n", name, "addr", "add", f"{address}/24", "dev", end)]
            steps += [("-n", name, "link", "set", device, "up") for device in ("lo", end)]
        for step in steps:
            done = ip(*step)
            if done.returncode:
                pytest.skip(f"two hosts cannot be joined: {done.stderr.strip()}")
        yield names, ends[0]
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.mark.slow
def test_two_hosts_leave_the_run_of_one(folder, alone, hosts):
    names, address = hosts
    environment = {"MASTER_ADDR": address, "MASTER_PORT": "29500"}
    processes = [
        start(
            folder / f"run{i}",
            *("--trainer.num_nodes", "2"),
            prefix=("ip", "netns", "exec", name),
            **environment,
            NODE_RANK=str(i),
        )
        for i, name in enumerate(names)
    ]
    said = [process.communicate(timeout=DEADLINE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[1] == ("", "")
    assert not (folder / "run1").exists()
    check_same(alone, folder / "run0")


def children(pid):
    """Give the processes that `pid` has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def wait_for(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def n_epochs(run):
    log = run / "log.csv"
    return max(len(log.read_text().splitlines()) - 1, 0) if log.exists() else 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="who started whom is read from /proc")
def test_where_one_process_is_killed_all_end_and_say_so_once(folder):
    run = folder / "run"
    process = start(run, "--trainer.devices", "2", "--trainer.max_epochs", "10000", "--patience", "10000")
    wait_for(lambda: n_epochs(run) >= 2)
    (other,) = children(process.pid)
    assert WORKER.encode() in Path(f"/proc/{other}/environ").read_bytes()
    os.kill(other, signal.SIGKILL)
    said, complaint = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert said == ""
    assert (
        without_progress(complaint)
        == "error: process 1 of this training was ended by signal 9, so the others were ended too.\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="who started whom is read from /proc")
def test_where_the_first_process_is_killed_no_other_stays(folder):
    run = folder / "run"
    process = start(run, "--trainer.devices", "2", "--trainer.max_epochs", "10000", "--patience", "10000")
    wait_for(lambda: children(process.pid))
    (other,) = children(process.pid)
    process.kill()
    process.communicate(timeout=DEADLINE)
    wait_for(lambda: not Path(f"/proc/{other}").exists() or " Z " in Path(f"/proc/{other}/stat").read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.strategy", "ddp_spawn", "--trainer.devices", "2"], "choose --trainer.strategy ddp"),
        (["--trainer.num_nodes", "2"], "needs MASTER_ADDR, MASTER_PORT, NODE_RANK in the environment"),
        (["--trainer.strategy", "dpp"], "dpp"),
    ],
)
def test_what_cannot_train_together_is_said_before_anything_is_read(folder, options, message):
    with pytest.raises(InputError, match=message):
        run_command("fit", arguments(folder / "run", *options)[1:])
    assert not (folder / "run").exists()
    assert "LOCAL_RANK" not in os.environ


def test_nothing_to_train_is_refused():
    trainer = pl.Trainer(devices=2, accelerator="cpu", strategy="ddp", logger=False, enable_checkpointing=False)
    with pytest.raises(InputError, match="nothing that 2 processes could train together"):
        check_processes(pl.LightningModule(), trainer)


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces are asked for as Linux has them")
def test_the_interface_is_the_one_that_leads_to_the_first_machine():
    assert _interface_towards("127.0.0.1") == "lo"


@pytest.mark.slow
def test_ray_leaves_the_run_of_one(folder, alone):
    pytest.importorskip("ray.train")
    process = start(folder / "run", "--engine", "ray", "--workers", "2", RAY_ADDRESS="")
    said, complaint = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, complaint
    assert said.count("run folder: ") == 1
    assert {path.name for path in (folder / "run").iterdir()} == {path.name for path in alone.iterdir()}
    check_same(alone, folder / "run")


def test_ray_that_is_not_installed_is_said_in_a_sentence(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'latentode\[ray\]'"):
        run_command("fit", arguments(folder / "run", "--engine", "ray", "--workers", "2")[1:])
