"""An index of run folders: what each holds and how far it came. Needs no torch, so that it answers at once.

It is read from the folders themselves, anew every time: there is no file of its own that could be out of date.
"""

from __future__ import annotations

import csv
import datetime
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from latentode.errors import RunError

FINISHED, UNFINISHED, BROKEN = "finished", "unfinished", "broken"
CONFIG, METRICS, LOG, RECORD = "config.yaml", "metrics.json", "log.csv", "record.json"
CHECKPOINT = "best.ckpt"
PARTS = ("validation", "test")


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        name: its path below the folder that was searched.
        path: its path.
        state: "finished"; "unfinished": its fit is on its way or was cut off; "broken": a file of it cannot be read.
        reason: what is wrong, of a broken one.
        model, data: the model's name, and the table or data set; None where the folder does not tell.
        date: when its figures were written, else its settings, as an ISO time in UTC.
        n_epochs: that were trained.
        seconds: that the fit took.
        errors: by "validation" and "test", the macro squared error `mse` in squared training deviations, that of the blend `blend`, and
            `ratio`, of the one to the other; without a part that held no value.
    """

    name: str
    path: str
    state: str
    reason: str | None = None
    model: str | None = None
    data: str | None = None
    date: str | None = None
    n_epochs: int | None = None
    seconds: float | None = None
    errors: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give all as plain values."""
        return asdict(self)


def _error_of(part: str) -> Any:
    return lambda run: run.errors.get(part, {}).get("mse")


SORTS: dict[str, Any] = {
    "date": lambda run: run.date,
    "name": lambda run: run.name,
    "model": lambda run: run.model,
    "data": lambda run: run.data,
    "validation": _error_of("validation"),
    "test": _error_of("test"),
    "epochs": lambda run: run.n_epochs,
    "state": lambda run: run.state,
}


def list_runs(folder: str | Path, *, sort: str = "date", reverse: bool = False) -> list[Run]:
    """Give the runs in a folder and in the folders below it, or the one run that it is.

    Args:
        folder: to be searched; links are not followed.
        sort: an entry of `SORTS`; by "date" the newest comes first, else the smallest. What a run does not tell comes last.
        reverse: the other way round.

    Raises:
        RunError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise RunError(f"{root} is no folder; name one that holds runs of `latentode fit`.")
    runs = [read_run(path, root) for path in _find(root)]
    key = SORTS[sort]
    known = sorted((run for run in runs if key(run) is not None), key=lambda run: (key(run), run.name))
    if (sort == "date") != reverse:
        known.reverse()
    return known + [run for run in runs if key(run) is None]


def _find(root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if CHECKPOINT in files or METRICS in files or {CONFIG, LOG} <= set(files):
            # What lies below a run is its own: a logger's files, a trial's.
            folders.clear()
            yield Path(place)


def read_run(path: Path, root: Path) -> Run:
    """Give what a run folder tells of itself; never raises over what stands in its files."""
    name = path.name if path == root else str(path.relative_to(root))
    told: dict[str, Any] = {"name": name, "path": str(path)}
    reasons: list[str] = []
    config, metrics, record = (_read(path / part, reasons) for part in (CONFIG, METRICS, RECORD))
    settings = _at(config, "data") or {}
    told["model"] = _text(metrics.get("model")) or _model_of(_at(_at(config, "model"), "network"))
    told["data"] = _text(_at(settings, "path")) or _text(record.get("dataset"))
    told["date"] = _text(metrics.get("finished_at")) or _changed(path / METRICS) or _changed(path / CONFIG)
    told["n_epochs"] = _whole(metrics.get("n_epochs"))
    told["seconds"] = _number(metrics.get("seconds"))
    if not metrics and not reasons:
        told["n_epochs"] = _count_epochs(path / LOG)
        return Run(**told, state=UNFINISHED)
    reasons += _faults(path / CHECKPOINT)
    told["errors"] = {part: found for part in PARTS if (found := _errors(metrics.get(part)))}
    if reasons:
        return Run(**told, state=BROKEN, reason="; ".join(reasons))
    return Run(**told, state=FINISHED)


def _read(path: Path, reasons: list[str]) -> dict[str, Any]:
    """Read a file of names and values; a file that is none is noted."""
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if isinstance(found, dict):
            return found
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        pass
    reasons.append(f"{path.name} cannot be read")
    return {}


def _faults(path: Path) -> list[str]:
    """Say what is wrong with a checkpoint, as far as its outside tells."""
    if not path.is_file():
        return [f"{path.name} is not there"]
    try:
        with zipfile.ZipFile(path) as archive:
            is_whole = any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        is_whole = False
    return [] if is_whole else [f"{path.name} is cut off or is no checkpoint"]


def _errors(figures: Any) -> dict[str, float]:
    own, blend = _number(_at(figures, "mse")), _number(_at(_at(_at(figures, "baselines"), "blend"), "mse"))
    if own is None:
        return {}
    return {"mse": own} if not blend else {"mse": own, "blend": blend, "ratio": own / blend}


def _model_of(network: Any) -> str | None:
    """Give the short name, or the class's, of what `config.yaml` has under `model.network`."""
    if isinstance(network, dict):
        network = network.get("class_path")
    if not isinstance(network, str):
        return None
    return Path(network).stem if network.endswith((".yaml", ".yml")) else network.rpartition(".")[2]


def _count_epochs(path: Path) -> int | None:
    """Give how many epochs the log has."""
    with suppress(OSError, UnicodeDecodeError, csv.Error), path.open(encoding="utf-8", newline="") as file:
        return max(sum(1 for row in csv.reader(file) if row) - 1, 0)
    return None


def _changed(path: Path) -> str | None:
    with suppress(OSError):
        at = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
        return at.isoformat(timespec="seconds")
    return None


def _at(found: Any, key: str) -> Any:
    return found.get(key) if isinstance(found, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
