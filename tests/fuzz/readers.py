"""The readers of files that may come from anywhere, each as a function of bytes; what they may raise is `LatentODEError` alone."""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from latentode.data.datasets import pbcseq
from latentode.data.settings import DataSettings
from latentode.data.tables import Table, read_queries, read_table
from latentode.errors import InputError, LatentODEError

WIDE = b"series_id,time,x0,x1,kind\na,0.5,1.5,,u\na,1.25,2,-3e2,u\n007,0.5,,4,v\n007,2,5,6,v\n"
DATES = (
    b'series_id,time,x0\na,2026-01-01T06:30:00+02:00,1\n"b,c",2026-01-02 07:00:00+0200,2.5\nb,1999-12-31T00:00+02,NA\n'
)
LONG = b"series_id,time,channel,value\na,1,x0,2.5\na,1,x1,3\nb,2.5,x0,-1e-3\nb,3,x1,\n"
QUERIES = b"series_id,time\na,3.5\nb,4\na,1e2\n"
YAML = b"""class_path: latentode.models.LatentODE
init_args:
  latent_size: 4
  dynamics:
    class_path: latentode.models.LinearField
    init_args: {modulated: true}
  base: blend
"""


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        seeds: valid content, to be mutated.
        read: writes bytes into a folder and reads them.
        mutate: changes valid content where changed bytes would only break a checksum; None: bytes are changed.
        words: that the form knows, for the mutations.
    """

    seeds: tuple[bytes, ...]
    read: Callable[[bytes, Path], Any]
    mutate: Callable[[bytes, random.Random], bytes] | None = None
    words: tuple[bytes, ...] = ()


def holds(reader: Reader, data: bytes, folder: Path) -> str:
    """Read bytes and say how it went: "read" or "refused"; anything that is not a sentence of ours is raised."""
    try:
        reader.read(data, folder)
    except LatentODEError as error:
        text = str(error)
        assert text.strip(), "an error without a message"
        assert "\n" not in text, f"more than a sentence: {text!r}"
        return "refused"
    return "read"


def mutate_bytes(data: bytes, rng: random.Random, words: tuple[bytes, ...] = ()) -> bytes:
    """Change, cut, double, drop or fill in some bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at = rng.randrange(len(out) + 1)
        length = rng.choice((1, 1, 2, 4, 16, 64))
        kind = rng.randrange(7)
        if kind == 0 and out:
            out[at % len(out)] = rng.randrange(256)
        elif kind == 1 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = out[at : at + length] * rng.choice((1, 1, 2, 50))
        elif kind == 4:
            out[at:at] = rng.choice(words) if words else rng.randbytes(length)
        elif kind == 5:
            out[at : at + length] = rng.choice(words) if words else rng.randbytes(length)
        elif rng.random() < 0.2:
            del out[at:]
    return bytes(out)


def mutate_gzip(data: bytes, rng: random.Random) -> bytes:
    """Change bytes of a compressed file, or of what is in it."""
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    return gzip.compress(mutate_bytes(gzip.decompress(data), rng, _CSV_WORDS), mtime=0)


def _write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _read_csv(data: bytes, folder: Path) -> Table:
    return read_table(_write(folder, "data.csv", data))


def _read_covariates(data: bytes, folder: Path) -> Table:
    return read_table(_write(folder, "data.csv", data), static_columns=["kind"], duplicates="last")


def _read_long(data: bytes, folder: Path) -> Table:
    return read_table(_write(folder, "data.csv", data), layout="long")


def _read_gzip(data: bytes, folder: Path) -> Table:
    return read_table(_write(folder, "data.csv.gz", data))


@cache
def _history() -> Table:
    return read_table(pd.DataFrame({"series_id": ["a", "a", "b"], "time": [1.0, 2.0, 2.0], "x0": [1.0, 2.0, 3.0]}))


def _read_queries(data: bytes, folder: Path) -> Any:
    return read_queries(_write(folder, "queries.csv", data), _history().schema, _history())


def _read_parquet(data: bytes, folder: Path) -> Table:
    return read_table(_write(folder, "data.parquet", data))


