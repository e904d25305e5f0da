"""A small run, a table, and a place where a payload that ran would leave a mark."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from latentode.cli import main
from tests.data.tables import make_frame

EVIL = "marker_of_a_stranger"  # a module that must never be imported


@dataclass(frozen=True)
class Setting:
    """A table and a finished run of it.

    Attributes:
        data, run: paths.
        options: of `fit` and `validate` on this table, but for `--run_dir` and `--ckpt_path`.
    """

    data: Path
    run: Path
    options: tuple[str, ...]

    def content(self, name: str = "last.ckpt") -> Any:
        """Read one of the run's checkpoints."""
        return torch.load(self.run / name, weights_only=True)


@pytest.fixture(scope="session")
def setting(tmp_path_factory) -> Setting:
    folder = tmp_path_factory.mktemp("security")
    make_frame(n_series=3).to_csv(folder / "data.csv", index=False)
    options = ["--data.path", str(folder / "data.csv"), "--data.horizon", "3", "--data.windows_per_epoch", "32"]
    # Trained, so that there is an optimiser; small and linear, so that it takes no time.
    options += [
        "--model.network",
        "latentode.models.LatentODE",
        "--model.network.dynamics",
        "latentode.models.LinearField",
    ]
    options += ["--model.network.latent_size", "3", "--trainer.max_epochs", "3", "--trainer.accelerator", "cpu"]
    assert main(["fit", *options, "--run_dir", str(folder / "run")]) == 0
    return Setting(folder / "data.csv", folder / "run", tuple(options))


@pytest.fixture
def refuse(capsys) -> Callable[..., str]:
    """Run a command that must answer with one sentence and status 2; gives the sentence."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in arguments]) == 2
        # On a slow machine it is said that a table is still being read.
        lines = [line for line in capsys.readouterr().err.strip().splitlines() if not line.startswith("reading ")]
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    return run


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Iterator[Path]:
    """Give a path that stays free: a payload makes it, and so does the import of the module `EVIL`; nothing else may have been changed."""
    mark = tmp_path / "it-ran"
    modules = tmp_path / "modules"
    modules.mkdir()
    body = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nfrom latentode.models import LinearField\nclass Model(LinearField): pass\n"
    for name in (EVIL, "latentode_evil"):
        (modules / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(modules)
    yield mark
    assert not mark.exists()
    assert EVIL not in sys.modules
    assert "latentode_evil" not in sys.modules


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mknod, (self.mark,))
