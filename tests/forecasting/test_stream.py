"""A forecast in parts is the forecast in memory to the last byte, wherever it was cut, interrupted or read from."""

from __future__ import annotations

import contextlib
import gzip
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from latentode import Forecaster, read_table
from latentode.errors import DataError, InputError, RunError
from latentode.files import hold_folder
from latentode.forecasting import histories as histories_module
from latentode.forecasting import parts as parts_module
from latentode.forecasting.histories import ParquetHistories, WholeHistories, open_histories
from latentode.forecasting.parts import answer_here
from latentode.forecasting.predict import Ask
from latentode.forecasting.stream import forecast_some, merge_notes, write_forecast
from latentode.models.fitted import READ_AT_ONCE
from tests.conftest import ROOT
from tests.data.tables import ROLES, make_covariate_frame, make_frame

N_SERIES = 3 * READ_AT_ONCE + 5
QUICK = {
    "horizon": 3.0,
    "max_epochs": 1,
    "windows_per_epoch": 64,
    "batch_size": 16,
    "device": "cpu",
    "show_progress": False,
}


def make_panel(*, datetimes=False):
    frame = make_frame(n_series=N_SERIES, n_rows=6, n_channels=1, datetimes=datetimes)
    first = frame.groupby("series_id")["time"].transform("min")
    frame["time"] = frame["time"] - first + (pd.Timestamp("2026-01-01") if datetimes else 0.0)
    # Names that CSV has to quote.
    return frame.replace({"series_id": {"s1": 'a "b", c', "s2": "two\nlines", "s3": "two\rlines"}})


@pytest.fixture(scope="module", autouse=True)
def one_block_a_part():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_module, "PART_SERIES", READ_AT_ONCE)
        yield


@pytest.fixture(scope="module")
def panel():
    return make_panel()


@pytest.fixture(scope="module")
def forecaster(panel):
    return Forecaster(**QUICK).fit(make_frame(n_series=6, n_rows=30, n_channels=1))


@pytest.fixture(scope="module")
def path(panel, tmp_path_factory):
    """A folder of two files, cut within a series, with small row groups."""
    folder = tmp_path_factory.mktemp("panel") / "panel"
    folder.mkdir()
    cut = len(panel) // 2 + 1
    panel[:cut].to_parquet(folder / "a.parquet", row_group_size=500)
    panel[cut:].to_parquet(folder / "b.parquet", row_group_size=500)
    return folder


ASKS = {
    "every": Ask(every=1.0),
    "at": Ask(at="2.5,40"),
    "origin": Ask(every=1.5, origin=1.0),
}


def read_csv(path):
    return pd.read_csv(path, dtype={"series_id": str}, keep_default_na=False)


def in_memory(forecaster, panel, ask, layout="long"):
    keywords = {name: getattr(ask, name) for name in ("at", "every", "horizon", "queries", "origin")}
    return forecaster.predict(panel, **keywords).to_frame(layout)


def assert_same(written, frame):
    """Hold nine digits of every figure, and all of the rest, against a frame."""
    assert list(written) == list(frame)
    for name in frame:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            assert written[name].tolist() == frame[name].tolist()
        else:
            expected = [float(f"{x:.9g}") for x in frame[name]] if name != "time" else frame[name].tolist()
            assert written[name].tolist() == expected


@pytest.mark.parametrize("layout", ["long", "wide"])
@pytest.mark.parametrize("name", ASKS)
def test_a_forecast_in_parts_is_the_one_in_memory(forecaster, panel, path, tmp_path, name, layout):
    ask = ASKS[name]
    from_parts = open_histories(forecaster.fitted_, path)
    assert isinstance(from_parts, ParquetHistories)
    written = write_forecast(forecaster.fitted_, from_parts, ask, tmp_path / "parts.csv", layout=layout)
    whole = WholeHistories(read_table(panel))
    write_forecast(forecaster.fitted_, whole, ask, tmp_path / "whole.csv", layout=layout)
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    frame = in_memory(forecaster, panel, ask, layout)
    assert_same(read_csv(tmp_path / "parts.csv"), frame)
    assert written.n_rows == len(frame)
    assert written.n_series == N_SERIES
    assert not list(tmp_path.glob(".*"))


def test_how_parts_are_cut_changes_no_byte(forecaster, path, tmp_path, monkeypatch):
    histories = open_histories(forecaster.fitted_, path)
    texts = []
    for size in (1, 2 * READ_AT_ONCE, 10**6):
        monkeypatch.setattr(parts_module, "PART_SERIES", size)
        write_forecast(forecaster.fitted_, histories, ASKS["at"], tmp_path / "f.csv", n_samples=3)
        samples = pd.read_parquet(tmp_path / "f.csv.samples.parquet")
        texts.append((tmp_path / "f.csv").read_bytes() + samples.to_csv().encode())
    assert texts[0] == texts[1] == texts[2]


