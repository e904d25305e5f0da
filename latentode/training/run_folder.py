"""The folder of a run: what is in it, whose it is, and whether a fit may go on with it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from latentode.errors import RunError
from latentode.files import write_whole
from latentode.models.fitted import load_plain, read_format
from latentode.training.checkpoints import BEST, LAST
from latentode.training.task import ForecastingTask

CONFIG, METRICS = "config.yaml", "metrics.json"
# By which a folder is told to hold a run; a config alone may be one that the user has put there.
LEFT_BY_RUN = (BEST, LAST, METRICS, "log.csv")


def resume_command(run_dir: Path) -> str:
    """Give the command that goes on with a run."""
    return f"latentode fit --run_dir {shlex.quote(str(run_dir))} --resume"


def write_config(run_dir: Path, config: str) -> None:
    """Write the settings, as the first of the processes that train together."""
    if rank_zero_only.rank == 0:
        write_whole(run_dir / CONFIG, lambda part: part.write_text(config, encoding="utf-8"))


def refuse_run(run_dir: Path) -> None:
    """Refuse a folder that holds a run.

    Raises:
        RunError: it does.
    """
    if any((run_dir / name).exists() for name in LEFT_BY_RUN):
        raise RunError(
            f"{run_dir} holds a run already; go on with it by --resume, replace it by --overwrite, or name another folder."
        )


def remove_run(run_dir: Path) -> None:
    """Remove what a run has left, the weights that forecasts are made with first, so that no half of it passes for a run."""
    if rank_zero_only.rank == 0:
        for name in LEFT_BY_RUN:
            (run_dir / name).unlink(missing_ok=True)


def is_finished(run_dir: Path) -> bool:
    """Tell whether the run of a folder has come to its end; the last thing that it does is to put its baselines into `best.ckpt`."""
    return (run_dir / METRICS).is_file() and (run_dir / BEST).is_file() and "baselines" in load_plain(run_dir / BEST)


def check_same_run(path: Path, now: dict[str, Any]) -> None:
    """Refuse to go on with a run that was begun with something else.

    Args:
        path: of a checkpoint of the run.
        now: what `_identity` gives.

    Raises:
        RunError: it was; the message names the option.
    """
    content, run_dir = load_plain(path), path.parent
    plain = read_format(content, path)
    if "run" not in content and "baselines" not in content:
        raise RunError(f"{path} is of an older latentode, which did not keep all that going on takes; fit again.")
    begun = {f"data.{name}": value for name, value in plain["settings"].items() if name != "path"}
    begun |= {name: value for name, value in plain["fit"].items() if name != "device"}
    begun |= {"model.network": plain["network"], "seed": plain["seed"], "table": plain["digest"]}
    if as_json(begun["table"]) != as_json(now["table"]):
        raise RunError(f"{run_dir} was begun on another table than the one that is there now; name another folder.")
    for name, value in now.items():
        if name in begun and as_json(begun[name]) != as_json(value):
            shown = (
                "another model" if name == "model.network" else f"{name} {as_json(begun[name])}, not {as_json(value)}"
            )
            raise RunError(f"{run_dir} was begun with {shown}; leave the option out to go on, or name another folder.")


def check_same_weights(path: Path, task: ForecastingTask) -> None:
    """Refuse a checkpoint whose weights are not those of the model as it is built today.

    Raises:
        RunError: they are not.
    """
    found = {name: value.shape for name, value in load_plain(path)["state_dict"].items()}
    if found != {name: value.shape for name, value in task.state_dict().items()}:
        raise RunError(f"{path} is of another version of this model; fit it anew with --overwrite.")


def as_json(value: Any) -> str:
    """Give a plain value as text, in which a tuple is a list."""
    return json.dumps(value, sort_keys=True, default=str)
