"""Run folders: what a fit leaves and a forecast needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latentode.errors import RunError
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
