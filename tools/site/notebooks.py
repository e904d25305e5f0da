"""Notebooks as pages of the site.

Notebooks are kept without outputs, so that their history is that of their text. What they print and draw lies in
`docs/tutorials/outputs`, made by `python tools/site/notebooks.py [NAME ...]` (`make notebooks`). As a hook of MkDocs this file puts both
together, and refuses a notebook whose code has changed since.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = ROOT / "notebooks"
OUTPUTS = ROOT / "docs" / "tutorials" / "outputs"
DPI = 110
COLOURS = 64  # of a stored picture: lines and bands need no more, and the file is a quarter


@dataclass(frozen=True)
class Cell:
    """A cell: its kind, `code` or `markdown`, and its text."""

    kind: str
    source: str


def read_cells(path: Path) -> list[Cell]:
    """Give the cells of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [Cell(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def digest(cells: list[Cell]) -> str:
    """Give what tells whether outputs belong to the code: text may change without."""
    code = "\0".join(cell.source for cell in cells if cell.kind == "code")
    return hashlib.sha256(code.encode()).hexdigest()


# -- executing ---------------------------------------------------------------------------------------------------------


def execute(path: Path, folder: Path) -> None:
    """Run the code of a notebook, as Jupyter would, and store what it prints, shows and draws.

    Args:
        path: the notebook.
        folder: where `outputs.json` and the pictures go; what is there is replaced.
    """
    import matplotlib

    matplotlib.use("Agg")
    cells = read_cells(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    outputs = {}
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        for i, cell in enumerate(cells):
            if cell.kind == "code":
                outputs[str(i)] = _run_cell(cell.source, namespace, folder, f"{path.stem}-{i}")
    record = {"code": digest(cells), "outputs": outputs}
    (folder / "outputs.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _run_cell(source: str, namespace: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    said = io.StringIO()
    tree = ast.parse(source)
    last = tree.body[-1] if tree.body else None
    shown = None
    with contextlib.redirect_stdout(said), _shown_on_failure(said):
        if isinstance(last, ast.Expr) and not source.rstrip().endswith(";"):
            exec(compile(ast.Module(tree.body[:-1], []), name, "exec"), namespace)
            shown = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
        else:
            exec(compile(tree, name, "exec"), namespace)
    figures = [plt.figure(number) for number in plt.get_fignums()]
    if isinstance(shown, Figure):
        figures, shown = [*(figure for figure in figures if figure is not shown), shown], None
    pictures = [_save(figure, folder / f"{name}-{k}.png") for k, figure in enumerate(figures)]
    plt.close("all")
    output: dict[str, Any] = {"text": said.getvalue(), "pictures": pictures}
    if hasattr(shown, "_repr_html_"):
        output["html"] = re.sub(r"<style.*?</style>", "", shown._repr_html_(), flags=re.DOTALL)
    elif shown is not None:
        output["text"] += f"{shown!r}\n"
    return output


@contextlib.contextmanager
def _shown_on_failure(said: io.StringIO) -> Iterator[None]:
    """Print what a cell said before it failed: most often the figure that an assert did not like."""
    try:
        yield
    except BaseException:
        print(said.getvalue(), file=sys.stderr)
        raise


def _save(figure: Any, path: Path) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    image = Image.open(buffer).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
    return path.name


# -- pages -------------------------------------------------------------------------------------------------------------


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for every notebook."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        page = to_markdown(path, OUTPUTS / path.stem)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=page))
    return files


def to_markdown(path: Path, folder: Path) -> str:
    """Give a notebook and its stored outputs as one page.

    Raises:
        PluginError: the outputs are missing, or those of other code.
    """
    cells = read_cells(path)
    stored = folder / "outputs.json"
    record = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
    if record.get("code") != digest(cells):
        raise PluginError(
            f"{path.name}: its stored outputs are not those of its code; run `make notebooks NAME={path.stem}`."
        )
    parts = []
    for i, cell in enumerate(cells):
        if cell.kind == "markdown":
            parts.append(cell.source)
        else:
            parts.append(_code_and_output(cell.source, record["outputs"][str(i)], f"outputs/{folder.name}"))
        if i == 0:
            parts.append(f"*This page is the notebook `notebooks/{path.name}` of the repository, as it runs.*")
    return "\n\n".join(parts) + "\n"


def _code_and_output(source: str, output: dict[str, Any], folder: str) -> str:
    lines = [line for line in source.splitlines() if not line.startswith("# ruff:")]
    parts = ["```python\n" + "\n".join(lines).strip() + "\n```"]
    if output["text"].strip():
        parts.append('```text title="output"\n' + output["text"].rstrip() + "\n```")
    if "html" in output:
        parts.append(f'<div class="shown">{output["html"]}</div>')
    parts += [f"![what the cell draws]({folder}/{name})" for name in output["pictures"]]
    return "\n\n".join(parts)


def main(names: list[str]) -> None:
    """Execute the named notebooks, or all."""
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not names or path.stem in names:
            execute(path, OUTPUTS / path.stem)
            print(f"{path.name}: {sum(file.stat().st_size for file in (OUTPUTS / path.stem).iterdir()):,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
