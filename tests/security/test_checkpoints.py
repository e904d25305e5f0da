"""Checkpoints of a stranger: nothing runs, nothing is imported, fetched or removed, and the answer is one sentence."""

from __future__ import annotations

import http.server
import io
import pickle
import shutil
import threading
import zipfile

import pytest
import torch
import yaml

from latentode import Forecaster
from latentode.cli import main
from latentode.errors import InputError, RunError
from latentode.models import LatentODE
from latentode.models.plain_file import load_plain
from latentode.models.registry import from_plain, to_plain
from latentode.models.stored import Stored
from tests.security.conftest import EVIL, Payload

# In a process of its own a command does not end by a warning of jsonargparse, Lightning or torch.
pytestmark = pytest.mark.filterwarnings("ignore")


def _slow(*values):
    """Leave some of many alike to the slow tests."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def as_run(folder, content):
    """Make a run folder of a checkpoint: bytes, or what torch saves."""
    folder.mkdir()
    for name in ("best.ckpt", "last.ckpt"):
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            torch.save(content, folder / name)
    return folder


def ways_in(setting, run, tmp_path):
    """Give every command that reads a checkpoint."""
    ask = ("--every", "1", "--out", tmp_path / "out.csv")
    shutil.copyfile(setting.run / "config.yaml", run / "config.yaml")
    return {
        "forecast": ("forecast", run, "--history", setting.data, *ask),
        "evaluate": ("evaluate", run, "--data", setting.data),
        "backtest": ("backtest", run, "--data", setting.data),
        "refit": ("backtest", run, "--data", setting.data, "--refit"),
        "validate": ("validate", *setting.options, "--ckpt_path", run / "best.ckpt"),
        "fit": ("fit", "--run_dir", run, "--resume"),
    }


def payloads(setting, mark):
    """Give malicious files in every form that torch has read at some time."""
    legacy = io.BytesIO()
    torch.save({"state_dict": Payload(mark)}, legacy, _use_new_zipfile_serialization=False)
    inside = setting.content()
    inside["callbacks"]["x"] = Payload(mark)
    named = setting.content()
    named["hyper_parameters"] = {"_instantiator": Payload(mark)}
    whole = io.BytesIO()
    torch.save(inside, whole)
    hidden = io.BytesIO()
    torch.save(named, hidden)
    return {
        "in a callback": whole.getvalue(),
        "in hyperparameters": hidden.getvalue(),
        "bare pickle": pickle.dumps(Payload(mark)),
        "legacy": legacy.getvalue(),
    }


@pytest.mark.parametrize("way", ["forecast", "fit", *_slow("evaluate", "backtest", "refit", "validate")])
def test_a_pickle_runs_nothing_whichever_command_reads_it(setting, marker, refuse, tmp_path, way):
    for i, content in enumerate(payloads(setting, marker).values()):
        run = as_run(tmp_path / f"run-{i}", content)
        assert "ckpt" in refuse(*ways_in(setting, run, tmp_path)[way])
        with pytest.raises(RunError):
            Forecaster.load(run)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "out.csv").exists()


def test_the_payloads_do_run_where_nobody_holds_them_back(setting, tmp_path):
    # Else the tests above would prove nothing.
    for i, content in enumerate(payloads(setting, tmp_path / "ran").values()):
        mark = tmp_path / f"ran-{i}"
        pickle.loads(pickle.dumps(Payload(mark)))
        assert mark.exists()
        if not content.startswith(b"\x80\x04"):
            torch.load(io.BytesIO(content), weights_only=False)
            assert (tmp_path / "ran").exists()
            (tmp_path / "ran").unlink()


def test_class_paths_in_hyperparameters_are_passed_over(setting, marker, tmp_path):
    content = setting.content()
    content["hyper_parameters"] = {
        "_instantiator": f"{EVIL}.run",
        "_class_path": f"{EVIL}.Model",
        "class_path": f"{EVIL}.Model",
        "network": {"class_path": f"{EVIL}.Model", "init_args": {}},
    }
    content["datamodule_hyper_parameters"] = {"_instantiator": f"{EVIL}.run"}
    content["hparams_name"] = "kwargs"
    run = as_run(tmp_path / "run", content)
    ways = ways_in(setting, run, tmp_path)
    # The weights are those of a run, so that they are taken; what is beside them is nobody's business.
    assert main([str(word) for word in ways["validate"]]) == 0
    assert main([str(word) for word in ways["fit"]]) == 0


@pytest.mark.parametrize(
    "name",
    [
        f"{EVIL}.Model",
        "latentode_evil.Model",
        "latentode.models.os.system",
        "latentode.data.os.system",
        "latentode.models.registry.importlib.import_module",
        "latentode.models.fitted.FittedModel",
        "os.system",
        "builtins.exec",
        "torch.nn.Linear",
        "../x.Model",
        "",
        "LatentODE.__init__",
    ],
)
def test_a_run_names_only_classes_of_latentode(setting, marker, refuse, tmp_path, name):
    content = setting.content("best.ckpt")
    for place in (content["latentode"]["network"], content["latentode"]["network"]["settings"]["dynamics"]):
        kept = place["class"]
        place["class"] = name
        run = as_run(tmp_path / f"run-{kept}", content)
        assert "class" in refuse(*ways_in(setting, run, tmp_path)["forecast"])
        place["class"] = kept


def test_an_allowed_module_allows_no_other(marker, tmp_path, monkeypatch):
    plain = to_plain(LatentODE())
    (tmp_path / "modules" / "allowed.py").write_text(
        "import os\nfrom latentode.models import LinearField as Again\nclass Own(Again): pass\nclass Other: pass\n"
        "def __getattr__(name):\n    return os.system\n"
    )

    def build(name, *allowed):
        plain["settings"]["dynamics"] = {"class": name, "settings": {}}
        return from_plain(plain, allowed)

    assert type(build("allowed.Own", "allowed").dynamics).__name__ == "Own"
    # A prefix, a module inside it, what it has imported from elsewhere, what is no part, and what it makes up.
    for name, allowed in [
        ("latentode_evil.Model", "latentode"),
        ("latentode_evil.Model", "latentode."),
        ("latentode_evil.Model", "latentode_"),
        (f"{EVIL}.Model", f"{EVIL}.Model"),
        (f"{EVIL}.Model", ""),
        ("allowed.os.system", "allowed"),
        ("allowed.Again", "allowed"),
        ("allowed.Other", "allowed"),
        ("allowed.system", "allowed"),
        ("os.system", "os"),
        ("builtins.exec", "builtins"),
    ]:
        with pytest.raises(RunError):
            build(name, allowed)


@pytest.mark.parametrize(
    "value", [b"x", torch.zeros(2), {1, 2}, 2**70, {"class": "GaussianDecoder", "settings": {}}, [[[]]], "x"]
)
def test_settings_of_a_class_are_plain_values_of_its_types(value):
    plain = to_plain(LatentODE())
    for name in ("latent_size", "dynamics"):
        with pytest.raises(RunError):
            from_plain({**plain, "settings": {**plain["settings"], name: value}})
    with pytest.raises(RunError):
        from_plain({**plain, "settings": {**plain["settings"], "unknown": value}})


@pytest.mark.parametrize(
    "scheme", ["http", "simplecache::file", *_slow("https", "s3", "gs", "file", "local", "memory", "zip://x::http")]
)
def test_an_address_is_refused_and_not_asked(setting, refuse, tmp_path, scheme):
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        where = (
            f"{setting.run}/last.ckpt" if scheme in ("file", "local") else f"127.0.0.1:{server.server_port}/last.ckpt"
        )
        address = (*setting.options, "--ckpt_path", f"{scheme}://{where}")
        assert "address" in refuse("validate", *address)
        assert "--resume" in refuse("fit", "--run_dir", tmp_path / "new", *address)
        server.shutdown()
    assert not asked
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("word", ["best", "last", "hpc", "registry:x", "http", ""])
def test_words_that_lightning_has_for_checkpoints_are_files_or_nothing(setting, refuse, tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    assert "ckpt_path" in refuse("fit", *setting.options, "--run_dir", "new", "--ckpt_path", word)


def test_a_file_whose_name_begins_like_an_address_is_a_file(setting, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(setting.content("best.ckpt"), tmp_path / "http.ckpt")
    assert main(["validate", *setting.options, "--ckpt_path", "http.ckpt"]) == 0


@pytest.mark.parametrize(
    "form",
    [
        "local://{}",
        *_slow("{}", "{inside}/../../victim", "file://{}"),
    ],
)
def test_a_checkpoint_that_training_goes_on_from_removes_nothing(setting, tmp_path, form):
    victim = tmp_path / "victim"
    (victim / "folder").mkdir(parents=True)
    (victim / "file.ckpt").write_text("mine")
    content = setting.content()
    evil = form.format(victim, inside=tmp_path / "run")
    # What Lightning's own ModelCheckpoint keeps: of files it no longer wants it removes the paths that stand here.
    names = ("best_model_path", "kth_best_model_path", "last_model_path")
    state = {name: evil for name in names} | {
        "best_k_models": {evil: torch.tensor(1e9)},
        "kth_value": torch.tensor(1e9),
    }
    for name in [*content["callbacks"], _model_checkpoint_key()]:
        if name.startswith("ModelCheckpoint"):
            content["callbacks"][name] = state | {"best_model_score": torch.tensor(1e9)}
    run = as_run(tmp_path / "run", content)
    shutil.copyfile(setting.run / "config.yaml", run / "config.yaml")
    assert main(["fit", "--run_dir", str(run), "--resume"]) == 0
    assert (victim / "file.ckpt").read_text() == "mine"
    assert (victim / "folder").is_dir()


def _model_checkpoint_key():
    from pytorch_lightning.callbacks import ModelCheckpoint

    return ModelCheckpoint(monitor="val_score").state_key


def test_a_checkpoint_that_does_not_fit_is_refused_in_a_sentence(setting, refuse, tmp_path):
    def damage(name, change):
        content = setting.content()
        change(content)
        run = as_run(tmp_path / name, content)
        return refuse(*ways_in(setting, run, tmp_path)["fit"])

    assert "does not fit" in damage("optimiser", lambda c: c["optimizer_states"][0].update(param_groups=[]))
    assert "another version" in damage("weights", lambda c: c["state_dict"].clear())
    assert "no checkpoint" in damage("version", lambda c: c.update({"pytorch-lightning_version": "x; import os"}))
    assert "no checkpoint" in damage("no run", lambda c: c.pop("latentode"))


def test_packed_members_and_lying_sizes_are_refused_before_they_are_unpacked(setting, tmp_path):
    source = zipfile.ZipFile(setting.run / "best.ckpt")
    with zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name) + b"\0" * (64 << 20 if name.endswith("/data/0") else 0))
    assert (tmp_path / "packed.ckpt").stat().st_size < 4 << 20
    with pytest.raises(RunError, match="cut off or is no checkpoint"):
        load_plain(tmp_path / "packed.ckpt")


def endless():
    loop = []
    loop.append(loop)
    return loop


def many():
    value = [1] * 10
    for _ in range(9):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "value",
    [
        endless(),
        many(),
        torch.zeros(1).expand(1 << 40),
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.nn.Parameter(torch.zeros(1)),
        {1, 2},
        b"bytes",
        torch.float32,
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_file_holds_trees_of_plain_values_and_dense_tensors(tmp_path, value):
    torch.save({"x": value}, tmp_path / "x.ckpt")
    with pytest.raises(RunError, match="plain values"):
        load_plain(tmp_path / "x.ckpt")


@pytest.mark.parametrize("name", ["latent_size", "encoder.hidden_size"])
def test_settings_that_ask_for_more_memory_than_the_file_are_refused(setting, refuse, tmp_path, name):
    content = setting.content("best.ckpt")
    place = content["latentode"]["network"]["settings"]
    *parts, last = name.split(".")
    for part in parts:
        place = place[part]["settings"]
    place[last] = 10**6
    run = as_run(tmp_path / "run", content)
    assert "more numbers than its file" in refuse(*ways_in(setting, run, tmp_path)["forecast"])


@pytest.mark.parametrize(
    "place", ["schema", "settings", "spans", "scaler", "fit", "seed", "digest", "target_channels", "naive_error"]
)
def test_what_a_run_says_of_its_fit_is_of_the_type_that_it_is_taken_for(setting, place):
    plain = setting.content("best.ckpt")["latentode"]
    allowed = {
        ("seed", 7),
        ("digest", "x"),
        ("settings", "{}"),
        ("fit", "{}"),
        ("fit", "[]"),
        ("fit", "{'x': 1}"),
        ("fit", "None"),
        ("target_channels", "None"),
        ("naive_error", "None"),
    }
    for value in (7, "x", [], {}, ["x"], {"x": 1}, [1e9], -1.5, None):
        if (place, value if isinstance(value, int | str) else str(value)) in allowed:
            continue
        with pytest.raises(InputError):
            Stored.read({**plain, place: value}, None)


def test_a_horizon_without_an_end_asks_for_no_more_times_than_there_is_memory_for(setting, refuse, tmp_path):
    content = setting.content("best.ckpt")
    content["latentode"]["spans"]["horizon"] = 2**40
    run = as_run(tmp_path / "run", content)
    assert "at most 1,000,000" in refuse(*ways_in(setting, run, tmp_path)["forecast"])


def test_a_link_of_a_run_folder_is_not_written_through(setting, tmp_path):
    secret, run = tmp_path / "secret", tmp_path / "run"
    secret.write_text("mine")
    run.mkdir()
    for name in ("log.csv", "metrics.json", "best.ckpt", "last.ckpt"):
        (run / name).symlink_to(secret)
    import os

    for name in ("config.yaml", "metrics.json", "best.ckpt", "last.ckpt", "log.csv"):
        (run / f".{name}.{os.getpid()}.part").symlink_to(secret)
    assert main(["fit", *setting.options, "--run_dir", str(run), "--overwrite"]) == 0
    assert secret.read_text() == "mine"
    assert not (run / "best.ckpt").is_symlink()


def test_a_run_that_is_gone_on_with_imports_what_is_named_alone(setting, marker, refuse, tmp_path):
    run = as_run(tmp_path / "run", setting.content())
    config = yaml.safe_load((setting.run / "config.yaml").read_text())
    config["model"]["network"]["init_args"]["dynamics"] = {"class_path": f"{EVIL}.Model"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert f"--allow-module {EVIL}" in refuse("fit", "--run_dir", run, "--resume")
    config = yaml.safe_load((setting.run / "config.yaml").read_text())
    config["trainer"]["logger"] = [f"{EVIL}.run"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert f"--allow-module {EVIL}" in refuse("fit", "--run_dir", run, "--resume", "--allow-module", f"{EVIL}_not")
