"""Fixtures that many tests share. Nothing heavy is imported here: collecting the tests stays quick."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets that are not part of the repository: `$LATENTODE_DATA`, else `../shared/data`."""
    folder = Path(os.environ.get("LATENTODE_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder} of real data sets; name one in LATENTODE_DATA to run this test")
    return folder


@pytest.fixture
def csv_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a text or bytes to a file of the test's own folder."""

    def write(content: str | bytes, name: str = "data.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write