def test_samples_are_those_of_the_forecast_in_memory(forecaster, panel, path, tmp_path):
    fitted = forecaster.fitted_
    write_forecast(fitted, open_histories(fitted, path), ASKS["every"], tmp_path / "f.csv", n_samples=4)
    expected = forecaster.predict(panel, every=1.0).sample(4, seed=fitted.seed)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "f.csv.samples.parquet"), expected)


@pytest.mark.parametrize("order", ["of the series", "shuffled"])
def test_a_query_table_keeps_its_order(forecaster, panel, path, tmp_path, order):
    last = panel.groupby("series_id", sort=False)["time"].max()
    queries = pd.DataFrame({"series_id": last.index, "time": last.to_numpy() + 1.25})[::2]
    if order == "shuffled":
        # Some inside the history, some twice.
        queries = pd.concat([queries, queries[:40].assign(time=lambda frame: frame["time"] - 1.25)])
        queries = queries.sample(frac=1.0, random_state=0)
    ask = Ask(queries=queries.reset_index(drop=True))
    fitted = forecaster.fitted_
    write_forecast(fitted, open_histories(fitted, path), ask, tmp_path / "f.csv", n_samples=2)
    assert_same(read_csv(tmp_path / "f.csv"), in_memory(forecaster, panel, ask))
    samples = pd.read_parquet(tmp_path / "f.csv.samples.parquet")
    assert samples["series_id"].tolist() == np.repeat(ask.queries["series_id"].to_numpy(), 2).tolist()


def test_suffixes_tell_the_form(forecaster, panel, path, tmp_path):
    histories = open_histories(forecaster.fitted_, path)
    for name in ("f.csv", "f.csv.gz", "f.parquet"):
        write_forecast(forecaster.fitted_, histories, ASKS["at"], tmp_path / name)
    assert gzip.decompress((tmp_path / "f.csv.gz").read_bytes()) == (tmp_path / "f.csv").read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "f.parquet"), in_memory(forecaster, panel, ASKS["at"]))


def test_dates_are_written_alike_in_all_parts(tmp_path):
    frame = make_panel(datetimes=True)
    # One time in the last part is finer than all others.
    frame.loc[len(frame) - 1, "time"] += pd.Timedelta("1ms")
    forecaster = Forecaster(**{**QUICK, "horizon": "3h"}).fit(make_frame(n_series=6, n_channels=1, datetimes=True))
    frame.to_parquet(tmp_path / "panel.parquet")
    histories = open_histories(forecaster.fitted_, tmp_path / "panel.parquet")
    write_forecast(forecaster.fitted_, histories, Ask(every="1h"), tmp_path / "f.csv")
    written = read_csv(tmp_path / "f.csv")
    assert written["time"].str.len().unique().tolist() == [len("2026-01-01 00:00:00.000")]
    assert_same(written, in_memory(forecaster, frame, Ask(every="1h")))


def test_statics_and_known_columns_come_along(tmp_path):
    frame = make_covariate_frame(n_series=8)
    forecaster = Forecaster(model="blend", **QUICK, **ROLES).fit(frame)
    frame.to_parquet(tmp_path / "panel.parquet", row_group_size=50)
    queries = frame.groupby("series_id", sort=False).tail(1)[["series_id", "time", "dose"]]
    ask = Ask(queries=queries.assign(time=queries["time"] + 1).reset_index(drop=True))
    histories = open_histories(forecaster.fitted_, tmp_path / "panel.parquet")
    assert isinstance(histories, ParquetHistories)
    write_forecast(forecaster.fitted_, histories, ask, tmp_path / "f.csv")
    assert_same(read_csv(tmp_path / "f.csv"), in_memory(forecaster, frame, ask))


def test_whole_numbers_stay_ids_and_times_keep_their_digits(tmp_path):
    frame = make_frame(n_series=6, n_channels=1, start=1_700_000_000.0)
    frame["series_id"] = frame["series_id"].str[1:].astype(int)
    forecaster = Forecaster(model="blend", **QUICK).fit(frame)
    frame.to_parquet(tmp_path / "panel.parquet")
    write_forecast(
        forecaster.fitted_,
        open_histories(forecaster.fitted_, tmp_path / "panel.parquet"),
        Ask(every=1.0),
        tmp_path / "f.csv",
    )
    written, expected = pd.read_csv(tmp_path / "f.csv"), in_memory(forecaster, frame, Ask(every=1.0))
    assert written["series_id"].tolist() == expected["series_id"].tolist()
    assert written["time"].tolist() == expected["time"].tolist()