def _parquet(frame: pd.DataFrame | pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame)
    pq.write_table(table, sink, **options)
    return sink.getvalue()


@cache
def parquet_seeds() -> tuple[bytes, ...]:
    """Give small files: with pandas' metadata, with dictionaries, with dates, compressed, and in pages of another version."""
    wide = pd.read_csv(io.BytesIO(WIDE), dtype={"series_id": str})
    dates = wide.assign(
        time=pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-01", "2026-01-03"]).tz_localize("UTC")
    )
    return (
        _parquet(wide),
        _parquet(dates, compression="zstd"),
        _parquet(wide.astype({"kind": "category"}), compression="none", data_page_version="2.0"),
    )


_TYPES = (
    pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.bool_(), pa.string(), pa.large_binary(), pa.date32(), pa.date64(),
    pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("ms", "nowhere/../etc"),
    pa.time32("s"), pa.duration("ms"), pa.decimal128(12, 3), pa.decimal256(50, 1), pa.null(), pa.list_(pa.float64()),
    pa.struct([("a", pa.int32())]), pa.dictionary(pa.int8(), pa.string()), pa.map_(pa.string(), pa.int32()), pa.binary(3),
)  # fmt: skip


def mutate_parquet(data: bytes, rng: random.Random) -> bytes:
    """Change bytes of a file, or write one whose columns are of any type and hold extreme cells."""
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    n, columns = rng.randrange(5), {}
    for name in ("series_id", "time", "x0", rng.choice(("x1", "", " x0", "time "))):
        kind = rng.choice(_TYPES)
        cells = pa.array([None if rng.random() < 0.2 else rng.choice((0, 1, -1, 2**7, 2**31, 2**62)) for _ in range(n)])
        try:
            columns[name] = cells.cast(kind)
            _parquet(pa.table({name: columns[name]}))
        except (pa.ArrowException, OSError):
            # Not every type holds such cells, and Parquet does not hold every type.
            columns[name] = cells
    table = pa.table(columns)
    if rng.random() < 0.5:
        table = table.replace_schema_metadata(
            {"pandas": rng.choice((b"{}", b"[", b'{"index_columns": [1e999]}', b"\xff"))}
        )
    return _parquet(table)


@cache
def checkpoint_seeds() -> tuple[bytes, ...]:
    """Give a small run: the blend, fitted on a few patients."""
    import tempfile

    import torch

    from latentode.data.scaling import Scaler
    from latentode.data.windows import Spans, heldout_windows, make_split
    from latentode.models.fitted import FittedModel
    from latentode.models.registry import make_model

    table = read_table(pbcseq.path()).select(range(6))
    settings = DataSettings(horizon=730.0)
    split, spans = make_split(table, settings), Spans.of(table, settings)
    torch.manual_seed(0)
    fitted = FittedModel.new(make_model("blend"), table, Scaler.fit(table, split, spans.horizon), settings, spans, 0)
    fitted.calibrate([fitted.reader(table).read(heldout_windows(table, split, "val", spans))])
    with tempfile.TemporaryDirectory() as folder:
        fitted.save(Path(folder) / "best.ckpt")
        return ((Path(folder) / "best.ckpt").read_bytes(),)


_ODD = (
    None,
    True,
    -1,
    0,
    2**40,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../x",
    "os.system",
    [],
    [[]],
    {},
    {"class": "os.system"},
)


def mutate_tree(value: Any, rng: random.Random) -> Any:
    """Change one place of plain values: put something odd there, drop or double it, or give it another name."""
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        kind = rng.randrange(10)
        if kind == 0:
            return {k: v for k, v in value.items() if k != key}
        if kind == 1:
            return {**value, rng.choice(("x", "class", "path", 7)): rng.choice(_ODD)}
        return {**value, key: rng.choice(_ODD) if kind == 2 else mutate_tree(value[key], rng)}
    if isinstance(value, list | tuple) and value:
        at = rng.randrange(len(value))
        kind = rng.randrange(10)
        if kind == 0:
            return [*value[:at], *value[at + 1 :]]
        if kind == 1:
            return [*value, value[at]]
        return [*value[:at], rng.choice(_ODD) if kind == 2 else mutate_tree(value[at], rng), *value[at + 1 :]]
    if hasattr(value, "dtype") and rng.random() < 0.7:
        return _odd_tensor(value, rng)
    return rng.choice(_ODD)


