"""Runs every shell and Python block of Markdown files, in order, as a reader would: `python run_readme.py README.md`.

All blocks share one temporary working directory, which starts as a copy of the repository's `configs/`, so that a page can
go on with what an earlier one has made. A folder stands for its pages, `index.md` first. A shell block runs with `bash -e`
and the environment's commands on PATH; Python blocks of a file share one namespace. A block that follows a line
`<!-- not run: reason -->` is skipped and its reason printed. A block that fails ends the run with its line number.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<ticks>`{3,})(?P<language>\w*)[^\n]*$")
NOT_RUN = re.compile(r"^<!-- not run: (?P<reason>.+?) -->$")
LANGUAGES = ("bash", "python")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it starts, what it holds, and why it is not run (None: it is)."""

    line: int
    language: str
    source: str
    not_run: str | None = None


def find_blocks(text: str) -> list[Block]:
    """Give the shell and Python blocks of a Markdown text, in order.

    Args:
        text: the file's content.

    Returns:
        The blocks; blocks in other languages are left out.

    Raises:
        ValueError: a fence is never closed.
    """
    blocks: list[Block] = []
    lines = text.splitlines()
    reason: str | None = None
    i = 0
    while i < len(lines):
        fence = FENCE.match(lines[i])
        note = NOT_RUN.match(lines[i].strip())
        if fence is None:
            # A note holds for the next block, blank lines between them apart.
            if note is not None:
                reason = note["reason"]
            elif lines[i].strip():
                reason = None
            i += 1
            continue
        end = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == fence["ticks"]), None)
        if end is None:
            raise ValueError(f"line {i + 1}: this block is never closed; end it with {fence['ticks']}")
        if fence["language"] in LANGUAGES:
            blocks.append(Block(i + 1, fence["language"], "\n".join(lines[i + 1 : end]) + "\n", reason))
        reason = None
        i = end + 1
    return blocks


def run_blocks(path: Path, folder: Path) -> int:
    """Run the blocks of a Markdown file in one folder.

    Args:
        path: the Markdown file.
        folder: working directory of all blocks.

    Returns:
        Number of blocks run.

    Raises:
        RuntimeError: a block failed; the message names file and line.
    """
    commands = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "MPLBACKEND": "Agg"}
    namespace: dict[str, object] = {"__name__": "__main__"}
    os.chdir(folder)
    # Modules that a page writes are imported from where it writes them.
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    n_run = 0
    for block in find_blocks(path.read_text(encoding="utf-8")):
        where = f"{path.name}:{block.line} ({block.language})"
        if block.not_run is not None:
            print(f"{where}: not run: {block.not_run}", flush=True)
            continue
        start = time.perf_counter()
        if block.language == "bash":
            done = subprocess.run(["bash", "-e", "-c", block.source], env=environment, cwd=folder, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{where} ended with status {done.returncode}")
        else:
            try:
                exec(compile(block.source, where, "exec"), namespace)
            except Exception as error:
                traceback.print_exc()
                raise RuntimeError(f"{where} raised {type(error).__name__}") from error
        n_run += 1
        print(f"{where}: ran in {time.perf_counter() - start:.1f} s", flush=True)
    return n_run


def find_pages(arguments: list[str]) -> list[Path]:
    """Give the named files, and for a folder every page below it: `index.md` first, since it lays the ground for the others."""
    pages: list[Path] = []
    for name in arguments:
        path = Path(name).resolve()
        below = (
            sorted(path.rglob("*.md"), key=lambda page: (page.name != "index.md", page)) if path.is_dir() else [path]
        )
        pages += below
    return pages


def find_configs(page: Path) -> Path | None:
    """Give the nearest folder `configs` beside the page or above it."""
    return next((parent / "configs" for parent in page.parents if (parent / "configs").is_dir()), None)


def main(arguments: list[str]) -> int:
    """Run the blocks of the named files and folders, and say how many ran."""
    home = Path.cwd()
    pages = find_pages(arguments)
    with tempfile.TemporaryDirectory(prefix="readme-") as name:
        folder = Path(name)
        configs = find_configs(pages[0])
        if configs is not None:
            shutil.copytree(configs, folder / "configs")
        try:
            for page in pages:
                n_run = run_blocks(page, folder)
                print(f"{page.name}: {n_run} blocks ran", flush=True)
        except (RuntimeError, ValueError) as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
        finally:
            # The folder cannot be removed by every system while it is the working directory.
            os.chdir(home)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