class Killed(BaseException):
    """As a kill: nothing that catches exceptions sees it."""


def killed_after(n):
    """Give an engine that ends after `n` parts."""

    def engine(asking, fitted, parts):
        for i, n_series in enumerate(answer_here(asking, fitted, parts)):
            if i == n:
                raise Killed
            yield n_series

    return engine


@pytest.mark.parametrize("n", [0, 1, 3])
def test_what_was_interrupted_goes_on_to_the_same_bytes(forecaster, path, tmp_path, n):
    fitted, out = forecaster.fitted_, tmp_path / "f.csv"
    histories = open_histories(fitted, path)
    write_forecast(fitted, histories, ASKS["every"], tmp_path / "undisturbed.csv", n_samples=2)
    with pytest.raises(Killed):
        write_forecast(fitted, histories, ASKS["every"], out, n_samples=2, engine=killed_after(n))
    assert not out.exists()
    done = []

    def counting(asking, fitted, parts):
        done.extend(part.number for part in parts)
        return answer_here(asking, fitted, parts)

    written = write_forecast(fitted, histories, ASKS["every"], out, n_samples=2, resume=True, engine=counting)
    assert written.n_kept == n + 1
    assert done == list(range(n + 1, 4))
    for suffix in ("", ".samples.parquet"):
        assert (tmp_path / f"f.csv{suffix}").read_bytes() == (tmp_path / f"undisturbed.csv{suffix}").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_what_was_begun_is_neither_overwritten_nor_mixed(forecaster, path, tmp_path):
    fitted, out = forecaster.fitted_, tmp_path / "f.csv"
    histories = open_histories(fitted, path)
    with pytest.raises(Killed):
        write_forecast(fitted, histories, ASKS["every"], out, engine=killed_after(1))
    with pytest.raises(InputError, match=r"begun before: 2 parts of 4 .*--resume"):
        write_forecast(fitted, histories, ASKS["every"], out)
    other = WholeHistories(read_table(make_panel()).select(range(N_SERIES - 1, -1, -1)))
    for said, change in {
        "for other times": {"ask": Ask(every=0.5)},
        "with other quantiles": {"quantiles": (0.5,)},
        "another number of samples": {"n_samples": 3},
        "from another history": {"histories": other},
    }.items():
        keywords = {"histories": histories, "ask": ASKS["every"], **change}
        with pytest.raises(InputError, match=f"begun .*{said}"):
            write_forecast(fitted, out=out, resume=True, **keywords)
    another = Forecaster(**QUICK | {"seed": 1}).fit(make_frame(n_series=6, n_rows=30, n_channels=1))
    with pytest.raises(InputError, match="begun with another run"):
        write_forecast(another.fitted_, histories, ASKS["every"], out, resume=True)
    # The layout is of the last step alone.
    write_forecast(fitted, histories, ASKS["every"], out, resume=True, layout="wide")
    assert_same(read_csv(out), in_memory(forecaster, read_table(make_panel()), ASKS["every"], "wide"))


def test_a_history_whose_series_come_back_is_read_whole(forecaster, panel, tmp_path, monkeypatch):
    shuffled = panel.sample(frac=1.0, random_state=0)
    shuffled.to_parquet(tmp_path / "panel.parquet")
    monkeypatch.setattr(histories_module, "SAID_BYTES", 0)
    histories = open_histories(forecaster.fitted_, tmp_path / "panel.parquet")
    assert isinstance(histories, WholeHistories)
    assert any("comes back at row" in note and "read whole into memory" in note for note in histories.notes)
    write_forecast(forecaster.fitted_, histories, ASKS["every"], tmp_path / "f.csv")
    assert_same(read_csv(tmp_path / "f.csv"), in_memory(forecaster, shuffled, ASKS["every"]))


def test_an_error_names_the_file_and_the_part(forecaster, panel, tmp_path):
    broken = pd.concat([panel, panel.tail(1)])
    broken.to_parquet(tmp_path / "panel.parquet")
    histories = open_histories(forecaster.fitted_, tmp_path / "panel.parquet")
    with pytest.raises(DataError, match=r"panel.parquet, in the part that begins at row \d+: .*twice"):
        write_forecast(forecaster.fitted_, histories, ASKS["every"], tmp_path / "f.csv")
    assert not (tmp_path / "f.csv").exists()


def test_notes_of_parts_are_said_once():
    assert merge_notes([("5 rows were out of order.",), ("1,207 rows were out of order.", "Odd."), ()]) == [
        "5 rows were out of order. (So in one part; 1 other alike.)",
        "Odd.",
    ]