def _odd_tensor(value: Any, rng: random.Random) -> Any:
    import torch

    if value.layout != torch.strided or value.is_meta:
        return None
    changes: tuple[Callable[[], Any], ...] = (
        lambda: value.double(),
        lambda: value.long(),
        lambda: value[..., :0],
        lambda: value[None],
        lambda: value.new_full((), 1).expand(1 << rng.randrange(40)),
        lambda: torch.full_like(value, rng.choice((0, 1, -1))),
        lambda: value * float("nan"),
        lambda: value.to_sparse(),
        lambda: torch.empty(value.shape, device="meta"),
    )
    return rng.choice(changes)()


def mutate_checkpoint(data: bytes, rng: random.Random) -> bytes:
    """Change a value of a checkpoint, or bytes of one of its members under a right checksum, or bytes of the file."""
    import torch

    kind = rng.randrange(4)
    if kind == 0:
        return mutate_bytes(data, rng)
    sink = io.BytesIO()
    if kind == 1:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(sink, "w") as new:
            names = old.namelist()
            chosen = rng.choice((names[0], rng.choice(names)))
            for name in names:
                content = old.read(name)
                new.writestr(name, mutate_bytes(content, rng, _OPCODES) if name == chosen else content)
        return sink.getvalue()
    content = torch.load(io.BytesIO(data), weights_only=True)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = mutate_tree(content, rng)
    torch.save(content, sink)  # of a meta tensor only the shape
    return sink.getvalue()


_OPCODES = (
    b"cposix\nsystem\n",
    b"cbuiltins\nexec\n",
    b"c__builtin__\ngetattr\n",
    b"R",
    b"b",
    b".",
    b"2",
    b"l",
    b"d",
    b"\x81",
    b"Q",
    b"i",
)


def _read_checkpoint(data: bytes, folder: Path) -> Any:
    from latentode.forecasting.predict import Ask, predict
    from latentode.models.fitted import FittedModel

    fitted = FittedModel.load(_write(folder, "best.ckpt", data))
    return predict(fitted, _patients(), Ask(every=365.0, horizon=730.0), quantiles=(0.1, 0.5))


@cache
def _patients() -> pd.DataFrame:
    return pd.read_csv(pbcseq.path()).head(20)


def _read_yaml(data: bytes, folder: Path) -> Any:
    from latentode.models.recipe import Recipe

    return Recipe.read(str(_write(folder, "model.yaml", data))).build()


@cache
def _command() -> Any:
    from latentode.training.command import build_cli
    from latentode.training.fitting import quiet_lightning

    with quiet_lightning():
        return build_cli("fit", ["--trainer.accelerator", "cpu"])


def _read_config(data: bytes, folder: Path) -> Any:
    """Read a config as `fit --config` does, up to where the trainer is made."""
    from jsonargparse import ArgumentError

    from latentode.training.command import explain

    path = _write(folder, "config.yaml", data)
    try:
        _command().parse_arguments(_command().parser, ["--config", str(path)])
    except ArgumentError as error:
        raise InputError(explain(str(error), [], "fit")) from error
    return DataSettings(**_command().config["data"].as_dict())


CONFIG = b"""seed_everything: 0
run_dir: runs/x
patience: 30
model:
  network: blend
  learning_rate: 0.002
data:
  path: data.csv
  channels: [a, b]
  horizon: 7d
  val_fraction: 0.15
trainer:
  max_epochs: 3
"""


@cache
def _benchmark() -> tuple[Any, ...]:
    from latentode.forecasting import benchmark
    from latentode.models.recipe import Recipe

    settings = benchmark.BenchmarkSettings("pbcseq", models=("blend",), seeds=(0,))
    protocol, recipe = benchmark.choose_protocol(settings), Recipe.read("blend")
    wanted = benchmark._fingerprint(settings, protocol, recipe, 0, 0)
    return protocol, wanted, benchmark._identity(settings, protocol, recipe, 0, 0)


