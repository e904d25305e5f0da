"""Run folders: what a fit leaves and a forecast needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentode.data.plain import read_json
from latentode.errors import InputError, RunError
from latentode.models.fitted import FittedModel

CHECKPOINT = "best.ckpt"
FILES = ("config.yaml", "metrics.json", "log.csv", CHECKPOINT, "last.ckpt")


def load_run(path: str | Path, *, allow_modules: Sequence[str] = ()) -> FittedModel:
    """Load the fitted model of a run folder.

    Args:
        path: folder that `latentode fit` or `Forecaster.save` wrote.
        allow_modules: modules of own classes that may be imported.

    Raises:
        RunError: it is no run folder, or its checkpoint is cut off.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder; name the run folder that `latentode fit` wrote.")
    if not (folder / CHECKPOINT).is_file():
        raise RunError(
            f"{folder} holds no {CHECKPOINT}, so it is no run folder; name the one that `latentode fit` wrote."
        )
    return FittedModel.load(folder / CHECKPOINT, allow_modules=allow_modules)


def read_record(path: Path) -> dict[str, Any]:
    """Read figures that a run or a benchmark has left as JSON: names with plain values.

    Raises:
        RunError: the file holds something else.
    """
    try:
        content = read_json(path)
    except InputError as error:
        raise RunError(
            f"{error.args[0].rstrip('.')}; remove the file, or give the one that latentode wrote."
        ) from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no names with values; remove the file, or give the one that latentode wrote.")
    return content
