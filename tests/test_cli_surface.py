"""How the command line speaks: quiet, as JSON, without escape codes; completion by real shells; the index of runs; nearest words."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from latentode.cli import COMMANDS, GROUPS, build_parser, main
from latentode.cli.commands.fit import next_command
from latentode.forecasting.index import SORTS, list_runs
from tests.data.tables import make_frame

QUICK = [
    "--data.horizon",
    "3",
    "--trainer.max_epochs",
    "2",
    "--data.windows_per_epoch",
    "64",
    "--trainer.accelerator",
    "cpu",
]
ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Give a folder with a table whose name has blanks, and a run of it."""
    folder = tmp_path_factory.mktemp("my work")
    make_frame(n_series=4).to_csv(folder / "my data (1).csv", index=False)
    before = os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    try:
        assert main(["fit", "--data.path", "my data (1).csv", "--model.network", "blend", "-q", *QUICK]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def at_home(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


COMMAND_LINES = {
    "describe": ["describe", "my data (1).csv"],
    "fit": [
        "fit",
        "--data.path",
        "my data (1).csv",
        "--model.network",
        "blend",
        "--run_dir",
        "again",
        "--overwrite",
        *QUICK,
    ],
    "validate": ["validate", "--config", "runs/my_data_1-1/config.yaml", "--ckpt_path", "runs/my_data_1-1/best.ckpt"],
    "forecast": ["forecast", "runs/my_data_1-1", "--history", "my data (1).csv", "--every", "1", "--out", "f.csv"],
    "evaluate": ["evaluate", "runs/my_data_1-1", "--data", "my data (1).csv"],
    "backtest": ["backtest", "runs/my_data_1-1", "--data", "my data (1).csv", "--origins", "2", "--refit"],
    "benchmark": ["benchmark", "van_der_pol", "--n_series", "10", "--model", "constant,blend", "--out", "b.json"],
    "runs": ["runs"],
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_json_is_one_document_and_nothing_else_stands_beside_it(name, at_home, capsys):
    assert main([*COMMAND_LINES[name], "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)
    assert ESCAPE not in said.out + said.err


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_quiet_says_nothing_beside_the_result(name, at_home, capsys):
    assert main([*COMMAND_LINES[name], "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    if name == "fit":
        assert said.out == "again\n"
    assert (said.out == "") == (name == "forecast")
    assert ESCAPE not in said.out


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_an_error_is_an_error_however_quiet(name, at_home, capsys):
    assert main([*COMMAND_LINES[name][:1], "--nonsense", "--quiet", "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: --nonsense is no option")


def on_a_terminal(arguments, folder, **environment):
    """Run the command with a terminal of 80 columns for output and errors, and give all that was written there."""
    own, other = pty.openpty()
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("NO_COLOR", "TERM", "FORCE_COLOR", "TTY_COMPATIBLE")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "latentode.cli", *arguments], cwd=folder, stdout=other, stderr=other, stdin=subprocess.DEVNULL,
        env={**kept, "COLUMNS": "80", **environment},
    )  # fmt: skip
    os.close(other)
    seen = b""
    while True:
        try:
            part = os.read(own, 65536)
        except OSError:  # what Linux says when the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(own)
    assert process.wait(60) == 0, seen.decode()
    return seen.decode()


@pytest.mark.slow
def test_a_dumb_terminal_gets_no_escape_codes_and_no_color_gets_no_colours(home):
    arguments = COMMAND_LINES["evaluate"]
    assert f"{ESCAPE}[1m" in on_a_terminal(arguments, home, TERM="xterm-256color")  # else the rest proves nothing
    assert ESCAPE not in on_a_terminal(arguments, home, TERM="dumb")
    assert f"{ESCAPE}[1m" not in on_a_terminal(arguments, home, TERM="xterm-256color", NO_COLOR="1")


@pytest.mark.slow
def test_fit_shows_on_a_terminal_how_far_it_is(home):
    seen = on_a_terminal(COMMAND_LINES["fit"], home, TERM="xterm-256color")
    assert "fitting" in seen
    assert "of 1 epochs" in seen or "of 2 epochs" in seen


def test_the_next_command_can_be_pasted(at_home, capsys):
    figures = json.loads((at_home / "runs" / "my_data_1-1" / "metrics.json").read_text())
    words = shlex.split(next_command(at_home / "runs" / "my_data_1-1", figures))
    assert words[:2] == ["latentode", "forecast"]
    assert main(words[1:]) == 0
    assert len(pd.read_csv("forecast.csv")) == 4 * 10 * 2


def test_a_run_with_known_columns_is_asked_by_a_query_table(tmp_path):
    figures = {"known_columns": ["dose"], "step": "1", "modules": ["my.laws"], "data": "a b.csv"}
    words = shlex.split(next_command(tmp_path, figures))
    assert words[words.index("--queries") + 1] == "queries.csv"
    assert words[words.index("--history") + 1] == "a b.csv"
    assert words[words.index("--allow-module") + 1] == "my.laws"


def test_runs_are_listed_with_their_state(at_home, tmp_path, capsys):
    source = at_home / "runs" / "my_data_1-1"
    for name in ("good", "begun", "cut", "lost"):
        shutil.copytree(source, tmp_path / name)
    (tmp_path / "begun" / "metrics.json").unlink()
    (tmp_path / "cut" / "best.ckpt").write_bytes((source / "best.ckpt").read_bytes()[:3000])
    (tmp_path / "lost" / "metrics.json").write_text("{")
    (tmp_path / "no run").mkdir()
    found = {run.name: run for run in list_runs(tmp_path)}
    assert {name: run.state for name, run in found.items()} == {
        "good": "finished", "begun": "unfinished", "cut": "broken", "lost": "broken"
    }  # fmt: skip
    assert (found["good"].model, found["good"].data, found["begun"].n_epochs) == ("blend", "my data (1).csv", 1)
    assert found["good"].errors["test"]["ratio"] == pytest.approx(1)
    assert main(["runs", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "best.ckpt is cut off" in said.err
    assert "metrics.json cannot be read" in said.err
    assert "(1.00)" in said.out


@pytest.mark.parametrize("key", SORTS)
def test_runs_are_sorted_and_what_they_do_not_tell_comes_last(key, tmp_path):
    figures = {"mse": 0.5, "baselines": {"blend": {"mse": 1.0}}}
    for i, name in enumerate("cab"):
        (tmp_path / name).mkdir()
        told = {"model": name, "data": name, "finished_at": f"2026-01-0{i + 1}T00:00:00+00:00", "n_epochs": i,
                "validation": {**figures, "mse": i}, "test": {**figures, "mse": i}}  # fmt: skip
        (tmp_path / name / "metrics.json").write_text(json.dumps(told))
        (tmp_path / name / "config.yaml").write_text(f"data: {{path: {name}}}")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "metrics.json").write_text("[1]")
    names = [run.name for run in list_runs(tmp_path, sort=key)]
    turned = [run.name for run in list_runs(tmp_path, sort=key, reverse=True)]
    expected = {"date": "bac", "name": "abc", "model": "abc", "data": "abc", "state": "abc"}.get(key, "cab")
    assert "".join(name for name in names if name != "d") == expected
    if key not in ("name", "state", "date"):
        assert names[-1] == turned[-1] == "d"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("data:\n  horizn: 3\n", "'--data.horizon'"),
        ("trainer:\n  max_epoch: 3\n", "'--trainer.max_epochs'"),
        ("model:\n  network:\n    class_path: latentode.models.LatentOD\n", "'LatentODE'"),
        (
            "model:\n  network:\n    class_path: latentode.models.LatentODE\n    init_args:\n      dynamcs: x\n",
            "'dynamics'",
        ),
        ("seed_everything: x\n", "it takes a whole number"),
        ("a: [1,\n", "is no YAML"),
    ],
)
def test_a_wrong_key_of_a_config_is_refused_with_the_nearest(config, words, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(config)
    assert main(["fit", "--config", str(tmp_path / "c.yaml")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["forecast", "r", "--history", "h", "--out", "o", "--layout", "lonk"], "'long'"),
        (["runs", "--sort", "tst"], "'test'"),
        (["completion", "bsh"], "'bash'"),
        (["fit", "--quite"], "'--quiet'"),
        (["fit", "--trainer.accelerator", "gpuu", "--data.path", "d.csv"], "'gpu'"),
        (["--quiet", "fit"], "behind its name"),
        (["--versio"], "'--version'"),
        (["forecast", "r", "--history"], "lacks"),
        (["fit", "data.csv"], "'data.csv'"),
        (["demo", "--seed", "x"], "is 'x'"),
    ],
)
def test_a_wrong_word_is_refused_with_the_nearest(arguments, words, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err


def test_help_shows_every_command_once_in_its_group():
    text = build_parser()[0].format_help()
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
    for name, module in COMMANDS.items():
        assert sum(line.split()[:1] == [name] and module.SUMMARY in line for line in text.splitlines()) == 1


def completions(shell, script, line):
    """Give what bash offers at the end of a line."""
    *words, last = line
    code = (
        f"source {script}; COMP_WORDS=({' '.join(map(shlex.quote, line))}); COMP_CWORD={len(words)}; COMP_LINE={shlex.quote(' '.join(line))}; "
        'f=$(complete -p latentode | sed -E "s/.*-F ([^ ]+).*/\\1/"); '
        f'$f latentode {shlex.quote(last)} {shlex.quote(words[-1])}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run([shell, "--norc", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_choices(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "latentode.bash"
    script.write_text(capsys.readouterr().out)
    assert completions("bash", script, ["latentode", "fore"]) == ["forecast"]
    assert completions("bash", script, ["latentode", "forecast", "--hist"]) == ["--history"]
    assert completions("bash", script, ["latentode", "forecast", "--layout", "w"]) == ["wide"]
    assert completions("bash", script, ["latentode", "completion", "z"]) == ["zsh"]
    assert "--data.horizon" in completions("bash", script, ["latentode", "fit", "--data.h"])


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_takes_the_completion(tmp_path, capsys):
    assert main(["completion", "zsh"]) == 0
    script = tmp_path / "latentode.zsh"
    script.write_text(capsys.readouterr().out)
    code = f'autoload -Uz compinit; compinit -u -D; eval "$(<{script})"; print $_comps[latentode]'
    done = subprocess.run(["zsh", "-f", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "_shtab_latentode"
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("tcsh") is None, reason="there is no tcsh")
def test_tcsh_takes_the_completion(tmp_path, capsys):
    assert main(["completion", "tcsh"]) == 0
    script = tmp_path / "latentode.tcsh"
    script.write_text(capsys.readouterr().out)
    done = subprocess.run(["tcsh", "-f", "-c", f"source {script}; complete latentode"], capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    assert "forecast" in done.stdout