def _read_record(data: bytes, folder: Path) -> Any:
    from latentode.forecasting import benchmark
    from latentode.forecasting.leaderboard import leaderboard

    protocol, wanted, identity = _benchmark()
    _write(folder, "record.json", data)
    record = benchmark._read_record(folder, wanted, identity)
    return None if record is None else leaderboard(benchmark.summarise([record], protocol))


@cache
def record_seeds() -> tuple[bytes, ...]:
    """Give a record as `latentode benchmark` leaves it."""
    _, wanted, identity = _benchmark()
    figures = {
        "mse": 1.0,
        "mae": 0.5,
        "nll": None,
        "ratio_to_blend": 1.0,
        "ratio_to_blend_mae": 1.0,
        "coverage_80": 0.8,
    }
    record = {
        "wanted": wanted, **identity, "metrics": figures, "validation": figures, "blend": figures, "n_test": 10, "n_parameters": 0,
        "n_epochs": 1, "seconds": 1.5, "seconds_per_epoch": 1.5, "peak_mb": 100.0, "notes": ["a note"],
    }  # fmt: skip
    return (json.dumps(record).encode(),)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Change a value of a JSON file, or bytes of it."""
    if rng.random() < 0.5:
        return mutate_bytes(
            data, rng, (b"{", b"}", b"[", b"]", b"NaN", b"1e999", b"null", b'"', b"\\u0000", b"9" * 5000)
        )
    return json.dumps(mutate_tree(json.loads(data), rng)).encode()


_CSV_WORDS = (
    b",",
    b"\n",
    b"\r\n",
    b'"',
    b"nan",
    b"inf",
    b"1e999",
    b"-0",
    b"\xff",
    b"\0",
    b"\xef\xbb\xbf",
    b"2026-02-30",
    b"+02:00",
    b"NA",
    b"=1",
)
_YAML_WORDS = (
    b"!!python/object/apply:os.system ['x']", b"&a [*a]", b"*a", b"&a ", b"!!binary x", b"!!timestamp x", b"{", b"[" * 50, b"<<: ", b"? ",
    b"class_path: ", b"os.system", b"\t", b"1e3", b"~", b"- ", b"--- ", b": ", b"!!int ''", b"0o9", b"2026-99-99", b"null",
)  # fmt: skip


_READERS: dict[str, Callable[[], Reader]] = {
    "csv": lambda: Reader((WIDE, DATES), _read_csv, words=_CSV_WORDS),
    "covariates": lambda: Reader((WIDE,), _read_covariates, words=_CSV_WORDS),
    "long": lambda: Reader((LONG,), _read_long, words=_CSV_WORDS),
    "gzip": lambda: Reader((gzip.compress(WIDE, mtime=0),), _read_gzip, mutate_gzip),
    "queries": lambda: Reader((QUERIES,), _read_queries, words=_CSV_WORDS),
    "parquet": lambda: Reader(parquet_seeds(), _read_parquet, mutate_parquet),
    "checkpoint": lambda: Reader(checkpoint_seeds(), _read_checkpoint, mutate_checkpoint),
    "model_yaml": lambda: Reader((YAML,), _read_yaml, words=_YAML_WORDS),
    "config_yaml": lambda: Reader((CONFIG,), _read_config, words=_YAML_WORDS),
    "record_json": lambda: Reader(record_seeds(), _read_record, mutate_json),
}
NAMES = tuple(_READERS)


def make_reader(name: str) -> Reader:
    """Give the reader of this name, with its seeds."""
    return _READERS[name]()


def mutate_seed(reader: Reader, data: bytes, rng: random.Random) -> bytes:
    """Change valid content, by the reader's own mutations where it has some; what is not valid any more gives way to a seed."""
    if reader.mutate is None:
        return mutate_bytes(data, rng, reader.words)
    try:
        return reader.mutate(data, rng)
    except Exception:
        return reader.mutate(rng.choice(reader.seeds), rng)


def mutate(reader: Reader, rng: random.Random) -> bytes:
    """Give a mutated seed."""
    return mutate_seed(reader, rng.choice(reader.seeds), rng)
