"""Tables, settings and archives of a stranger: nothing runs, nothing fills the memory, and no path leaves its folder."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentode.cli import main
from latentode.data.tables import read_table
from latentode.errors import DataError, InputError
from latentode.models.recipe import Recipe
from tests.security.conftest import EVIL, Payload

pytestmark = pytest.mark.filterwarnings("ignore")
TAGS = [
    "!!python/object/apply:os.mknod ['{}']",
    "!!python/object/new:os.mknod ['{}']",
    "!!python/name:" + EVIL + ".Model ''",
    "!!python/module:" + EVIL + " ''",
    "!!python/object:" + EVIL + ".Model {{}}",
]


def as_objects(path, mark):
    np.save(path, np.asarray([Payload(mark)], dtype=object), allow_pickle=True)


def as_npz(path, mark):
    with path.open("wb") as file:
        np.savez(file, x=np.asarray([Payload(mark)], dtype=object))


def as_pickle(path, mark):
    path.write_bytes(pickle.dumps(Payload(mark)))


def as_frame(path, mark):
    pd.DataFrame({"series_id": [Payload(mark)]}).to_pickle(path)


def as_zip(path, mark):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"../{mark.name}", "x")
        archive.writestr(str(mark), "x")


def as_tar(path, mark):
    with tarfile.open(path, "w:gz") as archive:
        for name in (f"../{mark.name}", str(mark)):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("data.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)


WRITERS = [as_objects, as_npz, as_pickle, as_frame, as_zip, as_tar]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", ["data.csv", "data.npy", "data.pkl", "data.parquet", "data.zip", "data.tar.gz"])
def test_a_table_is_text_or_parquet_and_nothing_is_unpickled_or_unpacked(marker, refuse, tmp_path, write, name):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / name, marker)
    before = sorted(tmp_path.rglob("*"))
    refuse("describe", folder / name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("option", ["--history", "--queries"])
def test_histories_and_queries_are_read_in_the_same_way(setting, marker, refuse, tmp_path, option):
    for write in WRITERS:
        write(tmp_path / "in", marker)
        given = {"--history": setting.data, "--queries": tmp_path / "in", option: tmp_path / "in"}
        refuse(
            "forecast", setting.run, *(word for pair in given.items() for word in pair), "--out", tmp_path / "out.csv"
        )
    assert not (tmp_path / "out.csv").exists()


def test_parquet_metadata_is_neither_unpickled_nor_believed(marker, tmp_path):
    kind = pa.list_(pa.float64(), 1).value_type
    fields = [
        pa.field("series_id", pa.string()),
        pa.field("time", pa.float64()),
        # By these names arrow once unpickled a type from a file (CVE-2023-47248).
        pa.field("x", kind, metadata={"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Payload(marker))}),
    ]  # fmt: skip
    pandas = {
        "index_columns": [{"kind": "range", "start": 0, "stop": 10**12, "step": 1}],
        "columns": [{"name": EVIL, "numpy_type": "object"}],
    }
    table = pa.table({"series_id": ["a", "a"], "time": [0.0, 1.0], "x": [1.0, 2.0]}, schema=pa.schema(fields))
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), tmp_path / "data.parquet")
    read = read_table(tmp_path / "data.parquet")
    assert read.values.tolist() == [[1.0], [2.0]]


def test_cells_of_objects_are_no_values(marker):
    # A frame comes from the user's own process; what is in its cells is still not asked to be a number.
    frame = pd.DataFrame({"series_id": ["a", "b"], "time": [0, 1], "x": [1.0, 2.0], "y": [Payload(marker), None]})
    assert read_table(frame).schema.channels == ("x",)


@pytest.mark.parametrize("tag", TAGS)
def test_tags_of_yaml_build_nothing(marker, refuse, tmp_path, tag):
    text = tag.format(marker)
    model, config = tmp_path / "model.yaml", tmp_path / "config.yaml"
    model.write_text(f"class_path: LatentODE\ninit_args:\n  latent_size: {text}\n")
    config.write_text(f"seed_everything: {text}\n")
    refuse("benchmark", "pbcseq", "--model", model, "--out", tmp_path / "out.json")
    refuse("fit", "--config", config, "--data.path", "data.csv")
    refuse("describe", "data.csv", "--bounded_channels", text)


@pytest.mark.parametrize(
    "path", [f"{EVIL}.Model", "os.system", "latentode.models.os.system", "latentode_evil.LatentODE"]
)
def test_the_yaml_of_a_model_names_only_classes_of_latentode(marker, tmp_path, path):
    model = tmp_path / "model.yaml"
    for text in (f"class_path: {path}\n", f"class_path: LatentODE\ninit_args: {{dynamics: {{class_path: {path}}}}}\n"):
        model.write_text(text)
        with pytest.raises(InputError, match="none of latentode's"):
            Recipe.read(str(model))


def test_yaml_that_stands_for_more_than_there_is_memory_for_is_refused(tmp_path):
    model = tmp_path / "model.yaml"
    lines = ["class_path: LatentODE", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(12)]
    for text in ("\n".join(lines), "&a [*a]", "[" * 5000, "x: " + "{a: " * 3000):
        model.write_text(text)
        with pytest.raises(InputError):
            Recipe.read(str(model))


def test_a_gzip_that_unpacks_to_a_thousand_times_its_size_is_refused(refuse, tmp_path, monkeypatch):
    monkeypatch.setattr("latentode.data.cells._GZIP_FREE", 1 << 20)
    path = tmp_path / "data.csv.gz"
    path.write_bytes(gzip.compress(b"series_id,time,x\n" + b"a,1,1\n" * 10**6))
    assert "more than 200 times its size" in refuse("describe", path)


def test_parquet_that_cannot_be_in_memory_is_refused_before_a_row_is_read(refuse, tmp_path, monkeypatch):
    path = tmp_path / "data.parquet"
    pq.write_table(
        pa.table({"time": pa.nulls(40_000_000, pa.float64()), "x": pa.nulls(40_000_000, pa.float64())}), path
    )
    assert path.stat().st_size < 200_000
    monkeypatch.setattr("latentode.data.cells.available_memory", lambda: 500 << 20)
    monkeypatch.setattr("latentode.data.cells._read_parquet_file", lambda *_: pytest.fail("was read"))
    assert "40,000,000 rows take at least 0.6 GB" in refuse("describe", path)


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_no_id_channel_or_folder_of_a_table_becomes_a_path(setting, tmp_path):
    inside = tmp_path / "a" / "b"
    frame = pd.read_csv(setting.data)
    for i, name in enumerate(["../../escaped", "/tmp/latentode-escaped", "C:\\x", "=cmd|'/c'!A0"]):
        part = inside / "in" / f"station=..%2F..%2Fescaped{i}"
        part.mkdir(parents=True)
        frame.assign(series_id=frame.series_id + name).to_parquet(part / "part.parquet")
    before = files_of(tmp_path)
    out = inside / "out.csv"
    arguments = [
        "forecast",
        setting.run,
        "--history",
        inside / "in",
        "--every",
        "1",
        "--out",
        out,
        "--plot",
        inside / "out.png",
    ]
    assert main([str(word) for word in [*arguments, "--samples", 2]]) == 0
    assert set(files_of(tmp_path)) - set(before) == {out, inside / "out.png", inside / "out.csv.samples.parquet"}
    assert not os.path.lexists("/tmp/latentode-escaped")


@pytest.mark.parametrize("word", ["../x", "/etc/passwd", "..", "pbcseq/../x", "http://x", ""])
def test_names_of_data_sets_and_protocols_are_no_paths(refuse, tmp_path, word):
    refuse("benchmark", word, "--out", tmp_path / "out.json")
    if word:
        refuse("benchmark", "pbcseq", "--protocol", word, "--out", tmp_path / "out.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "zone", ["../../etc/passwd", "/etc/passwd", "dateutil//etc/passwd", "tzlocal()", "\0", "x" * 5000]
)
def test_names_of_time_zones_are_no_paths(tmp_path, zone):
    table = pa.table({"time": pa.array([0, 1], pa.timestamp("s", zone)), "x": [1.0, 2.0]})
    pq.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(DataError, match=r"zone|cannot be read"):
        read_table(tmp_path / "data.parquet")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"wanted": 7',
        b"\xff",
        b"[" * 100_000,
        b'{"x": ' * 5000,
        b'{"x": ' + b"9" * 5000 + b"}",
        b"null",
    ],
    ids=lambda content: repr(content[:8]),
)
def test_a_damaged_record_of_a_benchmark_is_refused_in_a_sentence(refuse, tmp_path, content):
    folder = tmp_path / "out.json.runs" / "pbcseq-time-blend-0-0"
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(content)
    arguments = ("benchmark", "pbcseq", "--model", "blend", "--seeds", "1", "--out", tmp_path / "out.json")
    assert "record.json" in refuse(*arguments)
