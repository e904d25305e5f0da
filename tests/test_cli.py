"""The command line as a process, on real files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from latentode import Forecaster
from latentode.cli import main
from latentode.data.datasets import lotka_volterra, pbcseq
from latentode.data.simulation import Options, simulate
from tests.data.tables import make_covariate_frame, make_frame

CONFIGS = Path(__file__).parents[1] / "configs"
COMMANDS = [
    "demo",
    "describe",
    "fit",
    "validate",
    "forecast",
    "evaluate",
    "backtest",
    "benchmark",
    "runs",
    "completion",
]
QUICK = [
    "--data.horizon",
    "3",
    "--trainer.max_epochs",
    "2",
    "--data.windows_per_epoch",
    "64",
    "--data.batch_size",
    "16",
]
SHORT = ["--data.horizon", "730", "--trainer.max_epochs", "1", "--data.windows_per_epoch", "128"]
QUICK += ["--trainer.accelerator", "cpu"]


def latentode(*arguments, cwd=None):
    command = [sys.executable, "-m", "latentode.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)


def succeed(*arguments, cwd=None):
    done = latentode(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def refuse(*arguments, cwd=None):
    """Give the one sentence of a refusal."""
    done = latentode(*arguments, cwd=cwd)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    # On a slow machine it is said that a table is still being read.
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("reading ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    make_frame(n_series=4).to_csv(folder / "data.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    done = succeed("fit", "--data.path", folder / "data.csv", "--run_dir", folder / "run", *QUICK)
    assert "last value" in done.stdout
    assert "next: latentode forecast" in done.stdout
    return folder / "run"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    text = succeed(command, "--help").stdout
    assert f"latentode {command}" in text.split("example:")[1]


def test_describe_shows_and_gives_json(folder):
    text = succeed("describe", folder / "data.csv").stdout
    assert "4 series" in text
    assert "x1" in text
    figures = json.loads(succeed("describe", folder / "data.csv", "--json").stdout)
    assert figures["n_series"] == 4


def test_describe_holds_a_table_to_what_its_channels_can_be(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("series_id,time,n,b\na,1,2,50\na,2,0,100\na,3,1,0\n")
    supports = ["--count_channels", "[n]", "--bounded_channels", "{b: [0, 100]}"]
    assert "3 rows" in succeed("describe", path, *supports).stdout
    path.write_text("series_id,time,n,b\na,1,2,50\na,2,0.5,100\n")
    assert "data.csv:3: channel 'n' holds 0.5, which is no count" in refuse("describe", path, *supports)


def test_describe_draws_the_table(folder, tmp_path):
    picture = tmp_path / "overview.png"
    done = succeed("describe", folder / "data.csv", "--json", "--plot", picture)
    json.loads(done.stdout)
    assert f"{picture}: picture" in done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "name a picture that ends in" in refuse("describe", folder / "data.csv", "--plot", tmp_path / "overview.xyz")


def test_fit_leaves_a_run_folder(run):
    assert {path.name for path in run.iterdir()} == {"config.yaml", "metrics.json", "log.csv", "best.ckpt", "last.ckpt"}


def test_a_run_folder_is_named_after_the_table_where_none_is_given(folder):
    done = succeed("fit", "--data.path", "data.csv", *QUICK, "--trainer.max_epochs", "1", cwd=folder)
    assert "run folder: runs/data-1" in done.stdout
    assert (folder / "runs" / "data-1" / "best.ckpt").is_file()


def test_forecast_writes_finite_numbers_for_every_series(run, folder, tmp_path):
    done = succeed("forecast", run, "--history", folder / "data.csv", "--every", "1", "--out", tmp_path / "f.csv",
                   "--plot", tmp_path / "f.png", "--samples", "5")  # fmt: skip
    out = pd.read_csv(tmp_path / "f.csv")
    assert len(out) == 4 * 3 * 2
    assert np.isfinite(out.select_dtypes("number")).all(axis=None)
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert len(pd.read_parquet(tmp_path / "f.csv.samples.parquet")) == 5 * len(out)
    assert "24 rows" in done.stdout


def test_times_inside_the_history_are_marked(run, folder, tmp_path):
    succeed("forecast", run, "--history", folder / "data.csv", "--at", "6,99", "--out", tmp_path / "f.csv")
    out = pd.read_csv(tmp_path / "f.csv")
    assert out.loc[out["time"] == 6, "kind"].unique().tolist() == ["smoothed"]
    assert out.loc[out["time"] == 99, "kind"].unique().tolist() == ["forecast"]


def test_forecast_at_times_by_queries_wide_and_in_parquet(run, folder, tmp_path):
    succeed("forecast", run, "--history", folder / "data.csv", "--at", "99,98.5", "--quantiles", "0.1,0.9",
            "--layout", "wide", "--out", tmp_path / "f.parquet")  # fmt: skip
    wide = pd.read_parquet(tmp_path / "f.parquet")
    assert wide["time"].tolist() == [99, 98.5] * 4
    assert "x0_q0.9" in wide
    pd.DataFrame({"series_id": ["s2", "s0"], "time": [99, 50]}).to_csv(tmp_path / "q.csv", index=False)
    succeed(
        "forecast",
        run,
        "--history",
        folder / "data.csv",
        "--queries",
        tmp_path / "q.csv",
        "--out",
        tmp_path / "q_out.csv",
    )
    out = pd.read_csv(tmp_path / "q_out.csv")
    assert out["series_id"].tolist() == ["s2", "s2", "s0", "s0"]


def test_backtest_goes_back_from_the_end_with_and_without_refitting(run, folder, tmp_path):
    other = make_frame(n_series=3, seed=8)
    other.assign(series_id="new " + other["series_id"]).to_csv(tmp_path / "other.csv", index=False)
    done = succeed("backtest", run, "--data", tmp_path / "other.csv", "--origins", "3", "--out", tmp_path / "b.json",
                   "--plot", tmp_path / "b.png")  # fmt: skip
    report = json.loads((tmp_path / "b.json").read_text())
    assert [one["origin"] for one in report["origins"]] == [3, 2, 1]
    assert "1 horizon before the end" in done.stdout
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    frame = pd.read_csv(tmp_path / "b.csv")
    assert set(frame["channel"]) == {"macro", "pooled", "x0", "x1"}
    again = succeed("backtest", run, "--data", folder / "data.csv", "--origins", "2", "--refit", "--max_epochs", "1",
                    "--out", tmp_path / "r.json")  # fmt: skip
    assert json.loads((tmp_path / "r.json").read_text())["refit"] is True
    assert "2 origins" in again.stdout
    assert "origins is 'many'" in refuse("backtest", run, "--data", folder / "data.csv", "--origins", "many")


def test_benchmark_writes_records_leaderboard_and_picture_and_reads_back_what_is_there(tmp_path):
    options = (
        "benchmark",
        "van_der_pol",
        "--n_series",
        "20",
        "--model",
        "constant,blend",
        "--out",
        tmp_path / "r.json",
    )
    done = succeed(*options, "--missing", "0.3", "--sampling", "bursty")
    records = json.loads((tmp_path / "r.json").read_text())
    assert {record["model"] for record in records} == {"constant", "blend"}
    assert (tmp_path / "r.md").read_text() in done.stdout + "\n"
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    again = succeed(*options, "--missing", "0.3", "--sampling", "bursty")
    assert "2 of 2 runs were there already" in again.stderr
    assert json.loads((tmp_path / "r.json").read_text()) == records


def test_benchmark_says_what_there_is(tmp_path):
    listed = succeed("benchmark", "--list").stdout
    assert "physionet2012" in listed
    assert "gradient_boosting" in listed
    assert "did you mean 'physionet2012'" in refuse("benchmark", "physionet", "--out", tmp_path / "r.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "needs the name"),
        (("lorenz63",), "--out"),
        (("lorenz63", "--splits", "77", "--out", "r.json"), "published ones are"),
        (("lorenz63", "--sampling", "often", "--out", "r.json"), "sampling"),
        (("lorenz63", "--model", "blend,mine.yaml", "--out", "r.json"), "mine.yaml does not exist"),
        (("lorenz63", "--seeds", "1.5", "--out", "r.json"), "whole number"),
        (("ushcn", "--data_dir", ".", "--out", "r.json"), "LATENTODE_DATA"),
    ],
)
def test_benchmark_refuses_in_a_sentence(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *options]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last


def test_brackets_in_the_name_of_a_channel_are_no_markup(tmp_path, capsys):
    frame = make_frame(n_series=3).rename(columns={"x0": "rate [/h]", "x1": "flow [m3]"})
    frame.to_csv(tmp_path / "data.csv", index=False)
    assert main(["describe", str(tmp_path / "data.csv")]) == 0
    shown = capsys.readouterr().out
    assert "rate [/h]" in shown
    assert "flow [m3]" in shown
    options = {"max_epochs": 1, "windows_per_epoch": 32, "horizon": 3.0, "device": "cpu", "show_progress": False}
    Forecaster(model="blend", **options).fit(tmp_path / "data.csv").save(tmp_path / "run")
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "data.csv")]) == 0
    assert "rate [/h]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("evaluate", "RUN", "--data", "DATA", "--out", "report.csv"), "ends in .json"),
        (("evaluate", "RUN", "--data", "DATA", "--out", "."), "is a folder"),
        (("evaluate", "RUN", "--data", "DATA", "--plot", "picture.txt"), ".png, .pdf or .svg"),
        (("backtest", "RUN", "--data", "DATA", "--out", "nowhere/report.json"), "does not exist"),
        (("backtest", "RUN", "--data", "DATA", "--origins", "nan"), "finite"),
        (("backtest", "RUN", "--data", "DATA", "--origins", "1.5"), "whole number"),
        (("backtest", "RUN", "--data", "DATA", "--max_epochs", "3"), "--refit"),
        (("describe", "DATA", "--plot", "nowhere/picture.png"), "does not exist"),
        (("benchmark", "lorenz63", "--out", "bench.md"), "ends in .json"),
        (("benchmark", "lorenz63", "--seeds", "inf", "--out", "bench.json"), "finite"),
    ],
)
def test_what_cannot_be_written_or_counted_is_refused_before_anything_is_computed(
    options, words, run, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(run), "DATA": str(folder / "data.csv")}
    assert main([places.get(word, word) for word in options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_evaluate_writes_a_table_beside_its_json(run, folder, tmp_path, capsys):
    out = str(tmp_path / "r.json")
    assert main(["evaluate", str(run), "--data", str(folder / "data.csv"), "--metrics", "mse, mae", "--out", out]) == 0
    frame = pd.read_csv(tmp_path / "r.csv")
    assert set(frame["model"]) == {"model", "constant", "last_value", "blend"}
    assert set(frame["channel"]) == {"macro", "pooled", "x0", "x1"}
    assert set(frame["unit"]) == {"scaled", "own"}
    assert frame["after"].nunique() == 4  # the bins; the rows of the whole horizon have none
    whole = frame[frame["after"].isna() & (frame["model"] == "model") & (frame["channel"] == "macro")]
    assert float(whole["mse"].iloc[0]) == pytest.approx(json.loads(Path(out).read_text())["mse"], rel=1e-6)


def test_evaluate_draws_the_calibration(run, folder, tmp_path):
    succeed("evaluate", run, "--data", folder / "data.csv", "--plot", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_scores_the_test_part_and_another_table(run, folder, tmp_path):
    done = succeed("evaluate", run, "--data", folder / "data.csv", "--out", tmp_path / "r.json")
    assert "the test part" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["mse"] == pytest.approx(json.loads((run / "metrics.json").read_text())["test"]["mse"])
    make_frame(n_series=2, seed=8).to_csv(tmp_path / "other.csv", index=False)
    assert "all rows" in succeed("evaluate", run, "--data", tmp_path / "other.csv", "--metrics", "mse,coverage").stdout


def test_validate_gives_the_error_of_a_checkpoint(run, folder):
    done = succeed("validate", "--config", run / "config.yaml", "--ckpt_path", run / "best.ckpt")
    assert "val_mse" in done.stdout


def test_the_same_settings_give_the_same_bytes_by_command_config_and_python(run, folder, tmp_path):
    data = folder / "data.csv"
    succeed("fit", "--data.path", data, "--run_dir", tmp_path / "again", *QUICK)
    succeed("fit", "--config", run / "config.yaml", "--run_dir", tmp_path / "config")
    forecaster = Forecaster(
        horizon=3, max_epochs=2, windows_per_epoch=64, batch_size=16, device="cpu", show_progress=False
    )
    forecaster.fit(data).save(tmp_path / "python")
    for name, source in (("a", run), ("b", tmp_path / "again"), ("c", tmp_path / "config"), ("d", tmp_path / "python")):
        succeed("forecast", source, "--history", data, "--every", "0.5", "--out", tmp_path / f"{name}.csv")
    first, *others = ((tmp_path / f"{name}.csv").read_bytes() for name in "abcd")
    assert all(other == first for other in others)


def test_the_calendar_is_the_same_by_command_and_python(tmp_path):
    data = tmp_path / "dates.csv"
    make_frame(n_series=4, datetimes=True).to_csv(data, index=False)
    assert "a model reads hour, weekday of every time" in succeed("describe", data).stdout
    assert "a model reads weekday of every time" in succeed("describe", data, "--calendar", "[weekday]").stdout
    quick = ["3h" if word == "3" else word for word in QUICK]
    succeed("fit", "--data.path", data, "--run_dir", tmp_path / "run", "--data.calendar", "[weekday,hour]", *quick)
    forecaster = Forecaster(
        horizon="3h", max_epochs=2, windows_per_epoch=64, batch_size=16, device="cpu", show_progress=False,
        calendar=["weekday", "hour"],
    )  # fmt: skip
    forecaster.fit(data).save(tmp_path / "python")
    assert forecaster.fitted_.schema.calendar == ("hour", "weekday")
    for name in ("run", "python"):
        succeed("forecast", tmp_path / name, "--history", data, "--every", "30min", "--out", tmp_path / f"{name}.csv")
    assert (tmp_path / "run.csv").read_bytes() == (tmp_path / "python.csv").read_bytes()
    assert "choose auto, none, or a list" in refuse("fit", "--data.path", data, "--data.calendar", "month")


def test_dynamics_are_chosen_by_their_class_path(folder, tmp_path):
    (tmp_path / "linear.yaml").write_text("""