def test_counts_of_parts_add_up_to_those_of_the_whole(forecaster, panel, path, tmp_path):
    ask = Ask(at="1.5,400")
    notes = write_forecast(forecaster.fitted_, open_histories(forecaster.fitted_, path), ask, tmp_path / "f.csv").notes
    assert [note for note in notes if "beyond the horizon" in note] == [
        note for note in forecaster.predict(panel, at="1.5,400").notes if "beyond the horizon" in note
    ]


def test_the_first_series_are_forecast_for_a_picture(forecaster, panel, path):
    histories = open_histories(forecaster.fitted_, path)
    some = forecast_some(forecaster.fitted_, histories, ASKS["every"], n_series=3)
    frame = in_memory(forecaster, panel, ASKS["every"])
    expected = frame[frame["series_id"].isin(panel["series_id"].unique()[:3])]
    pd.testing.assert_frame_equal(some.to_frame(), expected, rtol=1e-4)


# The command in small parts; what follows are its arguments.
COMMAND = [
    sys.executable,
    "-c",
    f"from latentode.forecasting import parts; parts.PART_SERIES = {READ_AT_ONCE}\nfrom latentode.cli import run; run()",
    "forecast",
]
DEADLINE = 300.0  # seconds; a machine may be busy


@pytest.fixture(scope="module")
def run_folder(forecaster, tmp_path_factory):
    return forecaster.save(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def undisturbed(forecaster, path, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "f.csv"
    write_forecast(forecaster.fitted_, open_histories(forecaster.fitted_, path), ASKS["every"], out)
    return out.read_bytes()


def start(run_folder, path, out, *more):
    words = [*COMMAND, run_folder, "--history", path, "--every", "1", "--out", out, *more]
    return subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def wait_until(condition, process):
    end = time.monotonic() + DEADLINE
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def n_parts(out):
    return len(list(out.with_name(f".{out.name}.parts").glob("*.arrow")))


@pytest.mark.slow
def test_a_killed_forecast_goes_on_to_the_same_bytes(run_folder, path, undisturbed, tmp_path):
    out = tmp_path / "f.csv"
    n = int(np.random.default_rng().integers(1, 4))
    process = start(run_folder, path, out)
    wait_until(lambda: n_parts(out) >= n, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, f"killed after {n} parts"
    assert not out.exists()
    process = start(run_folder, path, out, "--resume")
    _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert "were there from before" in said
    assert out.read_bytes() == undisturbed
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_workers_of_ray_give_the_same_bytes_though_one_is_killed(run_folder, path, undisturbed, tmp_path):
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    out = tmp_path / "f.csv"
    process = start(run_folder, path, out, "--engine", "ray")

    def workers():
        found = []
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found += [child] if " ".join(child.cmdline()).startswith("ray::MapBatches") else []
        return found

    # The first to be at work: it has loaded torch and the run, and nothing of what it does is written yet.
    wait_until(lambda: n_parts(out) >= 1 or workers(), process)
    victims = workers()
    assert victims, process.communicate()
    victims[0].kill()
    _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert out.read_bytes() == undisturbed


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small file system takes a privilege that these tests do not have")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fail_once(process):
    _, said = process.communicate(timeout=DEADLINE)
    lines = [line for line in said.strip().splitlines() if not line.startswith("note: ")]
    assert process.returncode in (1, 2), said
    assert len(lines) == 1, said
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_leaves_what_can_be_gone_on_with(run_folder, path, undisturbed, small_disk):
    out = small_disk / "f.csv"
    ballast = small_disk / "ballast"
    # Room for some parts, not for the whole file.
    ballast.write_bytes(bytes(200_000))
    assert "No space left on device" in fail_once(start(run_folder, path, out))
    assert not out.exists()
    assert not list(small_disk.glob(".*.part"))
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    process = start(run_folder, path, out, "--resume")
    _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert out.read_bytes() == undisturbed


@pytest.mark.slow
def test_a_folder_that_can_only_be_read_is_a_sentence(run_folder, path, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert "Read-only file system" in fail_once(start(run_folder, path, small_disk / "f.csv"))
    assert not list(small_disk.iterdir())


def test_a_file_that_is_being_written_is_nobody_elses(forecaster, path, tmp_path):
    histories = open_histories(forecaster.fitted_, path)
    out = tmp_path / "forecast.csv"
    with hold_folder(tmp_path / ".forecast.csv.parts"), pytest.raises(RunError, match=r"in use by process \d+"):
        write_forecast(forecaster.fitted_, histories, Ask(every=3.0), out)
    write_forecast(forecaster.fitted_, histories, Ask(every=3.0), out)
    assert {path.name for path in tmp_path.iterdir()} == {"forecast.csv"}
