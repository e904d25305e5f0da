"""Every notebook runs from top to bottom."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

FOLDER = Path(__file__).parent.parent.parent / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sources
    namespace = {"__name__": "__main__"}
    for i, source in enumerate(sources):
        exec(compile(source, f"{path.name}, code cell {i}", "exec"), namespace)
        # As a notebook does once it has shown what a cell has drawn.
        plt.close("all")


def test_there_is_a_notebook():
    assert list(FOLDER.glob("*.ipynb"))