model:
  network:
    class_path: latentode.models.LatentODE
    init_args:
      dynamics:
        class_path: latentode.models.LinearField
        init_args:
          kind: dense
""")
    data, run = folder / "data.csv", tmp_path / "run"
    succeed("fit", "--config", tmp_path / "linear.yaml", "--data.path", data, "--run_dir", run, *QUICK)
    dynamics = Forecaster.load(run).fitted_.network.dynamics
    assert dynamics.settings() == {"kind": "dense", "modulated": False}
    succeed("forecast", run, "--history", data, "--every", "0.5", "--out", tmp_path / "forecast.csv")
    assert np.isfinite(pd.read_csv(tmp_path / "forecast.csv")["mean"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "rubanova"])
def test_a_shipped_config_trains_on_the_bundled_data(name, tmp_path):
    config, run = CONFIGS / f"{name}.yaml", tmp_path / "run"
    succeed("fit", "--config", config, "--data.path", pbcseq.path(), "--run_dir", run, *SHORT)
    written = yaml.safe_load((run / "config.yaml").read_text())["model"]["network"]["init_args"]
    told = yaml.safe_load(config.read_text())["model"]["network"]["init_args"]
    plain = {key: value for key, value in told.items() if not isinstance(value, dict)}
    assert {key: written[key] for key in plain} == plain
    succeed("forecast", run, "--history", pbcseq.path(), "--every", "90", "--out", tmp_path / "forecast.csv")
    assert np.isfinite(pd.read_csv(tmp_path / "forecast.csv")["mean"]).all()


@pytest.mark.slow
def test_the_config_of_an_equation_finds_its_numbers(tmp_path):
    panel = simulate(lotka_volterra.SYSTEM, Options(n_series=12, n_observations=30)).table
    panel.to_frame().to_csv(tmp_path / "data.csv", index=False)
    done = succeed("fit", "--config", CONFIGS / "mechanistic.yaml", "--data.path", "data.csv", "--run_dir", "run", cwd=tmp_path)  # fmt: skip
    assert "alpha" in done.stdout + done.stderr
    succeed("forecast", "run", "--history", "data.csv", "--every", "1", "--out", "forecast.csv", cwd=tmp_path)
    assert np.isfinite(pd.read_csv(tmp_path / "forecast.csv")["mean"]).all()


def test_settings_are_printed_as_yaml():
    text = succeed("fit", "--print_config").stdout
    assert "windows_per_epoch: 2048" in text
    assert "max_epochs: 30" in text


def test_counts_of_what_is_unusual_are_in_the_output(tmp_path):
    frame = make_frame(n_series=4).assign(silent=np.nan)
    pd.concat([frame, pd.DataFrame({"series_id": ["single"], "time": [3.0], "x0": [1.0]})]).to_csv(
        tmp_path / "d.csv", index=False
    )
    for done in (succeed("describe", tmp_path / "d.csv"), succeed("fit", "--data.path", "d.csv", *QUICK, "--trainer.max_epochs", "1", cwd=tmp_path)):  # fmt: skip
        said = done.stdout + done.stderr
        assert "1 series has one row" in said
        assert "never observed: 'silent'" in said


# --- refusals ----------------------------------------------------------------------------------------------------------

GOOD = "series_id,time,x\na,1,1.0\na,2,2.0\na,3,1.5\n"
BAD_TABLES = {
    "empty file": ("", "empty"),
    "header only": ("series_id,time,x\n", "no row"),
    "no time column": (GOOD.replace("time", "when"), "'time'"),
    "unparsable time": (GOOD.replace("a,2,", "a,soon,"), "data.csv:3"),
    "text in a channel": (GOOD.replace("2.0", "high"), "data.csv:3"),
    "infinity": (GOOD.replace("2.0", "inf"), "data.csv:3"),
    "the same stamp twice": (GOOD + "a,2,5.0\n", "twice"),
    "never observed": (GOOD.replace("1.0", "").replace("2.0", "").replace("1.5", ""), "no channel holds"),
    "a short row": (GOOD + "a,4\n", "data.csv:5"),
    "a repeated column": (GOOD.replace("time,x", "time,x,x").replace("0\n", "0,1\n").replace("5\n", "5,1\n"), "'x'"),
    "a NUL byte": (GOOD.replace("2.0", "2\x00"), "NUL"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_are_refused_in_a_sentence(name, tmp_path):
    text, words = BAD_TABLES[name]
    (tmp_path / "data.csv").write_text(text)
    for arguments in (["describe", "data.csv"], ["fit", "--data.path", "data.csv", "--run_dir", "r"]):
        sentence = refuse(*arguments, cwd=tmp_path)
        assert "data.csv" in sentence
        assert words in sentence


def test_missing_files_are_refused(run, folder):
    assert "nothere.csv" in refuse("describe", "nothere.csv")
    assert "nothere.csv" in refuse("fit", "--data.path", "nothere.csv")
    assert "nothere.csv" in refuse(
        "forecast", run, "--history", "nothere.csv", "--every", "1", "--out", folder / "o.csv"
    )
    assert "--data.path" in refuse("fit")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "--trainer.max_ep", "3"], "--trainer.max_epochs"),
        (["fit", "--data.horizn", "3"], "--data.horizon"),
        (["fit", "--model.network", "latent_od"], "latent_ode"),
        (["forecast", "r", "--histor", "x"], "--history"),
        (["describe", "x.csv", "--id_colum", "a"], "--id_column"),
        (["forcast"], "forecast"),
        (["test"], "evaluate"),
        (["predict"], "forecast"),
        (["fit", "--trainer.max_epochs", "many"], "max_epochs"),
    ],
)
def test_wrong_options_are_refused_with_the_nearest_name(arguments, words):
    assert words in refuse(*arguments)


@pytest.mark.parametrize("horizon", ["-3", "0", "soon"])
def test_a_horizon_that_is_none_is_refused(folder, horizon, tmp_path):
    assert "horizon" in refuse(
        "fit", "--data.path", folder / "data.csv", f"--data.horizon={horizon}", "--run_dir", tmp_path / "r"
    )


def test_queries_that_cannot_be_answered_are_refused(run, folder, tmp_path):
    common = ["forecast", run, "--history", folder / "data.csv", "--out", tmp_path / "o.csv"]
    assert "before the first observation" in refuse(*common, "--at=-3")
    (tmp_path / "q.csv").write_text("series_id,time\nnobody,99\n")
    assert "'nobody' is not in the history" in refuse(*common, "--queries", tmp_path / "q.csv")
    (tmp_path / "q.csv").write_text("station,time\ns0,99\n")
    assert "'series_id'" in refuse(*common, "--queries", tmp_path / "q.csv")
    assert "positive" in refuse(*common, "--every", "1", "--horizon=-2")
    assert "folder" in refuse(*common[:-1], tmp_path / "no" / "o.csv", "--every", "1")
    assert not (tmp_path / "o.csv").exists()


def test_all_kinds_of_columns_go_from_a_csv_to_a_forecast(tmp_path):
    frame = make_covariate_frame(n_series=6)
    frame.to_csv(tmp_path / "data.csv", index=False)
    roles = ["--data.channels=[y,p,lead]", "--data.target_channels=[y,p]", "--data.static_columns=[kind,age]"]
    roles += ["--data.known_columns=[dose]", "--data.log_channels=[p]", "--data.scaling=robust"]
    done = succeed("fit", "--data.path", "data.csv", "--run_dir", "run", *roles, *QUICK, cwd=tmp_path)
    assert "--queries queries.csv" in done.stdout
    history = frame.assign(kind=frame["kind"].replace("A", "a ward that training never saw"))
    history.to_csv(tmp_path / "h.csv", index=False)
    last = frame.groupby("series_id")["time"].max()
    queries = pd.DataFrame({"series_id": last.index, "time": last + 1, "dose": 0.5})
    queries.to_csv(tmp_path / "q.csv", index=False)
    ask = ["forecast", "run", "--history", "h.csv", "--out", "f.csv"]
    succeed(*ask, "--queries", "q.csv", "--samples", "4", cwd=tmp_path)
    out = pd.read_csv(tmp_path / "f.csv")
    assert (len(out), set(out["channel"])) == (12, {"y", "p"})
    assert np.isfinite(out.select_dtypes("number")).all(axis=None)
    p = out[out["channel"] == "p"]
    assert (p.filter(like="q0") > 0).all(axis=None)
    assert (p["mean"] > p["q0.5"]).all()
    draws = pd.read_parquet(tmp_path / "f.csv.samples.parquet")
    assert (draws.loc[draws["channel"] == "p", "value"] > 0).all()
    assert "dose" in refuse(*ask, "--every", "1", cwd=tmp_path)
    queries.drop(columns="dose").to_csv(tmp_path / "q.csv", index=False)
    assert "has no column 'dose'" in refuse(*ask, "--queries", "q.csv", cwd=tmp_path)
    queries.assign(dose=[0.5, None, *[0.5] * 4]).to_csv(tmp_path / "q.csv", index=False)
    assert "q.csv:3: known column 'dose' is empty" in refuse(*ask, "--queries", "q.csv", cwd=tmp_path)
    assert "p" in succeed("evaluate", "run", "--data", "data.csv", "--metrics", "mse,crps", cwd=tmp_path).stdout
    described = [part.replace("data.", "") for part in roles]
    shown = succeed("describe", "data.csv", *described, cwd=tmp_path).stdout
    assert "lead" in shown
    assert "kind: one value per series" in shown
    assert "dose: known in the future" in shown


def test_runs_that_are_none_are_refused(run, folder, tmp_path):
    common = ["--history", folder / "data.csv", "--every", "1", "--out", tmp_path / "o.csv"]
    assert "no folder" in refuse("forecast", tmp_path / "none", *common)
    (tmp_path / "empty").mkdir()
    assert "no run folder" in refuse("forecast", tmp_path / "empty", *common)
    (tmp_path / "empty" / "best.ckpt").write_bytes((run / "best.ckpt").read_bytes()[:5_000])
    assert "cut off" in refuse("forecast", tmp_path / "empty", *common)
    assert "cut off" in refuse("evaluate", tmp_path / "empty", "--data", folder / "data.csv")


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_a_checkpoint_from_a_stranger_runs_nothing(folder, tmp_path):
    (tmp_path / "run").mkdir()
    torch.save({"latentode": Bomb(), "state_dict": {}}, tmp_path / "run" / "best.ckpt")
    refuse("forecast", "run", "--history", folder / "data.csv", "--every", "1", "--out", "o.csv", cwd=tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_a_history_of_another_schema_is_refused(run, tmp_path):
    make_frame().rename(columns={"x1": "other"}).to_csv(tmp_path / "h.csv", index=False)
    sentence = refuse("forecast", run, "--history", tmp_path / "h.csv", "--every", "1", "--out", tmp_path / "o.csv")
    assert "'x1'" in sentence
    make_frame(datetimes=True).to_csv(tmp_path / "h.csv", index=False)
    assert "time" in refuse(
        "forecast", run, "--history", tmp_path / "h.csv", "--every", "1", "--out", tmp_path / "o.csv"
    )


def test_a_traceback_is_shown_when_asked_for():
    done = latentode("describe", "nothere.csv", "--traceback")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.slow
def test_the_demo_beats_its_baselines(tmp_path):
    done = succeed("demo", "--out", tmp_path / "demo")
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())["test"]
    assert metrics["mse"] < min(row["mse"] for row in metrics["baselines"].values())
    names = {
        "config.yaml",
        "metrics.json",
        "log.csv",
        "best.ckpt",
        "last.ckpt",
        "forecast.csv",
        "forecast.png",
        "data.csv",
    }
    assert {path.name for path in (tmp_path / "demo").iterdir()} == names
    assert np.isfinite(pd.read_csv(tmp_path / "demo" / "forecast.csv").select_dtypes("number")).all(axis=None)
    assert "held-out error" in done.stdout
