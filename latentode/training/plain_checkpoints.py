"""How Lightning writes, reads and removes checkpoints: plain values on this machine's disk, and nothing but files of the run's own folder.

Left to itself Lightning hands the path to fsspec, which fetches addresses, and takes from a checkpoint the paths of what it will delete:
a file of plain values, given to `fit --ckpt_path`, could so remove any folder of the user's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version
from pytorch_lightning.plugins.io import TorchCheckpointIO

from latentode.errors import InputError, LatentODEError, RunError
from latentode.models.fitted import save_plain
from latentode.models.plain_file import load_plain

# What Lightning builds modules from, and would import for; our modules are built by `FittedModel` alone.
_BUILT_FROM = ("hyper_parameters", "hparams", "module_arguments", "datamodule_hyper_parameters")


class PlainCheckpointIO(TorchCheckpointIO):
    """Writes files whole, reads plain values and tensors, whatever it is asked for, and removes only files that lie in one folder.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint whole or not at all; `storage_options` are of other file systems."""
        save_plain(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; what Lightning would build classes from is left out.

        Raises:
            RunError: it holds more than plain values, or is no checkpoint of a fit.
        """
        content = load_plain(Path(path))
        is_one = isinstance(content, dict) and isinstance(content.get("state_dict"), dict) and "latentode" in content
        try:
            Version(content["pytorch-lightning_version"] if is_one else "")
        except (InvalidVersion, TypeError, KeyError) as error:
            raise RunError(
                f"{path} is no checkpoint of `latentode fit`; name the best.ckpt or last.ckpt of a run."
            ) from error
        return {key: value for key, value in content.items() if key not in _BUILT_FROM}

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file of the folder; a checkpoint may name anything else, which stays."""
        file = Path(path)
        # Nothing is asked of a link but that it lies here: it goes, and what it points to stays.
        if file.name.endswith(".ckpt") and file.parent.resolve() == self.folder.resolve():
            file.unlink(missing_ok=True)


def find_checkpoint(path: str) -> Path:
    """Give the file that `--ckpt_path` names.

    Raises:
        InputError: it names an address, or no file.
    """
    if re.match(r"[A-Za-z][\w+.-]*:(:|//)", path):
        raise InputError(
            f"{path} is an address; checkpoints are read from this machine's disk alone, so download it first."
        )
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; give a checkpoint with --ckpt_path RUN/best.ckpt.")
    # In full: a name such as `http` or `last` means something else to Lightning.
    return Path(path).absolute()


@contextmanager
def refuse_unfit(path: Path | None, has_begun: Callable[[], bool]) -> Iterator[None]:
    """Say, where a checkpoint cannot be taken up, that it does not belong to these settings.

    Args:
        path: of the checkpoint; None: there is none.
        has_begun: whether it was taken up, so that what fails is something else.

    Raises:
        RunError: see above.
    """
    try:
        yield
    except LatentODEError:
        raise
    except Exception as error:
        if path is None or has_begun():
            raise
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"{path} does not fit this model and these settings ({reason}); give those of its run."
        ) from error
